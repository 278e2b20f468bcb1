// Drawings whose columns are the tokens of a sentence: bars of surprisal, a map with words in its cells, arcs of attention.

import { category, colorOf, readable, Scale, Theme } from "./color";
import { fit } from "./curves";
import { siteName } from "./data";
import { comparable, exactAt, Inspection, Maps, markedColumn, momentOf } from "./inspection";
import { Painter, textWidth } from "./painter";
import { Hit, Plot, Table } from "./plot";
import { Fact } from "./record";
import { number, stepText, ticks } from "./state";

const LEFT = 78;
/** Narrower columns cannot be read; the figure scrolls instead. */
const NARROW = 52;

abstract class Tokens extends Plot {
  protected override timed = false;
  constructor(public of: Inspection, label: string) {
    super(label);
    this.el.classList.add("tokens");
    this.el.style.minWidth = `${LEFT + this.heads().length * NARROW + 8}px`;
  }
  protected heads(): { text: string; marked: boolean }[] {
    const at = markedColumn(this.of);
    return this.of.columns.map((c, i) => ({ text: c.text, marked: i === at }));
  }
  protected get num() { return this.heads().length; }
  protected cell(width: number) { return Math.min(132, (width - LEFT - 8) / this.num); }
  protected x(i: number) { return this.box.x + (i * this.box.w) / this.num; }
  protected frame(width: number, y: number, h: number) { this.box = { x: LEFT, y, w: this.cell(width) * this.num, h }; }
  protected column(px: number) { const i = Math.floor(((px - this.box.x) / this.box.w) * this.num); return i >= 0 && i < this.num ? i : -1; }
  protected paintHeads(p: Painter, y: number, t: Theme) {
    const w = this.box.w / this.num;
    this.heads().forEach(({ text, marked }, i) => {
      const shown = fit(text, w - 6, 12), middle = this.x(i) + w / 2;
      if (marked) { const wide = textWidth(shown, 12, 600) + 8; p.rect(middle - wide / 2, y - 12, wide, 17, t.mark); }
      p.text(shown, middle, y, { color: marked ? t.markInk : t.ink, anchor: "middle", size: 12, weight: marked ? 600 : 500 });
    });
  }
}

const share = (v: number) => (v >= 0.995 ? "1.00" : v.toFixed(2).replace(/^0/, ""));
const list = (top: [string, number][] | undefined) => (top ?? []).map(([w, p]) => `${w} ${share(p)}`).join(", ");

export class Surprisals extends Tokens {
  heightFor() { return 232; }
  paint(p: Painter, width: number, height: number, t: Theme) {
    this.frame(width, 14, height - 14 - 30);
    const { y, w, h, x } = this.box, m = momentOf(this.of), { oracle, uniform } = this.of;
    const all = [uniform, ...this.of.moments.flatMap((o) => o.surprisal), ...(oracle?.surprisal ?? [])].filter((v): v is number => v !== null);
    const high = Math.max(...all) * 1.06, at = (v: number) => y + h - (Math.min(v, high) / high) * h;
    for (const v of ticks(0, high, 4)) { p.line([x, at(v), x + w, at(v)], { color: t.rule, width: 1 }); p.text(number(v), x - 8, at(v), { color: t.muted, anchor: "end", baseline: "middle", size: 10.5 }); }
    p.text("nats", x - 8, y - 4, { color: t.muted, anchor: "end", size: 10.5 });
    p.line([x, at(uniform), x + w, at(uniform)], { color: t.muted, width: 1, dash: [4, 4] });
    p.text("uniform", x + w, at(uniform) - 4, { color: t.muted, anchor: "end", size: 10.5 });
    const cell = w / this.num, bar = Math.min(46, cell * 0.56), color = category(0, t.dark);
    this.heads().forEach((head, i) => {
      const v = m.surprisal[i], middle = this.x(i) + cell / 2, exact = exactAt(this.of, i, oracle?.surprisal);
      if (v !== null && v !== undefined) {
        p.rect(middle - bar / 2, at(v), bar, y + h - at(v), head.marked ? category(1, t.dark) : color, 0.85);
        p.text(number(v, 2), middle, at(v) - 5, { color: t.muted, anchor: "middle", size: 10.5, halo: t.paper });
      }
      if (exact !== null) p.line([middle - bar / 2 - 5, at(exact), middle + bar / 2 + 5, at(exact)], { color: t.ink, width: 2.2 });
      else if (comparable(this.of)) p.text("\u221e", middle + (v === null || v === undefined || at(v) < y + 12 ? bar / 2 + 9 : 0), y + 6, { color: t.ink, anchor: "middle", size: 16, halo: t.paper });
    });
    p.line([x, y + h, x + w, y + h], { color: t.muted, width: 1 });
    this.paintHeads(p, y + h + 19, t);
  }
  private hitAt(i: number): Hit {
    const m = momentOf(this.of), c = this.of.columns[i]!, exact = exactAt(this.of, i, this.of.oracle?.surprisal), v = m.surprisal[i] ?? NaN, word = c.word ?? this.of.words.length;
    const lines: [string, string][] = [["Checkpoint", stepText(m.step)], ["Surprisal", `${number(v, 4)} nats`], ["Probability", number(Math.exp(-v), 3)], ["Rank", number(m.rank[i]!)], ["Entropy of the prediction", `${number(m.entropy[i] ?? NaN)} nats`], ["Most probable", list(m.top[i])]];
    if (comparable(this.of)) {
      lines.push(["Exact surprisal", exact === null ? "infinite: impossible here" : `${number(exact, 4)} nats`]);
      if (this.of.oracle!.allowed[word]) lines.push(["The language allows", `${this.of.oracle!.allowed[word]} words: ${list(this.of.oracle!.top[word])}`]);
      const illegal = m.illegal?.[i];
      if (illegal !== null && illegal !== undefined) lines.push(["Mass on the forbidden", number(illegal)]);
    }
    const got = this.of.got.columns[i];
    if (this.of.moments.length > 1) lines.push(["Got from", got === null || got === undefined ? "not yet" : `step ${stepText(got)}`]);
    const fact: Fact = { title: c.text, meaning: "How surprised the model is by this token, given what it has read.", lines, short: `${c.text} · step ${stepText(m.step)}\n${number(v)} nats` + (exact !== null ? `   exact ${number(exact)}` : "") + `\n${list(m.top[i]?.slice(0, 3))}` };
    return { x: this.x(i) + this.box.w / this.num / 2, y: this.box.y + this.box.h / 2, step: m.step, fact, key: String(i) };
  }
  pick(x: number) { const i = this.column(x); return i < 0 ? null : this.hitAt(i); }
  nudge(from: Hit | null, dx: number) { return this.hitAt(Math.max(0, Math.min(this.num - 1, from ? +from.key + dx : dx < 0 ? this.num - 1 : 0))); }
  table(): Table {
    const m = momentOf(this.of);
    return { head: ["token", "surprisal (nats)", "exact", "rank", "illegal mass", "got from step", "most probable"], rows: this.of.columns.map((c, i) => [c.text, m.surprisal[i] ?? NaN, exactAt(this.of, i, this.of.oracle?.surprisal) ?? NaN, m.rank[i]!, m.illegal?.[i] ?? NaN, this.of.got.columns[i] ?? NaN, list(m.top[i])]) };
  }
}

export interface Cell { value: number | null; text?: string; quiet?: boolean; wrong?: boolean; ring?: boolean; fact: Fact }
export interface CellsSpec {
  of: Inspection; label: string; rowTitle: string; scale: (t: Theme) => Scale;
  /** Rows from the bottom upwards, at the moment that is shown. */
  rows: () => { name: string; note?: string; strong?: boolean; cells: Cell[] }[];
  /** Columns; by default the predicted tokens. */
  heads?: string[];
}

export class Cells extends Tokens {
  constructor(private spec: CellsSpec) { super(spec.of, spec.label); if (spec.heads) this.el.style.minWidth = `${LEFT + spec.heads.length * NARROW + 8}px`; }
  protected override heads() { return this.spec?.heads ? this.spec.heads.map((text, i) => ({ text, marked: this.of.oracle?.error?.position === i })) : super.heads(); }
  private tall(rows: number) { return rows > 14 ? 15 : 25; }
  heightFor() { const n = this.spec.rows().length; return n * this.tall(n) + 34; }
  paint(p: Painter, width: number, _height: number, t: Theme) {
    const rows = this.spec.rows(), tall = this.tall(rows.length), scale = this.spec.scale(t);
    this.frame(width, 4, rows.length * tall);
    const cell = this.box.w / this.num;
    rows.forEach((row, r) => {
      const y = this.box.y + (rows.length - 1 - r) * tall;
      p.text(fit(row.name, LEFT - 12), LEFT - 8, y + tall / 2, { color: row.strong ? t.ink : t.muted, anchor: "end", baseline: "middle", size: 10.5, weight: row.strong ? 600 : 400 });
      row.cells.forEach((c, i) => {
        const fill = c.value === null || c.quiet ? t.surface : colorOf(scale, c.value), x = this.x(i);
        p.rect(x, y, cell - 1.5, tall - 1.5, fill);
        if (c.text && tall > 15) p.text(fit(c.text, cell - 8, 11), x + cell / 2, y + tall / 2 - 0.5, { color: c.quiet ? t.muted : readable(fill, t), anchor: "middle", baseline: "middle", size: 11, weight: c.ring ? 650 : 400 });
        if (c.wrong) { const mark = category(1, t.dark); p.line([x + 1, y + tall - 3, x + cell - 2.5, y + tall - 3], { color: mark, width: 3 }); }
        if (c.ring) p.line([x + 1, y + 1, x + cell - 2.5, y + 1, x + cell - 2.5, y + tall - 2.5, x + 1, y + tall - 2.5, x + 1, y + 1], { color: t.ink, width: 1.8 });
      });
    });
    this.paintHeads(p, this.box.y + this.box.h + 17, t);
  }
  private hitAt(r: number, i: number): Hit | null {
    const rows = this.spec.rows(), row = rows[r], c = row?.cells[i];
    if (!row || !c) return null;
    const tall = this.tall(rows.length);
    return { x: this.x(i) + this.box.w / this.num / 2, y: this.box.y + (rows.length - 1 - r + 0.5) * tall, step: 0, fact: c.fact, key: `${r}/${i}` };
  }
  pick(x: number, y: number) {
    const rows = this.spec.rows().length, i = this.column(x), r = rows - 1 - Math.floor((y - this.box.y) / this.tall(rows));
    return i >= 0 && r >= 0 && r < rows ? this.hitAt(r, i) : null;
  }
  nudge(from: Hit | null, dx: number, dy: number) {
    const rows = this.spec.rows().length, [r, i] = from ? from.key.split("/").map(Number) as [number, number] : [rows - 1, -dx];
    return this.hitAt(Math.max(0, Math.min(rows - 1, r + dy)), Math.max(0, Math.min(this.num - 1, i + dx)));
  }
  table(): Table {
    return { head: [this.spec.rowTitle, ...this.heads().map((h) => h.text)], rows: [...this.spec.rows()].reverse().map((row) => [row.name, ...row.cells.map((c) => [c.text ?? "", c.value === null ? "" : number(c.value)].filter(Boolean).join(" ") + (c.wrong ? " (wrong)" : ""))]) };
  }
}

/** Weights below this are not drawn. */
const FAINT = 0.1;

/** Arcs from the token that looks to the tokens that it looks at, in the colour of the head. */
export class Arcs extends Tokens {
  constructor(of: Inspection, label: string, private site: string, private stream: string, private head: () => number | null) { super(of, label); this.el.style.minWidth = `${LEFT + this.heads().length * NARROW + 8}px`; }
  protected override heads() { return (this.of?.inputs[this.stream ?? "encoder"] ?? []).map((text) => ({ text, marked: false })); }
  private maps(): number[][][] | null {
    const a = momentOf(this.of).attention;
    if ("missing" in a) return null;
    return (a as Maps).maps[a.sites.indexOf(this.site)] ?? null;
  }
  heightFor(width: number) { return Math.round(Math.min(210, 62 + this.cell(width) * this.num * 0.17)); }
  paint(p: Painter, width: number, height: number, t: Theme) {
    this.frame(width, 8, height - 8 - 28);
    const maps = this.maps(), base = this.box.y + this.box.h, cell = this.box.w / this.num, middle = (i: number) => this.x(i) + cell / 2, only = this.head();
    p.text(siteName(this.site), LEFT - 8, base - 4, { color: t.ink, anchor: "end", size: 11, weight: 600 });
    if (!maps) { p.text("not kept for this checkpoint", this.box.x, base - 20, { color: t.muted, size: 11.5 }); this.paintHeads(p, base + 18, t); return; }
    const arcs: { w: number; q: number; k: number; h: number }[] = [];
    maps.forEach((rows, h) => { if (only === null || only === h) rows.forEach((row, q) => row.forEach((w, k) => { if (w >= FAINT && q !== k) arcs.push({ w, q, k, h }); })); });
    arcs.sort((a, b) => a.w - b.w);
    const longest = Math.max(1, this.num - 1), points: number[] = [];
    for (const { w, q, k, h } of arcs) {
      const a = middle(q), b = middle(k), top = this.box.h * (0.2 + 0.8 * (Math.abs(q - k) / longest)) * (1 - 0.02 * (h % 5));
      points.length = 0;
      for (let s = 0; s <= 24; s++) { const u = s / 24; points.push(a + (b - a) * u, base - 3 - top * Math.sin(Math.PI * u) ** 0.8); }
      p.line(points, { color: category(h, t.dark), width: 0.5 + 3.6 * w, alpha: 0.18 + 0.75 * w });
    }
    // A token that looks at itself.
    maps.forEach((rows, h) => { if (only === null || only === h) rows.forEach((row, q) => { const w = row[q] ?? 0; if (w >= FAINT) p.circle(middle(q), base - 2, 1 + 3 * w, category(h, t.dark)); }); });
    this.paintHeads(p, base + 18, t);
  }
  protected override paintCursor(p: Painter, t: Theme) {
    // Where a token is pointed at, what each head gives to what it looks at stands above.
    if (!this.hit) return;
    const maps = this.maps(), q = +this.hit.key, cell = this.box.w / this.num, base = this.box.y + this.box.h;
    maps?.forEach((rows, h) => { if (this.head() === null || this.head() === h) rows[q]?.forEach((w, k) => { if (w >= 0.02) p.rect(this.x(k) + 4 + (h % 8) * ((cell - 8) / Math.min(8, maps.length)), base - 1 - w * 34, Math.max(2, (cell - 8) / Math.min(8, maps.length) - 1), w * 34, category(h, t.dark)); }); });
  }
  private hitAt(q: number): Hit {
    const maps = this.maps() ?? [], text = this.heads()[q]!.text, m = momentOf(this.of), lines: [string, string][] = [];
    maps.forEach((rows, h) => lines.push([`Head ${h}`, [...(rows[q] ?? [])].map((w, k) => [w, k] as const).sort((a, b) => b[0] - a[0]).slice(0, 3).filter(([w]) => w >= 0.05).map(([w, k]) => `${this.heads()[k]!.text} ${share(w)}`).join(", ") || "nothing above .05"]));
    return { x: this.x(q) + this.box.w / this.num / 2, y: this.box.y + this.box.h, step: m.step, key: String(q), fact: { title: `${text} looks, ${siteName(this.site)}`, meaning: "The three largest weights of every head.", lines, short: `${text} · ${siteName(this.site)} looks at\n` + lines.slice(0, 8).map(([a, b]) => `${a.toLowerCase()}: ${b}`).join("\n") } };
  }
  pick(x: number) { const i = this.column(x); return i < 0 ? null : this.hitAt(i); }
  nudge(from: Hit | null, dx: number) { return this.hitAt(Math.max(0, Math.min(this.num - 1, from ? +from.key + dx : dx < 0 ? this.num - 1 : 0))); }
  table(): Table {
    const maps = this.maps() ?? [], names = this.heads().map((h) => h.text);
    return { head: ["head", "from", ...names], rows: maps.flatMap((rows, h) => rows.map((row, q) => [`head ${h}`, names[q]!, ...row])) };
  }
}
