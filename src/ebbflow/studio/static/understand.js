// Understand: the notes' ideas to touch. Every number comes from the library on the server; here they are drawn.
import { failed } from "./app.js";
import { get, picture } from "./api.js";
import { chart, legend } from "./chart.js";
import { debounced, field, fill, h, select, slider } from "./dom.js";
import { plane } from "./plane.js";
import { t } from "./words.js";

const FRAMES = 61;

export async function open(place) {
  const choices = await get("/studio/choices");
  const lessons = [noising, ways, views].map((lesson) => lesson(choices));
  fill(place, h("h1", { class: "head" }, t("understand")), lessons.map((one) => one.node));
  await Promise.all(lessons.map((one) => one.start()));
  return () => lessons.forEach((one) => one.stop?.());
}

function facts(rows) { return h("dl", { class: "facts" }, rows.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])); }

function lesson(title, text, ...body) {
  return h("section", { class: "lesson" }, h("h2", {}, t(title)), h("p", { class: "muted" }, t(text)), body);
}

// -- an image noised ---------------------------------------------------------------------------------------------------

function noising(choices) {
  const canvas = h("canvas", { "aria-label": t("noiseTitle"), role: "img" }), plots = h("div", { class: "plots" }), read = h("div", {});
  const asked = { path: "flow", index: 7 };
  let known = null, sheet = null, frame = 20, charts = [];
  const time = slider({ label: t("time"), min: 0, max: FRAMES - 1, step: 1, value: frame, oninput: (i) => { frame = i; draw(); }, show: (i) => (i / (FRAMES - 1)).toFixed(2) });
  const node = lesson("noiseTitle", "noiseText", h("div", { class: "noised" },
    h("div", {}, canvas, time, field(t("path"), select(choices.paths, asked.path, (v) => { asked.path = v; start(); })), h("button", { type: "button", onclick: () => { asked.index = Math.floor(Math.random() * 1500); start(); } }, t("another"))),
    h("div", {}, plots, read)));
  function draw() {
    if (!sheet) return;
    const side = sheet.height, pen = canvas.getContext("2d");
    canvas.width = canvas.height = side;
    pen.drawImage(sheet, frame * side, 0, side, side, 0, 0, side, side);
    charts.forEach((one) => one.move?.(known.t[frame]));
    fill(read, facts([["t", known.t[frame].toFixed(2)], [t("alpha"), known.alpha[frame].toFixed(3)], [t("sigma"), known.sigma[frame].toFixed(3)], [t("logsnr"), Math.abs(known.log_snr[frame]) >= 30 ? (known.log_snr[frame] > 0 ? "> 30" : "< −30") : known.log_snr[frame].toFixed(2)]]));
  }
  async function start() {
    try {
      const [curves, address] = await Promise.all([get("/studio/path", { path: asked.path }), picture("/studio/noised", asked)]);
      known = curves;
      const image = new Image();
      image.src = address;
      await image.decode();
      sheet = image;
      const line = (name) => known.t.map((x, i) => [x, known[name][i]]);
      charts = [chart({ lines: [{ points: line("alpha") }, { points: line("sigma") }], label: "alpha, sigma", mark: known.t[frame], low: 0 }), chart({ lines: [{ points: line("log_snr").filter(([, y]) => Math.abs(y) < 30), cls: 2 }], label: t("logsnr"), mark: known.t[frame] })];
      fill(plots, h("section", {}, charts[0], legend([t("alpha"), t("sigma")])), h("section", {}, charts[1], h("p", { class: "small muted" }, t("logsnr"))));
      draw();
    } catch (error) { failed(error, plots, start); }
  }
  return { node, start };
}

// -- ways from noise to data -------------------------------------------------------------------------------------------

function ways(choices) {
  const canvas = h("canvas", { class: "plane", role: "img", "aria-label": t("waysTitle") }), read = h("div", {});
  const asked = { data: "gaussians", path: "flow", sampler: "euler", steps: 4, guidance: 1, label: "", num: 120 };
  const drawn = plane(canvas);
  let found = null, step = 0, playing = 0;
  const at = slider({ label: t("at"), min: 0, max: 4, step: 1, value: 4, oninput: (k) => { pause(); step = k; draw(); } });
  const play = h("button", { type: "button", onclick: () => (playing ? pause() : run()) }, t("playBtn"));
  const again = debounced(start, 150), set = (name) => (value) => { asked[name] = value; again(); };
  const label = field(t("label"), select([["", t("everything")], ..."01234567"], "", set("label")));
  const guide = slider({ label: t("guidance"), min: 0, max: 6, step: 0.25, value: 1, oninput: set("guidance"), show: (v) => v.toFixed(2) });
  const node = lesson("waysTitle", "waysText", h("div", { class: "two" }, canvas, h("div", { class: "panel" },
    field(t("data"), select(choices.plane, asked.data, (v) => { label.hidden = guide.hidden = v !== "gaussians"; set("data")(v); })),
    field(t("path"), select(choices.paths, asked.path, set("path"))), field(t("sampler"), select(Object.keys(choices.samplers), asked.sampler, set("sampler"))),
    slider({ label: t("steps"), min: 1, max: 60, step: 1, value: asked.steps, oninput: set("steps") }), label, guide, at, h("div", { class: "row" }, play),
    h("ul", { class: "legend" }, [["law", "muted"], ["points2", "main"], ["ends", "second"]].map(([name, colour]) => h("li", {}, h("span", { class: `swatch ${{ muted: "s3", main: "s0", second: "s1" }[colour]}` }), t(name)))), read)));
  function draw() {
    if (!found) return;
    const spread = Math.max(...found.ways[step].flat().map(Math.abs)), reach = spread > 6 ? spread * 1.05 : 3.4;
    drawn.clear(Math.max(2.6, reach));
    drawn.points(found.law, "muted", 3, 0.35);
    drawn.ways(found.ways, step, "main", 0.22);
    if (step === found.ways.length - 1 && found.error !== null) drawn.lines(found.ways[step], found.ends, "second", 0.6);
    if (found.error !== null) drawn.points(found.ends, "second", 4, 0.7);
    drawn.points(found.ways[step], "main", 6);
  }
  async function start() {
    try {
      const given = asked.data === "gaussians" ? asked : { ...asked, label: "", guidance: 1 };
      found = await get("/studio/ways", given);
      pause();
      step = found.ways.length - 1;
      at.input.max = step;
      at.set(step);
      fill(read, facts([[t("error"), found.error === null ? "—" : found.error.toFixed(3)], [t("straight"), found.straightness.toFixed(3)]]), h("p", { class: "hint" }, found.error === null ? t("noise") : t("straightHint")));
      draw();
    } catch (error) { failed(error, read, start); }
  }
  function pause() { clearInterval(playing); playing = 0; play.textContent = t("playBtn"); }
  function run() {
    if (!found) return;
    const last = found.ways.length - 1;
    step = step >= last ? 0 : step;
    play.textContent = t("pause");
    playing = setInterval(() => { step += 1; at.set(step); draw(); if (step >= last) pause(); }, Math.max(40, 1600 / last));
    at.set(step);
    draw();
  }
  return { node, start, stop: pause };
}

// -- three views of one prediction -------------------------------------------------------------------------------------

function views(choices) {
  const canvas = h("canvas", { class: "plane", tabindex: 0, role: "img", "aria-label": t("viewsTitle") }), read = h("div", {});
  const asked = { data: "moons", path: "flow", t: 0.6, x: 0.5, y: 0.9 };
  const drawn = plane(canvas);
  let law = [];
  const again = debounced(start, 40), set = (name) => (value) => { asked[name] = value; again(); };
  const node = lesson("viewsTitle", "viewsText", h("div", { class: "two" }, canvas, h("div", { class: "panel" },
    field(t("data"), select(choices.plane, asked.data, async (v) => { asked.data = v; await learn(); again(); })), field(t("path"), select(choices.paths, asked.path, set("path"))),
    slider({ label: t("time"), min: 0.02, max: 0.98, step: 0.02, value: asked.t, oninput: set("t"), show: (v) => v.toFixed(2) }), h("p", { class: "hint" }, t("viewsHint")), read)));
  canvas.addEventListener("pointerdown", (event) => { [asked.x, asked.y] = drawn.at(event); again(); });
  canvas.addEventListener("pointermove", (event) => { if (event.buttons) { [asked.x, asked.y] = drawn.at(event); again(); } });
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!move) return;
    event.preventDefault();
    asked.x += 0.1 * move[0];
    asked.y += 0.1 * move[1];
    again();
  });
  async function learn() { law = (await get("/studio/ways", { data: asked.data, steps: 1, num: 1 })).law; }
  async function start() {
    try {
      if (!law.length) await learn();
      const found = await get("/studio/views", { ...asked, x: asked.x.toFixed(3), y: asked.y.toFixed(3) }), point = [asked.x, asked.y];
      drawn.clear();
      drawn.points(law.map(([x, y]) => [found.alpha * x, found.alpha * y]), "rule", 3);
      drawn.points(law, "muted", 3, 0.5);
      drawn.arrow(point, [found.x0[0] - asked.x, found.x0[1] - asked.y], "main", "x0");
      drawn.arrow(point, found.eps.map((v) => 0.4 * v), "second", "eps × 0.4");
      drawn.arrow(point, found.velocity.map((v) => -0.4 * v), "third", `−${t("velocity")} × 0.4`);
      drawn.points([point], "ink", 10);
      const pair = ([x, y]) => `${x.toFixed(2)}, ${y.toFixed(2)}`;
      fill(read, facts([["x_t", pair(point)], ["x0", pair(found.x0)], ["eps", pair(found.eps)], [t("velocity"), pair(found.velocity)], ["alpha, sigma", pair([found.alpha, found.sigma])], [t("logsnr"), found.log_snr.toFixed(2)]]));
    } catch (error) { failed(error, read, start); }
  }
  return { node, start };
}
