// When each feature emerged: a bar from onset to saturation, the interval of the midpoint as a whisker.

import { category, depth, Theme } from "./color";
import { Painter, textWidth } from "./painter";
import { Hit, Plot, Table } from "./plot";
import { Fact } from "./record";
import { span, stepText } from "./state";
import { fit } from "./curves";

export interface Emergence {
  name: string; site: string | null; depth: number; sites: number; onset: number | null; midpoint: number | null;
  low: number | null; high: number | null; saturation: number | null; sentence: string; run: number; group: string;
  signal: string; metric: string; title: string; nested: boolean;
}

export class Timeline extends Plot {
  constructor(public items: Emergence[], label: string) { super(label); }
  heightFor() { return this.items.length * 17 + this.groups().length * 24 + 44; }
  private get many() { return this.items.some((i) => i.run > 0); }
  private groups() { return [...new Set(this.items.map((i) => i.group))]; }
  private rows: { y: number; item: Emergence }[] = [];
  paint(p: Painter, width: number, height: number, t: Theme) {
    const left = Math.min(width * 0.38, 22 + Math.max(...this.items.map((i) => textWidth(i.name, 11))));
    this.box = { x: left, y: 6, w: width - left - 14, h: height - 6 - 34 };
    this.paintSteps(p, t);
    this.rows = [];
    let y = 10;
    const [low, high] = span();
    for (const group of this.groups()) {
      y += 14;
      const name = fit(group, width * 0.8), start = Math.max(left, textWidth(name, 11.5, 600) + 12);
      p.text(name, 0, y, { color: t.ink, size: 11.5, weight: 600 });
      p.line([start, y - 4, left + this.box.w, y - 4], { color: t.rule, width: 1 });
      y += 10;
      for (const item of this.items.filter((i) => i.group === group)) {
        const at = y + 5, color = item.sites > 1 && !this.many ? depth(item.depth, item.sites, t.dark) : category(item.run, t.dark);
        p.text(fit(item.name, left - 10), left - 9, at, { color: t.muted, anchor: "end", baseline: "middle" });
        const a = item.onset, b = item.saturation ?? item.high;
        p.clip(this.box.x - 3, this.box.y, this.box.w + 8, this.box.h + 4, () => {
          if (a !== null) {
            const end = b ?? high, x0 = this.px(Math.max(a, low)), x1 = Math.max(this.px(Math.min(end, high)), x0 + 2);
            p.rect(x0, at - 4, x1 - x0, 8, color, item.saturation === null ? 0.28 : 0.5);
            p.line([x0, at - 5, x0, at + 5], { color, width: 2 });
          }
          if (item.low !== null && item.high !== null) p.line([this.px(item.low), at, this.px(item.high), at], { color: t.ink, width: 1.3 });
          if (item.midpoint !== null) p.circle(this.px(item.midpoint), at, 3.2, t.paper, t.ink);
        });
        this.rows.push({ y: at, item });
        y += 17;
      }
    }
  }
  private hitAt(k: number): Hit | null {
    const row = this.rows[k];
    if (!row) return null;
    const { item } = row, at = item.midpoint ?? item.onset ?? 0;
    const lines: [string, string][] = [];
    const add = (name: string, v: number | null) => { if (v !== null) lines.push([name, `step ${stepText(v)}`]); };
    add("Onset", item.onset); add("Midpoint", item.midpoint);
    if (item.low !== null && item.high !== null) lines.push(["Interval of the midpoint", `${stepText(item.low)} to ${stepText(item.high)}`]);
    add("Saturation", item.saturation);
    const fact: Fact = { title: `${item.group}, ${item.name}`, short: `${item.group}, ${item.name}\n` + lines.map(([a, b]) => `${a.toLowerCase()} ${b.replace("step ", "")}`).join(" · "), lines, meaning: item.sentence };
    return { x: this.px(at), y: row.y, step: at, fact, key: String(k) };
  }
  pick(_x: number, y: number) {
    const k = this.rows.findIndex((r) => Math.abs(r.y - y) <= 9);
    return k < 0 ? null : this.hitAt(k);
  }
  nudge(from: Hit | null, _dx: number, dy: number) { return this.hitAt(from ? Math.max(0, Math.min(this.rows.length - 1, +from.key - dy)) : 0); }
  table(): Table {
    const blank = (v: number | null) => v ?? NaN;
    return { head: ["quantity", "where", "onset", "midpoint", "interval from", "to", "saturation"], rows: this.items.map((i) => [i.group, i.name, blank(i.onset), blank(i.midpoint), blank(i.low), blank(i.high), blank(i.saturation)]) };
  }
}
