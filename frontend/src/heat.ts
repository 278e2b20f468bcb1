// Site x step as colour. The untrained model (step 0) stands apart at the left; cells that cannot be told from their null are dotted.

import { colorOf, diverging, Scale, sequential, Theme } from "./color";
import { nearestRow, reasonAt, Series, siteName } from "./data";
import { Painter, textWidth } from "./painter";
import { fit } from "./curves";
import { Hit, Plot, Table } from "./plot";
import { factOf } from "./record";
import { number, place, span, stepText, stepTicks } from "./state";

const ZERO = 12, GAP = 4;

/** Where values have a null, colour says how far they are from their own: `relative`, and 0 is the null. */
export interface HeatScale { low: number; high: number; middle: number | null; relative: boolean; flip: boolean }

export function heatScale(all: Series[]): HeatScale {
  let low = Infinity, high = -Infinity;
  const relative = all.every((s) => !s.null.empty);
  for (const s of all) for (let r = 0; r < s.rows; r++) for (let c = 0; c < s.sites.length; c++) {
    const v = s.values.at(r, c) - (relative ? s.null.at(r, c) : 0);
    if (v === v) { if (v < low) low = v; if (v > high) high = v; }
  }
  if (!(low <= high)) { low = 0; high = 1; }
  const middle = relative || (low < 0 && high > 0) ? 0 : null;
  if (middle === null && all[0]?.field.low === 0 && low < 0.3 * high) low = 0;
  return { low: middle === null ? low : Math.min(low, middle), high: middle === null ? high : Math.max(high, middle), middle, relative, flip: relative && (all[0]!.field.better === "down" || (!all[0]!.field.better && -low > high)) };
}

export function scaleFor(h: HeatScale, t: Theme): Scale {
  return { low: h.low, high: h.high, middle: h.middle, colors: h.middle === null ? sequential(t.dark) : h.flip ? [...diverging(t.dark)].reverse() : diverging(t.dark) };
}

export class Heat extends Plot {
  private rows = -1;
  private main = { x: 0, w: 1 };
  constructor(public series: Series, label: string, private scale: () => HeatScale) { super(label); this.rows = series.rows; }

  private cell() { const n = this.series.sites.length; return n <= 8 ? 19 : this.series.parts ? 13 : n <= 16 ? 13 : Math.max(6, Math.round(230 / n)); }
  heightFor() { return this.series.sites.length * this.cell() + 6 + 32; }
  protected changed() { const before = this.rows; this.rows = this.series.rows; return before !== this.rows; }

  private edges(r: number): [number, number] {
    const { steps, rows } = this.series, first = steps[0] === 0 ? 1 : 0;
    const mid = (a: number, b: number) => (this.px(steps[a]!) + this.px(steps[b]!)) / 2;
    const x = this.px(steps[r]!);
    const left = r > first ? mid(r - 1, r) : r + 1 < rows ? x - (mid(r, r + 1) - x) : x - 4;
    const right = r + 1 < rows ? mid(r, r + 1) : r > first ? x + (x - left) : x + 4;
    return [Math.max(left, this.box.x), Math.min(right, this.box.x + this.box.w)];
  }
  private rowName(n: string | null) { return this.series.parts ? n! : siteName(n); }
  /** Row of a site on the drawing: the first site lies at the bottom, as in the model's diagram. */
  private top(c: number) { return this.box.y + (this.series.sites.length - 1 - c) * this.cell(); }

  paint(p: Painter, width: number, height: number, t: Theme) {
    const s = this.series, sites = s.sites.length, cell = this.cell(), scale = scaleFor(this.scale(), t);
    const left = Math.min(width * 0.4, Math.max(...s.sites.map((n) => textWidth(this.rowName(n), 11, 500))) + 12), { relative } = this.scale();
    const zero = s.steps[0] === 0 && span()[0] <= 0;
    const lead = zero ? ZERO + GAP : 0;
    this.box = { x: left + lead, y: 6, w: width - left - lead - 6, h: height - 6 - 32 };
    this.main = { x: left, w: lead };
    // Reserve the room left of the first measured step on a logarithmic axis: nothing was measured there.
    const { y, h } = this.box, x0 = left;
    p.rect(x0, y, width - left - 6, h, t.surface);
    const every = Math.ceil(13 / cell);
    s.sites.forEach((name, c) => {
      if ((sites - 1 - c) % every === 0 || c === 0) p.text(fit(this.rowName(name), left - 10), left - 7, this.top(c) + cell / 2, { color: t.muted, anchor: "end", baseline: "middle", size: 10.5 });
    });
    const [low, high] = span();
    const column = (r: number, a: number, b: number) => {
      const wide = Math.max(b - a, 0.6) + (b - a > 3 ? -0.5 : 0.3);
      for (let c = 0; c < sites; c++) {
        const v = s.values.at(r, c), at = this.top(c);
        if (v !== v) { this.hatch(p, a, at, wide, cell - 0.5, t, reasonAt(s, r, c) !== ""); continue; }
        const n = s.null.at(r, c), se = s.stderr.at(r, c);
        p.rect(a, at, wide, cell - 0.5, relative && n !== n ? t.surface : colorOf(scale, relative ? v - n : v));
        if (n === n && se === se && Math.abs(v - n) < 2 * se && b - a >= 5 && cell >= 9) p.circle((a + b) / 2, at + cell / 2, 1.1, t.muted);
      }
    };
    if (zero) column(0, left, left + ZERO);
    let done = -Infinity;
    for (let r = zero ? 1 : 0; r < s.rows; r++) {
      if (s.steps[r]! < low || s.steps[r]! > high * 1.0001) continue;
      const [a, b] = this.edges(r);
      if (b - done < 0.45 && r < s.rows - 1) continue;
      column(r, Math.max(a, done > 0 ? done : a), b);
      done = b;
    }
    this.axis(p, t, zero, left);
  }

  private axis(p: Painter, t: Theme, zero: boolean, left: number) {
    const { x, y, w, h } = this.box;
    if (zero) p.text("0", left + ZERO / 2, y + h + 15, { color: t.ink, anchor: "middle", size: 10.5, weight: 600 });
    for (const step of stepTicks(w)) {
      if (step === 0) continue;
      const at = this.px(step);
      if (at < x + (zero ? 12 : 0)) continue;
      p.line([at, y + h, at, y + h + 3], { color: t.rule, width: 1 });
      p.text(stepText(step), Math.min(at, x + w - 8), y + h + 15, { color: t.muted, anchor: "middle", size: 10.5 });
    }
    p.text("step", x + w, y + h + 28, { color: t.muted, anchor: "end", size: 10.5 });
  }

  private hatch(p: Painter, x: number, y: number, w: number, h: number, t: Theme, known: boolean) {
    p.rect(x, y, w, h, t.surface);
    if (!known || w < 2) return;
    p.clip(x, y, w, h, () => { for (let d = -h; d < w; d += 4) p.line([x + d, y + h, x + d + h, y], { color: t.muted, width: 0.7, alpha: 0.7 }); });
  }

  // On a logarithmic axis the first positive step starts at the left edge: the gap to 0 is said by the column of step 0.
  protected override px(step: number): number {
    const { steps, rows } = this.series, [low, high] = span();
    const begin = low <= 0 && rows > 1 && steps[0] === 0 ? steps[1]! : low;
    const lead = low <= 0 && rows > 2 && steps[0] === 0 ? (place(steps[2]!) - place(steps[1]!)) / 2 : 0;
    const a = place(begin) - Math.min(lead, (place(high) - place(begin)) * 0.08), b = place(high);
    return this.box.x + (b > a ? (Math.max(place(step), a) - a) / (b - a) : 0) * this.box.w;
  }

  private hitAt(row: number, col: number): Hit {
    const s = this.series, zero = row === 0 && s.steps[0] === 0;
    const x = zero ? this.main.x + ZERO / 2 : this.px(s.steps[row]!);
    return { x, y: this.top(col) + this.cell() / 2, step: s.steps[row]!, fact: factOf(s, row, col), key: `${row}/${col}` };
  }
  pick(x: number, y: number): Hit | null {
    const s = this.series;
    if (!s.rows) return null;
    const col = s.sites.length - 1 - Math.floor((y - this.box.y) / this.cell());
    if (col < 0 || col >= s.sites.length || x < this.main.x) return null;
    if (this.main.w && x < this.box.x) return this.hitAt(0, col);
    let best = s.steps[0] === 0 && s.rows > 1 ? 1 : 0, least = Infinity;
    const low = nearestRow(s.steps, span()[0]);
    for (let r = Math.max(best, low); r < s.rows; r++) { const far = Math.abs(this.px(s.steps[r]!) - x); if (far > least) break; least = far; best = r; }
    return this.hitAt(best, col);
  }
  nudge(from: Hit | null, dx: number, dy: number): Hit | null {
    const s = this.series;
    if (!s.rows) return null;
    let [row, col] = from ? from.key.split("/").map(Number) as [number, number] : [s.rows - 1, s.sites.length - 1];
    if (from) { row = Math.max(0, Math.min(s.rows - 1, row + dx)); col = Math.max(0, Math.min(s.sites.length - 1, col + dy)); }
    return this.hitAt(row, col);
  }
  protected override paintCursor(p: Painter, t: Theme) {
    if (!this.hit) return;
    const [row, col] = this.hit.key.split("/").map(Number) as [number, number], zero = row === 0 && this.main.w > 0;
    const [a, b] = zero ? [this.main.x, this.main.x + ZERO] : this.edges(row), at = this.top(col), c = this.cell();
    p.line([a, at, b, at, b, at + c, a, at + c, a, at], { color: t.ink, width: 1.4 });
  }
  table(): Table {
    const s = this.series, head = ["step", ...s.sites.map((n) => this.rowName(n))];
    const rows = Array.from({ length: s.rows }, (_, r) => [s.steps[r]!, ...s.sites.map((_, c) => s.values.at(r, c))]);
    return { head, rows };
  }
}

/** The colour bar of a figure, with the null marked. */
export function paintBar(p: Painter, x: number, y: number, w: number, h: HeatScale, unit: string, t: Theme) {
  const scale = scaleFor(h, t), n = Math.round(w / 2);
  for (let i = 0; i < n; i++) p.rect(x + (i * w) / n, y, w / n + 0.4, 9, colorOf(scale, h.low + ((h.high - h.low) * i) / (n - 1)));
  const style = { color: t.muted, size: 10.5 } as const;
  const sign = (v: number) => (h.relative && v > 0 ? "+" : "") + number(v, 2);
  p.text(sign(h.low), x, y + 21, style);
  const end = sign(h.high) + (unit && unit !== "1" ? ` ${unit}` : "");
  p.text(end, x + w, y + 21, { ...style, anchor: "end" });
  if (h.middle !== null) {
    const at = x + ((h.middle - h.low) / (h.high - h.low || 1)) * w, text = h.relative ? "null" : "0";
    p.line([at, y - 3, at, y + 12], { color: t.ink, width: 1.2 });
    const half = textWidth(text, 10.5) / 2;
    const room = at - half > x + textWidth(sign(h.low), 10.5) + 6 && at + half < x + w - textWidth(end, 10.5) - 6;
    p.text(text, Math.min(Math.max(at, x + half), x + w - half), room ? y + 21 : y - 6, { color: t.ink, size: 10.5, anchor: "middle" });
  }
}
