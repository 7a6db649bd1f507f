// Play: choose a run and its knobs; the same seeds stay put, so one sees what a knob does.
import { failed } from "./app.js";
import { get } from "./api.js";
import { closer } from "./closer.js";
import { debounced, field, fill, h, select, slider, state } from "./dom.js";
import { results } from "./results.js";
import { t } from "./words.js";

const GLIMPSES = 400; // pictures on the way that are asked for, at most
const NUMBERS = 24; // of a vector that get a field each

/** The runs that can be asked for samples. */
export function trained(runs) { return runs.filter((run) => run.kind === "model" && !["new", "starting", "damaged"].includes(run.state)); }

export async function open(place, query) {
  const [{ runs }, choices] = await Promise.all([get("/studio/runs"), get("/studio/choices")]);
  const usable = trained(runs);
  if (!usable.length) return void fill(place, h("h1", {}, t("play")), state("empty", t("noModels"), t("noModelsText"), h("a", { class: "button main", href: "#/runs" }, t("runs"))));
  const asked = { model: usable.some((run) => run.name === query.model) ? query.model : usable[0].name };
  const panel = h("form", { class: "panel knobs", "aria-label": t("knobs"), onsubmit: (event) => event.preventDefault() }), stage = h("section", { class: "stage", "aria-label": t("results") }), side = h("aside", { class: "panel closer", "aria-label": t("look") });
  fill(place, h("h1", { class: "hidden" }, t("play")), h("div", { class: "bench" }, panel, stage, side));
  const look = closer(side, asked, choices), table = results(stage, look);
  let stop = new AbortController();
  const run = debounced(async () => {
    stop.abort();
    if (!place.isConnected) return;
    const mine = stop = new AbortController();
    address(asked);
    try { await table.draw(request(asked), mine, asked); } catch (error) { table.stopped(); failed(error, table.below, run); }
  });
  async function choose(name) {
    asked.model = name;
    const model = await get("/studio/model", { name });
    Object.assign(asked, fresh(model, name === query.model ? query : {}));
    fill(panel, controls(asked, usable, choices, model, change, run, () => { stop.abort(); table.stopped(); }));
    run();
  }
  const change = async (name) => { try { await choose(name); } catch (error) { stop.abort(); failed(error, table.below, () => change(name)); } };
  fill(panel, [1, 2, 3, 4, 5, 6].map(() => h("div", { class: "ghost line-ghost" })));
  await choose(asked.model).catch((error) => failed(error, panel, () => open(place, query)));
  return () => { stop.abort(); look.stop(); };
}

/** The knobs of a model at their defaults, or as a link has them. */
function fresh(model, query) {
  const number = (name, other) => (query[name] === undefined || Number.isNaN(Number(query[name])) ? other : Number(query[name]));
  const hears = model.asked_by, first = model.examples[0];
  const rows = query.labels ? query.labels.split(",") : hears === "label" ? model.labels.slice(0, 10) : [];
  const vector = hears !== "vector" ? [] : query.vector ? query.vector.split(",").map(Number) : Array.isArray(first) ? first : Array.from({ length: model.numbers }, (_, i) => Number(i === 0));
  return { hears, vector, labels: rows, prompt: query.prompt ?? (hears === "text" ? first ?? "" : ""), negative: query.negative ?? "",
    sampler: query.sampler ?? "", grid: query.grid ?? "", steps: number("steps", model.defaults.num_steps), guidance: number("guidance", model.guidable && hears ? model.defaults.guidance : 1), guidable: model.guidable,
    own: model.defaults.sampler, each: number("each", rows.length ? 6 : 16), seed: number("seed", 0), clip: query.clip === "true", kind: model.kind };
}

/** What is to be made, for the server; nothing for no condition. */
export function wanted(asked) {
  if (asked.hears === "label") return { labels: asked.labels.length ? asked.labels : ["none"] };
  if (asked.hears === "vector") return { vectors: [asked.vector] };
  return asked.hears === "text" && asked.prompt.trim() ? { prompts: [asked.prompt] } : {};
}

/** What the server is asked. */
export function request(asked) {
  const rows = asked.hears === "label" ? Math.max(1, asked.labels.length) : 1, what = wanted(asked);
  const guided = asked.guidable && (what.prompts || what.vectors || asked.labels.length), away = guided && asked.guidance !== 1 && asked.negative;
  const num = asked.kind === "points" ? 500 : rows * asked.each;
  return { model: asked.model, ...what, ...(away ? { [asked.hears === "text" ? "negative_prompt" : "negative_label"]: asked.negative } : {}), ...(asked.sampler ? { sampler: asked.sampler } : {}), ...(asked.grid ? { grid: asked.grid } : {}),
    ...(guided ? { guidance: asked.guidance } : {}), ...(asked.clip ? { clip: true } : {}), steps: asked.steps, seed: asked.seed, num: Math.min(num, asked.most ?? num),
    previews: Math.max(0, Math.min(asked.steps - 1, Math.floor(GLIMPSES / num))) };
}

/** The address of the page as a link to these settings. */
function address(asked) {
  const { hears, kind, labels, vector, most, guidable, own, ...rest } = asked;
  const query = new URLSearchParams(Object.entries({ ...rest, labels: labels.join(","), vector: vector.join(",") }).filter(([, v]) => v !== "" && v !== undefined && v !== false));
  history.replaceState(null, "", `#/play?${query.toString().replaceAll("%2C", ",")}`);
}

function controls(asked, runs, choices, model, choose, run, stop) {
  const set = (name) => (value) => { asked[name] = value; run(); };
  asked.most = choices.limits.most;
  const seed = h("input", { type: "number", min: 0, value: asked.seed, oninput: () => { asked.seed = Math.max(0, Math.floor(Number(seed.value) || 0)); run(); } });
  const dice = h("button", { type: "button", onclick: () => { asked.seed = Math.floor(Math.random() * 1e6); seed.value = asked.seed; run(); } }, t("dice"));
  const rows = Math.max(1, asked.hears === "label" ? model.labels.length : 1), text = asked.hears === "text";
  return [
    field(t("model"), select(runs.map((one) => one.name), asked.model, choose)),
    asked.hears === "label" ? classes(asked, model, run) : asked.hears === "vector" ? numbers(asked, model, run) : null,
    text ? field(t("prompt"), h("input", { value: asked.prompt, list: "examples", oninput: (event) => { asked.prompt = event.target.value; run(); } }), t("promptHint")) : null,
    text ? h("datalist", { id: "examples" }, model.examples.map((one) => h("option", { value: one }))) : null,
    slider({ label: t("steps"), min: 1, max: Math.max(asked.steps, Math.min(100, choices.limits.most_steps)), step: 1, value: asked.steps, oninput: set("steps") }),
    asked.hears && asked.guidable ? slider({ label: t("guidance"), min: 0, max: Math.max(8, asked.guidance), step: 0.1, value: asked.guidance, oninput: set("guidance"), show: (v) => v.toFixed(1) }) : null,
    asked.kind === "images" ? slider({ label: asked.hears === "label" ? t("count") : t("images"), min: 1, max: Math.max(1, Math.min(32, Math.floor(asked.most / Math.min(rows, 10)))), step: 1, value: asked.each, oninput: set("each") }) : null,
    h("div", { class: "two" }, field(t("first"), seed), h("div", { class: "field" }, h("span", { class: "name", "aria-hidden": "true" }, "\u00a0"), dice)),
    h("details", { open: innerWidth > 760 }, h("summary", {}, t("moreKnobs")),
      field(t("sampler"), select([["", t("asRun")], ...Object.keys(choices.samplers)], asked.sampler, set("sampler"))),
      field(t("grid"), select([["", t("asRun")], ...choices.grids], asked.grid, set("grid"))),
      asked.hears === "label" && asked.guidable ? field(t("negative"), select([["", t("nothing")], ...model.labels], asked.negative, set("negative")), t("negativeHint")) : null,
      text && asked.guidable ? field(t("negative"), h("input", { value: asked.negative, oninput: (event) => set("negative")(event.target.value) }), t("negativeHint")) : null,
      asked.kind === "images" ? h("div", { class: "field" }, h("label", { class: "row" }, h("input", { type: "checkbox", checked: asked.clip, onchange: (event) => set("clip")(event.target.checked) }), t("clip"))) : null),
    h("div", { class: "row" }, h("button", { type: "button", class: "main", onclick: run }, t("draw")), h("button", { type: "button", onclick: stop }, t("stop"))),
  ];
}

/** A field for each number of a vector, or one for all where there are many, and vectors of the data to start from. */
function numbers(asked, model, run) {
  const named = model.labels.length === model.numbers ? model.labels : asked.vector.map((_, i) => String(i + 1));
  const put = (i) => (event) => { asked.vector[i] = Number(event.target.value) || 0; run(); };
  const single = asked.vector.map((value, i) => h("label", { class: "number-field" }, h("span", { class: "name" }, named[i]), h("input", { type: "number", step: "any", value, oninput: put(i) })));
  const whole = h("input", { value: asked.vector.join(", "), oninput: () => { asked.vector = whole.value.split(",").map((one) => Number(one) || 0); run(); } });
  const known = model.examples.filter(Array.isArray).slice(0, 8);
  const example = (one, i) => h("button", { type: "button", class: "small", title: one.join(", "), onclick: () => { asked.vector = [...one]; node.replaceWith(numbers(asked, model, run)); run(); } }, t("example", { number: i + 1 }));
  const node = h("fieldset", {}, h("legend", {}, t("vector")), single.length > NUMBERS ? whole : h("div", { class: "numbers" }, single), known.length ? h("div", { class: "row wrap" }, known.map(example)) : null);
  if (single.length > NUMBERS) whole.setAttribute("aria-label", t("vector"));
  return node;
}

function classes(asked, model, run) {
  const buttons = model.labels.map((name) => {
    const button = h("button", { type: "button", "aria-pressed": String(asked.labels.includes(name)), onclick: () => {
      asked.labels = model.labels.filter((one) => (one === name) !== asked.labels.includes(one));
      button.setAttribute("aria-pressed", String(asked.labels.includes(name)));
      run();
    } }, name);
    return button;
  });
  return h("div", { class: "field", role: "group", "aria-label": t("classes") }, h("span", { class: "name" }, t("classes")), h("div", { class: "classes" }, buttons));
}
