// One drawing code for the screen (canvas) and for saved figures (SVG).

export interface Stroke { color: string; width?: number; dash?: number[]; alpha?: number }
export interface TextStyle { color: string; size?: number; anchor?: "start" | "middle" | "end"; weight?: number; baseline?: "middle" | "auto"; halo?: string }

export interface Painter {
  rect(x: number, y: number, w: number, h: number, fill: string, alpha?: number): void;
  /** x0, y0, x1, y1, ...; NaN breaks the line. */
  line(points: ArrayLike<number>, stroke: Stroke): void;
  area(points: ArrayLike<number>, fill: string, alpha: number): void;
  circle(x: number, y: number, r: number, fill: string, stroke?: string): void;
  text(text: string, x: number, y: number, style: TextStyle): void;
  clip(x: number, y: number, w: number, h: number, inside: () => void): void;
}

export const FONT = `Inter, ui-sans-serif, system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif`;

export class CanvasPainter implements Painter {
  constructor(private ctx: CanvasRenderingContext2D) {}
  rect(x: number, y: number, w: number, h: number, fill: string, alpha = 1) {
    const { ctx } = this;
    ctx.globalAlpha = alpha;
    ctx.fillStyle = fill;
    ctx.fillRect(x, y, w, h);
    ctx.globalAlpha = 1;
  }
  private trace(points: ArrayLike<number>) {
    const { ctx } = this;
    ctx.beginPath();
    let down = false;
    for (let i = 0; i < points.length; i += 2) {
      const x = points[i]!, y = points[i + 1]!;
      if (x !== x || y !== y) { down = false; continue; }
      if (down) ctx.lineTo(x, y); else ctx.moveTo(x, y);
      down = true;
    }
  }
  line(points: ArrayLike<number>, stroke: Stroke) {
    const { ctx } = this;
    this.trace(points);
    ctx.globalAlpha = stroke.alpha ?? 1;
    ctx.strokeStyle = stroke.color;
    ctx.lineWidth = stroke.width ?? 1.5;
    ctx.lineJoin = "round";
    ctx.lineCap = "round";
    ctx.setLineDash(stroke.dash ?? []);
    ctx.stroke();
    ctx.setLineDash([]);
    ctx.globalAlpha = 1;
  }
  area(points: ArrayLike<number>, fill: string, alpha: number) {
    this.trace(points);
    this.ctx.globalAlpha = alpha;
    this.ctx.fillStyle = fill;
    this.ctx.fill();
    this.ctx.globalAlpha = 1;
  }
  circle(x: number, y: number, r: number, fill: string, stroke?: string) {
    const { ctx } = this;
    ctx.beginPath();
    ctx.arc(x, y, r, 0, 2 * Math.PI);
    ctx.fillStyle = fill;
    ctx.fill();
    if (stroke) { ctx.strokeStyle = stroke; ctx.lineWidth = 1.5; ctx.stroke(); }
  }
  text(text: string, x: number, y: number, style: TextStyle) {
    const { ctx } = this;
    ctx.font = `${style.weight ?? 400} ${style.size ?? 11}px ${FONT}`;
    ctx.textAlign = style.anchor === "middle" ? "center" : style.anchor ?? "start";
    ctx.textBaseline = style.baseline === "middle" ? "middle" : "alphabetic";
    if (style.halo) { ctx.strokeStyle = style.halo; ctx.lineWidth = 3; ctx.lineJoin = "round"; ctx.strokeText(text, x, y); }
    ctx.fillStyle = style.color;
    ctx.fillText(text, x, y);
  }
  clip(x: number, y: number, w: number, h: number, inside: () => void) {
    this.ctx.save();
    this.ctx.beginPath();
    this.ctx.rect(x, y, w, h);
    this.ctx.clip();
    inside();
    this.ctx.restore();
  }
}

const escapes: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
export const escape = (text: string) => text.replace(/[&<>"]/g, (c) => escapes[c]!);
const r = (v: number) => String(Math.round(v * 100) / 100);

export class SvgPainter implements Painter {
  private parts: string[] = [];
  private clips = 0;
  constructor(private prefix = "c") {}
  rect(x: number, y: number, w: number, h: number, fill: string, alpha = 1) {
    this.parts.push(`<rect x="${r(x)}" y="${r(y)}" width="${r(w)}" height="${r(h)}" fill="${escape(fill)}"${alpha < 1 ? ` fill-opacity="${r(alpha)}"` : ""}/>`);
  }
  private d(points: ArrayLike<number>): string {
    let out = "", down = false;
    for (let i = 0; i < points.length; i += 2) {
      const x = points[i]!, y = points[i + 1]!;
      if (x !== x || y !== y) { down = false; continue; }
      out += `${down ? "L" : "M"}${r(x)} ${r(y)}`;
      down = true;
    }
    return out;
  }
  line(points: ArrayLike<number>, s: Stroke) {
    const dash = s.dash?.length ? ` stroke-dasharray="${s.dash.join(" ")}"` : "";
    const alpha = (s.alpha ?? 1) < 1 ? ` stroke-opacity="${r(s.alpha!)}"` : "";
    this.parts.push(`<path d="${this.d(points)}" fill="none" stroke="${escape(s.color)}" stroke-width="${r(s.width ?? 1.5)}" stroke-linejoin="round" stroke-linecap="round"${dash}${alpha}/>`);
  }
  area(points: ArrayLike<number>, fill: string, alpha: number) {
    this.parts.push(`<path d="${this.d(points)}Z" fill="${escape(fill)}" fill-opacity="${r(alpha)}"/>`);
  }
  circle(x: number, y: number, radius: number, fill: string, stroke?: string) {
    this.parts.push(`<circle cx="${r(x)}" cy="${r(y)}" r="${r(radius)}" fill="${escape(fill)}"${stroke ? ` stroke="${escape(stroke)}" stroke-width="1.5"` : ""}/>`);
  }
  text(text: string, x: number, y: number, s: TextStyle) {
    const shift = s.baseline === "middle" ? (s.size ?? 11) * 0.35 : 0;
    const halo = s.halo ? ` paint-order="stroke" stroke="${escape(s.halo)}" stroke-width="3" stroke-linejoin="round"` : "";
    this.parts.push(`<text x="${r(x)}" y="${r(y + shift)}" font-size="${s.size ?? 11}" fill="${escape(s.color)}" text-anchor="${s.anchor ?? "start"}"${s.weight ? ` font-weight="${s.weight}"` : ""}${halo}>${escape(text)}</text>`);
  }
  clip(x: number, y: number, w: number, h: number, inside: () => void) {
    const id = `${this.prefix}${this.clips++}`;
    this.parts.push(`<clipPath id="${id}"><rect x="${r(x)}" y="${r(y)}" width="${r(w)}" height="${r(h)}"/></clipPath><g clip-path="url(#${id})">`);
    inside();
    this.parts.push("</g>");
  }
  inner(): string { return this.parts.join(""); }
}

let measure: CanvasRenderingContext2D | null = null;
export function textWidth(text: string, size = 11, weight = 400): number {
  measure ??= document.createElement("canvas").getContext("2d")!;
  measure.font = `${weight} ${size}px ${FONT}`;
  return measure.measureText(text).width;
}
