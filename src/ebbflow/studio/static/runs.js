// Runs: cards of the folder, one run from near, and the form of a new one.
import { failed, note } from "./app.js";
import { get, picture, post } from "./api.js";
import { bars, chart, legend, short, spark } from "./chart.js";
import { field, fill, h, select, state } from "./dom.js";
import { t } from "./words.js";

const EVERY = 2500;

export async function open(place, query) {
  return query.name ? openRun(place, query.name) : openAll(place);
}

/** Ask again and again while the page is looked at. */
function repeat(work) {
  let timer = 0, stopped = false;
  const turn = async () => {
    if (!document.hidden) await work();
    if (!stopped) timer = setTimeout(turn, EVERY);
  };
  timer = setTimeout(turn, EVERY);
  return () => { stopped = true; clearTimeout(timer); };
}

// -- all runs ----------------------------------------------------------------------------------------------------------

async function openAll(place) {
  const list = h("div", { class: "cards" }), known = new Map(), head = h("p", { class: "muted" });
  fill(place,
    h("div", { class: "row between head" }, h("div", {}, h("h1", {}, t("runs")), head),
      h("button", { class: "main", type: "button", onclick: () => newRun(refresh, root) }, t("newRun"))),
    list);
  fill(list, [0, 1, 2].map(() => h("div", { class: "card ghost" })));
  let root = "";
  async function refresh() {
    try {
      const { folder, runs, data_root } = await get("/studio/runs");
      root = data_root;
      head.textContent = t("folder", { folder });
      if (!runs.length) return fill(list, state("empty", t("noRuns"), t("noRunsText"), h("button", { class: "main", type: "button", onclick: () => newRun(refresh, root) }, t("newRun"))));
      for (const run of runs) {
        const stamp = JSON.stringify(run), old = known.get(run.name);
        if (old?.stamp !== stamp) known.set(run.name, { stamp, node: card(run, old?.node) });
      }
      const nodes = runs.map((run) => known.get(run.name).node);
      if (nodes.length !== list.children.length || nodes.some((node, i) => list.children[i] !== node)) fill(list, nodes);
    } catch (error) { failed(error, list, refresh); }
  }
  await refresh();
  return repeat(refresh);
}

function card(run, old) {
  const frame = old?.querySelector(".frame") ?? h("div", { class: "frame" });
  if (frame.dataset.step !== String(run.picture)) show(frame, run.name, run.picture);
  return h("article", { class: "card" }, frame,
    h("div", { class: "row between" }, h("h2", {}, h("a", { href: `#/runs?name=${encodeURIComponent(run.name)}` }, run.name)), chip(run.state)),
    h("p", { class: "muted" }, said(run)), run.error ? h("p", { class: "wrong small" }, run.error.split("\n").at(-1)) : progress(run),
    run.held_out?.length > 1 ? h("div", { class: "row between small muted" }, spark(run.held_out, t("heldOut")), h("span", {}, `${t("heldOut")} ${short(run.held_out.at(-1)[1])}`)) : null,
    playable(run) ? h("div", { class: "row foot" }, h("a", { class: "button small", href: playing(run) }, t("open")), teaches(run) ? h("button", { class: "small", type: "button", onclick: () => student(run) }, t("distill")) : null) : null);
}

function playable(run) { return run.kind === "model" && !["new", "starting", "damaged"].includes(run.state); }

function playing(run) { return `#/play?model=${encodeURIComponent(run.name)}`; }

function teaches(run) { return playable(run) && !run.taught && run.state !== "training"; }

function said(run) {
  const { data, net, path, prediction, dims } = run.what ?? {};
  return [data, dims?.length ? dims.join("×") : null, net, path, prediction].filter(Boolean).join(" · ");
}

function chip(name) { return h("span", { class: `chip ${name}` }, t(name === "failed" ? "failedState" : name)); }

function progress(run) {
  if (!run.num_steps || run.state === "finished") return h("p", { class: "small muted" }, run.step ? t("stepOf", { step: run.step }) : "");
  return h("div", { class: "row progress" }, h("progress", { max: run.num_steps, value: run.step, "aria-label": t("step") }),
    h("span", { class: "small muted" }, t("stepsOf", { step: run.step, all: run.num_steps })));
}

async function show(frame, name, step) {
  frame.dataset.step = String(step);
  if (step === null || step === undefined) return fill(frame, h("span", { class: "muted" }, t("noPicture")));
  try {
    fill(frame, h("img", { src: await picture("/studio/picture", { name, step }), alt: `${name}, ${t("stepOf", { step })}` }));
  } catch { fill(frame, h("span", { class: "muted" }, t("noPicture"))); }
}

// -- one run -----------------------------------------------------------------------------------------------------------

async function openRun(place, name) {
  const head = h("div", { class: "head" }), plots = h("div", { class: "plots" }), frame = h("div", { class: "frame large" });
  const range = h("input", { type: "range", min: 0, max: 0, value: 0, "aria-label": t("pictures") }), at = h("output", {});
  fill(place, h("p", {}, h("a", { href: "#/runs" }, `← ${t("allRuns")}`)), head,
    h("div", { class: "two" }, h("section", {}, h("h2", {}, t("pictures")), frame, h("div", { class: "row" }, range, at)), plots));
  let steps = [];
  const look = () => { const step = steps[Number(range.value)]; at.textContent = step === undefined ? "" : t("stepOf", { step }); show(frame, name, step); };
  range.addEventListener("input", look);
  async function act(path) {
    try {
      const answer = await post(path, { name });
      note(path.endsWith("stop") ? t("stopping") : answer.command);
      await refresh();
    } catch (error) { failed(error); }
  }
  async function refresh() {
    try {
      const [{ runs }, curves] = await Promise.all([get("/studio/runs"), get("/studio/curves", { name })]);
      const run = runs.find((one) => one.name === name);
      if (!run) throw new Error(name);
      fill(head, h("div", { class: "row between" }, h("div", { class: "row" }, h("h1", {}, name), chip(run.state)), h("div", { class: "row" }, actions(run, act))),
        h("p", { class: "muted" }, said(run)), progress(run),
        run.state === "damaged" ? state("failed", t("damagedTitle"), run.error, t("damagedText")) : run.error ? h("details", { open: true }, h("summary", {}, t("lastWords")), h("pre", {}, run.error)) : null);
      const follows = Number(range.value) === steps.length - 1 || !steps.length;
      const grew = curves.pictures.length !== steps.length;
      steps = curves.pictures;
      range.max = Math.max(0, steps.length - 1);
      range.disabled = steps.length < 2;
      if (follows) range.value = range.max;
      if (grew || !steps.length) look();
      fill(plots, ...figures(curves));
    } catch (error) { failed(error, plots, refresh); }
  }
  await refresh();
  return repeat(refresh);
}

function actions(run, act) {
  const button = (key, path, cls = "") => h("button", { type: "button", class: cls, onclick: () => act(path) }, t(key));
  return [
    run.state === "training" ? button("stop", "/studio/stop") : null,
    ["stopped", "new", "failed"].includes(run.state) ? button("resume", "/studio/resume") : null,
    teaches(run) ? h("button", { type: "button", onclick: () => student(run) }, t("distill")) : null,
    playable(run) ? h("a", { class: "button main", href: playing(run) }, t("open")) : null,
  ];
}

function figures(curves) {
  const loss = [{ points: curves.loss }, { points: curves.held_out }].filter((line) => line.points.length);
  const levels = Object.keys(curves.by_log_snr).length;
  return [
    h("section", {}, h("h2", {}, t("loss")), chart({ lines: loss, label: t("loss") }), legend([t("loss"), t("heldOut")].slice(0, loss.length))),
    h("section", {}, h("h2", {}, t("speed")), chart({ lines: [{ points: curves.samples_per_second }], label: t("speed"), low: 0 })),
    levels ? h("section", {}, h("h2", {}, t("byLevel")), bars(curves.by_log_snr, t("byLevel"))) : null,
  ];
}

// -- a new run ---------------------------------------------------------------------------------------------------------

async function newRun(started, root) {
  const view = document.querySelector("main .view");
  let choices;
  try { choices = await get("/studio/choices"); } catch (error) { return failed(error); }
  if (!view.isConnected || document.querySelector("dialog")) return;
  const given = { preset: "digits" };
  const data = h("input", { name: "data", list: "datasets", autocomplete: "off", placeholder: t("presetData"), oninput: () => { given.data = data.value; } });
  dialog(t("newRun"), "/studio/train", given, started, [
    h("div", { class: "two" }, field(t("preset"), select(choices.presets, "digits", (v) => { given.preset = v; })),
      field(t("data"), data)), h("datalist", { id: "datasets" }, choices.datasets.map((one) => h("option", { value: one }))),
    h("p", { class: "hint" }, t("dataHint", { root: root }))]);
}

/** A model of few jumps, learned from a run. */
function student(run) {
  const given = { run: run.name, name: `${run.name.replaceAll("/", "_")}_distilled` };
  const number = (key) => h("input", { type: "number", name: key, min: 0, step: "any", oninput: (event) => { given[key] = event.target.value; } });
  const began = () => { location.hash = `#/runs?name=${encodeURIComponent(given.name)}`; };
  dialog(t("distillTitle", { name: run.name }), "/studio/distill", given, began, [
    h("p", { class: "hint" }, t("distillText")),
    h("div", { class: "two" }, field(t("guidance"), number("guidance"), t("builtIn")), field(t("pairs"), number("pairs"), t("pairsHint")))]);
}

const NUMBERS = ["max_steps", "batch_size", "lr", "seed", "guidance", "pairs"];

/** A form that starts a training: its own fields between the name and what all have. */
function dialog(title, path, given, started, own) {
  const wrong = h("p", { class: "wrong", role: "alert" });
  const input = (key) => h("input", { type: "number", name: key, min: 0, step: "any", oninput: (event) => { given[key] = event.target.value; } });
  const start = h("button", { class: "main", type: "submit" }, t("start"));
  const form = h("form", { method: "dialog", novalidate: true }, h("h2", {}, title),
    field(t("name"), h("input", { name: "name", required: true, value: given.name ?? "", pattern: "[\\w\\-]+", autocomplete: "off", oninput: (event) => { given.name = event.target.value; } })),
    own,
    h("div", { class: "two" }, field(t("steps"), input("max_steps")), field(t("batch"), input("batch_size"))),
    h("div", { class: "two" }, field(t("rate"), input("lr")), field(t("seed"), input("seed"))),
    field(t("more"), h("textarea", { rows: 3, name: "settings", spellcheck: "false", oninput: (event) => { given.settings = event.target.value; } }), t("moreHint")),
    wrong,
    h("div", { class: "row end" }, h("button", { type: "button", class: "quiet", onclick: () => box.close() }, t("cancel")), start));
  const box = h("dialog", { "aria-label": title, onclose: () => box.remove() }, form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    wrong.textContent = "";
    start.disabled = true;
    form.querySelectorAll("[aria-invalid]").forEach((one) => one.removeAttribute("aria-invalid"));
    try {
      const { command } = await post(path, asked(given));
      note(command);
      if (!box.open) return;
      box.close();
      await started();
    } catch (error) {
      wrong.textContent = error.message === "dead" ? t("dead") : error.message;
      const bad = form.querySelector(`[name="${error.param}"]`);
      bad?.setAttribute("aria-invalid", "true");
      bad?.focus();
    }
    start.disabled = false;
  });
  document.body.append(box);
  box.showModal();
}

function asked(given) {
  const kept = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== ""));
  for (const key of NUMBERS) if (key in kept) kept[key] = Number(kept[key]);
  if (kept.settings) kept.settings = Object.fromEntries(kept.settings.split("\n").filter((line) => line.includes("=")).map((line) => {
    const at = line.indexOf("=");
    return [line.slice(0, at).trim(), value(line.slice(at + 1).trim())];
  }));
  return kept;
}

function value(text) { try { return JSON.parse(text); } catch { return text; } }
