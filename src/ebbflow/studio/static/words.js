// What the page says, in English and in Chinese.

const EN = {
  runs: "Runs", play: "Play", understand: "Understand", compare: "Side by side", reports: "Reports",
  skip: "Skip to content", theme: "Theme", auto: "auto", light: "light", dark: "dark", language: "中文",
  copy: "Copy", copied: "Copied", close: "Close", cancel: "Cancel", again: "Try again", loading: "Loading…",
  dead: "The server does not answer.", deadText: "It may have been stopped. Start it again and this page goes on.",
  failed: "That did not work.", token: "This server wants a token", tokenText: "It stands in the file that the server was started with.", enter: "Enter",
  noRuns: "No runs here yet.", noRunsText: "A run is a folder with a trained model. Start the first one: the 8 × 8 digits take about a minute.",
  newRun: "New run", start: "Start", name: "Name", preset: "Preset", data: "Data", presetData: "as the preset says", steps: "Steps", batch: "Batch size", rate: "Learning rate", seed: "Seed", folder: "Folder {folder}", dataHint: "A name, or a folder of pictures or an .npz file below {root}.",
  distill: "Distil", distillTitle: "Distil {name}", distillText: "A model that makes in one to four jumps what this one makes in many steps. It learns from this run, on its data.", builtIn: "Built in; empty: as the run has it.", pairs: "Pairs", pairsHint: "Empty: jumps. A number: straighter ways, learned on so many pairs.",
  damagedTitle: "This run is damaged.", damagedText: "Its pictures and curves are shown as far as they can be read.",
  more: "More settings", moreHint: "One a line: section.key=value, such as train.clip=0.5",
  training: "training", finished: "finished", stopped: "stopped", new: "no checkpoint yet", damaged: "damaged", starting: "starting", failedState: "failed",
  heldOut: "Held-out loss", loss: "Loss", speed: "Samples a second", byLevel: "Loss by log-SNR", pictures: "Pictures on the way", step: "Step", stepOf: "Step {step}", stepsOf: "{step} of {all}",
  stop: "Stop", resume: "Go on", open: "Play with it", allRuns: "All runs", noPicture: "no picture yet", stopping: "It stops after this step and keeps a checkpoint.",
  classes: "Classes", image: "images", points: "points in the plane", lastWords: "Its last words",
  model: "Model", what: "What", any: "any", none: "no condition", prompt: "Prompt", promptHint: "What to make, in words", negative: "Away from", nothing: "nothing",
  sampler: "Sampler", grid: "Grid", asRun: "as the run says", guidance: "Guidance", count: "A class", images: "Images", first: "First seed", dice: "New seeds", clip: "Keep x0 inside [−1, 1]",
  draw: "Draw", drawing: "Drawing", took: "took {s} s", pick: "Choose a picture to look closer.", command: "Command", python: "Python", link: "Link",
  noModels: "There is no trained model here yet.", noModelsText: "Train one under Runs, and come back.",
  way: "Its way from noise", vary: "Vary", strength: "Strength", varyHint: "1 keeps nothing of it", paint: "Fill in", paintHint: "Paint over what is to be made anew, with a pointer or with arrow keys.", clear: "Clear", fillIn: "Fill it in",
  nearest: "Nearest", nearestHint: "Root mean square difference in grey levels of 255.", find: "Find the nearest training pictures", results: "Results", keep: "Take this one",
  noiseTitle: "From data to noise", noiseText: "x_t = alpha x0 + sigma eps: an image on its way along a path. Move the time and see what is left of it.",
  path: "Path", time: "Time t", another: "Another digit", alpha: "alpha, of the image", sigma: "sigma, of the noise", logsnr: "log-SNR",
  waysTitle: "From noise to data", waysText: "Points in the plane, with the exact field of their law: no net, no training. Each point starts as noise and is carried by a sampler; left and right start from the same noise.",
  law: "the data", ends: "where the noise belongs", points2: "where the sampler is", error: "Distance to where they belong", bend: "Bend of the exact ways", bendHint: "0: all are straight and walked at an even pace, and one Euler step is exact.",
  noise: "draws noise: no single end", at: "Step", label: "Class", everything: "all", playBtn: "Play", pause: "Pause",
  viewsTitle: "Three views of one prediction", viewsText: "At a point x_t the best guess can be told as the data (x0), as the noise (eps) or as a velocity. They are one another's arithmetic. Choose a point, move the time.",
  velocity: "velocity", viewsHint: "Click, or move the point with the arrow keys.",
  compareTitle: "One knob, the same seeds", knob: "Knob", values: "Values", valuesHint: "with commas between them", withRuns: "Runs", go: "Compare", compareText: "Every row starts from the same noise, so what differs is what the knob does.",
  seconds: "s", noReports: "No reports here yet.", noReportsText: "ebbflow compare and ebbflow verify write pages; those in this folder are listed here.", openIt: "Open to print",
  running: "Working on {name}…", cancelled: "Stopped.",
  knobs: "Knobs", look: "One picture", tools: "What to do with it", moreKnobs: "More knobs", negativeHint: "Guidance moves away from it.", vector: "Vector", example: "Example {number}", own: "A picture of your own", end: "end", varyIt: "Vary it", paintKeys: "The picture, to be painted on: drag, or arrow keys",
  back: "There and back", stepsBack: "Steps each way", backHint: "The sampler is walked backwards to the noise that this picture comes from, and forwards again.", backIt: "Go there and back", backSaid: "It comes back at {psnr} dB. More steps bring it nearer.",
  between: "To another", betweenHint: "Through their noises, along the arc between them.", betweenNow: "Now choose the other picture.", betweenIt: "Choose the other picture", betweenSaid: "Both ends come back at {psnr} dB or better.",
  twoTitle: "Two sliders, the same seeds", twoText: "Every strip is made ahead, the nearest to the sliders first, so that a slider answers at once. Beneath stands what ebbflow compare measured, where it was run.", ahead: "Strips made ahead", readyOf: "{done} of {all} ready", noneChosen: "Choose a run.", tookHere: "{num} pictures in {s} s, here and now",
  notMeasured: "Quality was not measured yet. This measures it:", measured: "Fréchet distance {value}{error}, {ms} ms a sample.", otherMeasured: "This setting was not measured; the points are others.", qualityTitle: "Quality next to cost", milliseconds: "ms a sample", frechet: "Fréchet distance", compareReady: "Choose a knob and press Compare.",
  scenes: "Worth a look", oneStep: "One Euler step", straightness: "Straight and curved", odeSde: "ODE and SDE", guided: "Guidance", along: "Along the way", left: "Left", right: "Right",
  oneStepSaid: "One step follows the velocity at the start, which points at the mean of all the data. More steps can turn on the way.", straightnessSaid: "Towards one class the ways are nearly straight, so one step lands where it should. Towards all of them they bend.", odeSdeSaid: "The same noise to begin with. The SDE adds more on the way: other ends, the same data as a whole.", guidedSaid: "Guidance does not only choose the class: it pushes points beyond where the class lies, and closer together.",
};

const ZH = {
  runs: "训练", play: "生成", understand: "理解", compare: "并排", reports: "报告",
  skip: "跳到正文", theme: "主题", auto: "自动", light: "浅色", dark: "深色", language: "English",
  copy: "复制", copied: "已复制", close: "关闭", cancel: "取消", again: "重试", loading: "加载中…",
  dead: "服务器没有应答。", deadText: "它可能已停止。重新启动后，本页会继续。",
  failed: "没有成功。", token: "此服务器需要令牌", tokenText: "令牌写在启动服务器时指定的文件里。", enter: "进入",
  noRuns: "这里还没有训练。", noRunsText: "一次训练就是一个文件夹，里面是训练好的模型。先来第一个：8 × 8 手写数字大约一分钟。",
  newRun: "新训练", start: "开始", name: "名称", preset: "预设", data: "数据", presetData: "按预设", steps: "步数", batch: "批大小", rate: "学习率", seed: "种子", folder: "文件夹 {folder}", dataHint: "名称，或 {root} 之下的图片文件夹或 .npz 文件。",
  distill: "蒸馏", distillTitle: "蒸馏 {name}", distillText: "得到一个用一到四次跳跃就完成采样的模型。它在同样的数据上向这次训练学习。", builtIn: "内置；留空则与原训练相同。", pairs: "配对数", pairsHint: "留空：学习跳跃。填数字：用这么多对样本学习更直的路线。",
  damagedTitle: "这次训练已损坏。", damagedText: "图片和曲线按能读到的部分显示。",
  more: "更多设置", moreHint: "每行一项：section.key=value，例如 train.clip=0.5",
  training: "训练中", finished: "已完成", stopped: "已停止", new: "尚无检查点", damaged: "已损坏", starting: "启动中", failedState: "失败",
  heldOut: "留出集损失", loss: "损失", speed: "每秒样本数", byLevel: "按 log-SNR 的损失", pictures: "途中的图片", step: "步", stepOf: "第 {step} 步", stepsOf: "{step} / {all} 步",
  stop: "停止", resume: "继续", open: "用它生成", allRuns: "全部训练", noPicture: "还没有图片", stopping: "完成这一步后停止，并保留检查点。",
  classes: "类别", image: "图像", points: "平面上的点", lastWords: "最后的输出",
  model: "模型", what: "生成什么", any: "任意", none: "无条件", prompt: "提示词", promptHint: "用文字描述", negative: "远离", nothing: "无",
  sampler: "采样器", grid: "时间网格", asRun: "按训练设置", guidance: "引导强度", count: "每类张数", images: "张数", first: "首个种子", dice: "换种子", clip: "把 x0 限制在 [−1, 1]",
  draw: "生成", drawing: "生成中", took: "用时 {s} 秒", pick: "点一张图片，仔细看看。", command: "命令", python: "Python", link: "链接",
  noModels: "这里还没有训练好的模型。", noModelsText: "先在“训练”里训练一个。",
  way: "它从噪声来的路", vary: "变化", strength: "强度", varyHint: "1 表示完全不保留", paint: "补画", paintHint: "涂抹要重新生成的部分，可拖动或用方向键。", clear: "清除", fillIn: "补画",
  nearest: "最近邻", nearestHint: "灰度（0–255）的均方根差。", find: "找最近的训练图片", results: "结果", keep: "选这张",
  noiseTitle: "从数据到噪声", noiseText: "x_t = alpha x0 + sigma eps：图像沿路径前进。移动时间，看还剩下什么。",
  path: "路径", time: "时间 t", another: "换一个数字", alpha: "alpha（图像）", sigma: "sigma（噪声）", logsnr: "log-SNR",
  waysTitle: "从噪声到数据", waysText: "平面上的点，用其分布的精确场：没有网络，没有训练。每个点从噪声出发，由采样器带走；左右两边从同样的噪声出发。",
  law: "数据", ends: "噪声应到之处", points2: "采样器所在", error: "与应到之处的距离", bend: "精确路线的弯曲", bendHint: "为 0 时都是匀速的直线，一步欧拉就精确。",
  noise: "会加入噪声：没有唯一终点", at: "第几步", label: "类别", everything: "全部", playBtn: "播放", pause: "暂停",
  viewsTitle: "同一预测的三种说法", viewsText: "在点 x_t 处，最佳猜测可以说成数据（x0）、噪声（eps）或速度，三者可以互相换算。选一个点，移动时间。",
  velocity: "速度", viewsHint: "点击，或用方向键移动该点。",
  compareTitle: "一个旋钮，同样的种子", knob: "旋钮", values: "取值", valuesHint: "用逗号分隔", withRuns: "训练", go: "比较", compareText: "每一行都从同样的噪声出发，不同之处就是旋钮的作用。",
  seconds: "秒", noReports: "这里还没有报告。", noReportsText: "ebbflow compare 和 ebbflow verify 会写出网页；此文件夹里的都列在这里。", openIt: "打开以打印",
  running: "正在处理 {name}…", cancelled: "已停止。",
  knobs: "旋钮", look: "单张图片", tools: "对它做什么", moreKnobs: "更多旋钮", negativeHint: "引导会远离它。", vector: "向量", example: "示例 {number}", own: "用自己的图片", end: "末", varyIt: "生成变体", paintKeys: "要涂抹的图片：拖动，或用方向键",
  back: "来回", stepsBack: "单程步数", backHint: "采样器先倒着走到这张图片所来自的噪声，再走回来。", backIt: "走一个来回", backSaid: "回来时为 {psnr} dB。步数越多越接近。",
  between: "到另一张", betweenHint: "经由两者的噪声，沿它们之间的弧线。", betweenNow: "现在点选另一张图片。", betweenIt: "选另一张图片", betweenSaid: "两端恢复到 {psnr} dB 或更好。",
  twoTitle: "两个滑块，同样的种子", twoText: "所有图片条都会预先生成，离滑块最近的先做，所以滑块一动就有结果。下面是 ebbflow compare 测得的数值（如果运行过）。", ahead: "预先生成的图片条", readyOf: "已备好 {done} / {all}", noneChosen: "请选择一次训练。", tookHere: "{num} 张，此刻用时 {s} 秒",
  notMeasured: "尚未测量质量。这样来测：", measured: "Fréchet 距离 {value}{error}，每个样本 {ms} 毫秒。", otherMeasured: "这一设置没有测过；图中是其他设置。", qualityTitle: "质量与代价", milliseconds: "每个样本毫秒数", frechet: "Fréchet 距离", compareReady: "选一个旋钮，然后点“比较”。",
  scenes: "值得一看", oneStep: "一步欧拉", straightness: "直与弯", odeSde: "ODE 与 SDE", guided: "引导", along: "途中", left: "左", right: "右",
  oneStepSaid: "一步只跟随起点的速度，它指向全部数据的均值；多走几步才能在途中转弯。", straightnessSaid: "只朝一个类别时路线几乎是直的，一步就到；朝所有类别时路线会弯。", odeSdeSaid: "起点的噪声相同。SDE 在途中再加噪声：终点各不相同，整体分布不变。", guidedSaid: "引导不只是选择类别：它会把点推到类别所在处之外，并挤得更紧。",
};

const TEXTS = { en: EN, zh: ZH };
const KEY = "ebbflow-language";
let language = localStorage.getItem(KEY) || (navigator.language.startsWith("zh") ? "zh" : "en");

/** The words of a key in the chosen language; {name} stands for a value. */
export function t(key, values = {}) {
  const text = TEXTS[language][key] ?? EN[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

export function chosen() { return language; }

export function choose(other) {
  language = other;
  localStorage.setItem(KEY, other);
  document.documentElement.lang = other === "zh" ? "zh-CN" : "en";
}

/** The keys that one language has and the other lacks: none. */
export const lacking = [...Object.keys(EN).filter((key) => !(key in ZH)), ...Object.keys(ZH).filter((key) => !(key in EN))];
