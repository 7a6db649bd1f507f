// Three views of one prediction at a point of the plane: x0, eps and velocity. Numbers come from the library.
import { failed } from "./app.js";
import { get } from "./api.js";
import { debounced, facts, field, fill, h, lesson, select, slider } from "./dom.js";
import { plane } from "./plane.js";
import { t } from "./words.js";

export function views(choices) {
  const canvas = h("canvas", { class: "plane", tabindex: 0, role: "img", "aria-label": `${t("viewsTitle")}. ${t("viewsHint")}` }), read = h("div", {});
  const asked = { data: "moons", path: "flow", t: 0.6, x: 0.5, y: 0.9 };
  const drawn = plane(canvas);
  let law = [];
  const again = debounced(start, 40), set = (name) => (value) => { asked[name] = value; again(); };
  const node = lesson(t("viewsTitle"), t("viewsText"), h("div", { class: "two" }, canvas, h("div", { class: "panel" },
    field(t("data"), select(choices.plane, asked.data, async (v) => { asked.data = v; await learn(); again(); })), field(t("path"), select(choices.paths, asked.path, set("path"))),
    slider({ label: t("time"), min: 0.02, max: 0.98, step: 0.02, value: asked.t, oninput: set("t"), show: (v) => v.toFixed(2) }), h("p", { class: "hint" }, t("viewsHint")), read)));
  canvas.addEventListener("pointerdown", (event) => { [asked.x, asked.y] = drawn.at(event); again(); });
  canvas.addEventListener("pointermove", (event) => { if (event.buttons) { [asked.x, asked.y] = drawn.at(event); again(); } });
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!move) return;
    event.preventDefault();
    asked.x += 0.1 * move[0];
    asked.y += 0.1 * move[1];
    again();
  });
  async function learn() { law = (await get("/studio/ways", { data: asked.data, steps: 1, num: 1 })).law; }
  async function start() {
    try {
      if (!law.length) await learn();
      const found = await get("/studio/views", { ...asked, x: asked.x.toFixed(3), y: asked.y.toFixed(3) }), point = [asked.x, asked.y];
      drawn.clear();
      drawn.points(law.map(([x, y]) => [found.alpha * x, found.alpha * y]), "rule", 3);
      drawn.points(law, "muted", 3, 0.5);
      drawn.arrow(point, [found.x0[0] - asked.x, found.x0[1] - asked.y], "main", "x0");
      drawn.arrow(point, found.eps.map((v) => 0.4 * v), "second", "eps × 0.4");
      drawn.arrow(point, found.velocity.map((v) => -0.4 * v), "third", `−${t("velocity")} × 0.4`);
      drawn.points([point], "ink", 10);
      const pair = ([x, y]) => `${x.toFixed(2)}, ${y.toFixed(2)}`;
      fill(read, facts([["x_t", pair(point)], ["x0", pair(found.x0)], ["eps", pair(found.eps)], [t("velocity"), pair(found.velocity)], ["alpha, sigma", pair([found.alpha, found.sigma])], [t("logsnr"), found.log_snr.toFixed(2)]]));
    } catch (error) { failed(error, read, start); }
  }
  return { node, start };
}
