// Small line charts, drawn as SVG.
import { h } from "./dom.js";

const W = 480, H = 180, LEFT = 44, BOTTOM = 24, TOP = 8, RIGHT = 10;

/** A chart of several lines: [{ name, points: [[x, y], ...], cls }]; `mark` is an x with a vertical line. */
export function chart({ lines, label, mark = null, low = null, high = null, unit = "", from = Infinity, to = -Infinity }) {
  const all = lines.flatMap((line) => line.points).filter(([, y]) => Number.isFinite(y));
  if (!all.length) return h("div", { class: "chart empty-chart" });
  const xs = all.map(([x]) => x), ys = all.map(([, y]) => y);
  const x0 = Math.min(from, ...xs), x1 = Math.max(to, ...xs, x0 + 1e-9);
  const [y0, y1] = nice(low ?? Math.min(...ys), high ?? Math.max(...ys));
  const px = (x) => LEFT + ((x - x0) / (x1 - x0)) * (W - LEFT - RIGHT);
  const py = (y) => TOP + (1 - (y - y0) / (y1 - y0)) * (H - TOP - BOTTOM);
  const ticks = [y0, (y0 + y1) / 2, y1];
  const node = h("svg:svg", { viewBox: `0 0 ${W} ${H}`, class: "chart", role: "img", "aria-label": label },
    ticks.map((y) => [h("svg:line", { x1: LEFT, x2: W - RIGHT, y1: py(y), y2: py(y), class: "rule" }),
      h("svg:text", { x: LEFT - 6, y: py(y) + 4, "text-anchor": "end" }, short(y))]),
    [x0, x1].map((x, i) => h("svg:text", { x: px(x), y: H - 6, "text-anchor": i ? "end" : "start" }, short(x) + (i ? unit : ""))),
    lines.map((line, i) => h("svg:path", { d: way(line.points.map(([x, y]) => [px(x), py(Math.max(y0, Math.min(y1, y)))])), class: `line l${line.cls ?? i}` })));
  if (mark !== null) {
    const line = h("svg:line", { x1: px(mark), x2: px(mark), y1: TOP, y2: H - BOTTOM, class: "mark" });
    node.append(line);
    node.move = (x) => { line.setAttribute("x1", px(x)); line.setAttribute("x2", px(x)); };
  }
  return node;
}

/** Points on logarithmic axes: [{ x, y, label, on }], those that are `on` stand out. */
export function scatter({ points, label, x, y }) {
  const log = (values) => { const [a, b] = [Math.log10(Math.min(...values)), Math.log10(Math.max(...values))]; return [a - 0.05, Math.max(b, a + 0.1) + 0.05]; };
  const [x0, x1] = log(points.map((one) => one.x)), [y0, y1] = log(points.map((one) => one.y));
  const px = (v) => LEFT + ((Math.log10(v) - x0) / (x1 - x0)) * (W - LEFT - RIGHT), py = (v) => TOP + 20 + (1 - (Math.log10(v) - y0) / (y1 - y0)) * (H - TOP - 20 - BOTTOM);
  const ticks = (a, b) => [1, 2, 5].flatMap((first) => Array.from({ length: 12 }, (_, i) => first * 10 ** (i - 5))).filter((v) => Math.log10(v) >= a && Math.log10(v) <= b).sort((v, w) => v - w);
  return h("svg:svg", { viewBox: `0 0 ${W} ${H}`, class: "chart", role: "img", "aria-label": `${label}: ${y}, ${x}` },
    ticks(y0, y1).map((v) => [h("svg:line", { x1: LEFT, x2: W - RIGHT, y1: py(v), y2: py(v), class: "rule" }), h("svg:text", { x: LEFT - 6, y: py(v) + 4, "text-anchor": "end" }, short(v))]),
    ticks(x0, x1).map((v) => h("svg:text", { x: px(v), y: H - 6, "text-anchor": "middle" }, short(v))),
    h("svg:text", { x: W - RIGHT, y: TOP + 10, "text-anchor": "end" }, `${x} →`), h("svg:text", { x: LEFT, y: TOP + 10 }, `↑ ${y}`),
    [...points].sort((a, b) => Number(a.on) - Number(b.on)).map((one) => h("svg:circle", { cx: px(one.x), cy: py(one.y), r: one.on ? 6 : 3.5, class: one.on ? "dot on" : "dot" }, h("svg:title", {}, one.label))));
}

/** The names of the lines of a chart. */
export function legend(names) {
  return h("ul", { class: "legend" }, names.map((name, i) => h("li", {}, h("span", { class: `swatch s${i}` }), name)));
}

/** A line without axes. */
export function spark(points, label) {
  const node = h("svg:svg", { viewBox: "0 0 120 28", class: "spark", role: "img", "aria-label": label, preserveAspectRatio: "none" });
  if (points.length < 2) return node;
  const ys = points.map(([, y]) => y), low = Math.min(...ys), high = Math.max(...ys, low + 1e-9);
  const x1 = points[points.length - 1][0], x0 = points[0][0];
  node.append(h("svg:path", { class: "line l0", d: way(points.map(([x, y]) => [2 + 116 * (x - x0) / (x1 - x0), 26 - 24 * (y - low) / (high - low)])) }));
  return node;
}

/** Bars by name. */
export function bars(values, label) {
  const most = Math.max(...Object.values(values), 1e-9);
  return h("div", { class: "bars", role: "img", "aria-label": label }, Object.entries(values).map(([name, value]) => {
    const bar = h("span", { class: "bar" });
    bar.style.setProperty("--part", `${100 * value / most}%`);
    return h("div", { class: "bar-row" }, h("span", { class: "name" }, name), bar, h("span", { class: "number" }, short(value)));
  }));
}

function way(points) { return points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join(""); }

function nice(low, high) {
  if (high - low < 1e-9) return [low - 0.5, high + 0.5];
  const step = 10 ** Math.floor(Math.log10(high - low)) / 2;
  return [Math.floor(low / step) * step, Math.ceil(high / step) * step];
}

export function short(value) {
  if (Math.abs(value) >= 10000) return `${Math.round(value / 1000)}k`;
  return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(3)));
}
