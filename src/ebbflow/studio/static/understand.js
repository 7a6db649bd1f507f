// Understand: the notes' ideas to touch. Every number comes from the library on the server; here they are drawn.
import { failed } from "./app.js";
import { get, picture } from "./api.js";
import { chart, legend } from "./chart.js";
import { facts, field, fill, h, lesson, select, slider } from "./dom.js";
import { views } from "./views.js";
import { ways } from "./ways.js";
import { t } from "./words.js";

const FRAMES = 61;

export async function open(place) {
  const choices = await get("/studio/choices");
  const lessons = [noising, ways, views].map((lesson) => lesson(choices));
  fill(place, h("h1", { class: "head" }, t("understand")), lessons.map((one) => one.node));
  await Promise.all(lessons.map((one) => one.start()));
  return () => lessons.forEach((one) => one.stop?.());
}

// -- an image noised ---------------------------------------------------------------------------------------------------

function noising(choices) {
  const canvas = h("canvas", { "aria-label": t("noiseTitle"), role: "img" }), plots = h("div", { class: "plots" }), read = h("div", {});
  const asked = { path: "flow", index: 7 };
  let known = null, sheet = null, frame = 20, charts = [];
  const time = slider({ label: t("time"), min: 0, max: FRAMES - 1, step: 1, value: frame, oninput: (i) => { frame = i; draw(); }, show: (i) => (i / (FRAMES - 1)).toFixed(2) });
  const node = lesson(t("noiseTitle"), t("noiseText"), h("div", { class: "noised" },
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
      charts = [chart({ lines: [{ points: line("alpha") }, { points: line("sigma") }], label: "alpha, sigma", mark: known.t[frame], low: 0 }), chart({ lines: [{ points: line("log_snr").filter(([, y]) => Math.abs(y) < 30), cls: 2 }], label: t("logsnr"), mark: known.t[frame], from: 0, to: 1 })];
      fill(plots, h("section", {}, charts[0], legend([t("alpha"), t("sigma")])), h("section", {}, charts[1], h("p", { class: "small muted" }, t("logsnr"))));
      draw();
    } catch (error) { failed(error, plots, start); }
  }
  return { node, start };
}
