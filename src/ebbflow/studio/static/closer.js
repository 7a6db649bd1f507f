// One picture from near: its way from noise, variations, a painted part made anew, its nearest training pictures.
import { failed } from "./app.js";
import { events, form, postForm } from "./api.js";
import { copyable, fill, h, slider } from "./dom.js";
import { t } from "./words.js";

const SIDE = 256; // pixels of the canvas that is painted on

export function closer(place, model) {
  const image = h("img", { class: "big", alt: "" }), paint = h("canvas", { class: "big", width: SIDE, height: SIDE, hidden: true, tabindex: 0, "aria-label": t("paintHint") });
  const title = h("h2", {}), hint = h("p", { class: "muted small" }, t("pick")), made = h("div", { class: "strip" }), remade = h("div", {}), near = h("div", { class: "strip" });
  let now = null, strength = 0.6, painting = null;
  const way = slider({ label: t("way"), min: 0, max: 0, step: 1, value: 0, oninput: (i) => { image.src = now.way[i].source; }, show: (i) => (now ? `${t("step")} ${now.way[i]?.step ?? 0}` : "") });
  const paintBox = h("div", { hidden: true }, h("p", { class: "hint" }, t("paintHint")), h("div", { class: "row wrap" },
    h("button", { type: "button", class: "main", onclick: () => edit(true) }, t("fillIn")), h("button", { type: "button", onclick: () => start() }, t("clear")), h("button", { type: "button", class: "quiet", onclick: () => end() }, t("close"))));
  const tools = h("div", { hidden: true }, way,
    slider({ label: t("strength"), min: 0.05, max: 1, step: 0.05, value: strength, oninput: (v) => { strength = v; }, show: (v) => v.toFixed(2) }), h("p", { class: "hint" }, t("varyHint")),
    h("div", { class: "row wrap" }, h("button", { type: "button", onclick: () => edit(false) }, t("vary")), h("button", { type: "button", onclick: () => start() }, t("paint")), h("button", { type: "button", onclick: nearest }, t("nearest"))),
    paintBox, made, near);
  fill(place, title, h("div", { class: "frame large" }, image, paint), hint, tools, remade);
  image.hidden = true;

  function show(picked) {
    if (!picked.way.length) return;
    now = picked;
    end();
    fill(made); fill(near);
    hint.hidden = true; tools.hidden = false; image.hidden = false;
    title.textContent = [picked.name, picked.seed === null ? null : `${t("seed")} ${picked.seed}`].filter(Boolean).join(" · ");
    way.input.max = picked.way.length - 1;
    way.hidden = picked.way.length < 2;
    way.set(picked.way.length - 1);
    image.src = picked.way.at(-1).source;
  }
  function said({ command, python, link }) {
    fill(remade, h("details", { open: true }, h("summary", {}, `${t("command")} · ${t("python")}`),
      copyable(t("command"), command, t), copyable(t("python"), python, t), link ? copyable(t("link"), link, t) : null));
  }
  function start() {
    paint.hidden = paintBox.hidden = false;
    image.hidden = true;
    const pen = paint.getContext("2d");
    painting = new OffscreenCanvas(SIDE, SIDE);
    painting.getContext("2d").fillRect(0, 0, SIDE, SIDE);
    redraw(pen);
  }
  function end() { paint.hidden = paintBox.hidden = true; image.hidden = false; painting = null; }
  function redraw(pen) {
    pen.imageSmoothingEnabled = false;
    const picture = new Image();
    picture.onload = () => { pen.drawImage(picture, 0, 0, SIDE, SIDE); };
    picture.src = now.way.at(-1).source;
  }
  function stroke(x, y) {
    for (const [canvas, colour] of [[painting, "#fff"], [paint, "rgb(255 80 60 / .55)"]]) {
      const pen = canvas.getContext("2d");
      pen.fillStyle = colour;
      pen.beginPath();
      pen.arc(x, y, SIDE / 11, 0, 7);
      pen.fill();
    }
  }
  const at = (event) => { const box = paint.getBoundingClientRect(); return [(event.clientX - box.left) / box.width * SIDE, (event.clientY - box.top) / box.height * SIDE]; };
  paint.addEventListener("pointerdown", (event) => { paint.setPointerCapture(event.pointerId); stroke(...at(event)); });
  paint.addEventListener("pointermove", (event) => { if (event.buttons && painting) stroke(...at(event)); });
  const brush = [SIDE / 2, SIDE / 2];
  paint.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!move && event.key !== " ") return;
    event.preventDefault();
    if (move) { brush[0] = Math.min(SIDE, Math.max(0, brush[0] + 16 * move[0])); brush[1] = Math.min(SIDE, Math.max(0, brush[1] + 16 * move[1])); }
    stroke(...brush);
  });

  async function mask(picture) {
    const size = await createImageBitmap(picture), small = new OffscreenCanvas(size.width, size.height);
    small.getContext("2d").drawImage(painting, 0, 0, size.width, size.height);
    return small.convertToBlob({ type: "image/png" });
  }
  async function edit(masked) {
    const origin = now, given = origin.name && !Number.isNaN(Number(origin.name)) ? { labels: [origin.name] } : {};
    const picture = await bytes(now.way.at(-1).source), files = { image: picture, ...(masked ? { mask: await mask(picture) } : {}) };
    const request = { model: model(), num: 8, ...given, ...(masked ? {} : { strength }), seed: 1, previews: 0 };
    made.setAttribute("aria-busy", "true");
    try {
      for await (const { name, data } of events("/studio/edit", form(request, files))) {
        if (name === "failed") throw new Error(data.error.message);
        if (name === "begin") said({ ...data, link: null });
        if (name === "done") fill(made, data.shown.map((one, i) => thumb(`data:image/png;base64,${one}`, `${t("vary")} ${i + 1}`, origin.name)));
      }
    } catch (error) { failed(error); }
    made.removeAttribute("aria-busy");
    if (masked) end();
  }
  function thumb(source, label, name) {
    return h("button", { class: "tile", type: "button", "aria-label": `${label}: ${t("keep")}`, title: t("keep"), onclick: () => show({ way: [{ step: 0, source }], seed: null, name }) }, h("img", { src: source, alt: "" }));
  }
  async function nearest() {
    try {
      const { nearest: found } = await postForm("/studio/nearest", form({ model: model() }, { image: await bytes(now.way.at(-1).source) }));
      fill(near, h("p", { class: "hint" }, t("nearestHint")), found.map((one) => h("figure", { class: "near" }, h("img", { class: "tile", src: `data:image/png;base64,${one.image}`, alt: `${t("data")} ${one.index}` }), h("figcaption", { class: "small muted" }, one.distance.toFixed(0)))));
    } catch (error) { failed(error); }
  }
  return { show, remade: said };
}

/** The bytes of a data: address, without asking the network, which the page's policy would refuse. */
async function bytes(source) {
  const raw = atob(source.split(",")[1]);
  return new Blob([Uint8Array.from(raw, (c) => c.charCodeAt(0))], { type: "image/png" });
}
