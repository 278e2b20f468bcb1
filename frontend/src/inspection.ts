// One sentence at some checkpoints, as `lmtrace inspect` wrote it (records/inspection.py describes the form).

import { state, stepText } from "./state";

export interface Column { text: string; word: number | null; end: boolean }
export interface Missing { missing: string }
export interface LensRead { sites: string[]; surprisal: (number | null)[][]; top: [string, number][][] }
export interface ProbeRead { sites: string[]; reading: (number | null)[][]; confidence: (number | null)[][]; accuracy: number[]; control: number[]; majority: number; n: number }
export interface Maps { sites: string[]; streams: string[]; maps: number[][][][] }
export interface Moment {
  step: number; checkpoint: string; surprisal: (number | null)[]; rank: number[]; entropy: (number | null)[]; top: [string, number][][]; illegal: (number | null)[] | null;
  lens: LensRead | Missing; probes: Record<string, ProbeRead | Missing>; attention: Maps | Missing;
}
export interface Oracle {
  surprisal: (number | null)[]; entropy: (number | null)[]; allowed: number[]; top: [string, number][][]; accepted?: boolean; derivations?: number;
  error?: { kind: string; position: number; message: string; role: string | null } | null;
}
export interface Inspection {
  sentence: string; words: string[]; model: string; objective: string; columns: Column[]; inputs: Record<string, string[]>; uniform: number;
  layers: Record<string, string[]>; gold: Record<string, (string | null)[]>; oracle: Oracle | null; oracle_reason: string; moments: Moment[];
  got: { rule: string; columns: (number | null)[]; labels: Record<string, { site: string; words: (number | null)[] }> }; notes: string[]; created: string;
}

export const isMissing = (x: unknown): x is Missing => typeof (x as Missing)?.missing === "string";

/** The checkpoint that the slider chooses: the last one up to its step. */
export function momentOf(of: Inspection): Moment {
  const { moments } = of;
  if (state.time === null) return moments.at(-1)!;
  let found = moments[0]!;
  for (const m of moments) if (m.step <= state.time) found = m;
  return found;
}

/** What the oracle says of a column, where tokens are words and both read from left to right. */
export function exactAt(of: Inspection, column: number, values: (number | null)[] | undefined): number | null {
  if (!values || !comparable(of)) return null;
  const word = of.columns[column]!.word;
  return values[word ?? of.words.length] ?? null;
}

export function comparable(of: Inspection): boolean {
  const words = of.columns.filter((c) => c.word !== null);
  return of.oracle !== null && of.objective === "causal" && words.length === of.words.length && words.every((c, i) => c.word === i);
}

/** A step and, where the folder says more than the step, its name. */
export function momentName(m: Moment): string { return `step ${stepText(m.step)}${/^(checkpoint-)?\d*$/.test(m.checkpoint) ? "" : ` (${m.checkpoint})`}`; }

export function markedColumn(of: Inspection): number {
  const at = of.oracle?.error?.position;
  if (at === undefined) return -1;
  return of.columns.findIndex((c) => (at < of.words.length ? c.word === at : c.word === null));
}
