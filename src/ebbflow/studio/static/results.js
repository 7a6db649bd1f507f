// The table of results: pictures as they are denoised, each in its place while new ones come.
import { events, Refused } from "./api.js";
import { fill, h } from "./dom.js";
import { wanted } from "./play.js";
import { t } from "./words.js";

/** The table of results: rows are what was asked for, each tile keeps its place while new ones come. */
export function results(stage, look) {
  const bar = h("progress", { value: 0, max: 1, "aria-label": t("drawing") }), said = h("span", { class: "small muted" }), below = h("div", { class: "below" }), tiles = h("div", { class: "tiles" });
  fill(stage, h("div", { class: "row progress" }, bar, said), tiles, below);
  let shown = [], shape = "";
  function place(begin, kind) {
    const next = JSON.stringify([begin.names, begin.seeds.length, kind]);
    if (next === shape) return;
    shape = next;
    if (kind === "points") { shown = [h("canvas", { class: "plane", width: 640, height: 640 })]; return fill(tiles, h("span"), shown[0]); }
    shown = begin.seeds.map((seed, i) => h("button", { class: "tile", type: "button", "aria-pressed": "false", "aria-label": `${begin.names[i] ?? ""} ${t("seed")} ${seed}`.trim(), onclick: () => pick(i) }, h("img", { alt: "" })));
    const rows = new Map();
    begin.names.forEach((name, i) => rows.set(name, [...(rows.get(name) ?? []), shown[i]]));
    fill(tiles, [...rows].flatMap(([name, row]) => [h("span", { class: "rowname" }, name ?? ""), h("div", { class: "strip" }, row)]));
    const widest = Math.max(...[...rows.values()].map((row) => row.length)), columns = rows.size > 1 ? widest : Math.ceil(Math.sqrt(widest));
    const room = stage.clientWidth - (rows.size > 1 && innerWidth > 760 ? 120 : 0);
    tiles.style.setProperty("--tile", `${Math.max(40, Math.min(112, Math.floor(room / columns) - 5))}px`);
  }
  let ways = [], begun = null, picked = 0, what = null;
  function pick(i) {
    if (!look.show({ way: ways[i], seed: begun.seeds[i], name: begun.names[i], what: what.hears === "label" ? { labels: [begun.names[i] ?? "none"] } : wanted(what) })) return;
    picked = i;
    shown.forEach((tile, j) => tile.setAttribute("aria-pressed", String(i === j)));
  }
  async function draw(asked, abort, knobs) {
    what = { ...knobs };
    look.forget();
    said.textContent = t("drawing");
    bar.value = 0;
    stage.classList.add("stale");
    stage.setAttribute("aria-busy", "true");
    const kind = knobs.kind;
    for await (const { name, data } of events("/studio/sample", asked, abort.signal)) {
      if (name === "begin") { place(data, kind); begun = data; ways = data.seeds.map(() => []); bar.max = data.num_steps * data.seeds.length; }
      if (name === "failed") throw new Refused(data.error.message, 200, data.error.param);
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
  return { draw, below, stopped: () => { said.textContent = t("cancelled"); stage.classList.remove("stale"); stage.removeAttribute("aria-busy"); } };
}

function scatter(canvas, points) {
  const pen = canvas.getContext("2d"), most = Math.max(1.5, ...points.flat().map(Math.abs)) * 1.05, side = canvas.width;
  pen.clearRect(0, 0, side, side);
  pen.fillStyle = getComputedStyle(canvas).getPropertyValue("--main");
  for (const [x, y] of points) pen.fillRect(side / 2 + (x / most) * side / 2 - 2, side / 2 - (y / most) * side / 2 - 2, 4, 4);
}
