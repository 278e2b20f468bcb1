// One measurement: a dot per site or label with a whisker of two standard errors, its null as a tick.

import { legible, Theme } from "./color";
import { CurveSpec, fit, lastFinite, Level, Line } from "./curves";
import { Painter, textWidth } from "./painter";
import { Hit, Plot, Table } from "./plot";
import { factOf } from "./record";
import { number, ticks } from "./state";

const ROW = 19;

export class Dots extends Plot {
  protected override timed = false;
  private low = 0;
  private high = 1;
  constructor(public spec: CurveSpec) { super(spec.label); this.limits(); }

  /** Sites run upwards, as in the maps; levels stand on top. */
  private rows(): (Line | Level)[] { return [...this.spec.levels.filter((l) => l.value !== undefined && !this.isNull(l)), ...[...this.spec.lines].reverse()]; }
  private isNull(l: Level) { return /^(|null|majority|chance)$/.test(l.name) && this.spec.lines.some((line) => line.series.rows && Math.abs(line.series.null.at(line.series.rows - 1, line.col) - (l.value ?? NaN)) < 1e-9); }
  heightFor() { return this.rows().length * ROW + 46; }

  private limits() {
    let low = Infinity, high = -Infinity;
    const see = (v: number) => { if (v === v) { low = Math.min(low, v); high = Math.max(high, v); } };
    for (const { series: s, col } of this.spec.lines) {
      const v = lastFinite(s, col, false), e = s.rows ? s.stderr.at(s.rows - 1, col) : NaN;
      see(v); see(v - 2 * e); see(v + 2 * e); see(lastFinite(s, col, true));
    }
    for (const l of this.spec.levels) see(l.value ?? NaN);
    if (!(low <= high)) { low = 0; high = 1; }
    const pad = (high - low || Math.abs(high) || 1) * 0.06, { low: least, high: most } = this.spec;
    this.low = least !== null ? Math.max(least, low - pad) : low - pad;
    this.high = most !== null ? Math.min(most, high + pad) : high + pad;
    if (least !== null && most !== null && high - low > 0.35 * (most - least)) { this.low = least; this.high = most; }
    if (this.high <= this.low) this.high = this.low + 1;
  }
  range(): [number, number] { return [this.low, this.high]; }
  setRange(low: number, high: number) { this.low = low; this.high = high; }
  private at(v: number) { return this.box.x + ((v - this.low) / (this.high - this.low)) * this.box.w; }

  paint(p: Painter, width: number, height: number, t: Theme) {
    const rows = this.rows(), left = Math.min(width * 0.42, 14 + Math.max(20, ...rows.map((r) => textWidth(r.name, 11, 500))));
    this.box = { x: left, y: 6, w: width - left - 46, h: height - 6 - 34 };
    const { x, y, w, h } = this.box;
    for (const mark of ticks(this.low, this.high, Math.max(2, Math.floor(w / 70)))) {
      p.line([this.at(mark), y, this.at(mark), y + h], { color: t.rule, width: 1, alpha: 0.75 });
      p.text(number(mark), this.at(mark), y + h + 16, { color: t.muted, anchor: "middle", size: 10.5 });
    }
    if (this.spec.unit && this.spec.unit !== "1") p.text(this.spec.unit, x + w, y + h + 29, { color: t.muted, anchor: "end", size: 10.5 });
    rows.forEach((row, i) => {
      const at = y + (i + 0.5) * ROW;
      if (!("col" in row && "color" in row)) {
        const v = (row as Level).value!;
        p.text(fit(row.name, left - 10), x - 9, at, { color: t.muted, anchor: "end", baseline: "middle" });
        p.line([this.at(v), at - 6, this.at(v), at + 6], { color: t.muted, width: 1.6 });
        p.text(number(v), x + w + 8, at, { color: t.muted, baseline: "middle", size: 10.5 });
        return;
      }
      const line = row as Line, { series: s, col } = line, v = lastFinite(s, col, false), color = line.color(t);
      p.text(fit(row.name || "value", left - 10), x - 9, at, { color: legible(color, t), anchor: "end", baseline: "middle", weight: 500 });
      const e = s.rows ? s.stderr.at(s.rows - 1, col) : NaN, n = lastFinite(s, col, true);
      if (n === n) p.line([this.at(n), at - 6, this.at(n), at + 6], { color: t.muted, width: 1.3, dash: [2, 2] });
      if (v !== v) { p.text("missing", x + w + 8, at, { color: t.muted, baseline: "middle", size: 10.5 }); return; }
      if (e === e) p.line([this.at(Math.max(this.low, v - 2 * e)), at, this.at(Math.min(this.high, v + 2 * e)), at], { color, width: 2, alpha: 0.5 });
      p.circle(this.at(v), at, 3.8, color);
      p.text(number(v), x + w + 8, at, { color: t.ink, baseline: "middle", size: 10.5 });
    });
  }
  private hitAt(i: number): Hit | null {
    const row = this.rows()[i];
    if (!row || !("color" in row) || !row.series.rows) return null;
    const { series: s, col } = row as Line, v = lastFinite(s, col, false);
    return { x: this.at(v === v ? v : this.low), y: this.box.y + (i + 0.5) * ROW, step: s.steps[s.rows - 1]!, fact: factOf(s, s.rows - 1, col), key: String(i) };
  }
  pick(_x: number, y: number) { return this.hitAt(Math.floor((y - this.box.y) / ROW)); }
  nudge(from: Hit | null, dx: number, dy: number): Hit | null {
    const rows = this.rows(), way = dy ? -dy : dx;
    for (let i = from ? +from.key + Math.sign(way) : 0; i >= 0 && i < rows.length; i += Math.sign(way) || 1) { const hit = this.hitAt(i); if (hit) return hit; }
    return from;
  }
  table(): Table {
    const rows = this.spec.lines.map(({ series: s, col, name }): (string | number)[] => {
      const r = s.rows - 1;
      return [name || s.field.title, r < 0 ? NaN : s.values.at(r, col), r < 0 ? NaN : s.stderr.at(r, col), r < 0 ? NaN : s.null.at(r, col), r < 0 ? NaN : s.n.at(r, col)];
    });
    for (const l of this.spec.levels) if (l.value !== undefined && l.name) rows.push([l.name, l.value, NaN, NaN, NaN]);
    return { head: ["of", "value", "± s.e.", "null", "n"], rows };
  }
}
