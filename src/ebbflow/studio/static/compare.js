// Side by side: one knob turned, or several runs, on the same seeds.
import { failed } from "./app.js";
import { events, get } from "./api.js";
import { field, fill, h, select, state } from "./dom.js";
import { t } from "./words.js";

const KNOBS = { steps: "1, 2, 4, 8, 16, 32", guidance: "0, 1, 2, 4, 8", sampler: "euler, heun, dpmpp_2m, ddpm", grid: "uniform, karras" };
const COLUMNS = 10;

export async function open(place) {
  const { runs } = await get("/studio/runs");
  const usable = runs.filter((run) => run.kind === "model" && run.what.dims?.length === 3 && !["new", "starting", "damaged"].includes(run.state));
  if (!usable.length) return void fill(place, h("h1", {}, t("compare")), state("empty", t("noModels"), t("noModelsText"), h("a", { class: "button main", href: "#/runs" }, t("runs"))));
  const asked = { knob: "steps", values: KNOBS.steps, runs: [usable[0].name], seed: 0 };
  const values = h("input", { value: asked.values, oninput: () => { asked.values = values.value; } });
  const table = h("section", { class: "stage", "aria-label": t("results") });
  const boxes = usable.map((run) => h("label", { class: "row" }, h("input", { type: "checkbox", checked: asked.runs.includes(run.name), onchange: (event) => { asked.runs = usable.map((one) => one.name).filter((name) => (name === run.name ? event.target.checked : asked.runs.includes(name))); } }), run.name));
  let stop = new AbortController();
  const go = async () => {
    stop.abort();
    stop = new AbortController();
    try { await compare(table, asked, stop.signal); } catch (error) { failed(error); }
  };
  fill(place, h("div", { class: "head" }, h("h1", {}, t("compareTitle")), h("p", { class: "muted" }, t("compareText"))),
    h("div", { class: "bench" }, h("form", { class: "panel", onsubmit: (event) => { event.preventDefault(); go(); } },
      field(t("knob"), select(Object.keys(KNOBS).map((name) => [name, t(name)]), asked.knob, (v) => { asked.knob = v; values.value = asked.values = KNOBS[v]; })),
      field(t("values"), values, t("valuesHint")), h("fieldset", {}, h("legend", {}, t("withRuns")), boxes),
      h("button", { class: "main" }, t("go"))), table));
  await go();
  return () => stop.abort();
}

async function compare(table, asked, signal) {
  const values = asked.values.split(",").map((one) => one.trim()).filter(Boolean);
  const rows = asked.runs.flatMap((model) => values.map((value) => ({ model, value, strip: h("div", { class: "strip" }, Array.from({ length: COLUMNS }, () => h("div", { class: "tile" }))), took: h("td", { class: "muted small" }) })));
  fill(table, h("table", {}, h("thead", {}, h("tr", {}, [t("model"), t(asked.knob), t("results"), t("seconds")].map((one) => h("th", {}, one)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, h("td", {}, row.model), h("td", {}, row.value), h("td", {}, row.strip), row.took)))));
  const labels = new Map();
  for (const row of rows) {
    if (!labels.has(row.model)) labels.set(row.model, await get("/studio/model", { name: row.model }));
    const known = labels.get(row.model), number = Number(row.value);
    const what = known.asked_by === "label" ? { labels: known.labels.slice(0, COLUMNS) } : {};
    const request = { model: row.model, ...what, num: COLUMNS, seed: asked.seed, previews: 0, [asked.knob]: Number.isNaN(number) ? row.value : number };
    try {
      for await (const { name, data } of events("/studio/sample", request, signal)) {
        if (name === "failed") throw new Error(data.error.message);
        if (name !== "done") continue;
        fill(row.strip, data.shown.map((image) => h("div", { class: "tile" }, h("img", { src: `data:image/png;base64,${image}`, alt: `${row.model}, ${asked.knob} ${row.value}` }))));
        row.took.textContent = data.seconds.toFixed(2);
      }
    } catch (error) {
      if (error.name === "AbortError") throw error;
      fill(row.strip, h("span", { class: "wrong" }, error.message));
    }
  }
}
