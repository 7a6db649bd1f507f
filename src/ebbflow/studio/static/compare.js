// Side by side: several runs under two sliders whose strips are made ahead, or one knob row by row; the same seeds.
import { failed } from "./app.js";
import { events, get, Refused } from "./api.js";
import { scatter } from "./chart.js";
import { copyable, field, fill, h, select, slider, state } from "./dom.js";
import { trained } from "./play.js";
import { t } from "./words.js";

const STEPS = [1, 2, 4, 8, 16, 32], GUIDANCE = [0, 1, 2, 4, 8];
const KNOBS = { steps: "1, 2, 4, 8, 16, 32", guidance: "0, 1, 2, 4, 8", sampler: "euler, heun, dpmpp_2m, ddpm", grid: "uniform, karras" };
const COLUMNS = 10;

export async function open(place) {
  const [{ runs, folder }, choices] = await Promise.all([get("/studio/runs"), get("/studio/choices")]);
  const usable = trained(runs).filter((run) => run.what.dims?.length === 3);
  if (!usable.length) return void fill(place, h("h1", {}, t("compare")), state("empty", t("noModels"), t("noModelsText"), h("a", { class: "button main", href: "#/runs" }, t("runs"))));
  const models = new Map();
  const known = async (name) => { if (!models.has(name)) models.set(name, await get("/studio/model", { name })); return models.get(name); };
  const two = sliders(usable, choices, known, folder), one = table(usable, known);
  fill(place, h("h1", { class: "head" }, t("compare")), two.node, one.node);
  two.start();
  return () => { two.stop(); one.stop(); };
}

/** Boxes to choose runs; `change` is told the names. */
function boxes(usable, chosen, change) {
  const names = new Set(chosen);
  const box = (run) => h("label", { class: "row" }, h("input", { type: "checkbox", checked: names.has(run.name), onchange: (event) => { names[event.target.checked ? "add" : "delete"](run.name); change(usable.map((one) => one.name).filter((name) => names.has(name))); } }), run.name);
  return h("fieldset", {}, h("legend", {}, t("withRuns")), usable.map(box));
}

/** The pictures of a setting, and the seconds that they took. */
async function strip(model, known, knobs, signal) {
  const what = known.asked_by === "label" ? { labels: known.labels.slice(0, COLUMNS) } : {};
  for await (const { name, data } of events("/studio/sample", { model, ...what, num: COLUMNS, seed: 0, previews: 0, ...knobs }, signal)) {
    if (name === "failed") throw new Refused(data.error.message, 200, data.error.param);
    if (name === "done") return { images: data.shown.map((one) => `data:image/png;base64,${one}`), seconds: data.seconds };
  }
  throw new Refused("dead", 0, null);
}

const empty = () => Array.from({ length: COLUMNS }, () => h("div", { class: "tile" }));
const tiles = (images, alt) => images.map((src) => h("div", { class: "tile" }, h("img", { src, alt })));

// -- two sliders -------------------------------------------------------------------------------------------------------

function sliders(usable, choices, known, folder) {
  const asked = { runs: usable.slice(0, 2).map((run) => run.name), sampler: "", steps: 3, guidance: 2 };
  const steps = STEPS.filter((one) => one <= choices.limits.most_steps), made = new Map(), rows = new Map();
  const list = h("div", { class: "rows" }), bar = h("progress", { max: 1, value: 0, "aria-label": t("ahead") }), ready = h("span", { class: "small muted" });
  let work = new AbortController();
  const setting = (run) => ({ steps: steps[asked.steps], guidance: rows.get(run)?.known.guidable ? GUIDANCE[asked.guidance] : null });
  const key = (run, one) => JSON.stringify([run, asked.sampler, one.steps, one.guidance]);
  const grid = (run) => steps.flatMap((n) => (rows.get(run)?.known.guidable ? GUIDANCE : [null]).map((guidance) => ({ steps: n, guidance })));
  const node = h("section", { class: "lesson" }, h("h2", {}, t("twoTitle")), h("p", { class: "muted" }, t("twoText")), h("div", { class: "bench" },
    h("div", { class: "panel" }, boxes(usable, asked.runs, (names) => { asked.runs = names; start(); }),
      field(t("sampler"), select([["", t("asRun")], ...Object.keys(choices.samplers)], "", (v) => { asked.sampler = v; start(); })),
      slider({ label: t("steps"), min: 0, max: steps.length - 1, step: 1, value: asked.steps, oninput: (i) => { asked.steps = i; draw(); }, show: (i) => String(steps[i]) }),
      slider({ label: t("guidance"), min: 0, max: GUIDANCE.length - 1, step: 1, value: asked.guidance, oninput: (i) => { asked.guidance = i; draw(); }, show: (i) => String(GUIDANCE[i]) }),
      h("div", { class: "row progress" }, bar, ready)), list));

  async function start() {
    work.abort();
    const mine = work = new AbortController();
    try {
      for (const name of asked.runs) if (!rows.has(name)) rows.set(name, await row(name));
      if (mine.signal.aborted) return;
      fill(list, asked.runs.length ? asked.runs.map((name) => rows.get(name).node) : state("empty", t("noneChosen"), ""));
      draw();
      await fillAhead(mine.signal);
    } catch (error) { failed(error, list, start); }
  }
  async function row(name) {
    const strip_ = h("div", { class: "strip" }, empty()), told = h("p", { class: "small muted told" }), figure = h("div", { class: "figure" });
    const { cells } = await get("/studio/measured", { name });
    return { known: await known(name), cells, strip: strip_, told, figure, node: h("article", { class: "panel" }, h("h3", {}, name), strip_, told, figure) };
  }
  /** Make every strip, always the one next that is nearest to where the sliders are. */
  async function fillAhead(signal) {
    const all = asked.runs.flatMap((run) => grid(run).map((one) => ({ run, ...one })));
    const far = ({ run, ...one }) => Math.abs(steps.indexOf(one.steps) - asked.steps) + (one.guidance === null ? 0 : Math.abs(GUIDANCE.indexOf(one.guidance) - asked.guidance)) + asked.runs.indexOf(run) / 10;
    while (!signal.aborted) {
      const left = all.filter(({ run, ...one }) => !made.has(key(run, one)));
      bar.value = all.length ? 1 - left.length / all.length : 1;
      ready.textContent = t("readyOf", { done: all.length - left.length, all: all.length });
      if (!left.length) return;
      const { run, ...one } = left.reduce((best, next) => (far(next) < far(best) ? next : best)), at = key(run, one);
      const knobs = { steps: one.steps, ...(one.guidance === null ? {} : { guidance: one.guidance }), ...(asked.sampler ? { sampler: asked.sampler } : {}) };
      try { made.set(at, await strip(run, rows.get(run).known, knobs, signal)); } catch (error) {
        if (error.name === "AbortError" || error.message === "dead") throw error;
        made.set(at, { wrong: error.message });
      }
      draw();
    }
  }
  function draw() {
    for (const name of asked.runs) {
      const one = rows.get(name), at = setting(name), found = made.get(key(name, at));
      if (!one) continue;
      one.strip.classList.toggle("stale", !found);
      one.strip.toggleAttribute("aria-busy", !found);
      if (found?.wrong) fill(one.strip, h("p", { class: "wrong" }, found.wrong));
      else if (found) fill(one.strip, tiles(found.images, `${name}, ${t("steps")} ${at.steps}`));
      fill(one.told, found?.seconds ? t("tookHere", { s: found.seconds.toFixed(2), num: COLUMNS }) : t(found ? "cancelled" : "drawing"));
      quality(one, name, at);
    }
  }
  function quality({ cells, figure, known: model }, name, at) {
    if (!cells.length) return void (figure.firstChild || fill(figure, h("p", { class: "hint" }, t("notMeasured")), copyable(t("command"), `ebbflow compare ${folder}/${name} --output ${folder}/compare.html`, t)));
    const sampler = asked.sampler || model.defaults.sampler, here = cells.filter((one) => one.sampler === sampler && one.steps === at.steps && (at.guidance === null || one.guidance === at.guidance));
    const points = cells.map((one) => ({ x: one.milliseconds, y: one.frechet, on: here.includes(one), label: `${one.sampler}, ${t("steps")} ${one.steps}, ${t("guidance")} ${one.guidance}: ${one.frechet.toPrecision(3)}` }));
    const said = here.length ? t("measured", { value: here[0].frechet.toPrecision(3), error: here[0].error === null ? "" : ` ± ${here[0].error.toPrecision(2)}`, ms: here[0].milliseconds.toPrecision(3) }) : t("otherMeasured");
    fill(figure, scatter({ points, label: t("qualityTitle"), x: t("milliseconds"), y: t("frechet") }), h("p", { class: "small" }, said, cells[0].report ? [" ", h("a", { href: `#/reports?name=${encodeURIComponent(cells[0].report)}` }, cells[0].report)] : ""));
  }
  return { node, start, stop: () => work.abort() };
}

// -- one knob, row by row ----------------------------------------------------------------------------------------------

function table(usable, known) {
  const asked = { knob: "steps", values: KNOBS.steps, runs: [usable[0].name] };
  const values = h("input", { value: asked.values, oninput: () => { asked.values = values.value; } });
  const stage = h("section", { class: "stage", "aria-label": t("results") }, state("empty", t("compareReady"), t("compareText")));
  let work = new AbortController();
  const go = async () => {
    work.abort();
    work = new AbortController();
    try { await compare(stage, asked, known, work.signal); } catch (error) { failed(error); }
  };
  const node = h("section", { class: "lesson" }, h("h2", {}, t("compareTitle")), h("div", { class: "bench" }, h("form", { class: "panel", onsubmit: (event) => { event.preventDefault(); go(); } },
    field(t("knob"), select(Object.keys(KNOBS).map((name) => [name, t(name)]), asked.knob, (v) => { asked.knob = v; values.value = asked.values = KNOBS[v]; })),
    field(t("values"), values, t("valuesHint")), boxes(usable, asked.runs, (names) => { asked.runs = names; }),
    h("button", { class: "main" }, t("go"))), stage));
  return { node, stop: () => work.abort() };
}

async function compare(stage, asked, known, signal) {
  const values = asked.values.split(",").map((one) => one.trim()).filter(Boolean);
  const rows = asked.runs.flatMap((model) => values.map((value) => ({ model, value, strip: h("div", { class: "strip" }, empty()), took: h("td", { class: "muted small took" }) })));
  fill(stage, h("table", { class: "strips" }, h("thead", {}, h("tr", {}, [t("model"), t(asked.knob), t("results"), t("seconds")].map((one) => h("th", { scope: "col" }, one)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, h("td", {}, row.model), h("td", {}, row.value), h("td", {}, row.strip), row.took)))));
  for (const row of rows) {
    const number = Number(row.value);
    try {
      const found = await strip(row.model, await known(row.model), { [asked.knob]: Number.isNaN(number) ? row.value : number }, signal);
      fill(row.strip, tiles(found.images, `${row.model}, ${t(asked.knob)} ${row.value}`));
      row.took.textContent = found.seconds.toFixed(2);
    } catch (error) {
      if (error.name === "AbortError" || error.message === "dead") throw error;
      fill(row.strip, h("span", { class: "wrong" }, error.message));
    }
  }
}
