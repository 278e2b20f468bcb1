// Curves over steps: a band of two standard errors, the null dashed, names at the ends of the lines.

import { legible, Theme } from "./color";
import { nearestRow, Series } from "./data";
import { Painter, textWidth } from "./painter";
import { Hit, Plot, Table } from "./plot";
import { factOf } from "./record";
import { number, span, ticks } from "./state";

export interface Line {
  series: Series; col: number; name: string; color: (t: Theme) => string;
  width?: number; alpha?: number; dash?: number[]; band?: boolean; quiet?: boolean;
}
/** A horizontal level, or the null of a line where it changes with the step. */
export interface Level { name: string; value?: number; series?: Series; col?: number }
export interface CurveSpec { label: string; lines: Line[]; levels: Level[]; low: number | null; high: number | null; unit: string; height?: number; log?: boolean }

export class Curves extends Plot {
  private low = 0;
  private high = 1;
  private sizes = "";

  constructor(public spec: CurveSpec) { super(spec.label); this.limits(); }

  heightFor(width: number) { return this.spec.height ?? Math.round(Math.max(170, Math.min(230, width * 0.56))); }

  protected changed() {
    const sizes = this.spec.lines.map((l) => l.series.rows).join();
    if (sizes === this.sizes) return false;
    this.limits();
    return true;
  }

  private limits() {
    this.sizes = this.spec.lines.map((l) => l.series.rows).join();
    const [first, last] = span();
    let low = Infinity, high = -Infinity;
    for (const { series: s, col, quiet } of this.spec.lines) {
      // A noisy line is scaled by what nearly all of it does; some thousand of its points tell that.
      const seen: number[] = [], stride = quiet ? Math.max(1, Math.floor(s.rows / 4000)) : 1;
      for (let r = 0; r < s.rows; r += stride) {
        if (s.steps[r]! < first || s.steps[r]! > last) continue;
        const v = s.values.at(r, col);
        if (v !== v) continue;
        if (quiet) seen.push(v); else { if (v < low) low = v; if (v > high) high = v; }
      }
      if (quiet && seen.length) {
        seen.sort((a, b) => a - b);
        low = Math.min(low, seen[Math.floor(seen.length * 0.002)]!);
        high = Math.max(high, seen[Math.ceil(seen.length * 0.998) - 1]!);
      }
    }
    for (const level of this.spec.levels) {
      const v = level.value ?? level.series!.null.at(0, level.col!);
      // A null far away would flatten the curves: it is then named at the edge.
      if (Number.isFinite(v) && (!(low <= high) || Math.max(high, v) - Math.min(low, v) <= 2.6 * (high - low || 1e-9))) { low = Math.min(low, v); high = Math.max(high, v); }
    }
    if (!(low <= high)) { low = 0; high = 1; }
    const pad = (high - low || Math.abs(high) || 1) * 0.06;
    this.low = low - pad; this.high = high + pad;
    const { low: least, high: most } = this.spec;
    if (least !== null) this.low = Math.max(least, this.low);
    if (most !== null) this.high = Math.min(most, this.high);
    if (least !== null && most !== null && high - low > 0.35 * (most - least)) { this.low = least; this.high = most; }
    if (this.high <= this.low) this.high = this.low + 1;
  }

  /** Facets of one figure share their limits, so that heights can be compared. */
  range(): [number, number] { return [this.low, this.high]; }
  setRange(low: number, high: number) { this.low = low; this.high = high; }

  private beyond(l: Level) { const v = l.value ?? lastFinite(l.series!, l.col!, true); return v > this.high || v < this.low; }
  private py(v: number) { return this.box.y + this.box.h - ((v - this.low) / (this.high - this.low)) * this.box.h; }

  paint(p: Painter, width: number, height: number, t: Theme) {
    const { lines, levels } = this.spec;
    const small = width < 300;
    const names = lines.filter((l) => l.name).map((l) => l.name);
    const right = Math.min(width * 0.36, Math.max(10, ...[...names, ...levels.map((l) => (this.beyond(l) ? `${l.name || "null"} 0.000 ↑` : l.name))].map((n) => textWidth(n, 11, 500) + 14)));
    const marks = ticks(this.low, this.high, small ? 3 : 4);
    const left = Math.max(...marks.map((m) => textWidth(number(m), 10.5))) + 10;
    this.box = { x: left, y: 8, w: width - left - right, h: height - 8 - 34 };
    const { x, y, w, h } = this.box;
    for (const mark of marks) {
      const at = this.py(mark);
      p.line([x, at, x + w, at], { color: t.rule, width: 1, alpha: 0.75 });
      p.text(number(mark), x - 7, at, { color: t.muted, anchor: "end", baseline: "middle", size: 10.5 });
    }
    this.paintSteps(p, t);
    const ends: { y: number; text: string; color: string; weight: number }[] = [];
    p.clip(x, y - 4, w + 1, h + 8, () => {
      for (const level of levels) {
        const points = level.value !== undefined ? [x, this.py(level.value), x + w, this.py(level.value)]
          : this.points(level.series!, level.col!, (s, r, c) => s.null.at(r, c));
        p.line(points, { color: t.muted, width: 1.2, dash: [5, 4] });
      }
      for (const line of lines) if (line.band) this.band(p, line, line.color(t));
      for (const line of lines) {
        const points = this.points(line.series, line.col, (s, r, c) => s.values.at(r, c));
        p.line(points, { color: line.color(t), width: line.width ?? 1.6, alpha: line.alpha ?? 1, dash: line.dash });
        if (points.length <= 2 * 40 && !line.quiet && w / (points.length / 2) > 14)
          for (let i = 0; i < points.length; i += 2) if (points[i + 1]! === points[i + 1]!) p.circle(points[i]!, points[i + 1]!, 1.8, line.color(t));
      }
    });
    for (const level of levels) {
      const v = level.value ?? lastFinite(level.series!, level.col!, true);
      if (v !== v) continue;
      const outside = v > this.high ? " ↑" : v < this.low ? " ↓" : "";
      ends.push({ y: Math.min(y + h, Math.max(y, this.py(v))), text: outside ? `${level.name || "null"} ${number(v)}${outside}` : level.name, color: t.muted, weight: 400 });
    }
    for (const line of lines) {
      const v = lastFinite(line.series, line.col, false);
      if (line.name && v === v) ends.push({ y: Math.min(y + h, Math.max(y, this.py(v))), text: line.name, color: legible(line.color(t), t), weight: 500 });
    }
    spread(ends, 12.5, y, y + h);
    for (const e of ends) p.text(fit(e.text, right - 8), x + w + 7, e.y, { color: e.color, baseline: "middle", weight: e.weight });
  }

  private band(p: Painter, line: Line, color: string) {
    const { series: s, col } = line;
    if (s.stderr.empty) return;
    const up = this.points(s, col, (a, r, c) => a.values.at(r, c) + 2 * a.stderr.at(r, c));
    const down = this.points(s, col, (a, r, c) => a.values.at(r, c) - 2 * a.stderr.at(r, c));
    let from = 0;
    for (let i = 0; i <= up.length; i += 2) {
      if (i < up.length && up[i + 1]! === up[i + 1]! && down[i + 1]! === down[i + 1]!) continue;
      if (i - from > 2) {
        const shape = up.slice(from, i);
        for (let j = i - 2; j >= from; j -= 2) shape.push(down[j]!, down[j + 1]!);
        p.area(shape, color, 0.13);
      }
      from = i + 2;
    }
  }

  /** Pixels of a line; where there are many more points than pixels, first, lowest, highest and last of each pixel column. */
  private points(s: Series, col: number, value: (s: Series, r: number, c: number) => number): number[] {
    const [first, last] = span(), px = this.pxOf();
    const { y, h } = this.box, per = h / (this.high - this.low), base = y + h + this.low * per;
    let from = 0, to = s.rows;
    while (from + 1 < s.rows && s.steps[from + 1]! < first) from++;
    while (to - 2 > from && s.steps[to - 2]! > last) to--;
    const out: number[] = [];
    if (to - from <= 3 * this.box.w) {
      for (let r = from; r < to; r++) out.push(px(s.steps[r]!), base - value(s, r, col) * per);
      return out;
    }
    let column = NaN, lo = 0, hi = 0, begin = 0, end = 0;
    const flush = () => { if (column === column) out.push(column, begin, column, lo, column, hi, column, end); };
    for (let r = from; r < to; r++) {
      const v = value(s, r, col), c = Math.round(px(s.steps[r]!) * 2) / 2;
      if (v !== v) { flush(); out.push(NaN, NaN); column = NaN; continue; }
      const at = base - v * per;
      if (c !== column) { flush(); column = c; lo = hi = begin = end = at; }
      else { if (at < lo) lo = at; if (at > hi) hi = at; end = at; }
    }
    flush();
    return out;
  }

  pick(x: number, y: number): Hit | null {
    const step = this.stepAt(x);
    let best: Hit | null = null, least = Infinity;
    this.spec.lines.forEach((line, i) => {
      if (!line.series.rows) return;
      const row = nearestRow(line.series.steps, step), hit = this.hitAt(i, row);
      if (!hit) return;
      const far = Math.hypot((hit.x - x) * 0.5, hit.y - y) + (line.quiet ? 6 : 0);
      if (far < least) { least = far; best = hit; }
    });
    return best;
  }

  private hitAt(i: number, row: number): Hit | null {
    const { series: s, col } = this.spec.lines[i]!;
    const v = s.values.at(row, col);
    if (v !== v) return null;
    return { x: this.px(s.steps[row]!), y: this.py(v), step: s.steps[row]!, fact: factOf(s, row, col), key: `${i}/${row}` };
  }

  nudge(from: Hit | null, dx: number, dy: number): Hit | null {
    const { lines } = this.spec;
    let [i, row] = from ? from.key.split("/").map(Number) as [number, number] : [lines.findIndex((l) => !l.quiet && l.series.rows), 0];
    if (i < 0) i = 0;
    if (!lines[i]) return null;
    if (!from) row = lines[i]!.series.rows - 1;
    if (dy) { const step = lines[i]!.series.steps[row]!; i = (i + dy + lines.length) % lines.length; row = nearestRow(lines[i]!.series.steps, step); }
    const rows = lines[i]!.series.rows, way = Math.sign(dx) || 1;
    row = Math.max(0, Math.min(rows - 1, row + dx));
    for (let r = row; r >= 0 && r < rows; r += way) { const hit = this.hitAt(i, r); if (hit) return hit; }
    return from;
  }

  table(): Table {
    const { lines } = this.spec;
    const longest = lines.reduce((a, b) => (b.series.rows > a.series.rows ? b : a), lines[0]!);
    const head = ["step"], rows: (string | number)[][] = [];
    for (const l of lines) { head.push(l.name || `${l.series.metric}`); if (!l.series.stderr.empty) head.push("± s.e."); if (!l.series.null.empty) head.push("null"); }
    for (let r = 0; r < longest.series.rows; r++) {
      const step = longest.series.steps[r]!, row: (string | number)[] = [step];
      for (const { series: s, col } of lines) {
        const at = s.rows ? nearestRow(s.steps, step) : 0, same = s.steps[at] === step;
        row.push(same ? s.values.at(at, col) : NaN);
        if (!s.stderr.empty) row.push(same ? s.stderr.at(at, col) : NaN);
        if (!s.null.empty) row.push(same ? s.null.at(at, col) : NaN);
      }
      rows.push(row);
    }
    return { head, rows };
  }
}

export function lastFinite(s: Series, col: number, null_: boolean): number {
  for (let r = s.rows - 1; r >= 0; r--) { const v = (null_ ? s.null : s.values).at(r, col); if (v === v) return v; }
  return NaN;
}

/** Pushes labels apart until none overlaps, as little as needed. */
function spread(ends: { y: number }[], gap: number, top: number, bottom: number) {
  ends.sort((a, b) => a.y - b.y);
  for (let i = 1; i < ends.length; i++) ends[i]!.y = Math.max(ends[i]!.y, ends[i - 1]!.y + gap);
  const over = ends.length ? ends.at(-1)!.y - bottom - 4 : 0;
  if (over > 0) {
    ends.at(-1)!.y -= over;
    for (let i = ends.length - 2; i >= 0; i--) ends[i]!.y = Math.min(ends[i]!.y, ends[i + 1]!.y - gap);
  }
  if (ends.length && ends[0]!.y < top - 4) ends.forEach((e, i) => (e.y = Math.max(e.y, top - 4 + i * gap)));
}

export function fit(text: string, width: number, size = 11): string {
  if (textWidth(text, size, 500) <= width) return text;
  let cut = text.length;
  while (cut > 1 && textWidth(text.slice(0, cut) + "…", size, 500) > width) cut--;
  return text.slice(0, cut) + "…";
}
