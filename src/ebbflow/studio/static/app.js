// The frame of the page: views by address, language, theme, the token, and what is said at the bottom.
import { onToken, Refused } from "./api.js";
import { fill, h, state } from "./dom.js";
import { choose, chosen, t } from "./words.js";

const VIEWS = {
  runs: () => import("./runs.js"), play: () => import("./play.js"), compare: () => import("./compare.js"),
  understand: () => import("./understand.js"), reports: () => import("./reports.js"),
};
const THEMES = ["auto", "light", "dark"];
const main = document.getElementById("main");
let leave = () => {};
let turn = 0;

function address() {
  const [name, query] = location.hash.slice(2).split("?");
  return { name: name in VIEWS ? name : "runs", query: Object.fromEntries(new URLSearchParams(query)) };
}

function bar(current) {
  const theme = localStorage.getItem("ebbflow-theme") || "auto";
  return [
    h("a", { class: "brand", href: "#/runs" }, h("img", { src: "/static/icon.svg", alt: "", width: 24, height: 24 }), "ebbflow"),
    h("nav", { "aria-label": "ebbflow" }, Object.keys(VIEWS).map((name) =>
      h("a", { href: `#/${name}`, "aria-current": name === current ? "page" : null }, t(name)))),
    h("div", { class: "tools" },
      h("button", { class: "quiet small", type: "button", id: "theme", onclick: () => setTheme(THEMES[(THEMES.indexOf(theme) + 1) % 3]) }, `${t("theme")}: ${t(theme)}`),
      h("button", { class: "quiet small", type: "button", id: "language", lang: chosen() === "en" ? "zh-CN" : "en", onclick: () => { choose(chosen() === "en" ? "zh" : "en"); show(); } }, t("language"))),
  ];
}

function setTheme(theme) {
  localStorage.setItem("ebbflow-theme", theme);
  document.documentElement.dataset.theme = theme;
  fill(document.getElementById("bar"), bar(address().name));
}

/** Say something at the bottom of the page for a while. */
export function note(text, kind = "") {
  const node = h("div", { class: `note ${kind}` }, text);
  document.getElementById("notes").append(node);
  setTimeout(() => node.remove(), 6000);
}

/** An error in words, where it belongs: in `place`, with a way to try again, or at the bottom. */
export function failed(error, place = null, again = null) {
  if (error.name === "AbortError") return;
  if (!(error instanceof Refused)) console.error(error);
  const dead = error.message === "dead";
  const text = dead ? t("deadText") : error.message;
  if (!place) return note(dead ? `${t("dead")} ${text}` : text, "bad");
  fill(place, state("failed", dead ? t("dead") : t("failed"), text, again && h("button", { type: "button", onclick: again }, t("again"))));
}

async function show() {
  const { name, query } = address(), mine = ++turn, here = location.hash;
  leave();
  leave = () => {};
  delete main.dataset.shown;
  document.querySelectorAll("dialog").forEach((one) => one.close());
  document.title = `${t(name)} · ebbflow`;
  document.querySelector(".skip").textContent = t("skip");
  fill(document.getElementById("bar"), bar(name));
  const place = h("div", { class: `view ${name}` });
  fill(main, place);
  try {
    const view = await VIEWS[name]();
    if (mine !== turn) return;
    const close = (await view.open(place, query)) || (() => {});
    if (mine !== turn) return close();
    leave = close;
  } catch (error) {
    failed(error, place, show);
  }
  if (mine === turn) main.dataset.shown = here;
}

function tokenDialog() {
  return new Promise((resolve) => {
    const input = h("input", { type: "password", autocomplete: "off", id: "token" });
    const box = h("dialog", {}, h("form", { method: "dialog", onsubmit: () => resolve(input.value) },
      h("h2", {}, t("token")), h("p", {}, t("tokenText")), h("label", { for: "token", class: "hidden" }, t("token")), input,
      h("div", { class: "row end" }, h("button", { class: "main" }, t("enter")))));
    box.addEventListener("close", () => { resolve(input.value || null); box.remove(); });
    document.body.append(box);
    box.showModal();
  });
}

choose(chosen());
document.documentElement.dataset.theme = localStorage.getItem("ebbflow-theme") || "auto";
onToken(tokenDialog);
addEventListener("hashchange", show);
show();
