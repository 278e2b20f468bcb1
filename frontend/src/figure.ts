// A figure: title, what it means, its drawings side by side, a table of the same numbers, and ways to save it.

import { theme } from "./color";
import { CanvasPainter, escape, FONT, Painter, SvgPainter } from "./painter";
import { Plot } from "./plot";
import { listen, number } from "./state";

export interface Facet { title: string; plot: () => Plot }
export interface FigureSpec {
  id: string; title: string; meaning?: string; note?: string; facets: Facet[]; columns?: number; wide?: boolean;
  bar?: (p: Painter, x: number, y: number, w: number) => void; level?: 3 | 4;
  /** Whether bands of two standard errors are drawn; said in saved figures, and once on the page. */
  banded?: boolean;
  /** Too few numbers in each drawing to be shown at once. */
  sparse?: boolean;
}

export function h<K extends keyof HTMLElementTagNameMap>(tag: K, props: Record<string, string> = {}, ...children: (Node | string)[]): HTMLElementTagNameMap[K] {
  const el = document.createElement(tag);
  for (const [k, v] of Object.entries(props)) el.setAttribute(k, v);
  el.append(...children);
  return el;
}

const figures = new Set<Figure>();
const pending = new IntersectionObserver((entries) => {
  for (const e of entries) if (e.isIntersecting) for (const f of figures) if (f.el === e.target) f.mount();
}, { rootMargin: "600px" });

let idle = 0;
/** Draws what is further down while nothing else is to be done, so that it is there when it is reached. */
export function drawIdly() {
  const ask = window.requestIdleCallback ?? ((f: IdleRequestCallback) => setTimeout(() => f({ timeRemaining: () => 8, didTimeout: false }), 30));
  const mine = ++idle;
  const step: IdleRequestCallback = (deadline) => {
    if (mine !== idle) return;
    for (const f of figures) {
      if (f.mounted && f.plots.every((p) => p.el.dataset.drawn || !p.el.clientWidth)) continue;
      if (deadline.timeRemaining() < 3) break;
      f.mount();
      for (const p of f.plots) if (!p.el.dataset.drawn) p.draw();
    }
    if ([...figures].some((f) => !f.mounted || f.plots.some((p) => !p.el.dataset.drawn && p.el.clientWidth))) ask(step);
  };
  ask(step);
}

/** Draws everything that has not been drawn yet (print, tests). */
export function drawAll(again = false) {
  for (const f of figures) { f.mount(); if (again) f.drawBar(); for (const p of f.plots) if (again || !p.el.dataset.drawn) p.draw(); }
}
export function forget() { for (const f of figures) f.destroy(); figures.clear(); }

export class Figure {
  readonly el: HTMLElement;
  plots: Plot[] = [];
  private facets: HTMLElement;
  private holder = h("div", { class: "numbers", hidden: "" });
  mounted = false;
  private stop: () => void = () => {};
  drawBar: () => void = () => {};

  constructor(public spec: FigureSpec) {
    const { facets } = spec;
    this.facets = h("div", { class: "facets" });
    const per = facets.length === 1 ? 1 : spec.columns ?? 3;
    this.facets.style.setProperty("--facets", String(Math.min(per, facets.length)));
    for (const f of facets) {
      const holder = h("div", { class: "facet" });
      if (f.title) holder.append(h("div", { class: "facet-title" }, f.title));
      this.facets.append(holder);
    }
    const tool = (name: string, what: string, act: () => void) => {
      const b = h("button", { type: "button", "aria-label": `${name}: ${what}, ${spec.title}` }, name);
      b.onclick = act;
      return b;
    };
    const toggle = tool("Table", "show the numbers", () => {
      const open = this.holder.hidden;
      this.holder.hidden = !open;
      toggle.setAttribute("aria-expanded", String(open));
      this.mount();
      if (open) this.holder.replaceChildren(...this.tables());
    });
    toggle.setAttribute("aria-expanded", "false");
    const tools = h("div", { class: "tools" }, toggle, tool("CSV", "save the numbers", () => this.saveCsv()), tool("SVG", "save the figure", () => this.saveSvg()), tool("PNG", "save the figure", () => void this.savePng()));
    const caption = h("figcaption", {}, h("div", { class: "heading" }, h(spec.level === 4 ? "h4" : "h3", {}, spec.title), tools));
    if (spec.meaning) caption.append(h("p", { class: "meaning" }, spec.meaning));
    if (spec.bar) caption.append(this.barCanvas());
    this.el = h("figure", { id: spec.id, class: spec.wide || facets.length > 1 ? "wide" : "" }, caption, this.facets);
    if (spec.note) this.el.append(h("p", { class: "note" }, spec.note));
    this.el.append(this.holder);
    figures.add(this);
    pending.observe(this.el);
  }

  mount() {
    if (this.mounted) return;
    this.mounted = true;
    pending.unobserve(this.el);
    this.spec.facets.forEach((f, i) => {
      const plot = f.plot();
      this.plots.push(plot);
      this.facets.children[i]!.append(plot.el);
    });
    this.spec.facets.length && (this.el.dataset.mounted = "true");
  }

  destroy() { this.stop(); pending.unobserve(this.el); for (const p of this.plots) p.destroy(); }

  private barCanvas() {
    const canvas = h("canvas", { class: "bar", "aria-hidden": "true" });
    const draw = () => {
      const scale = Math.min(devicePixelRatio || 1, 2.5);
      canvas.width = 220 * scale; canvas.height = 44 * scale;
      const ctx = canvas.getContext("2d")!;
      ctx.setTransform(scale, 0, 0, scale, 0, 0);
      ctx.clearRect(0, 0, 220, 44);
      this.spec.bar!(new CanvasPainter(ctx), 4, 16, 206);
    };
    this.drawBar = draw;
    this.stop = listen((topic) => { if (topic === "theme" || topic === "data") draw(); });
    requestAnimationFrame(draw);
    return canvas;
  }

  private tables(): HTMLElement[] {
    const out: HTMLElement[] = [];
    this.plots.forEach((plot, i) => {
      const { head, rows } = plot.table();
      const title = [this.spec.title, this.spec.facets[i]!.title].filter(Boolean).join(", ");
      const keep = thinRows(rows, 60);
      const table = h("table", {}, h("caption", {}, title + (keep.length < rows.length ? ` (${keep.length} of ${rows.length} rows; CSV has all)` : "")));
      table.append(h("thead", {}, h("tr", {}, ...head.map((c) => h("th", { scope: "col" }, c)))));
      table.append(h("tbody", {}, ...keep.map((row) => h("tr", {}, ...row.map((v, c) => (c ? h("td", {}, cell(v)) : h("th", { scope: "row" }, cell(v))))))));
      out.push(h("div", { class: "table", tabindex: "0", role: "group", "aria-label": `Numbers: ${title}` }, table));
    });
    return out;
  }

  svg(): { text: string; width: number; height: number } {
    this.mount();
    const t = theme(), n = this.plots.length, per = Math.min(n, this.spec.columns ?? 3), cellWidth = n === 1 ? 720 : Math.max(300, 960 / per), width = cellWidth * per + 40;
    const top = new SvgPainter("h");
    top.text(this.spec.title, 20, 32, { color: t.ink, size: 17, weight: 600 });
    let y = 48;
    if (this.spec.meaning) { top.text(this.spec.meaning, 20, 52, { color: t.muted, size: 11.5 }); y = 66; }
    if (this.spec.bar) { this.spec.bar(top, 24, y + 8, 206); y += 44; }
    let body = "", line = 0;
    this.plots.forEach((plot, i) => {
      const column = i % per, { body: part, height } = plot.svg(cellWidth - 20, `p${i}_`);
      const title = new SvgPainter();
      title.text(this.spec.facets[i]!.title, 0, 12, { color: t.ink, size: 12, weight: 600 });
      body += `<g transform="translate(${20 + column * cellWidth} ${y})">${title.inner()}<g transform="translate(0 18)">${part}</g></g>`;
      line = Math.max(line, height + 30);
      if (column === per - 1 || i === n - 1) { y += line; line = 0; }
    });
    const note = [this.spec.note, this.spec.banded ? "Band: two standard errors." : ""].filter(Boolean).join(" ");
    if (note) { top.text(note, 20, y + 14, { color: t.muted, size: 10.5 }); y += 24; }
    const height = y + 12;
    return { text: `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="${escape(FONT)}"><rect width="100%" height="100%" fill="${t.paper}"/>${top.inner()}${body}</svg>`, width, height };
  }

  private name() { return this.spec.title.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, ""); }
  private saveSvg() { save(new Blob([this.svg().text], { type: "image/svg+xml" }), `${this.name()}.svg`); }
  private async savePng() {
    const { text, width, height } = this.svg(), image = new Image();
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
    await image.decode();
    const canvas = h("canvas");
    canvas.width = width * 2; canvas.height = height * 2;
    canvas.getContext("2d")!.drawImage(image, 0, 0, width * 2, height * 2);
    canvas.toBlob((blob) => blob && save(blob, `${this.name()}.png`), "image/png");
  }
  private saveCsv() {
    this.mount();
    const quote = (v: string | number) => (typeof v === "number" ? (Number.isFinite(v) ? String(v) : "") : /[",\n]/.test(v) ? `"${v.replace(/"/g, '""')}"` : v);
    const text = this.plots.map((p, i) => {
      const { head, rows } = p.table(), title = this.spec.facets[i]!.title;
      return [["facet", ...head], ...rows.map((r) => [title, ...r])].map((r) => r.map(quote).join(",")).join("\n");
    }).join("\n\n");
    save(new Blob([text + "\n"], { type: "text/csv" }), `${this.name()}.csv`);
  }
}

function cell(v: string | number): string { return typeof v === "number" ? number(v, 4) : v; }

function thinRows<T>(rows: T[], most: number): T[] {
  if (rows.length <= most) return rows;
  return Array.from({ length: most }, (_, i) => rows[Math.round((i * (rows.length - 1)) / (most - 1))]!);
}

function save(blob: Blob, name: string) {
  const link = h("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
