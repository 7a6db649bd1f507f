// One picture from near: its way from noise, and what can be made of it.
import { failed } from "./app.js";
import { events, form, postForm, Refused } from "./api.js";
import { copyable, fill, h, slider } from "./dom.js";
import { painter } from "./painter.js";
import { t } from "./words.js";

const TOOLS = ["vary", "paint", "back", "between", "nearest"];

/** `asked` holds the knobs as they are; `choices` is what there is to choose from. */
export function closer(place, asked, choices) {
  const image = h("img", { class: "big", alt: "" }), title = h("h2", {}), hint = h("p", { class: "muted small" }, t("pick"));
  const made = h("div", { class: "strip", "aria-live": "polite" }), said = h("p", { class: "hint" }), remade = h("div", {}), panel = h("div", { class: "tool" });
  const knobs = { strength: 0.6, steps: 30, num: 8 };
  let now = null, tool = "vary", waiting = null, work = new AbortController();
  const paint = painter(() => now.way.at(-1).source);
  const way = slider({ label: t("way"), min: 0, max: 0, step: 1, value: 0, oninput: (i) => { image.src = now.way[i].source; }, show: (i) => (now ? t("stepOf", { step: now.way[i]?.step ?? 0 }) : "") });
  const tabs = h("div", { class: "row wrap tabs", role: "group", "aria-label": t("tools") }, TOOLS.map((name) => h("button", { type: "button", class: "small", "aria-pressed": String(name === tool), onclick: () => choose(name) }, t(name))));
  const upload = h("input", { type: "file", accept: "image/*", class: "hidden", id: "upload", onchange: () => read(upload.files[0]) });
  const tools = h("div", { hidden: true }, way, tabs, panel, said, made);
  fill(place, title, h("div", { class: "frame large" }, image, paint.node), hint, tools, h("p", { class: "own" }, upload, h("label", { for: "upload", class: "button small" }, t("own"))), remade);
  image.hidden = true;

  const go = (key, work_) => h("button", { type: "button", class: "main", onclick: work_ }, t(key));
  const range = (key, label, min, max, step, digits = 0) => slider({ label: t(label), min, max, step, value: knobs[key], oninput: (v) => { knobs[key] = v; }, show: (v) => v.toFixed(digits) });
  const panels = {
    vary: () => [range("strength", "strength", 0.05, 1, 0.05, 2), h("p", { class: "hint" }, t("varyHint")), go("varyIt", () => edit({ strength: knobs.strength }))],
    paint: () => [h("p", { class: "hint" }, t("paintHint")), h("div", { class: "row wrap" }, go("fillIn", async () => edit({}, await paint.mask(await bytes(source())))), h("button", { type: "button", onclick: () => paint.clear() }, t("clear")))],
    back: () => [range("steps", "stepsBack", 2, Math.min(100, choices.limits.most_steps), 1), h("p", { class: "hint" }, t("backHint")), go("backIt", () => through())],
    between: () => [range("num", "images", 3, 12, 1), h("p", { class: "hint", role: "status" }, t(waiting ? "betweenNow" : "betweenHint")), go("betweenIt", () => { waiting = now; choose("between", true); })],
    nearest: () => [h("p", { class: "hint" }, t("nearestHint")), go("find", nearest)],
  };
  function choose(name, keep = false) {
    if (!keep) waiting = null;
    tool = name;
    [...tabs.children].forEach((tab, i) => tab.setAttribute("aria-pressed", String(TOOLS[i] === name)));
    fill(panel, panels[name]());
    image.hidden = name === "paint";
    if (name === "paint") paint.open(); else paint.close();
  }
  /** Look at a picture; false where it was wanted as the other one. */
  function show(picked) {
    if (!picked.way.length) return true;
    if (waiting && picked.way.at(-1).source !== waiting.way.at(-1).source) {
      const first = waiting;
      waiting = null;
      choose("between");
      through(first, picked);
      return false;
    }
    now = picked;
    if (picked.seed !== null) { fill(made); fill(said); }
    hint.hidden = true; tools.hidden = false;
    title.textContent = [picked.name, picked.seed === null ? null : `${t("seed")} ${picked.seed}`].filter(Boolean).join(" · ") || t("own");
    way.input.max = picked.way.length - 1;
    way.hidden = picked.way.length < 2;
    way.set(picked.way.length - 1);
    image.src = source();
    image.alt = title.textContent;
    choose(tool);
    return true;
  }
  const source = (one = now) => one.way.at(-1).source;
  function remake({ command, python, link }) {
    fill(remade, h("details", { open: innerWidth > 760 }, h("summary", {}, `${t("command")} · ${t("python")}`),
      copyable(t("command"), command, t), copyable(t("python"), python, t), link ? copyable(t("link"), link, t) : null));
  }
  function read(file) {
    if (!file) return;
    const reader = new FileReader();
    reader.onload = () => show({ way: [{ step: 0, source: reader.result }], seed: null, name: file.name, what: {} });
    reader.readAsDataURL(file);
  }

  /** Ask for something, one at a time, and hand its events to `take`. */
  async function ask(path, data, take) {
    work.abort();
    const mine = work = new AbortController();
    said.textContent = t("drawing");
    place.setAttribute("aria-busy", "true");
    try {
      for await (const { name, data: event } of events(path, data, mine.signal)) {
        if (name === "failed") throw new Refused(event.error.message, 200, event.error.param);
        if (name === "begin") remake({ ...event, link: null });
        take(name, event);
      }
      if (said.textContent === t("drawing")) said.textContent = "";
    } catch (error) {
      if (mine === work) said.textContent = "";
      failed(error);
    }
    if (mine === work) place.removeAttribute("aria-busy");
  }
  async function edit(more, mask = null) {
    const origin = now, files = { image: await bytes(source()), ...(mask ? { mask } : {}) };
    fill(made, waitingTiles(8));
    await ask("/studio/edit", form({ model: asked.model, num: 8, ...origin.what, ...more, seed: 1, previews: 0 }, files), (name, data) => {
      if (name === "done") fill(made, data.shown.map((one, i) => thumb(one, `${t(mask ? "paint" : "vary")} ${i + 1}`, origin)));
    });
  }
  /** To its noise and back, or to another picture; frames and pictures come as they are walked. */
  async function through(first = now, other = null) {
    const files = { image: await bytes(source(first)), ...(other ? { other: await bytes(source(other)) } : {}) };
    const backwards = choices.samplers[asked.own], sampler = backwards && !backwards.stochastic && !backwards.jumps ? {} : { sampler: "ddim" };
    const request = { model: asked.model, ...(other ? { num: knobs.num, guidance: asked.guidable ? 1 : undefined } : { steps: knobs.steps }), ...sampler, ...first.what, previews: 8 }, frames = [];
    fill(made, waitingTiles(other ? knobs.num : 9));
    await ask("/studio/through", form(request, files), (name, data) => {
      if (!data.shown) return;
      const step = data.step ?? t("end");
      if (other) fill(made, data.shown.map((one, i) => thumb(one, `${i + 1}`, first)));
      else { frames.push(data.shown[0]); [...made.children][frames.length - 1]?.replaceWith(thumb(data.shown[0], t("stepOf", { step }), first)); }
      if (name === "done") said.textContent = t(other ? "betweenSaid" : "backSaid", { psnr: data.psnr.toFixed(1) });
    });
  }
  function thumb(data, label, origin) {
    const picture = `data:image/png;base64,${data}`;
    return h("button", { class: "tile", type: "button", "aria-label": `${label}: ${t("keep")}`, title: t("keep"), onclick: () => show({ way: [{ step: 0, source: picture }], seed: null, name: origin.name, what: origin.what }) }, h("img", { src: picture, alt: "" }));
  }
  async function nearest() {
    fill(made, waitingTiles(6));
    try {
      const { nearest: found } = await postForm("/studio/nearest", form({ model: asked.model }, { image: await bytes(source()) }));
      said.textContent = t("nearestHint");
      fill(made, found.map((one) => h("figure", { class: "near" }, h("img", { class: "tile", src: `data:image/png;base64,${one.image}`, alt: `${t("data")} ${one.index}` }), h("figcaption", { class: "small muted" }, one.distance.toFixed(0)))));
    } catch (error) { fill(made); failed(error); }
  }
  return { show, remade: remake, stop: () => work.abort(), forget: () => { if (waiting) choose("between"); } };
}

function waitingTiles(num) { return Array.from({ length: num }, () => h("div", { class: "tile ghost" })); }

/** The bytes of a data: address, without asking the network, which the page's policy would refuse. */
async function bytes(source) {
  const raw = atob(source.split(",")[1]);
  return new Blob([Uint8Array.from(raw, (c) => c.charCodeAt(0))], { type: "image/png" });
}
