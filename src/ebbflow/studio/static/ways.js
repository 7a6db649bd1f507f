// From noise to data in the plane: two samplers beside each other, from the same noise. Ways come from the library.
import { failed } from "./app.js";
import { get } from "./api.js";
import { debounced, facts, field, fill, h, lesson, select, slider } from "./dom.js";
import { plane } from "./plane.js";
import { t } from "./words.js";

const FRAMES = 60;
const PLAIN = { path: "flow", sampler: "euler", steps: 10, guidance: 1, label: "" };
/** What is worth a look: the data, and the knobs on the left and on the right. */
const SCENES = {
  oneStep: { data: "gaussians", sides: [{ ...PLAIN, steps: 1 }, { ...PLAIN, steps: 20 }] },
  straightness: { data: "gaussians", sides: [{ ...PLAIN, steps: 1, label: "2" }, { ...PLAIN, steps: 1 }] },
  odeSde: { data: "moons", sides: [{ ...PLAIN, sampler: "heun", steps: 40 }, { ...PLAIN, sampler: "sde", steps: 40 }] },
  guided: { data: "gaussians", sides: [{ ...PLAIN, sampler: "heun", steps: 30, label: "2" }, { ...PLAIN, sampler: "heun", steps: 30, label: "2", guidance: 4 }] },
};

export function ways(choices) {
  const asked = { data: "gaussians", num: 120 }, both = h("div", { class: "planes" }), said = h("p", { class: "muted", "aria-live": "polite" });
  let sides = [], part = FRAMES, playing = 0;
  const time = slider({ label: t("along"), min: 0, max: FRAMES, step: 1, value: FRAMES, oninput: (k) => { pause(); go(k); }, show: (k) => `${Math.round(100 * k / FRAMES)} %` });
  const play = h("button", { type: "button", onclick: () => (playing ? pause() : run()) }, t("playBtn"));
  const data = select(choices.plane, asked.data, (v) => { asked.data = v; fill(said); sides.forEach((one) => one.told()); });
  const scenes = h("div", { class: "row wrap scenes", role: "group", "aria-label": t("scenes") }, Object.keys(SCENES).map((name) => h("button", { type: "button", onclick: () => scene(name) }, t(name))));
  const legend = h("ul", { class: "legend" }, [["law", "s3"], ["points2", "s0"], ["ends", "s1"]].map(([name, colour]) => h("li", {}, h("span", { class: `swatch ${colour}` }), t(name))));
  const node = lesson(t("waysTitle"), t("waysText"), scenes, said, h("div", { class: "shared" }, field(t("data"), data), time, h("div", { class: "field" }, h("span", { class: "name", "aria-hidden": "true" }, "\u00a0"), play)), both, legend);

  function scene(name) {
    pause();
    asked.data = data.value = SCENES[name].data;
    part = FRAMES;
    time.set(part);
    fill(said, t(`${name}Said`));
    fill(both, ...(sides = SCENES[name].sides.map((given, i) => side(choices, asked, { ...given }, i, () => part))).map((one) => one.node));
    return Promise.all(sides.map((one) => one.told()));
  }
  function go(k) { part = k; time.set(k); sides.forEach((one) => one.draw()); }
  function pause() { clearInterval(playing); playing = 0; play.textContent = t("playBtn"); }
  function run() {
    go(part >= FRAMES ? 0 : part);
    play.textContent = t("pause");
    playing = setInterval(() => { go(part + 1); if (part >= FRAMES) pause(); }, 50);
  }
  return { node, start: () => scene("oneStep"), stop: pause };
}

/** One plane with knobs of its own; `part` tells how far the points are on their way. */
function side(choices, asked, own, index, part) {
  const canvas = h("canvas", { class: "plane", role: "img", "aria-label": `${t("waysTitle")} ${index + 1}` }), read = h("div", { class: "read", "aria-live": "polite" }), drawn = plane(canvas);
  const more = h("div", { class: "two" });
  let found = null;
  const again = debounced(start, 150), set = (name) => (value) => { own[name] = value; again(); };
  const node = h("div", { class: "side", role: "group", "aria-label": t(index ? "right" : "left") }, canvas, h("div", { class: "two" },
    field(t("sampler"), select(Object.keys(choices.samplers), own.sampler, set("sampler"))), field(t("path"), select(choices.paths, own.path, set("path")))),
    slider({ label: t("steps"), min: 1, max: 60, step: 1, value: own.steps, oninput: set("steps") }), more, read);
  /** The class, and the guidance to it, of data that has classes. */
  function told() {
    const classed = asked.data === "gaussians";
    if (!classed) own.label = "";
    fill(more, classed ? field(t("label"), select([["", t("everything")], ..."01234567"], own.label, (v) => { own.label = v; told(); })) : null,
      own.label === "" ? null : slider({ label: t("guidance"), min: 0, max: 6, step: 0.25, value: own.guidance, oninput: set("guidance"), show: (v) => v.toFixed(2) }));
    return start();
  }
  function draw() {
    if (!found) return;
    const last = found.ways.length - 1, step = Math.round(part() / FRAMES * last), points = found.ways[step];
    const spread = Math.max(...points.flat().map(Math.abs)), arrived = step === last && found.error !== null;
    drawn.clear(spread > 6 ? spread * 1.05 : 3.4);
    drawn.points(found.law, "muted", 3, 0.35);
    drawn.ways(found.ways, step, "main", 0.22);
    if (arrived) drawn.lines(points, found.ends, "second", 0.6);
    if (found.error !== null) drawn.points(found.ends, "second", 4, 0.7);
    drawn.points(points, "main", 6);
  }
  async function start() {
    try {
      found = await get("/studio/ways", { ...asked, ...own, ...(own.label === "" ? { guidance: 1 } : {}) });
      const none = found.error === null;
      fill(read, facts([[t("error"), none ? "—" : found.error.toFixed(3)], [t("bend"), found.bend.toFixed(3)]]), h("p", { class: "hint" }, t(none ? "noise" : "bendHint")));
      draw();
    } catch (error) { failed(error, read, start); }
  }
  return { node, told, draw };
}
