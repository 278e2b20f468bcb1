// What all figures share: the step axis, the zoom, the cursor, the moment that is replayed, the theme.

export type Axis = "log" | "linear";
export type Topic = "cursor" | "view" | "time" | "theme" | "data";

export const state = {
  axis: "log" as Axis,
  /** Zoomed range of steps, or null for everything. */
  range: null as [number, number] | null,
  cursor: null as number | null,
  /** Replay: nothing after this step is shown; null is the end. */
  time: null as number | null,
  /** What is shown: the run, or the sentences that were inspected. */
  page: (location.hash === "#sentences" ? "sentences" : "run") as "run" | "sentences",
  lastStep: 1,
  /** First measured step after 0: the unit of the logarithmic axis. */
  unit: 1,
  /** Site shown where several runs are overlaid. */
  site: null as string | null,
  runNames: [] as string[],
};

type Listener = (topic: Topic) => void;
const listeners = new Set<Listener>();
const waiting = new Set<Topic>();
let scheduled = 0;

/** Calls `listener` on every change; where it serves an element, until that element has left the page. */
export function listen(listener: Listener, of?: Element): () => void {
  let seen = false;
  const bound: Listener = of ? (topic) => { if (of.isConnected) { seen = true; listener(topic); } else if (seen) listeners.delete(bound); } : listener;
  listeners.add(bound);
  return () => listeners.delete(bound);
}

/** Tells every figure, once per frame and topic. */
export function tell(topic: Topic): void {
  waiting.add(topic);
  scheduled ||= requestAnimationFrame(() => {
    scheduled = 0;
    const topics = [...waiting];
    waiting.clear();
    for (const t of topics) for (const listener of [...listeners]) listener(t);
  });
}

/** Position of a step on the axis, before it is scaled to pixels. */
export function place(step: number): number {
  return state.axis === "log" ? Math.log10(1 + Math.max(step, 0) / state.unit) : step;
}

export function unplace(x: number): number {
  return state.axis === "log" ? (10 ** x - 1) * state.unit : x;
}

export function span(): [number, number] {
  return state.range ?? [0, state.lastStep];
}

export function stepTicks(width: number): number[] {
  const [low, high] = span();
  const wanted = Math.max(2, Math.floor(width / 62));
  if (state.axis === "linear" || (low > 0 && high / Math.max(low, 1) < 8)) return ticks(low, high, wanted);
  const all: number[] = low <= 0 ? [0] : [];
  for (let power = 10 ** Math.floor(Math.log10(state.unit)); power <= high; power *= 10)
    for (const m of [1, 2, 5]) if (m * power >= Math.max(low, state.unit) && m * power <= high) all.push(m * power);
  const out: number[] = [];
  const scale = width / (place(high) - place(low) || 1);
  const major = (s: number) => s === 0 || Math.log10(s) % 1 === 0;
  for (const s of [...all.filter(major), ...all.filter((t) => !major(t))])
    if (out.every((o) => Math.abs(place(o) - place(s)) * scale > 44)) out.push(s);
  return out.sort((a, b) => a - b);
}

export function ticks(low: number, high: number, wanted: number): number[] {
  const raw = (high - low) / Math.max(wanted, 1);
  if (!(raw > 0) || !Number.isFinite(raw)) return [low];
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((m) => m >= raw * 0.999)!;
  const out: number[] = [];
  for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + step * 1e-9; v += step) out.push(Math.abs(v) < step * 1e-9 ? 0 : v);
  return out;
}

export function number(value: number, digits = 3): string {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 1e6 || size < 1e-4) return value.toExponential(digits - 1).replace("e+", "e").replace("-", "−");
  const text = size >= 1000 ? Math.round(value).toLocaleString("en") : String(+value.toPrecision(digits));
  return text.replace("-", "−");
}

export function stepText(step: number): string {
  if (step >= 1e6) return +(step / 1e6).toPrecision(3) + "M";
  if (step >= 1e4) return +(step / 1e3).toPrecision(3) + "k";
  return String(Math.round(step * 10) / 10);
}

/** A value with its unit; shares and ratios have none. */
export function withUnit(value: number, unit: string, digits = 3): string {
  return unit === "1" || !unit ? number(value, digits) : `${number(value, digits)} ${unit}`;
}
