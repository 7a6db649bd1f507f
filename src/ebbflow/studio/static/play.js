// Play: choose a run and its knobs; the same seeds stay put, so one sees what a knob does.
import { failed } from "./app.js";
import { events, get } from "./api.js";
import { closer } from "./closer.js";
import { debounced, field, fill, h, select, slider, state } from "./dom.js";
import { t } from "./words.js";

const GLIMPSES = 400; // pictures on the way that are asked for, at most

export async function open(place, query) {
  const [{ runs }, choices] = await Promise.all([get("/studio/runs"), get("/studio/choices")]);
  const usable = runs.filter((run) => run.kind === "model" && !["new", "starting", "damaged"].includes(run.state));
  if (!usable.length) return void fill(place, h("h1", {}, t("play")), state("empty", t("noModels"), t("noModelsText"), h("a", { class: "button main", href: "#/runs" }, t("runs"))));
  const asked = { model: usable.some((run) => run.name === query.model) ? query.model : usable[0].name };
  const panel = h("form", { class: "panel", onsubmit: (event) => event.preventDefault() }), stage = h("section", { class: "stage", "aria-label": t("results") }), side = h("aside", { class: "panel closer" });
  fill(place, h("h1", { class: "hidden" }, t("play")), h("div", { class: "bench" }, panel, stage, side));
  const look = closer(side, () => asked.model), table = results(stage, look);
  let stop = new AbortController();
  const run = debounced(async () => {
    stop.abort();
    const mine = stop = new AbortController();
    address(asked);
    try { await table.draw(request(asked), mine, usable.find((one) => one.name === asked.model)); } catch (error) { failed(error, table.below, run); }
  });
  async function choose(name) {
    asked.model = name;
    const model = await get("/studio/model", { name });
    Object.assign(asked, fresh(model, name === query.model ? query : {}));
    fill(panel, controls(asked, usable, choices, model, choose, run, () => { stop.abort(); table.stopped(); }));
    run();
  }
  try { await choose(asked.model); } catch (error) { failed(error, stage, () => open(place, query)); }
  return () => stop.abort();
}

/** The knobs of a model at their defaults, or as a link has them. */
function fresh(model, query) {
  const number = (name, other) => (query[name] === undefined || Number.isNaN(Number(query[name])) ? other : Number(query[name]));
  const rows = query.labels ? query.labels.split(",") : model.labels.length && model.asked_by === "label" ? model.labels.slice(0, Math.min(10, model.labels.length)) : [];
  return { hears: model.asked_by, labels: rows, prompt: query.prompt ?? (model.asked_by === "text" ? model.examples[0] ?? "" : ""), negative: query.negative ?? "",
    sampler: query.sampler ?? "", grid: query.grid ?? "", steps: number("steps", model.defaults.num_steps), guidance: number("guidance", model.asked_by ? model.defaults.guidance : 1), each: number("each", rows.length ? 6 : 16), seed: number("seed", 0), clip: query.clip === "true", kind: model.kind };
}

/** What the server is asked. */
export function request(asked) {
  const rows = asked.hears === "label" ? Math.max(1, asked.labels.length) : 1;
  const what = asked.hears === "label" ? { labels: asked.labels.length ? asked.labels : ["none"] } : asked.hears === "text" && asked.prompt.trim() ? { prompts: [asked.prompt] } : {};
  const guided = asked.hears && asked.guidance !== 1 && (what.prompts || asked.labels.length);
  const away = guided && asked.negative ? (asked.hears === "text" ? { negative_prompt: asked.negative } : { negative_label: asked.negative }) : {};
  const num = asked.kind === "points" ? 500 : rows * asked.each;
  return { model: asked.model, ...what, ...away, ...(asked.sampler ? { sampler: asked.sampler } : {}), ...(asked.grid ? { grid: asked.grid } : {}),
    ...(asked.hears && (what.prompts || asked.labels.length) ? { guidance: asked.guidance } : {}), ...(asked.clip ? { clip: true } : {}), steps: asked.steps, seed: asked.seed, num: Math.min(num, asked.most ?? num),
    previews: Math.max(0, Math.min(asked.steps - 1, Math.floor(GLIMPSES / num))) };
}

/** The address of the page as a link to these settings. */
function address(asked) {
  const { hears, kind, labels, most, ...rest } = asked;
  const query = new URLSearchParams(Object.entries({ ...rest, labels: labels.join(",") }).filter(([, v]) => v !== "" && v !== undefined && v !== false));
  history.replaceState(null, "", `#/play?${query}`);
}

function controls(asked, runs, choices, model, choose, run, stop) {
  const set = (name) => (value) => { asked[name] = value; run(); };
  asked.most = choices.limits.most;
  const seed = h("input", { type: "number", min: 0, value: asked.seed, oninput: () => { asked.seed = Math.max(0, Math.floor(Number(seed.value) || 0)); run(); } });
  const dice = h("button", { type: "button", onclick: () => { asked.seed = Math.floor(Math.random() * 1e6); seed.value = asked.seed; run(); } }, t("dice"));
  const rows = Math.max(1, asked.hears === "label" ? model.labels.length : 1);
  return [
    field(t("model"), select(runs.map((one) => one.name), asked.model, choose)),
    asked.hears === "label" ? classes(asked, model, run) : null,
    asked.hears === "text" ? field(t("prompt"), h("input", { value: asked.prompt, list: "examples", oninput: (event) => { asked.prompt = event.target.value; run(); } }), t("promptHint")) : null,
    asked.hears === "text" ? h("datalist", { id: "examples" }, model.examples.map((one) => h("option", { value: one }))) : null,
    slider({ label: t("steps"), min: 1, max: Math.min(100, choices.limits.most_steps), step: 1, value: asked.steps, oninput: set("steps") }),
    asked.hears ? slider({ label: t("guidance"), min: 0, max: 8, step: 0.1, value: asked.guidance, oninput: set("guidance"), show: (v) => v.toFixed(1) }) : null,
    field(t("sampler"), select([["", t("asRun")], ...Object.keys(choices.samplers)], asked.sampler, set("sampler"))),
    field(t("grid"), select([["", t("asRun")], ...choices.grids], asked.grid, set("grid"))),
    asked.hears === "label" ? field(t("negative"), select([["", t("nothing")], ...model.labels], asked.negative, set("negative"))) : null,
    asked.hears === "text" ? field(t("negative"), h("input", { value: asked.negative, oninput: (event) => set("negative")(event.target.value) })) : null,
    asked.kind === "images" ? slider({ label: asked.hears === "label" ? t("count") : t("images"), min: 1, max: Math.max(1, Math.min(32, Math.floor(asked.most / Math.min(rows, 10)))), step: 1, value: asked.each, oninput: set("each") }) : null,
    h("div", { class: "two" }, field(t("first"), seed), h("div", { class: "field" }, h("span", { class: "name" }, "\u00a0"), dice)),
    asked.kind === "images" ? h("div", { class: "field" }, h("label", { class: "row" }, h("input", { type: "checkbox", checked: asked.clip, onchange: (event) => set("clip")(event.target.checked) }), t("clip"))) : null,
    h("div", { class: "row" }, h("button", { type: "button", class: "main", onclick: run }, t("draw")), h("button", { type: "button", onclick: stop }, t("stop"))),
  ];
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

/** The table of results: rows are what was asked for, each tile keeps its place while new ones come. */
function results(stage, look) {
  const bar = h("progress", { value: 0, max: 1, "aria-label": t("drawing") }), said = h("span", { class: "small muted" }), below = h("div", { class: "below" }), tiles = h("div", { class: "tiles" });
  fill(stage, h("div", { class: "row progress" }, bar, said), tiles, below);
  let shown = [], shape = "";
  function place(begin, kind) {
    const next = JSON.stringify([begin.names, begin.seeds.length, kind]);
    if (next === shape) return;
    shape = next;
    if (kind === "points") { shown = [h("canvas", { class: "plane", width: 640, height: 640 })]; return fill(tiles, h("span"), shown[0]); }
    shown = begin.seeds.map((seed, i) => h("button", { class: "tile", type: "button", "aria-pressed": "false", "aria-label": `${begin.names[i] ?? ""} ${t("seed")} ${seed}`, onclick: () => pick(i) }, h("img", { alt: "" })));
    const rows = new Map();
    begin.names.forEach((name, i) => rows.set(name, [...(rows.get(name) ?? []), shown[i]]));
    fill(tiles, [...rows].flatMap(([name, row]) => [h("span", { class: "rowname" }, name ?? ""), h("div", { class: "strip" }, row)]));
    const widest = Math.max(...[...rows.values()].map((row) => row.length)), columns = rows.size > 1 ? widest : Math.ceil(Math.sqrt(widest));
    const room = stage.clientWidth - (rows.size > 1 && innerWidth > 760 ? 120 : 0);
    tiles.style.setProperty("--tile", `${Math.max(40, Math.min(112, Math.floor(room / columns) - 5))}px`);
  }
  let ways = [], begun = null, picked = 0;
  function pick(i) {
    picked = i;
    shown.forEach((tile, j) => tile.setAttribute?.("aria-pressed", String(i === j)));
    look.show({ way: ways[i], seed: begun.seeds[i], name: begun.names[i] });
  }
  async function draw(asked, abort, run) {
    said.textContent = t("drawing");
    bar.value = 0;
    stage.classList.add("stale");
    stage.setAttribute("aria-busy", "true");
    const kind = run.what.dims?.length === 1 ? "points" : "images";
    for await (const { name, data } of events("/studio/sample", asked, abort.signal)) {
      if (name === "begin") { place(data, kind); begun = data; ways = data.seeds.map(() => []); bar.max = data.num_steps * data.seeds.length; }
      if (name === "failed") throw Object.assign(new Error(data.error.message), { name: "Refused" });
      if (name === "preview" || name === "done") {
        stage.classList.remove("stale");
        put(data, kind, name === "done");
        bar.value = name === "done" ? bar.max : data.step * data.shown.length + data.first * begun.num_steps;
      }
      if (name === "done") finish(data, kind);
    }
  }
  function put(data, kind) {
    if (kind === "points") return scatter(shown[0], data.shown);
    data.shown.forEach((image, i) => {
      const at = (data.first ?? 0) + i, source = `data:image/png;base64,${image}`;
      shown[at].firstChild.src = source;
      ways[at].push({ step: data.step ?? begun.num_steps, source });
    });
  }
  function finish(data, kind) {
    stage.removeAttribute("aria-busy");
    said.textContent = t("took", { s: data.seconds });
    look.remade({ command: begun.command, python: begun.python, link: location.href });
    fill(below);
    if (kind === "images") pick(Math.min(picked, shown.length - 1));
  }
  return { draw, below, stopped: () => { said.textContent = t("cancelled"); stage.classList.remove("stale"); } };
}

function scatter(canvas, points) {
  const pen = canvas.getContext("2d"), most = Math.max(1.5, ...points.flat().map(Math.abs)) * 1.05, side = canvas.width;
  pen.clearRect(0, 0, side, side);
  pen.fillStyle = getComputedStyle(canvas).getPropertyValue("--main");
  for (const [x, y] of points) pen.fillRect(side / 2 + (x / most) * side / 2 - 2, side / 2 - (y / most) * side / 2 - 2, 4, 4);
}
