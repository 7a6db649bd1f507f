// Reports: the pages that evaluations, comparisons and verifications left in the folder.
import { get, text } from "./api.js";
import { fill, h, state } from "./dom.js";
import { t } from "./words.js";

export async function open(place, query) {
  const { reports } = await get("/studio/reports");
  if (query.name) return void await one(place, query.name);
  fill(place, h("h1", { class: "head" }, t("reports")), reports.length
    ? h("table", {}, h("tbody", {}, reports.map((report) => h("tr", {}, h("td", {}, h("a", { href: `#/reports?name=${encodeURIComponent(report.name)}` }, report.name)), h("td", { class: "muted" }, new Date(report.changed * 1000).toLocaleString())))))
    : state("empty", t("noReports"), t("noReportsText")));
}

async function one(place, name) {
  const frame = h("iframe", { title: name, sandbox: "allow-modals allow-same-origin", src: URL.createObjectURL(new Blob([await text("/studio/report", { name })], { type: "text/html" })) });
  fill(place, h("div", { class: "row between head" }, h("h1", {}, name), h("div", { class: "row" }, h("a", { href: "#/reports" }, t("reports")), h("button", { type: "button", onclick: () => frame.contentWindow.print() }, t("printIt")))), frame);
}
