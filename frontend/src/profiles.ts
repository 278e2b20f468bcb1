// Arrays that are curves of something else than the step (eigenvalues by rank, dimension by scale), at some steps.

import { depth, legible, Theme } from "./color";
import { Painter, textWidth } from "./painter";
import { Hit, Table } from "./plot";
import { Fact } from "./record";
import { Framed } from "./arrays";
import { number, stepText, ticks } from "./state";

export class Profiles extends Framed {
  private view = { x0: 0, x1: 1, y0: 0, y1: 1, log: false };
  heightFor(width: number) { return Math.round(Math.max(190, Math.min(260, width * 0.6))); }
  private chosen() { return this.spaced(6); }
  private names(): [string, string] {
    const parts = this.arrays.field.axis.replace(/^rows:/, "").split(";")[0]!.split(",").map((s) => s.trim());
    return this.rows(0) > 1 ? [parts[0] || "x", parts[1] || "value"] : [parts[0] || "index", this.arrays.field.title.toLowerCase()];
  }
  private rows(i: number) { const shape = this.arrays.shapes[i]!; return shape.length > 1 ? shape[0]! : 1; }
  private pair(i: number): [ArrayLike<number>, Float32Array] {
    const f = this.arrays.frames[i]!, rows = this.rows(i), n = f.length / rows;
    return rows > 1 ? [f.subarray(0, n), f.subarray(n, 2 * n)] : [Float64Array.from(f, (_, j) => j + 1), f];
  }
  private at(x: number, log = this.view.log) {
    const { x0, x1 } = this.view, f = log ? Math.log : (v: number) => v;
    return this.box.x + ((f(x) - f(x0)) / (f(x1) - f(x0) || 1)) * this.box.w;
  }
  private py(y: number) { return this.box.y + this.box.h - ((y - this.view.y0) / (this.view.y1 - this.view.y0 || 1)) * this.box.h; }
  paint(p: Painter, width: number, height: number, t: Theme) {
    const chosen = this.chosen();
    let x0 = Infinity, x1 = -Infinity, y0 = Infinity, y1 = -Infinity;
    for (let i = 0; i <= this.frame(); i++) {
      const [x, y] = this.pair(i);
      for (let j = 0; j < y.length; j++) { x0 = Math.min(x0, x[j]!); x1 = Math.max(x1, x[j]!); y0 = Math.min(y0, y[j]!); y1 = Math.max(y1, y[j]!); }
    }
    const pad = (y1 - y0 || 1) * 0.06;
    this.view = { x0, x1, y0: this.arrays.field.low !== null ? Math.max(this.arrays.field.low, y0 - pad) : y0 - pad, y1: y1 + pad, log: x0 > 0 && x1 / x0 > 10 };
    const marks = ticks(this.view.y0, this.view.y1, 4), left = 10 + Math.max(...marks.map((m) => textWidth(number(m), 10.5))), right = 12 + Math.max(...chosen.map((i) => textWidth(stepText(this.arrays.steps[i]!), 11, 500)));
    this.box = { x: left, y: 14, w: width - left - right, h: height - 14 - 34 };
    const { x, y, w, h } = this.box;
    for (const m of marks) {
      p.line([x, this.py(m), x + w, this.py(m)], { color: t.rule, width: 1, alpha: 0.75 });
      p.text(number(m), x - 7, this.py(m), { color: t.muted, anchor: "end", baseline: "middle", size: 10.5 });
    }
    const across = this.view.log ? [1, 2, 5].flatMap((m) => Array.from({ length: 12 }, (_, e) => m * 10 ** (e - 5))).filter((v) => v >= x0 && v <= x1) : ticks(x0, x1, Math.floor(w / 60));
    for (const m of across.length > 9 ? across.filter((v) => Math.log10(v) % 1 === 0) : across) p.text(number(m), this.at(m), y + h + 16, { color: t.muted, anchor: "middle", size: 10.5 });
    p.line([x, y + h + 0.5, x + w, y + h + 0.5], { color: t.rule, width: 1 });
    p.text(this.names()[0], x + w, y + h + 29, { color: t.muted, anchor: "end", size: 10.5 });
    let before = Infinity;
    chosen.forEach((i, k) => {
      const [xs, ys] = this.pair(i), points: number[] = [], color = depth(k, Math.max(chosen.length, 2), t.dark);
      for (let j = 0; j < ys.length; j++) points.push(this.at(xs[j]!), this.py(ys[j]!));
      p.line(points, { color, width: k === chosen.length - 1 ? 2 : 1.3 });
      if (ys.length < 40) for (let j = 0; j < points.length; j += 2) p.circle(points[j]!, points[j + 1]!, 2, color);
      const at = points.at(-1)!;
      if (Math.abs(at - before) > 11) { p.text(stepText(this.arrays.steps[i]!), x + w + 6, at, { color: legible(color, t), baseline: "middle", weight: 500 }); before = at; }
    });
    p.text("step", width - 2, 8, { color: t.muted, anchor: "end", size: 10.5 });
  }
  private hitAt(k: number, j: number): Hit | null {
    const i = this.chosen()[k];
    if (i === undefined) return null;
    const [xs, ys] = this.pair(i);
    j = Math.max(0, Math.min(ys.length - 1, j));
    const [a, b] = this.names(), step = this.arrays.steps[i]!;
    const fact: Fact = { title: this.arrays.field.title, meaning: this.arrays.field.meaning, short: `step ${step}\n${a} ${number(xs[j]!)} · ${b} ${number(ys[j]!, 4)}`, lines: [["Step", String(step)], [a, number(xs[j]!, 4)], [b, number(ys[j]!, 4)], ["Series", `${this.arrays.signal}.${this.arrays.metric}`]] };
    return { x: this.at(xs[j]!), y: this.py(ys[j]!), step, fact, key: `${k}/${j}` };
  }
  pick(x: number, y: number) {
    let best: Hit | null = null, least = Infinity;
    this.chosen().forEach((i, k) => {
      const n = this.pair(i)[1].length;
      for (let j = 0; j < n; j++) { const hit = this.hitAt(k, j)!, far = Math.hypot(hit.x - x, hit.y - y); if (far < least) { least = far; best = hit; } }
    });
    return best;
  }
  nudge(from: Hit | null, dx: number, dy: number) {
    const [k, j] = from ? from.key.split("/").map(Number) as [number, number] : [this.chosen().length - 1, 0];
    return this.hitAt(Math.max(0, Math.min(this.chosen().length - 1, k + dy)), j + dx);
  }
  table(): Table {
    const i = this.frame(), [xs, ys] = this.pair(i), [a, b] = this.names();
    return { head: [a, `${b} at step ${this.arrays.steps[i]}`], rows: Array.from(ys, (v, j) => [xs[j]!, v]) };
  }
}
