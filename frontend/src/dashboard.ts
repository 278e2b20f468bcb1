// The live page: a list of runs, the chosen ones overlaid, and new numbers as they are written.

import { append, Arrays, decode, emptySeries, Field, inflate, Run, Series } from "./data";
import { category } from "./color";
import { h } from "./figure";
import { frame, isDark, page, setReady, status } from "./page";
import { state, stepText, tell } from "./state";

interface Summary { id: string; name: string; status: string; step: number | null; measurements: number; model?: string; created?: string; error?: string; inspections?: string }
interface Delta {
  run: string; status: string; cursor: number; supersededAfter?: number | null;
  rows?: { step: number; key: [string, string, string | null, string | null]; sites: (string | null)[]; values: (number | null)[]; stderr: (number | null)[]; null: (number | null)[]; n: (number | null)[]; missing: (string | null)[] }[];
  arrays?: { signal: string; metric: string; label: string | null; split: string | null; site: string | null; step: number; shape: number[]; data: number[] }[];
  scalars?: Record<string, { steps: number[]; values: (number | null)[] }>;
  events?: Run["events"];
}

let runs: Run[] = [];
let chosen: string[] = [];
let stream: EventSource | null = null;
let rebuild = 0;
let turn = 0;
const list = h("div", { class: "runs" });

export async function startDashboard(): Promise<void> {
  chosen = new URLSearchParams(location.search).getAll("run");
  await refresh();
  setInterval(() => { if (!document.hidden) void refresh(); }, 3000);
}

async function ask(path: string): Promise<Response | null> {
  try {
    const answer = await fetch(path);
    note(answer.ok ? "" : (await answer.json().catch(() => ({})) as { error?: string }).error ?? `The server answered ${answer.status}.`);
    return answer.ok ? answer : null;
  } catch {
    note("The server does not answer; it is tried again.");
    return null;
  }
}

function note(text: string) {
  let line = document.querySelector<HTMLElement>(".broken.server");
  if (!text) { line?.remove(); return; }
  line ??= h("p", { class: "broken server", role: "status" });
  line.textContent = text;
  if (!line.isConnected) document.querySelector("main")?.prepend(line);
}

let shown = "";
async function refresh() {
  const answer = await ask("/api/runs");
  if (!answer) return;
  const { folder, runs: found } = (await answer.json()) as { folder: string; runs: Summary[] };
  const there = new Set(found.filter((r) => r.measurements >= 0 && r.status !== "unreadable").map((r) => r.id));
  chosen = chosen.filter((id) => there.has(id));
  if (!chosen.length) {
    const first = found.find((r) => there.has(r.id));
    if (first) chosen = [first.id];
  }
  fill(found);
  if (!found.length) { document.querySelector("main")?.replaceChildren(h("p", {}, `There is no run in ${folder} yet. One appears here as soon as it is written.`)); setReady(true); return; }
  for (const summary of found) void sentences(summary);
  if (chosen.join("\n") !== shown) { shown = chosen.join("\n"); await open(); }
}

const stamps = new Map<string, string>();
/** Sentences that were inspected since the page was made. */
async function sentences({ id, inspections = "" }: Summary) {
  const run = runs.find((r) => r.id === id), before = stamps.get(id);
  stamps.set(id, inspections);
  if (!run || before === undefined || before === inspections) return;
  const answer = await ask(`/api/inspections?run=${encodeURIComponent(id)}`);
  if (!answer || !runs.includes(run)) return;
  run.inspections = ((await answer.json()) as Record<string, Run["inspections"]>)[id] ?? [];
  page(runs, { side: list, live: true });
  setReady(true);
}

function fill(found: Summary[]) {
  const before = document.activeElement instanceof HTMLInputElement ? document.activeElement.value : null;
  const group = h("fieldset", {}, h("legend", {}, `${found.length} ${found.length === 1 ? "run" : "runs"}`));
  for (const run of found) {
    const box = h("input", { type: "checkbox", value: run.id });
    box.checked = chosen.includes(run.id);
    box.disabled = run.status === "unreadable";
    box.onchange = () => {
      chosen = box.checked ? [...chosen, run.id] : chosen.filter((id) => id !== run.id);
      if (!chosen.length) { chosen = [run.id]; box.checked = true; return; }
      const query = new URLSearchParams(chosen.map((id) => ["run", id]));
      history.replaceState(null, "", `?${query}${location.hash}`);
      shown = chosen.join("\n");
      void open();
    };
    const swatch = h("span", { class: "swatch", "aria-hidden": "true" });
    const at = chosen.indexOf(run.id);
    swatch.style.background = at >= 0 && chosen.length > 1 ? category(at, isDark()) : "transparent";
    const detail = run.error ?? (run.step === null ? "no measurement yet" : `step ${stepText(run.step)}`);
    group.append(h("label", run.error ? { title: run.error } : {}, box, swatch, h("span", { class: "name" }, run.name), status(run.status), h("small", {}, detail)));
  }
  list.replaceChildren(group);
  if (before) list.querySelectorAll("input").forEach((i) => { if (i.value === before) i.focus({ preventScroll: true }); });
}

async function open() {
  const mine = ++turn;
  stream?.close();
  stream = null;
  setReady(false);
  const query = new URLSearchParams(chosen.map((id) => ["run", id]));
  const answer = await ask(`/api/payload?${query}`);
  if (!answer || mine !== turn) { if (!answer) shown = ""; return; }
  runs = decode(await inflate(new Uint8Array(await answer.arrayBuffer())));
  runs.forEach((r) => { if (r.id !== "." || !r.name) r.name = r.id === "." ? r.name : r.id; });
  for (const run of runs) run.waiting = true;
  window.lmtrace.runs = runs;
  state.time = null;
  page(runs, { side: list, live: true });
  requestAnimationFrame(() => setReady(true));
  follow();
  const found = await ask(`/api/findings?${query}`);
  if (!found || mine !== turn) return;
  const byRun = (await found.json()) as Record<string, Run["findings"]>;
  for (const run of runs) { run.findings = byRun[run.id] ?? []; run.waiting = false; }
  if (runs.length > 1) {
    const between = await ask(`/api/comparison?${query}`);
    if (!between || mine !== turn) return;
    runs[0]!.comparison = (await between.json()) as Run["findings"];
  }
  page(runs, { side: list, live: true });
  setReady(true);
}

function follow() {
  const query = runs.map((r) => `run=${encodeURIComponent(`${r.id}@${r.cursor}`)}`).join("&");
  const source = (stream = new EventSource(`/api/live?${query}`));
  source.onmessage = (e) => receive(JSON.parse(e.data) as Delta);
  source.addEventListener("broken", () => { source.close(); shown = ""; });
  // The browser would ask again with the first cursors; ask with the newest instead.
  source.onerror = () => { source.close(); if (stream === source) setTimeout(() => { if (stream === source) follow(); }, 1500); };
}

/** Adds what a run gained; returns through the shared state, so that only what changed is drawn again. */
export function receive(delta: Delta) {
  const began = performance.now();
  const index = runs.findIndex((r) => r.id === delta.run), run = runs[index];
  if (!run) return;
  if (delta.supersededAfter !== null && delta.supersededAfter !== undefined) { void open(); return; }
  run.cursor = delta.cursor;
  if (delta.status !== run.header.status) {
    const was = run.header.status;
    run.header.status = delta.status;
    document.querySelector(`.state[data-run="${CSS.escape(run.id)}"]`)?.replaceChildren(status(delta.status));
    if (was === "running") void findingsAgain(run);
  }
  let fresh = false;
  const known = byKey(run);
  const series = (key: [string, string, string | null, string | null], sites: (string | null)[]): Series => {
    const name = JSON.stringify(key);
    let found = known.get(name);
    if (!found) { found = emptySeries(index, key, sites, fieldOf(run, key[0], key[1])); run.series.push(found); known.set(name, found); fresh = true; }
    return found;
  };
  for (const row of delta.rows ?? []) {
    const s = series(row.key, row.sites);
    if (row.sites.length === s.sites.length && row.sites.every((site, i) => site === s.sites[i])) { append(s, row.step, row); fresh ||= s.rows === 2; continue; }
    if (row.sites.some((site) => !s.sites.includes(site))) { void open(); return; }
    const sort = <T>(values: T[]): (T | null)[] => s.sites.map((site) => { const at = row.sites.indexOf(site); return at < 0 ? null : values[at]!; });
    append(s, row.step, { values: sort(row.values), stderr: sort(row.stderr), null: sort(row.null), n: sort(row.n), missing: sort(row.missing) });
  }
  for (const [metric, { steps, values }] of Object.entries(delta.scalars ?? {})) {
    const s = series(["train", metric, null, null], [null]);
    steps.forEach((step, i) => append(s, step, { values: [values[i]!] }));
  }
  for (const a of delta.arrays ?? []) {
    let found: Arrays | undefined = run.arrays.find((b) => b.signal === a.signal && b.metric === a.metric && b.label === a.label && b.split === a.split && b.site === a.site);
    if (!found) {
      found = { run: index, signal: a.signal, metric: a.metric, label: a.label, split: a.split, site: a.site, total: 0, steps: new Float64Array(0), shapes: [], frames: [], field: fieldOf(run, a.signal, a.metric) };
      run.arrays.push(found);
      fresh = true;
    }
    if (found.steps.length && a.step <= found.steps.at(-1)!) continue;
    found.steps = Float64Array.from([...found.steps, a.step]);
    found.shapes.push(a.shape);
    found.frames.push(Float32Array.from(a.data));
    found.total++;
  }
  run.events.push(...(delta.events ?? []));
  const unit = state.unit;
  frame(runs);
  if (fresh) {
    clearTimeout(rebuild);
    rebuild = window.setTimeout(() => page(runs, { side: list, live: true }), 200);
  } else if (delta.rows?.length || delta.arrays?.length || Object.keys(delta.scalars ?? {}).length) {
    tell(state.unit === unit ? "data" : "view");
    requestAnimationFrame(() => { window.lmtrace.live = performance.now() - began; window.lmtrace.updates++; });
  }
}

const indices = new WeakMap<Run, Map<string, Series>>();
function byKey(run: Run): Map<string, Series> {
  let found = indices.get(run);
  if (!found) indices.set(run, (found = new Map(run.series.map((s) => [JSON.stringify([s.signal, s.metric, s.label, s.split]), s]))));
  return found;
}

async function findingsAgain(run: Run) {
  const answer = await ask(`/api/findings?run=${encodeURIComponent(run.id)}`);
  if (!answer || !runs.includes(run)) return;
  run.findings = ((await answer.json()) as Record<string, Run["findings"]>)[run.id] ?? [];
  page(runs, { side: list, live: true });
}

function fieldOf(run: Run, signal: string, metric: string): Field {
  const known = run.fields[signal]?.[metric];
  return known ?? { metric, title: `${signal === "train" ? "" : signal} ${metric}`.trim().replace(/_/g, " "), unit: metric === "loss" ? "nats" : "1", low: null, high: null, better: "", null: "", meaning: "", axis: "" };
}
