// What the measuring cost, and everything needed to know where the numbers come from.

import { category } from "./color";
import { Curves } from "./curves";
import { labelValue, Run, Series } from "./data";
import { Figure, h } from "./figure";
import { section, slug } from "./sections";
import { number } from "./state";

export function costSection(runs: Run[], all: Series[]): HTMLElement | null {
  const costs = all.filter((s) => /^costs?$/.test(s.signal));
  const figures: HTMLElement[] = [];
  for (const metric of new Set(costs.map((s) => s.metric))) {
    const own = costs.filter((s) => s.metric === metric), { field } = own[0]!;
    const sum = (s: Series) => { let t = 0; for (let r = 0; r < s.rows; r++) t += s.values.at(r, 0) || 0; return t * (s.rows ? s.total / s.rows : 1); };
    const most = [...own].sort((a, b) => sum(b) - sum(a)).slice(0, 8);
    const name = (s: Series) => [runs.length > 1 ? runs[s.run]!.name : "", s.label ? labelValue(s.label) : ""].filter(Boolean).join(" · ");
    figures.push(new Figure({
      id: `cost-${slug(metric)}`, title: field.title, meaning: field.meaning, wide: true,
      facets: [{ title: "", plot: () => new Curves({ label: field.title, lines: most.map((s, i) => ({ series: s, col: 0, name: name(s), color: (t) => category(i, t.dark) })), levels: [], low: field.low, high: field.high, unit: field.unit, height: 230 }) }],
    }).el);
    if (field.unit === "seconds") {
      const whole = own.filter((s) => /^(all|total)$/.test(s.label ?? "all")), rows = own.filter((s) => !whole.includes(s) || whole.length === own.length).map((s) => [name(s) || "all", sum(s)] as const).sort((a, b) => b[1] - a[1]);
      const total = (whole.length ? whole.map(sum) : rows.map((r) => r[1])).reduce((a, v) => a + v, 0);
      figures.push(h("div", { class: "table", tabindex: "0", role: "group", "aria-label": "Time by signal" }, h("table", {}, h("caption", {}, "Time by signal, whole run"),
        h("thead", {}, h("tr", {}, ...["signal", "seconds", "share of the measuring"].map((c) => h("th", { scope: "col" }, c)))),
        h("tbody", {}, ...rows.map(([n, t]) => h("tr", {}, h("th", { scope: "row" }, n), h("td", {}, number(t)), h("td", {}, `${number((100 * t) / (total || 1), 2)} %`)))))));
    }
  }
  return section("cost", "What the measuring cost", "", ...figures);
}

export function provenance(runs: Run[]): HTMLElement | null {
  const parts: HTMLElement[] = [];
  for (const run of runs) {
    const { header } = run, groups: [string, unknown][] = [
      ["Run", { name: run.name, status: header.status, created: header.created, command: header.command, commit: header.commit, seeds: header.seeds, "schema version": header.schema_version }],
      ["Model", header.model], ["Panel", header.panel], ["Data", header.data], ["Settings", header.settings], ["Versions", header.versions], ["Hardware", header.hardware],
      ["Signals", Object.fromEntries(Object.entries(header.signals ?? {}).map(([k, v]) => [k, JSON.stringify(v)]))],
    ];
    const boxes = groups.filter(([, v]) => v && Object.keys(v as object).length).map(([name, value]) => {
      const list = h("dl", {});
      for (const [k, v] of Object.entries(value as object)) {
        if (v === "" || v === null) continue;
        list.append(h("dt", {}, k.replace(/_/g, " ")), h("dd", {}, said(v)));
      }
      return h("div", { class: `block${name === "Signals" ? " span" : ""}` }, h("h3", {}, runs.length > 1 && name === "Run" ? run.name : name), list);
    });
    parts.push(h("div", { class: "provenance" }, ...boxes));
  }
  return section("provenance", "Where the numbers come from", "", ...parts);
}

/** Long values are folded. */
function said(v: unknown): Node | string {
  const whole = text(v);
  if (whole.length <= 140) return whole;
  const count = v && typeof v === "object" ? Object.keys(v).length : 0;
  return h("details", {}, h("summary", {}, count ? `${count} entries` : `${whole.slice(0, 60)}…`), whole);
}

function text(v: unknown): string {
  if (Array.isArray(v)) return v.every((x) => typeof x !== "object") ? v.join(", ") : JSON.stringify(v);
  if (typeof v === "number") return Number.isInteger(v) ? v.toLocaleString("en") : number(v, 5);
  if (v && typeof v === "object") return Object.entries(v).map(([a, b]) => `${a}: ${text(b)}`).join(", ");
  return String(v);
}
