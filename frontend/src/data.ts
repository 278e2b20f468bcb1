// Reads the payload that show/payload.py packs (the form is described in show/pack.py).

export interface Field {
  metric: string; title: string; unit: string; low: number | null; high: number | null;
  better: string; null: string; meaning: string; axis: string;
}

type Packed = { t: string; o: number; n: number } | { c: number } | { r: number[] } | undefined | null;

/** Numbers by [row, column]; NaN where there is none. */
export class Grid {
  constructor(public cols: number, public data: Float32Array | null, private row: number[] | null) {}
  at(row: number, col: number): number {
    return this.data ? this.data[row * this.cols + col]! : this.row ? this.row[col]! : NaN;
  }
  get empty(): boolean { return !this.data && !this.row; }
  /** Appends one row; what was constant becomes explicit once it changes. */
  append(rows: number, values: number[] | null): void {
    if (!this.data && !values && !this.row) return;
    if (!this.data && this.row && values && this.row.every((v, i) => v === Math.fround(values[i]!))) return;
    const next = new Float32Array((rows + 1) * this.cols);
    for (let r = 0; r < rows; r++) for (let c = 0; c < this.cols; c++) next[r * this.cols + c] = this.at(r, c);
    for (let c = 0; c < this.cols; c++) next[rows * this.cols + c] = values ? values[c]! : NaN;
    this.data = next;
    this.row = null;
  }
}

export interface Series {
  run: number; signal: string; metric: string; label: string | null; split: string | null;
  sites: (string | null)[]; rows: number; total: number; steps: Float64Array;
  values: Grid; stderr: Grid; null: Grid; n: Grid; missing: Uint8Array | null; reasons: string[]; field: Field;
}

export interface Arrays {
  run: number; signal: string; metric: string; label: string | null; split: string | null; site: string | null;
  total: number; steps: Float64Array; shapes: number[][]; frames: Float32Array[]; field: Field;
}

export interface Finding { [key: string]: unknown; kind?: string; sentence?: string }
export interface Event { step: number; kind: string; text: string; data: Record<string, unknown>; time: number }

export interface Run {
  id: string; name: string; header: Record<string, any>; fields: Record<string, Record<string, Field>>;
  findings: Finding[]; events: Event[]; series: Series[]; arrays: Arrays[];
}

export async function inflate(bytes: Uint8Array): Promise<Uint8Array> {
  const stream = new Blob([bytes as BlobPart]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

export async function fromBase64(text: string): Promise<Uint8Array> {
  const raw = atob(text.trim());
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return inflate(bytes);
}

export function decode(body: Uint8Array): Run[] {
  const length = new DataView(body.buffer, body.byteOffset).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(body.subarray(4, 4 + length)));
  const blob = body.subarray(4 + length);
  const planes = (p: { o: number; n: number }, width: number): Uint8Array => {
    const bytes = new Uint8Array(p.n * width);
    for (let w = 0; w < width; w++) for (let i = 0, at = p.o + w * p.n; i < p.n; i++) bytes[i * width + w] = blob[at + i]!;
    return bytes;
  };
  const floats = (p: { o: number; n: number }) => new Float32Array(planes(p, 4).buffer);
  const grid = (p: Packed, cols: number): Grid =>
    !p ? new Grid(cols, null, null)
      : "c" in p ? new Grid(cols, null, new Array(cols).fill(p.c))
      : "r" in p ? new Grid(cols, null, p.r)
      : new Grid(cols, floats(p), null);
  const steps = (p: any): Float64Array => {
    const differences = new Int32Array(planes(p, 4).buffer);
    const out = new Float64Array(differences.length);
    let sum = 0;
    for (let i = 0; i < out.length; i++) out[i] = sum += differences[i]!;
    return out;
  };
  const flat = (p: any, size: number): Float32Array =>
    !p ? new Float32Array(size).fill(NaN) : "c" in p ? new Float32Array(size).fill(p.c) : "r" in p ? Float32Array.from(p.r) : floats(p);
  return head.runs.map((r: any, run: number): Run => {
    const field = (s: any): Field =>
      r.fields[s.signal]?.[s.metric] ??
      { metric: s.metric, title: `${s.signal} ${s.metric}`.replace(/_/g, " "), unit: "1", low: null, high: null, better: "", null: "", meaning: "", axis: "" };
    return {
      id: r.id ?? r.name, name: r.name, header: r.header, fields: r.fields, findings: r.findings, events: r.events,
      series: r.series.map((s: any): Series => ({
        run, signal: s.signal, metric: s.metric, label: s.label, split: s.split, sites: s.sites, rows: s.rows, total: s.total,
        steps: steps(s.steps), values: grid(s.values, s.sites.length), stderr: grid(s.stderr, s.sites.length),
        null: grid(s.null, s.sites.length), n: grid(s.n, s.sites.length),
        missing: s.missing ? planes(s.missing, 1) : null, reasons: s.reasons ?? [], field: field(s),
      })),
      arrays: r.arrays.map((a: any): Arrays => ({
        run, signal: a.signal, metric: a.metric, label: a.label, split: a.split, site: a.site, total: a.total, steps: steps(a.steps),
        shapes: a.frames.map((f: any) => f.shape),
        frames: a.frames.map((f: any) => flat(f.data, f.shape.reduce((x: number, y: number) => x * y, 1))), field: field(a),
      })),
    };
  });
}

/** Index of the last step that is at most `step`; -1 where there is none. */
export function rowAt(steps: Float64Array, step: number): number {
  let low = 0, high = steps.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle]! <= step) low = middle + 1; else high = middle;
  }
  return low - 1;
}

export function nearestRow(steps: Float64Array, step: number): number {
  const row = rowAt(steps, step);
  if (row < 0) return 0;
  if (row + 1 < steps.length && steps[row + 1]! - step < step - steps[row]!) return row + 1;
  return row;
}

export function reasonAt(s: Series, row: number, col: number): string {
  const code = s.missing?.[row * s.sites.length + col] ?? 0;
  return code ? s.reasons[code - 1] ?? "missing" : "";
}

export function siteName(site: string | null): string {
  return site === null ? "whole model" : site.replace(/\.(\d+)$/, " $1").replace(/\./g, " ");
}

export function labelName(label: string | null): string {
  return label === null ? "all" : label.replace("=", ": ").replace(/_/g, " ");
}

export function labelValue(label: string | null): string {
  return label === null ? "all" : label.includes("=") ? label.slice(label.indexOf("=") + 1).replace(/_/g, " ") : label.replace(/_/g, " ");
}

export function labelLayer(label: string | null): string | null {
  return label === null ? null : label.split("=")[0]!;
}
