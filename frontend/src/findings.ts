// Verdicts first: what was found, how sure it is, and what it rests on.

import { Finding, Run } from "./data";
import { h } from "./figure";
import { Emergence } from "./timeline";
import { labelName, siteName } from "./data";
import { number } from "./state";

/** Looks a number up in a finding, wherever the analysis put it. */
export function numberOf(f: Finding, name: string): number | null {
  for (const part of [f, f.numbers, f.data, f.result, f.emergence] as any[]) {
    const v = part?.[name];
    if (typeof v === "number" && Number.isFinite(v)) return v;
  }
  return null;
}

function intervalOf(f: Finding, name = "interval"): [number | null, number | null] {
  for (const part of [f, f.numbers, f.data, f.emergence] as any[]) {
    const v = part?.[name];
    if (Array.isArray(v) && v.length === 2) return [v[0], v[1]];
  }
  return [null, null];
}

function keyOf(f: Finding): { signal?: string; metric?: string; label?: string | null; site?: string | null; split?: string | null } {
  const series = Array.isArray(f.series) ? f.series[0] : f.series;
  if (typeof series === "object" && series) return { ...(series as object), ...(typeof f.site === "string" ? { site: f.site } : {}) };
  return f as any;
}

/** Said about the run, neither found nor looked for in vain. */
const PLAIN = new Set(["floor", "descriptor", "curvature", "cost", "difference", "missing"]);
const TONE: Record<string, string> = { alert: "alert", warning: "alert", leak: "alert", memorisation: "alert", emergence: "found", phase: "found", phases: "found", compression: "found", order: "found", convergence: "found" };

export function tone(f: Finding): string {
  if (PLAIN.has(String(f.kind))) return "plain";
  if (/^(no|not) /.test(String(f.kind))) return "none";
  const text = `${f.verdict ?? ""} ${f.outcome ?? ""} ${f.kind ?? ""}`.toLowerCase();
  if (/not resolved|unresolved|no transition|no emergence|none|undecided|not converged/.test(text + (/(not resolved|no transition|no emergence|did not emerge|not converged)/i.test(String(f.sentence ?? "")) ? " none" : ""))) return "none";
  return TONE[String(f.kind ?? "").toLowerCase()] ?? (/alert|warn/.test(text) ? "alert" : "found");
}

/** Alerts first, then what is said of the whole run, then what emerged (whole layers before single labels), then what was looked for in vain. */
function rank(f: Finding, t: string): number {
  const kind = String(f.kind);
  if (t === "alert") return 0;
  if (kind === "floor") return 1;
  if (kind === "cost") return 9;
  if (/emergence/.test(kind)) { const nested = keyOf(f).label?.includes("=") ?? false; return (t === "none" ? 6 : 4) + (nested ? 1 : 0); }
  return t === "none" ? 3 : 2;
}

export function findingCards(run: Run, entries = ENTRIES): HTMLElement | null {
  const alerts: Finding[] = run.events.filter((e) => e.kind === "alert").map((e) => ({ kind: "alert", sentence: e.text, numbers: { step: e.step } }));
  const seen = new Set(run.findings.map((f) => f.sentence));
  const all = [...alerts.filter((a) => !seen.has(a.sentence)), ...run.findings];
  if (!all.length) return null;
  const list = h("ol", { class: "findings" });
  // The same finding at several sites is one card: the first, with the others folded below it.
  const heads = new Map<string, Finding>(), others = new Map<Finding, string[]>();
  const kept = all.filter((f) => {
    const key = keyOf(f);
    if (!key.signal || !key.site) return true;
    const name = [f.kind, tone(f), key.signal, key.metric, key.label, key.split].join("|"), head = heads.get(name);
    if (!head) { heads.set(name, f); others.set(f, []); return true; }
    others.get(head)!.push(String(f.sentence ?? ""));
    return false;
  });
  const sorted = kept.map((f, i) => ({ f, i, t: tone(f) })).sort((a, b) => rank(a.f, a.t) - rank(b.f, b.t) || a.i - b.i);
  // Findings of one kind are one card: what it is, its sentences, each with its numbers, and their caveats once.
  const groups = new Map<string, { f: Finding; t: string }[]>();
  sorted.forEach(({ f, t }, i) => {
    const nested = keyOf(f).label?.includes("=") ?? false, name = t === "alert" ? `alert ${i}` : `${f.kind}|${t}|${nested}`;
    const group = groups.get(name);
    if (group) group.push({ f, t }); else groups.set(name, [{ f, t }]);
  });
  const entry = (f: Finding) => {
    const item = h("div", { class: "entry" }, h("p", {}, String(f.sentence ?? f.text ?? "")));
    const facts: string[] = [];
    const [a, b] = intervalOf(f);
    if (a !== null || b !== null) facts.push(`interval ${a === null ? "…" : number(a)} to ${b === null ? "…" : number(b)}`);
    const p = numberOf(f, "p_value") ?? numberOf(f, "null_p");
    if (p !== null) facts.push(`null p ${p < 0.001 ? "< 0.001" : number(p, 2)}`);
    if (typeof f.null === "string" && f.null) facts.push(`null: ${f.null}`);
    else if (typeof f.null === "number") facts.push(`null ${number(f.null)}`);
    if (facts.length) item.append(h("span", { class: "facts" }, facts.join(" · ")));
    const more = others.get(f) ?? [];
    if (more.length) item.append(h("details", {}, h("summary", {}, `${more.length} more ${more.length === 1 ? "site" : "sites"}`), h("ul", {}, ...more.map((m) => h("li", {}, m)))));
    return item;
  };
  const card = (group: { f: Finding; t: string }[]) => {
    const { f, t } = group[0]!, kind = String(f.kind ?? "finding").replace(/_/g, " "), nested = keyOf(f).label?.includes("=");
    const item = h("li", { class: t }, h("span", { class: "kind" }, kind + (nested ? ", by label" : ""), ...(group.length > 1 ? [h("span", { class: "count" }, ` ${group.length}`)] : [])));
    const at = group.length <= entries + 1 ? group.length : entries;
    item.append(...group.slice(0, at).map((g) => entry(g.f)));
    if (at < group.length) {
      const rest = h("details", { class: "rest" }, h("summary", {}, `${group.length - at} more`));
      const fill = () => { if (rest.children.length === 1) rest.append(...group.slice(at).map((g) => entry(g.f))); };
      rest.addEventListener("toggle", fill, { once: true });
      addEventListener("beforeprint", () => { if (rest.isConnected && group.length <= 60) { fill(); rest.open = true; } });
      item.append(rest);
    }
    const caveats = [...new Set(group.flatMap((g) => ([] as unknown[]).concat((g.f.caveats as any) ?? []).map(String).filter(Boolean)))];
    if (caveats.length) item.append(h("details", { class: "caveats" }, h("summary", {}, caveats.length === 1 ? "1 caveat" : `${caveats.length} caveats`), h("ul", {}, ...caveats.map((c) => h("li", {}, c)))));
    return item;
  };
  list.append(...[...groups.values()].map(card));
  return list;
}

/** Sentences of one kind that are shown at once. */
const ENTRIES = 3;

export function emergences(runs: Run[]): Emergence[] {
  const out: Emergence[] = [];
  runs.forEach((run, r) => {
    for (const f of run.findings) {
      if (f.kind !== "emergence") continue;
      const onset = numberOf(f, "onset"), midpoint = numberOf(f, "midpoint");
      if (onset === null && midpoint === null) continue;
      const key = keyOf(f), field = run.fields[key.signal ?? ""]?.[key.metric ?? ""];
      const sites: string[] = run.header.model?.sites ?? run.series.find((s) => s.signal === key.signal && s.metric === key.metric)?.sites ?? [];
      const [low, high] = intervalOf(f);
      const label = [key.label ? labelName(key.label) : "", field?.title ?? key.metric ?? "", key.split ?? ""].filter(Boolean).join(" · ");
      const where = key.site ? siteName(key.site) : "whole model";
      out.push({
        name: runs.length > 1 ? `${where}, ${run.name}` : where, site: key.site ?? null, depth: Math.max(0, sites.indexOf(key.site ?? "")), sites: key.site ? sites.length : 1,
        onset, midpoint, low, high: high ?? (low !== null ? midpoint : null), saturation: numberOf(f, "saturation"), sentence: String(f.sentence ?? ""), run: r, group: label, signal: key.signal ?? "", metric: key.metric ?? "", title: field?.title ?? key.metric ?? "", nested: key.label?.includes("=") ?? false,
      });
    }
  });
  return out;
}

/** Features in the order in which they first appeared; within a feature from the output to the input. */
export function byOnset(items: Emergence[]): Emergence[] {
  const first = new Map<string, number>();
  for (const e of items) first.set(e.group, Math.min(first.get(e.group) ?? Infinity, e.onset ?? e.midpoint ?? Infinity));
  return [...items].sort((a, b) => first.get(a.group)! - first.get(b.group)! || a.group.localeCompare(b.group) || b.depth - a.depth || a.run - b.run);
}
