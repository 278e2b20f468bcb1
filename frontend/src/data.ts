// Reads the payload that show/payload.py packs (the form is described in show/pack.py).

import { Inspection } from "./inspection";

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
  /** Appends one row after `rows` others; what was constant becomes explicit once it changes. */
  append(rows: number, values: (number | null)[] | null): void {
    const same = (c: number) => { const v = values?.[c]; return v === null || v === undefined ? NaN : Math.fround(v); };
    if (!this.data) {
      let still = true;
      for (let c = 0; c < this.cols && still; c++) { const v = same(c), was = this.row ? Math.fround(this.row[c]!) : NaN; still = v === was || (v !== v && was !== was); }
      if (still) return;
    }
    const needed = (rows + 1) * this.cols;
    if (!this.data || this.data.length < needed) {
      const next = new Float32Array(Math.max(64 * this.cols, needed + (needed >> 1)));
      if (this.data) next.set(this.data);
      else for (let r = 0; r < rows; r++) for (let c = 0; c < this.cols; c++) next[r * this.cols + c] = this.row ? this.row[c]! : NaN;
      this.data = next;
      this.row = null;
    }
    for (let c = 0; c < this.cols; c++) this.data[rows * this.cols + c] = same(c);
  }
}

export interface Series {
  run: number; signal: string; metric: string; label: string | null; split: string | null;
  sites: (string | null)[]; rows: number; total: number; steps: Float64Array;
  values: Grid; stderr: Grid; null: Grid; n: Grid; missing: Uint8Array | null; reasons: string[]; field: Field;
  /** Where several series are shown as one, its columns: a series and its column. */
  parts?: { series: Series; col: number }[];
}

export interface Arrays {
  run: number; signal: string; metric: string; label: string | null; split: string | null; site: string | null;
  total: number; steps: Float64Array; shapes: number[][]; frames: Float32Array[]; field: Field;
}

export interface Finding { [key: string]: unknown; kind?: string; sentence?: string }
export interface Event { step: number; kind: string; text: string; data: Record<string, unknown>; time: number }

export interface Run {
  id: string; cursor: number; name: string; header: Record<string, any>; fields: Record<string, Record<string, Field>>;
  findings: Finding[]; /** The dashboard is still waiting for them. */ waiting?: boolean; events: Event[]; series: Series[]; arrays: Arrays[]; inspections: Inspection[];
  /** With the first run: how it and the others differ. */ comparison?: Finding[];
}

class JoinedGrid extends Grid {
  constructor(private parts: { series: Series; col: number }[], private name: "values" | "stderr" | "null" | "n", private steps: () => Float64Array) { super(parts.length, null, null); }
  override at(row: number, col: number): number {
    const { series, col: own } = this.parts[col]!, step = this.steps()[row]!;
    const at = series.steps[row] === step ? row : rowAt(series.steps, step);
    return at >= 0 && series.steps[at] === step ? series[this.name].at(at, own) : NaN;
  }
  override get empty(): boolean { return this.parts.every((p) => p.series[this.name].empty); }
}

/** Shows columns of several series as the sites of one; it follows them when they grow. */
export function join(parts: { series: Series; col: number }[], names: string[]): Series {
  const first = parts[0]!.series;
  let longest = first;
  for (const p of parts) if (p.series.rows > longest.rows) longest = p.series;
  const grid = (name: "values" | "stderr" | "null" | "n") => new JoinedGrid(parts, name, () => longest.steps);
  return {
    run: first.run, signal: first.signal, metric: first.metric, label: first.label, split: first.split, sites: names, field: first.field,
    get rows() { return longest.rows; }, get total() { return longest.total; }, get steps() { return longest.steps; },
    values: grid("values"), stderr: grid("stderr"), null: grid("null"), n: grid("n"), missing: null, reasons: [], parts,
  };
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
  const runs = head.runs.map((r: any, run: number): Run => {
    const field = (s: any): Field =>
      r.fields[s.signal]?.[s.metric] ??
      { metric: s.metric, title: `${s.signal} ${s.metric}`.replace(/_/g, " "), unit: "1", low: null, high: null, better: "", null: "", meaning: "", axis: "" };
    return {
      id: r.id ?? r.name, cursor: r.cursor ?? 0, name: r.name, header: r.header, fields: r.fields, findings: r.findings, events: r.events, inspections: r.inspections ?? [],
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
  if (runs.length > 1) runs[0]!.comparison = head.comparison ?? [];
  return runs;
}

/** A series with no rows yet. */
export function emptySeries(run: number, key: [string, string, string | null, string | null], sites: (string | null)[], field: Field): Series {
  const grid = () => new Grid(sites.length, null, null);
  return { run, signal: key[0], metric: key[1], label: key[2], split: key[3], sites, rows: 0, total: 0, steps: new Float64Array(0), values: grid(), stderr: grid(), null: grid(), n: grid(), missing: null, reasons: [], field };
}

/** Adds a row at the end; false where the step is not new. */
export function append(s: Series, step: number, row: { values: (number | null)[]; stderr?: (number | null)[]; null?: (number | null)[]; n?: (number | null)[]; missing?: (string | null)[] }): boolean {
  if (s.rows && step <= s.steps[s.rows - 1]!) return false;
  const store = new Float64Array(s.steps.buffer);
  if (store.length > s.rows) { store[s.rows] = step; s.steps = store.subarray(0, s.rows + 1); }
  else {
    const next = new Float64Array(Math.max(64, s.rows * 1.5 + 1));
    next.set(s.steps);
    next[s.rows] = step;
    s.steps = next.subarray(0, s.rows + 1);
  }
  s.values.append(s.rows, row.values);
  s.stderr.append(s.rows, row.stderr ?? null);
  s.null.append(s.rows, row.null ?? null);
  s.n.append(s.rows, row.n ?? null);
  const cols = s.sites.length;
  if (s.missing || row.missing?.some(Boolean)) {
    const next = new Uint8Array((s.rows + 1) * cols);
    if (s.missing) next.set(s.missing);
    row.missing?.forEach((reason, c) => {
      if (!reason) return;
      let code = s.reasons.indexOf(reason) + 1;
      if (!code && s.reasons.length < 255) code = s.reasons.push(reason);
      next[s.rows * cols + c] = code;
    });
    s.missing = next;
  }
  s.rows++;
  s.total++;
  return true;
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
  const part = s.parts?.[col];
  if (part) { const at = rowAt(part.series.steps, s.steps[row]!); return at >= 0 && part.series.steps[at] === s.steps[row] ? reasonAt(part.series, at, part.col) : ""; }
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
