// Arrays at one moment (the slider chooses it): heads x layers as a matrix, spectra as a density.

import { colorOf, readable, sequential, Theme } from "./color";
import { Arrays, rowAt } from "./data";
import { Painter, textWidth } from "./painter";
import { Hit, Plot, Table } from "./plot";
import { Fact } from "./record";
import { number, state, stepText, ticks, withUnit } from "./state";

export abstract class Framed extends Plot {
  protected override timed = false;
  private seen = -1;
  constructor(public arrays: Arrays, label: string) { super(label); }
  protected frame(): number {
    const at = state.time === null ? this.arrays.frames.length - 1 : rowAt(this.arrays.steps, state.time);
    return Math.max(0, at);
  }
  /** Some frames up to the shown one, evenly in the logarithm; the first and the last among them. */
  protected spaced(most: number): number[] {
    const n = this.frame() + 1, wanted = Math.min(most, n), picks = new Set<number>([0, n - 1]);
    for (let i = 0; i < wanted; i++) picks.add(Math.round(Math.expm1((Math.log1p(n - 1) * i) / Math.max(1, wanted - 1))));
    return [...picks].filter((i) => i < n).sort((a, b) => a - b);
  }
  protected override changed() { const now = this.arrays.frames.length; const was = this.seen; this.seen = now; return was !== now; }
}

export function limits(all: Arrays[]): { low: number; high: number } {
  let low = Infinity, high = -Infinity;
  for (const a of all) for (const f of a.frames) for (const v of f) if (v === v) { if (v < low) low = v; if (v > high) high = v; }
  const { low: l, high: h } = all[0]!.field;
  if (l !== null && h !== null) return { low: l, high: h };
  return low <= high ? { low: l !== null ? Math.min(l, low) : low, high } : { low: 0, high: 1 };
}

export class Matrix extends Framed {
  /** Depth runs upwards, as in every other figure: "head, block" is turned. */
  private flip: boolean;
  constructor(arrays: Arrays, label: string, private scale: { low: number; high: number }) { super(arrays, label); this.flip = /,\s*(block|layer)/.test(arrays.field.axis); }
  private shape(): [number, number] { const s = this.arrays.shapes[this.frame()]!; return this.flip ? [s[1]!, s[0]!] : [s[0]!, s[1]!]; }
  private axes(): [string, string] {
    const words = (this.arrays.field.axis || "row, column").split(",").map((w) => w.trim());
    return this.flip ? [words[1]!, words[0]!] : [words[0]!, words[1] ?? ""];
  }
  private at(i: number, j: number): number { const [rows, cols] = this.shape(), f = this.arrays.frames[this.frame()]!; return this.flip ? f[j * rows + i]! : f[i * cols + j]!; }
  private cell(width: number) { const [rows, cols] = this.shape(); return Math.max(8, Math.min(42, (width - 70) / cols, rows > 10 ? 340 / rows : 42)); }
  heightFor(width: number) { return Math.round(this.cell(width) * this.shape()[0] + 48); }
  paint(p: Painter, width: number, _height: number, t: Theme) {
    const [rows, cols] = this.shape(), cell = this.cell(width);
    const [down, across] = this.axes();
    this.box = { x: 58, y: 20, w: cell * cols, h: cell * rows };
    const { x, y } = this.box, scale = { ...this.scale, middle: null, colors: sequential(t.dark) };
    p.text(`step ${stepText(this.arrays.steps[this.frame()]!)}`, x, 12, { color: t.muted, size: 10.5 });
    for (let i = 0; i < rows; i++) {
      const at = y + (rows - 1 - i) * cell;
      if (cell >= 11 || i % 2 === 0) p.text(`${down} ${i}`, x - 7, at + cell / 2, { color: t.muted, anchor: "end", baseline: "middle", size: 10.5 });
      for (let j = 0; j < cols; j++) {
        const v = this.at(i, j);
        p.rect(x + j * cell, at, cell - 1, cell - 1, v === v ? colorOf(scale, v) : t.surface);
        if (cell >= 30 && v === v) p.text(v.toFixed(2).replace(/^0/, ""), x + j * cell + cell / 2, at + cell / 2, { color: readable(colorOf(scale, v), t), anchor: "middle", baseline: "middle", size: 10 });
      }
    }
    const every = Math.ceil(14 / cell);
    for (let j = 0; j < cols; j += every) p.text(String(j), x + j * cell + cell / 2, y + rows * cell + 13, { color: t.muted, anchor: "middle", size: 10.5 });
    p.text(across ?? "", x + cols * cell, y + rows * cell + 26, { color: t.muted, anchor: "end", size: 10.5 });
  }
  private hitAt(i: number, j: number): Hit {
    const [rows, cols] = this.shape(), cell = this.box.w / cols, a = this.arrays, v = this.at(i, j);
    const [down, across] = this.axes();
    const fact: Fact = {
      title: a.field.title, meaning: a.field.meaning, short: `step ${a.steps[this.frame()]} · ${down} ${i} · ${across} ${j}\n${withUnit(v, a.field.unit, 4)}`,
      lines: [["Step", String(a.steps[this.frame()])], [down!, String(i)], [across!, String(j)], ["Value", withUnit(v, a.field.unit, 4)], ["Series", `${a.signal}.${a.metric}`]],
    };
    return { x: this.box.x + (j + 0.5) * cell, y: this.box.y + (rows - 1 - i + 0.5) * cell, step: a.steps[this.frame()]!, fact, key: `${i}/${j}` };
  }
  pick(x: number, y: number) {
    const [rows, cols] = this.shape(), cell = this.box.w / cols, j = Math.floor((x - this.box.x) / cell), i = rows - 1 - Math.floor((y - this.box.y) / cell);
    return i >= 0 && i < rows && j >= 0 && j < cols ? this.hitAt(i, j) : null;
  }
  nudge(from: Hit | null, dx: number, dy: number) {
    const [rows, cols] = this.shape(), [i, j] = from ? from.key.split("/").map(Number) as [number, number] : [0, -dx];
    return this.hitAt(Math.max(0, Math.min(rows - 1, i + dy)), Math.max(0, Math.min(cols - 1, j + dx)));
  }
  table(): Table {
    const [rows, cols] = this.shape(), [down, across] = this.axes();
    return { head: [down!, ...Array.from({ length: cols }, (_, j) => `${across} ${j}`)], rows: Array.from({ length: rows }, (_, i) => [i, ...Array.from({ length: cols }, (_, j) => this.at(i, j))]) };
  }
}

/** Spectra as ridges, one per shown step, the untrained model at the bottom; height is the logarithm of the density. */
export class Ridges extends Framed {
  heightFor() { return 330; }
  private chosen() { return this.spaced(9); }
  private pair(i: number): [Float32Array, Float32Array] {
    const f = this.arrays.frames[i]!, n = this.arrays.shapes[i]![1] ?? f.length;
    return this.arrays.shapes[i]!.length > 1 && this.arrays.shapes[i]![0]! >= 2 ? [f.subarray(0, n), f.subarray(n, 2 * n)] : [Float32Array.from(f.keys()), f];
  }
  private view = { low: 0, high: 1 };
  paint(p: Painter, width: number, height: number, t: Theme) {
    const chosen = this.chosen();
    let low = Infinity, high = -Infinity, most = 0, least = Infinity;
    for (const i of chosen) {
      const [grid, d] = this.pair(i);
      low = Math.min(low, grid[0]!); high = Math.max(high, grid.at(-1)!);
      for (const v of d) { if (v > most) most = v; if (v > 0 && v < least) least = v; }
    }
    least = Math.max(least, most * 1e-5);
    this.view = { low, high };
    const left = 10 + Math.max(...chosen.map((i) => textWidth(stepText(this.arrays.steps[i]!), 10.5)));
    this.box = { x: left + 10, y: 14, w: width - left - 20, h: height - 14 - 34 };
    const { x, y, w, h } = this.box, tall = Math.min(90, (h / (chosen.length + 1)) * 2.1), gap = chosen.length > 1 ? (h - tall) / (chosen.length - 1) : 0;
    const at = (v: number) => x + ((v - low) / (high - low || 1)) * w;
    if (low < 0 && high > 0) p.line([at(0), y, at(0), y + h], { color: t.muted, width: 1, dash: [3, 4], alpha: 0.8 });
    const base = (k: number) => y + h - k * gap;
    for (let k = chosen.length - 1; k >= 0; k--) {
      const i = chosen[k]!, [grid, d] = this.pair(i), top: number[] = [];
      for (let j = 0; j < grid.length; j++) top.push(at(grid[j]!), base(k) - (tall * Math.max(0, Math.log(Math.max(d[j]!, least) / least))) / Math.log(most / least || 2));
      p.area([...top, at(grid.at(-1)!), base(k), at(grid[0]!), base(k)], t.paper, 0.8);
      p.area([...top, at(grid.at(-1)!), base(k), at(grid[0]!), base(k)], t.accent, 0.22);
      p.line(top, { color: t.accent, width: 1.3 });
      p.text(stepText(this.arrays.steps[i]!), left, base(k), { color: i === 0 ? t.ink : t.muted, anchor: "end", size: 10.5, weight: i === 0 ? 600 : 400 });
    }
    for (const v of ticks(low, high, Math.floor(w / 70))) {
      p.line([at(v), y + h, at(v), y + h + 4], { color: t.rule });
      p.text(number(v), at(v), y + h + 16, { color: t.muted, anchor: "middle", size: 10.5 });
    }
    p.text((this.arrays.field.axis.split(",")[0] ?? "").trim(), x + w, y + h + 29, { color: t.muted, anchor: "end", size: 10.5 });
    p.text("step", left, y - 3, { color: t.muted, anchor: "end", size: 10.5 });
  }
  private hitAt(k: number, j: number): Hit | null {
    const chosen = this.chosen(), i = chosen[k];
    if (i === undefined) return null;
    const [grid, d] = this.pair(i);
    j = Math.max(0, Math.min(grid.length - 1, j));
    const { x, y, w, h } = this.box, tall = Math.min(90, (h / (chosen.length + 1)) * 2.1), gap = chosen.length > 1 ? (h - tall) / (chosen.length - 1) : 0;
    const [a, b] = (this.arrays.field.axis || "x, value").split(",").map((s) => s.trim()), step = this.arrays.steps[i]!;
    const fact: Fact = {
      title: this.arrays.field.title, meaning: this.arrays.field.meaning, short: `step ${step}\n${a} ${number(grid[j]!)} · ${b} ${number(d[j]!)}`,
      lines: [["Step", String(step)], [a!, number(grid[j]!, 4)], [b!, number(d[j]!, 4)], ["Series", `${this.arrays.signal}.${this.arrays.metric}`]],
    };
    return { x: x + ((grid[j]! - this.view.low) / (this.view.high - this.view.low || 1)) * w, y: y + h - k * gap, step, fact, key: `${k}/${j}` };
  }
  pick(x: number, y: number) {
    const chosen = this.chosen(), { h } = this.box, gap = chosen.length > 1 ? (h - Math.min(90, (h / (chosen.length + 1)) * 2.1)) / (chosen.length - 1) : 1;
    const k = Math.max(0, Math.min(chosen.length - 1, Math.round((this.box.y + h - y - gap * 0.3) / gap)));
    const [grid] = this.pair(chosen[k]!), v = this.view.low + ((x - this.box.x) / this.box.w) * (this.view.high - this.view.low);
    let j = 0;
    while (j < grid.length - 1 && grid[j]! < v) j++;
    return this.hitAt(k, j);
  }
  nudge(from: Hit | null, dx: number, dy: number) {
    const [k, j] = from ? from.key.split("/").map(Number) as [number, number] : [0, 0];
    return this.hitAt(Math.max(0, Math.min(this.chosen().length - 1, k + dy)), j + dx);
  }
  table(): Table {
    const i = this.frame(), [grid, d] = this.pair(i), [a, b] = (this.arrays.field.axis || "x, value").split(",").map((s) => s.trim());
    return { head: [a!, `${b} at step ${this.arrays.steps[i]}`], rows: Array.from(grid, (g, j) => [g, d[j]!]) };
  }
}
