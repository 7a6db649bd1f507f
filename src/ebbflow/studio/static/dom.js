// Small helpers to make and find elements.

/** An element: properties that start with "on" are listeners, class, dataset and plain attributes otherwise. */
export function h(tag, given = {}, ...children) {
  const node = tag.startsWith("svg:") ? document.createElementNS("http://www.w3.org/2000/svg", tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "dataset") Object.assign(node.dataset, value);
    else if (["value", "checked", "disabled", "selected"].includes(name)) node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((one) => one !== null && one !== undefined && one !== false));
  return node;
}

/** Replace what an element holds. */
export function fill(node, ...children) {
  node.replaceChildren(...children.flat(Infinity).filter((one) => one !== null && one !== undefined && one !== false));
  return node;
}

/** A labelled control; `hint` explains it. */
export function field(label, control, hint) {
  const id = control.id || `f${Math.random().toString(36).slice(2)}`;
  control.id = id;
  return h("div", { class: "field" }, h("label", { for: id }, label), control, hint && h("p", { class: "hint" }, hint));
}

/** A choice among names. */
export function select(options, value, onchange) {
  const node = h("select", { onchange: () => onchange(node.value) }, options.map((one) => {
    const [key, text] = Array.isArray(one) ? one : [one, one];
    return h("option", { value: key, selected: key === value }, text);
  }));
  return node;
}

/** A slider with its value in words; `show` writes the value. */
export function slider({ label, min, max, step, value, oninput, show = (v) => String(v) }) {
  const out = h("output", {}, show(value));
  const input = h("input", { type: "range", min, max, step, value, "aria-label": label });
  input.addEventListener("input", () => { out.textContent = show(Number(input.value)); oninput(Number(input.value)); });
  const node = h("div", { class: "field slider" }, h("div", { class: "row between" }, h("span", { class: "name" }, label), out), input);
  node.set = (v) => { input.value = v; out.textContent = show(Number(v)); };
  node.input = input;
  return node;
}

/** Call `work` once nothing has asked for it again for `ms`. */
export function debounced(work, ms = 220) {
  let timer = 0;
  return (...given) => { clearTimeout(timer); timer = setTimeout(() => work(...given), ms); };
}

/** An empty, busy or failed state. */
export function state(kind, title, text, ...actions) {
  return h("div", { class: `state ${kind}`, role: kind === "failed" ? "alert" : undefined },
    h("h2", {}, title), text && h("p", {}, text), actions.length ? h("div", { class: "row" }, actions) : null);
}

/** Text that can be copied. */
export function copyable(label, text, words) {
  const button = h("button", { class: "quiet small", type: "button", onclick: async () => {
    await navigator.clipboard?.writeText(text);
    button.textContent = words("copied");
    setTimeout(() => { button.textContent = words("copy"); }, 1200);
  } }, words("copy"));
  return h("div", { class: "copyable" }, h("span", { class: "name" }, label), h("code", {}, text), button);
}

/** Names and numbers beneath each other. */
export function facts(rows) { return h("dl", { class: "facts" }, rows.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])); }

/** A part of a page with a title and a sentence. */
export function lesson(title, text, ...body) {
  return h("section", { class: "lesson" }, h("h2", {}, title), h("p", { class: "muted" }, text), body);
}
