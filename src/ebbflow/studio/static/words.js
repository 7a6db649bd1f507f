// What the page says, in English and in Chinese.

const EN = {
  runs: "Runs", play: "Play", understand: "Understand", compare: "Side by side", reports: "Reports",
  skip: "Skip to content", theme: "Theme", auto: "auto", light: "light", dark: "dark", language: "中文",
  copy: "Copy", copied: "Copied", close: "Close", cancel: "Cancel", again: "Try again", loading: "Loading…",
  dead: "The server does not answer.", deadText: "It may have been stopped. Start it again and this page goes on.",
  failed: "That did not work.", token: "This server wants a token", tokenText: "It stands in the file that the server was started with.", enter: "Enter",
  noRuns: "No runs here yet.", noRunsText: "A run is a folder with a trained model. Start the first one: the 8 × 8 digits take about a minute.",
  newRun: "New run", start: "Start", name: "Name", preset: "Preset", data: "Data", presetData: "as the preset says", steps: "Steps", batch: "Batch size", rate: "Learning rate", seed: "Seed",
  more: "More settings", moreHint: "One a line: section.key=value, such as train.clip=0.5",
  training: "training", finished: "finished", stopped: "stopped", new: "no checkpoint yet", damaged: "damaged", starting: "starting", failedState: "failed",
  heldOut: "held-out loss", loss: "loss", speed: "samples a second", byLevel: "Loss by log-SNR", pictures: "Pictures on the way", step: "step", of: "of",
  stop: "Stop", resume: "Go on", open: "Play with it", back: "All runs", noPicture: "no picture yet", stopping: "It stops after this step and keeps a checkpoint.",
  classes: "Classes", image: "images", points: "points in the plane", lastWords: "Its last words",
  model: "Model", what: "What", any: "any", none: "no condition", prompt: "Prompt", promptHint: "What to make, in words", negative: "Away from", nothing: "nothing",
  sampler: "Sampler", grid: "Grid", asRun: "as the run says", guidance: "Guidance", count: "A class", images: "Images", first: "First seed", dice: "New seeds", clip: "Keep x0 inside [−1, 1]",
  draw: "Draw", drawing: "Drawing", took: "took {s} s", pick: "Choose a picture to look closer.", command: "Command", python: "Python", link: "Link",
  noModels: "There is no trained model here yet.", noModelsText: "Train one under Runs, and come back.",
  way: "Its way from noise", vary: "Vary", strength: "Strength", varyHint: "1 keeps nothing of it", paint: "Fill in", paintHint: "Paint over what is to be made anew.", clear: "Clear", fillIn: "Fill it in",
  nearest: "Nearest training pictures", nearestHint: "Root mean square difference in grey levels of 255.", find: "Find them", results: "Results", keep: "Take this one",
  noiseTitle: "From data to noise", noiseText: "x_t = alpha x0 + sigma eps: an image on its way along a path. Move the time and see what is left of it.",
  path: "Path", time: "Time t", another: "Another digit", alpha: "alpha, of the image", sigma: "sigma, of the noise", logsnr: "log-SNR",
  waysTitle: "From noise to data", waysText: "Points in the plane, with the exact field of their law: no net, no training. Each point starts as noise and is carried by the sampler you choose.",
  law: "the data", ends: "where the noise belongs", points2: "where the sampler is", error: "Distance to where they belong", straight: "Straightness of the exact ways", straightHint: "1: every way is straight, and a single Euler step is exact.",
  noise: "draws noise: no single end", at: "Step", label: "Class", everything: "all", playBtn: "Play", pause: "Pause",
  viewsTitle: "Three views of one prediction", viewsText: "At a point x_t the best guess can be told as the data (x0), as the noise (eps) or as a velocity. They are one another's arithmetic. Choose a point, move the time.",
  velocity: "velocity", viewsHint: "Click, or move the point with the arrow keys.",
  compareTitle: "One knob, the same seeds", knob: "Knob", values: "Values", valuesHint: "with commas between them", withRuns: "Runs", go: "Compare", compareText: "Every row starts from the same noise, so what differs is what the knob does.",
  seconds: "s", noReports: "No reports here yet.", noReportsText: "ebbflow compare and ebbflow verify write pages; those in this folder are listed here.", printIt: "Print", openIt: "Open",
  running: "Working on {name}…", cancelled: "Stopped.",
};

const ZH = {
  runs: "训练", play: "生成", understand: "理解", compare: "并排", reports: "报告",
  skip: "跳到正文", theme: "主题", auto: "自动", light: "浅色", dark: "深色", language: "English",
  copy: "复制", copied: "已复制", close: "关闭", cancel: "取消", again: "重试", loading: "加载中…",
  dead: "服务器没有应答。", deadText: "它可能已停止。重新启动后，本页会继续。",
  failed: "没有成功。", token: "此服务器需要令牌", tokenText: "令牌写在启动服务器时指定的文件里。", enter: "进入",
  noRuns: "这里还没有训练。", noRunsText: "一次训练就是一个文件夹，里面是训练好的模型。先来第一个：8 × 8 手写数字大约一分钟。",
  newRun: "新训练", start: "开始", name: "名称", preset: "预设", data: "数据", presetData: "按预设", steps: "步数", batch: "批大小", rate: "学习率", seed: "种子",
  more: "更多设置", moreHint: "每行一项：section.key=value，例如 train.clip=0.5",
  training: "训练中", finished: "已完成", stopped: "已停止", new: "尚无检查点", damaged: "已损坏", starting: "启动中", failedState: "失败",
  heldOut: "留出集损失", loss: "损失", speed: "每秒样本数", byLevel: "按 log-SNR 的损失", pictures: "途中的图片", step: "步", of: "/",
  stop: "停止", resume: "继续", open: "用它生成", back: "全部训练", noPicture: "还没有图片", stopping: "完成这一步后停止，并保留检查点。",
  classes: "个类别", image: "图像", points: "平面上的点", lastWords: "最后的输出",
  model: "模型", what: "生成什么", any: "任意", none: "无条件", prompt: "提示词", promptHint: "用文字描述", negative: "远离", nothing: "无",
  sampler: "采样器", grid: "时间网格", asRun: "按训练设置", guidance: "引导强度", count: "每类张数", images: "张数", first: "首个种子", dice: "换种子", clip: "把 x0 限制在 [−1, 1]",
  draw: "生成", drawing: "生成中", took: "用时 {s} 秒", pick: "点一张图片，仔细看看。", command: "命令", python: "Python", link: "链接",
  noModels: "这里还没有训练好的模型。", noModelsText: "先在“训练”里训练一个。",
  way: "它从噪声来的路", vary: "变化", strength: "强度", varyHint: "1 表示完全不保留", paint: "补画", paintHint: "涂抹要重新生成的部分。", clear: "清除", fillIn: "补画",
  nearest: "最近的训练图片", nearestHint: "灰度（0–255）的均方根差。", find: "查找", results: "结果", keep: "选这张",
  noiseTitle: "从数据到噪声", noiseText: "x_t = alpha x0 + sigma eps：图像沿路径前进。移动时间，看还剩下什么。",
  path: "路径", time: "时间 t", another: "换一个数字", alpha: "alpha（图像）", sigma: "sigma（噪声）", logsnr: "log-SNR",
  waysTitle: "从噪声到数据", waysText: "平面上的点，用其分布的精确场：没有网络，没有训练。每个点从噪声出发，由所选采样器带走。",
  law: "数据", ends: "噪声应到之处", points2: "采样器所在", error: "与应到之处的距离", straight: "精确路线的笔直程度", straightHint: "为 1 时每条路都是直线，一步欧拉就精确。",
  noise: "会加入噪声：没有唯一终点", at: "第几步", label: "类别", everything: "全部", playBtn: "播放", pause: "暂停",
  viewsTitle: "同一预测的三种说法", viewsText: "在点 x_t 处，最佳猜测可以说成数据（x0）、噪声（eps）或速度，三者可以互相换算。选一个点，移动时间。",
  velocity: "速度", viewsHint: "点击，或用方向键移动该点。",
  compareTitle: "一个旋钮，同样的种子", knob: "旋钮", values: "取值", valuesHint: "用逗号分隔", withRuns: "训练", go: "比较", compareText: "每一行都从同样的噪声出发，不同之处就是旋钮的作用。",
  seconds: "秒", noReports: "这里还没有报告。", noReportsText: "ebbflow compare 和 ebbflow verify 会写出网页；此文件夹里的都列在这里。", printIt: "打印", openIt: "打开",
  running: "正在处理 {name}…", cancelled: "已停止。",
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
