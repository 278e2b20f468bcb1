// What is known of one point: the short form beside the pointer, the whole record in a dialog.

import { labelName, reasonAt, rowAt, Series, siteName } from "./data";
import { number, state, withUnit } from "./state";

export interface Fact { title: string; short: string; lines: [string, string][]; meaning: string }

export function factOf(s: Series, row: number, col: number): Fact {
  const part = s.parts?.[col];
  if (part) { const at = rowAt(part.series.steps, s.steps[row]!); if (at >= 0 && part.series.steps[at] === s.steps[row]) return factOf(part.series, at, part.col); }
  const { field } = s, value = s.values.at(row, col), se = s.stderr.at(row, col), null_ = s.null.at(row, col), n = s.n.at(row, col);
  const reason = reasonAt(s, row, col), run = state.runNames.length > 1 ? state.runNames[s.run]! : "";
  const where = [run, s.label === null ? "" : labelName(s.label), s.sites[col] === null ? "" : siteName(s.sites[col]!)].filter(Boolean);
  const text = Number.isFinite(value) ? withUnit(value, field.unit, 4) + (Number.isFinite(se) ? ` ± ${number(se, 2)}` : "") : `missing: ${reason || "no value"}`;
  const lines: [string, string][] = [["Step", s.steps[row]!.toLocaleString("en")], ["Value", text]];
  if (Number.isFinite(se)) lines.push(["Standard error", number(se, 3)]);
  if (Number.isFinite(null_)) {
    lines.push(["Null", `${withUnit(null_, field.unit, 4)}${field.null ? ` (${field.null})` : ""}`]);
    if (se > 0 && Number.isFinite(value)) lines.push(["Distance from the null", `${number((value - null_) / se, 2)} standard errors`]);
  }
  if (Number.isFinite(n)) lines.push(["n", n.toLocaleString("en")]);
  if (run) lines.push(["Run", run]);
  lines.push(["Site", siteName(s.sites[col] ?? null)]);
  if (s.label !== null) lines.push(["Label", labelName(s.label)]);
  if (s.split !== null) lines.push(["Split", s.split]);
  lines.push(["Series", `${s.signal}.${s.metric}`]);
  const short = [`step ${s.steps[row]!.toLocaleString("en")}`, ...where].join(" · ") + `\n${text}` + (Number.isFinite(null_) ? `   null ${number(null_)}` : "") + (Number.isFinite(n) ? `   n ${n.toLocaleString("en")}` : "");
  return { title: field.title, short, lines, meaning: field.meaning };
}

let tip: HTMLElement | null = null;
let voice: HTMLElement | null = null;

export function showTip(fact: Fact, x: number, y: number) {
  if (!tip) {
    tip = document.createElement("div");
    tip.className = "tip";
    tip.setAttribute("aria-hidden", "true");
    voice = document.createElement("div");
    voice.className = "unseen";
    voice.setAttribute("role", "status");
    (document.querySelector("main") ?? document.body).append(tip, voice);
  }
  tip.textContent = fact.short;
  voice!.textContent = `${fact.title}, ${fact.short}`;
  tip.style.display = "block";
  const w = tip.offsetWidth, h = tip.offsetHeight;
  tip.style.left = `${Math.max(6, Math.min(x + 14, innerWidth - w - 8))}px`;
  tip.style.top = `${y - h - 14 < 6 ? y + 18 : y - h - 14}px`;
}

export function hideTip() { if (tip) tip.style.display = "none"; }

export function showRecord(fact: Fact, from: HTMLElement) {
  hideTip();
  document.querySelector("dialog.record")?.remove();
  const dialog = document.createElement("dialog");
  dialog.className = "record";
  const title = document.createElement("h2");
  title.textContent = fact.title;
  title.id = "record-title";
  dialog.setAttribute("aria-labelledby", "record-title");
  const list = document.createElement("dl");
  for (const [name, value] of fact.lines) {
    const dt = document.createElement("dt"), dd = document.createElement("dd");
    dt.textContent = name; dd.textContent = value;
    list.append(dt, dd);
  }
  const close = document.createElement("button");
  close.textContent = "Close";
  close.type = "button";
  close.onclick = () => dialog.close();
  dialog.append(title);
  if (fact.meaning) { const p = document.createElement("p"); p.textContent = fact.meaning; dialog.append(p); }
  dialog.append(list, close);
  dialog.addEventListener("click", (e) => { if (e.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => { dialog.remove(); from.focus({ preventScroll: true }); });
  (document.querySelector("main") ?? document.body).append(dialog);
  dialog.showModal();
}
