// The frame of every drawing: a canvas that follows size, theme, data and the shared state, with a cursor that mouse and keys move.

import { Theme, theme } from "./color";
import { CanvasPainter, Painter, SvgPainter } from "./painter";
import { showRecord, showTip, hideTip, Fact } from "./record";
import { listen, place, span, state, stepText, stepTicks, tell, Topic, unplace } from "./state";

export interface Hit { x: number; y: number; step: number; fact: Fact; key: string }
export interface Table { head: string[]; rows: (string | number)[][] }
export interface Box { x: number; y: number; w: number; h: number }

export abstract class Plot {
  readonly el = document.createElement("div");
  protected canvas = document.createElement("canvas");
  protected over = document.createElement("canvas");
  protected width = 0;
  protected height = 0;
  protected box: Box = { x: 0, y: 0, w: 1, h: 1 };
  protected hit: Hit | null = null;
  private visible = false;
  private stale = true;
  private drag: number | null = null;
  private stop: () => void;
  private observers: { disconnect(): void }[] = [];
  /** Whether the horizontal axis is the training step (then it zooms and takes part in the linked cursor). */
  protected timed = true;

  constructor(public label: string) {
    this.el.className = "plot";
    this.el.tabIndex = 0;
    this.el.setAttribute("role", "application");
    this.el.setAttribute("aria-roledescription", "chart");
    this.el.setAttribute("aria-label", `${label}. Arrow keys move, Enter opens the record.`);
    for (const c of [this.canvas, this.over]) { c.setAttribute("aria-hidden", "true"); this.el.append(c); }
    this.over.className = "over";
    this.stop = listen((topic) => this.hear(topic));
    const see = new IntersectionObserver((entries) => {
      this.visible = entries.at(-1)!.isIntersecting;
      if (this.visible && this.stale) this.draw();
    }, { rootMargin: "400px" });
    see.observe(this.el);
    const fit = new ResizeObserver(() => { if (Math.round(this.el.clientWidth) !== this.width) this.invalidate(); });
    fit.observe(this.el);
    this.observers = [see, fit];
    this.listenToHands();
  }

  destroy() { this.stop(); for (const o of this.observers) o.disconnect(); }

  // What a kind of plot has to say.
  abstract heightFor(width: number): number;
  abstract paint(p: Painter, width: number, height: number, t: Theme): void;
  abstract pick(x: number, y: number): Hit | null;
  abstract nudge(from: Hit | null, dx: number, dy: number): Hit | null;
  abstract table(): Table;
  protected paintCursor(_p: Painter, _t: Theme): void {}

  invalidate() { this.stale = true; if (this.visible) this.draw(); }

  draw() {
    const width = Math.round(this.el.clientWidth);
    if (width < 20) return;
    this.width = width;
    this.height = this.heightFor(width);
    this.el.style.height = `${this.height}px`;
    const scale = Math.min(window.devicePixelRatio || 1, 2.5);
    for (const c of [this.canvas, this.over]) {
      if (c.width !== width * scale || c.height !== this.height * scale) {
        c.width = width * scale; c.height = this.height * scale;
        c.style.width = `${width}px`; c.style.height = `${this.height}px`;
      }
    }
    const ctx = this.canvas.getContext("2d")!;
    ctx.setTransform(scale, 0, 0, scale, 0, 0);
    ctx.clearRect(0, 0, width, this.height);
    this.paint(new CanvasPainter(ctx), width, this.height, theme());
    this.stale = false;
    this.el.dataset.drawn = "true";
    this.drawOver();
  }

  protected drawOver() {
    if (!this.width) return;
    const scale = this.over.width / this.width;
    const ctx = this.over.getContext("2d")!;
    ctx.setTransform(scale, 0, 0, scale, 0, 0);
    ctx.clearRect(0, 0, this.width, this.height);
    const p = new CanvasPainter(ctx), t = theme(), { x, y, w, h } = this.box;
    if (this.timed && state.time !== null) {
      const at = this.px(state.time);
      if (at < x + w) p.rect(Math.max(at + 0.5, x), y, x + w - Math.max(at, x) + 1, h, t.paper, 0.86);
    }
    if (this.timed && state.cursor !== null) {
      const at = this.px(state.cursor);
      if (at >= x - 1 && at <= x + w + 1) { p.line([at, y, at, y + h], { color: t.paper, width: 3, alpha: 0.45 }); p.line([at, y, at, y + h], { color: t.ink, width: 1, alpha: 0.6 }); }
    }
    this.paintCursor(p, t);
    if (this.hit) p.circle(this.hit.x, this.hit.y, 4, t.paper, t.ink);
    if (this.drag !== null && this.dragTo !== null) p.rect(Math.min(this.drag, this.dragTo), y, Math.abs(this.drag - this.dragTo), h, t.accent, 0.15);
  }

  svg(width: number, prefix: string): { body: string; height: number } {
    const p = new SvgPainter(prefix), keep = this.box, height = this.heightFor(width);
    this.paint(p, width, height, theme());
    this.box = keep;
    return { body: p.inner(), height };
  }

  // The step axis.
  protected px(step: number): number {
    const [low, high] = span(), a = place(low), b = place(high);
    return this.box.x + (b > a ? (place(step) - a) / (b - a) : 0) * this.box.w;
  }
  /** `px` for many steps: the ends of the axis are looked up once. */
  protected pxOf(): (step: number) => number {
    const [low, high] = span(), a = place(low), scale = this.box.w / (place(high) - a || 1), x = this.box.x - a * scale;
    if (state.axis === "linear") return (step) => x + step * scale;
    const unit = 1 / state.unit;
    return (step) => x + Math.log10(1 + step * unit) * scale;
  }
  protected stepAt(px: number): number {
    const [low, high] = span(), a = place(low), b = place(high);
    return unplace(a + ((px - this.box.x) / this.box.w) * (b - a));
  }
  protected paintSteps(p: Painter, t: Theme, title = true) {
    const { x, y, w, h } = this.box;
    p.line([x, y + h + 0.5, x + w, y + h + 0.5], { color: t.rule, width: 1 });
    for (const step of stepTicks(w)) {
      const at = this.px(step);
      p.line([at, y + h, at, y + h + 4], { color: t.rule, width: 1 });
      p.text(stepText(step), at, y + h + 16, { color: t.muted, anchor: "middle", size: 10.5 });
    }
    if (title) p.text("step", x + w, y + h + 29, { color: t.muted, anchor: "end", size: 10.5 });
  }

  private hear(topic: Topic) {
    if (topic === "cursor") { if (this.visible && this.timed) this.drawOver(); }
    else if (topic === "time" && this.timed) { if (this.visible) this.drawOver(); }
    else if (topic === "data") { if (this.changed()) this.invalidate(); }
    else this.invalidate();
  }
  protected changed(): boolean { return true; }

  private dragTo: number | null = null;
  private listenToHands() {
    const at = (e: PointerEvent) => { const b = this.el.getBoundingClientRect(); return [e.clientX - b.left, e.clientY - b.top] as const; };
    this.el.addEventListener("pointermove", (e) => {
      const [x, y] = at(e);
      if (this.drag !== null && Math.abs(x - this.drag) > 6) { this.dragTo = x; hideTip(); this.drawOver(); return; }
      this.show(this.pick(x, y), e.clientX, e.clientY);
    });
    this.el.addEventListener("pointerleave", () => { this.drag = this.dragTo = null; this.show(null); });
    this.el.addEventListener("pointerdown", (e) => { if (e.button === 0 && this.timed && e.pointerType === "mouse") this.drag = at(e)[0]; });
    this.el.addEventListener("pointerup", (e) => {
      const from = this.drag, to = this.dragTo;
      this.drag = this.dragTo = null;
      if (from !== null && to !== null) {
        const a = Math.max(0, this.stepAt(Math.min(from, to))), b = this.stepAt(Math.max(from, to));
        if (b > a) { state.range = [a, b]; tell("view"); }
      } else {
        const [x, y] = at(e);
        const hit = this.pick(x, y);
        if (hit) showRecord(hit.fact, this.el);
      }
    });
    this.el.addEventListener("dblclick", () => { if (state.range) { state.range = null; tell("view"); } });
    this.el.addEventListener("blur", () => this.show(null));
    this.el.addEventListener("keydown", (e) => {
      const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1], PageUp: [10, 0], PageDown: [-10, 0], Home: [-1e9, 0], End: [1e9, 0] }[e.key];
      if (move) {
        e.preventDefault();
        if (!this.el.dataset.drawn) this.draw();
        const hit = this.nudge(this.hit, move[0]!, move[1]!);
        const b = this.el.getBoundingClientRect();
        if (hit) this.show(hit, b.left + hit.x, b.top + hit.y);
      } else if ((e.key === "Enter" || e.key === " ") && this.hit) { e.preventDefault(); showRecord(this.hit.fact, this.el); }
      else if (e.key === "Escape" && state.range) { state.range = null; tell("view"); }
    });
  }
  private show(hit: Hit | null, clientX = 0, clientY = 0) {
    const same = hit?.key === this.hit?.key;
    this.hit = hit;
    if (hit) {
      showTip(hit.fact, clientX, clientY);
      if (this.timed && state.cursor !== hit.step) { state.cursor = hit.step; tell("cursor"); }
      if (!same) this.drawOver();
    } else {
      hideTip();
      if (this.timed && state.cursor !== null) { state.cursor = null; tell("cursor"); }
      this.drawOver();
    }
  }
}
