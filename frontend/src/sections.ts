// The order in which a reader needs it: verdicts, loss, when, where, then every signal, costs, provenance.

import { category, depth, theme } from "./color";
import { Curves, lastFinite, Level, Line } from "./curves";
import { Arrays, labelLayer, labelName, labelValue, Run, Series, siteName } from "./data";
import { emergences, findingCards } from "./findings";
import { Facet, Figure, h } from "./figure";
import { Heat, heatScale, HeatScale, paintBar } from "./heat";
import { limits, Matrix, Ridges } from "./arrays";
import { Profiles } from "./profiles";
import { errorSection } from "./errors";
import { costSection, provenance } from "./provenance";
import { state } from "./state";
import { Timeline } from "./timeline";

interface Chapter { id: string; title: string; about: string; signals: string[] }
const CHAPTERS: Chapter[] = [
  { id: "probe", title: "What can be read from it", about: "Linear probes on held-out words. A probe counts only above its control and above the majority class.", signals: ["probe", "tree_probe", "belief"] },
  { id: "dimension", title: "Dimension", about: "How many directions the cloud of tokens uses at each depth.", signals: ["dimension"] },
  { id: "curvature", title: "Curvature", about: "The shape of the loss around the weights, on a fixed batch.", signals: ["curvature", "landscape"] },
  { id: "output", title: "What it gets right", about: "Teacher-forced predictions on the panel, by what is predicted.", signals: ["output", "truth", "ladder"] },
  { id: "errors", title: "Errors", about: "Generated sentences, parsed with the grammar.", signals: ["errors"] },
  { id: "pairs", title: "Minimal pairs", about: "Share of pairs in which the good sentence is the more likely one.", signals: ["pairs"] },
  { id: "attention", title: "Attention heads", about: "What each head looks at. The slider at the bottom chooses the step.", signals: ["attention"] },
  { id: "inside", title: "Lens, similarity, gradients, weights", about: "", signals: ["lens", "similarity", "gradient", "weights"] },
];
const HIDDEN = new Set(["cost", "costs", "train"]);

export function sections(runs: Run[]): HTMLElement[] {
  const all = runs.flatMap((r) => r.series), arrays = runs.flatMap((r) => r.arrays);
  const out: (HTMLElement | null)[] = [
    verdicts(runs), lossSection(runs, all), timelineSection(runs), mapSection(runs, all),
  ];
  const known = new Set(CHAPTERS.flatMap((c) => c.signals));
  const others = [...new Set([...all, ...arrays].map((s) => s.signal))].filter((s) => !known.has(s) && !HIDDEN.has(s));
  for (const c of CHAPTERS) out.push(chapter(c, runs, all, arrays));
  for (const name of others) out.push(chapter({ id: `signal-${slug(name)}`, title: capital(name.replace(/_/g, " ")), about: "", signals: [name] }, runs, all, arrays));
  out.push(costSection(runs, all), provenance(runs));
  return out.filter((s): s is HTMLElement => s !== null);
}

export function section(id: string, title: string, about: string, ...children: (Node | null)[]): HTMLElement | null {
  const kept = children.filter((c): c is Node => c !== null);
  if (!kept.length) return null;
  const head = h("header", {}, h("h2", { id: `${id}-title` }, title));
  if (about) head.append(h("p", {}, about));
  return h("section", { id, "aria-labelledby": `${id}-title` }, head, ...kept);
}

export const slug = (text: string) => text.toLowerCase().replace(/[^a-z0-9]+/g, "-");
export const capital = (text: string) => text.charAt(0).toUpperCase() + text.slice(1);

function verdicts(runs: Run[]): HTMLElement | null {
  const parts: Node[] = [];
  for (const run of runs) {
    const cards = findingCards(run);
    if (!cards) continue;
    if (runs.length > 1) parts.push(h("h3", { class: "whose" }, run.name));
    parts.push(cards);
  }
  return section("findings", "Findings", "", ...parts);
}

// ------------------------------------------------------------------------------------------------------------------ loss
function lossSection(runs: Run[], all: Series[]): HTMLElement | null {
  const many = runs.length > 1, lines: Line[] = [], levels: Level[] = [];
  const color = (run: number, fallback: number) => (t: { dark: boolean }) => category(many ? run : fallback, t.dark);
  for (const s of all) if (s.signal === "train" && s.metric === "loss") lines.push({ series: s, col: 0, name: many ? "" : "training", color: color(s.run, 6), width: 1, alpha: many ? 0.3 : 0.4, quiet: true });
  for (const s of all) if (s.signal === "output" && s.metric === "loss" && s.label === null && s.split === null && s.sites.length === 1)
    lines.push({ series: s, col: 0, name: many ? runs[s.run]!.name : "panel", color: color(s.run, 0), width: 2, band: true });
  if (!lines.length) return null;
  if (many && lines.every((l) => !l.name)) lines.forEach((l) => { l.name = runs[l.series.run]!.name; l.alpha = 0.9; });
  const law = all.find((s) => s.run === 0 && s.signal === "truth" && s.metric === "floor" && s.label === null && s.rows);
  const floor = runs[0]!.header.data?.floor_nats ?? (law ? lastFinite(law, 0, false) : null);
  if (typeof floor === "number" && Number.isFinite(floor)) levels.push({ name: "floor", value: floor });
  for (const s of all) if (s.run === 0 && s.signal === "ladder" && s.rows && s.sites.length === 1 && /(^|_)loss$|reference/.test(s.metric) && (s.label ?? s.split)) {
    const name = labelValue(s.label ?? s.split), v = s.values.at(s.rows - 1, 0);
    if (!(typeof floor === "number" && Math.abs(v - floor) < 0.01) && v === v) levels.push({ name, value: v });
  }
  const facet: Facet = { title: "", plot: () => new Curves({ label: "Loss over the training steps", lines, levels, low: null, high: null, unit: "nats", height: 340 }) };
  const note = [thinned(lines.map((l) => l.series)), levels.length ? "Dashed: simpler predictors on the same panel, and the floor." : "", "Bands are two standard errors, here and in every figure."].filter(Boolean).join(" ");
  const small: Figure[] = [];
  for (const metric of [...new Set(all.filter((s) => s.signal === "train" && s.metric !== "loss" && s.metric !== "tokens_seen" && s.metric !== "wall_time").map((s) => s.metric))]) {
    const found = all.filter((s) => s.signal === "train" && s.metric === metric);
    small.push(new Figure({ id: `train-${slug(metric)}`, title: found[0]!.field.title, facets: [{ title: "", plot: () => new Curves({ label: found[0]!.field.title, lines: found.map((s) => ({ series: s, col: 0, name: many ? runs[s.run]!.name : "", color: color(s.run, 0), quiet: true })), levels: [], low: null, high: null, unit: found[0]!.field.unit, height: 170 }) }] }));
  }
  const main = new Figure({ id: "loss-figure", title: "Loss per token", meaning: "In nats: 0 would be perfect foresight, the floor is what the language allows.", note, wide: true, facets: [facet] });
  return section("loss", "Loss", "", main.el, small.length ? grid(small) : null);
}

function thinned(series: Series[]): string {
  const most = series.reduce((a, s) => (s.total > a.total ? s : a), series[0]!);
  return most && most.rows < most.total ? `${most.rows.toLocaleString("en")} of ${most.total.toLocaleString("en")} points are drawn, every extreme among them.` : "";
}

// -------------------------------------------------------------------------------------------------------------- timeline
function timelineSection(runs: Run[]): HTMLElement | null {
  const items = emergences(runs);
  if (!items.length) return null;
  const figure = new Figure({
    id: "timeline", title: "From onset to saturation", wide: true,
    meaning: "A bar runs from the first step above the null to 90 % of the way; the dot is the midpoint, the line through it its interval.",
    facets: [{ title: "", plot: () => new Timeline(items, "Emergence timeline") }],
  });
  return section("emergence", "When it emerged", "", figure.el);
}

// ------------------------------------------------------------------------------------------------------------------ maps
function mapSection(runs: Run[], all: Series[]): HTMLElement | null {
  const maps = all.filter((s) => s.sites.length > 1 && !HIDDEN.has(s.signal));
  const groups = groupBy(maps, (s) => `${s.signal}|${s.metric}|${s.split ?? ""}`);
  const shown: Figure[] = [], more: Figure[] = [], seen = new Set<string>();
  for (const group of groups.values()) {
    const top = group.some((s) => !s.label?.includes("=")) ? group.filter((s) => !s.label?.includes("=")) : group;
    const figure = heatFigure(runs, top);
    if (seen.has(group[0]!.signal)) more.push(figure); else shown.push(figure);
    seen.add(group[0]!.signal);
  }
  return section("maps", "Where and when", "Every site of the model over the training steps. The untrained model is the separate column 0. Where a quantity has a null, colour is the distance from it: paper means nothing found, orange below it, and dotted cells cannot be told from it. Hatched cells are missing.", shown.length ? grid(shown) : null, folded("more maps", more));
}

function heatFigure(runs: Run[], group: Series[]): Figure {
  let scale: HeatScale | null = null, rows = -1;
  const current = () => { const now = group.reduce((a, s) => a + s.rows, 0); if (now !== rows) { rows = now; scale = heatScale(group); } return scale!; };
  const { field, split, signal, metric } = group[0]!;
  return new Figure({
    id: `map-${slug(`${signal}-${metric}-${split ?? ""}`)}`, title: field.title + (split ? `, ${split} split` : ""), meaning: field.meaning, columns: group.length === 2 || group.length === 4 ? 2 : 3,
    note: [field.null ? `Colour is the distance from the null: ${field.null}.` : "", thinned(group)].filter(Boolean).join(" "),
    bar: (p, x, y, w) => paintBar(p, x, y, w, current(), field.unit, theme()),
    facets: group.map((s) => ({ title: [runs.length > 1 ? runs[s.run]!.name : "", s.label === null ? "" : labelName(s.label)].filter(Boolean).join(" · "), plot: () => new Heat(s, `${field.title}, ${labelName(s.label)}, site by step`, current) })),
  });
}

// -------------------------------------------------------------------------------------------------------------- chapters
function chapter(c: Chapter, runs: Run[], all: Series[], arrays: Arrays[]): HTMLElement | null {
  const parts: (Node | null)[] = [];
  for (const signal of c.signals) {
    const own = all.filter((s) => s.signal === signal), groups = groupBy(own, (s) => (variant(s) ? s.metric : `${s.metric}|${s.split ?? ""}`));
    const figures: Figure[] = [], more: Figure[] = [];
    for (const group of groups.values()) {
      if (signal === "output" && group[0]!.metric === "loss" && group.length === 1 && group[0]!.label === null) continue;
      if (/^control/.test(group[0]!.metric) && own.some((s) => s.metric === "accuracy")) continue;
      for (const part of byKind(group)) (figures.length < 4 ? figures : more).push(curveFigure(runs, part, own));
    }
    for (const group of groupBy(arrays.filter((a) => a.signal === signal), (a) => a.metric).values()) figures.push(...arrayFigures(runs, group));
    if (figures.length) parts.push(grid(figures), folded(`more measures of ${signal.replace(/_/g, " ")}`, more));
  }
  if (c.id === "errors") parts.push(errorSection(runs));
  return section(c.id, c.title, c.about, ...parts);
}

/** Whether the split names one of several quantities of the whole model (the rungs of a ladder): then they are lines of one figure. */
const variant = (s: Series) => s.sites.length === 1 && s.label === null && s.split !== null;

/** Whole layers and their single values are different figures. */
function byKind(group: Series[]): Series[][] {
  const top = group.filter((s) => !s.label?.includes("=")), values = group.filter((s) => s.label?.includes("="));
  return [top, values].filter((g) => g.length);
}

function curveFigure(runs: Run[], group: Series[], own: Series[]): Figure {
  const together = group.length > 1 && group.every(variant), { field, signal, metric } = group[0]!, split = together ? null : group[0]!.split;
  const many = runs.length > 1, nested = group[0]!.label?.includes("=") ?? false;
  const facets: { title: string; lines: Line[]; levels: Level[] }[] = [];
  const deep = group.some((s) => s.sites.length > 1);
  if (deep) {
    for (const same of groupBy(group, (s) => s.label ?? "").values()) {
      const lines: Line[] = [];
      for (const s of same) {
        const sites = many ? [siteIndex(s)] : s.sites.map((_, i) => i);
        sites.forEach((col) => lines.push({
          series: s, col, color: (t) => (many ? category(s.run, t.dark) : depth(col, s.sites.length, t.dark)),
          name: many ? runs[s.run]!.name : s.sites.length <= 8 || col === 0 || col === s.sites.length - 1 ? siteName(s.sites[col]!) : "", width: 1.5, band: many || s.sites.length <= 8,
        }));
        const control = own.find((o) => o.run === s.run && /^control/.test(o.metric) && metric === "accuracy" && o.label === s.label && o.split === s.split);
        if (control && !many) { const col = best(control); lines.push({ series: control, col, name: "control", color: (t) => category(1, t.dark), dash: [2, 3], width: 1.6 }); }
      }
      facets.push({ title: same[0]!.label === null ? "" : labelName(same[0]!.label), lines, levels: nulls(same[0]!) });
    }
  } else if (many) {
    for (const same of groupBy(group, (s) => (together ? s.split! : s.label ?? "")).values())
      facets.push({ title: together ? labelValue(same[0]!.split) : same[0]!.label === null ? "" : labelName(same[0]!.label), lines: same.map((s) => ({ series: s, col: 0, name: runs[s.run]!.name, color: (t) => category(s.run, t.dark), band: true })), levels: nulls(same[0]!) });
  } else {
    for (const layer of groupBy(group, (s) => labelLayer(s.label) ?? "").values()) {
      const title = nested ? capital((labelLayer(layer[0]!.label) ?? "").replace(/_/g, " ")) : "";
      if (layer.length <= 8) facets.push({ title, lines: layer.map((s, i) => ({ series: s, col: 0, name: together ? labelValue(s.split) : layer.length > 1 || nested ? labelValue(s.label) : "", color: (t) => category(i, t.dark), band: true })), levels: commonNull(layer) });
      else for (const s of layer) facets.push({ title: labelName(s.label), lines: [{ series: s, col: 0, name: "", color: (t) => category(0, t.dark), band: true }], levels: nulls(s) });
    }
  }
  let plots: Curves[] = [];
  const share = () => {
    plots ||= [];
    const ranges = plots.map((p) => p.range());
    const low = Math.min(...ranges.map((r) => r[0])), high = Math.max(...ranges.map((r) => r[1]));
    for (const p of plots) p.setRange(low, high);
  };
  const id = `curves-${slug([signal, metric, split ?? "", nested ? "values" : ""].filter(Boolean).join("-"))}`;
  const banded = facets.some((f) => f.lines.some((l) => l.band && !l.series.stderr.empty));
  const note = [facets.some((f) => f.levels.length) && field.null ? `Dashed: ${field.null}.` : "", facets.some((f) => f.lines.some((l) => l.name === "control")) ? "Dotted: the same probe on random labels, at its best site." : "", thinned(group)].filter(Boolean).join(" ");
  return new Figure({
    id, title: field.title + (nested && facets.length === 1 && !/ by /.test(field.title) ? ` by ${labelLayer(group[0]!.label)!.replace(/_/g, " ")}` : "") + (split ? `, ${split} split` : ""), meaning: field.meaning, note, banded,
    columns: facets.length === 2 || facets.length === 4 ? 2 : 3,
    facets: facets.map((f, i) => ({
      title: facets.length > 1 || (deep && f.title) ? f.title : "",
      plot: () => {
        const plot = new Curves({ label: [field.title, f.title].filter(Boolean).join(", "), lines: f.lines, levels: f.levels, low: field.low, high: field.high, unit: field.unit });
        plots.push(plot);
        if (i === facets.length - 1) { share(); plots = []; }
        return plot;
      },
    })),
  });
}

function arrayFigures(runs: Run[], group: Arrays[]): Figure[] {
  const { field, signal, metric } = group[0]!, flat = group[0]!.shapes.at(-1)!;
  const name = (a: Arrays) => [runs.length > 1 ? runs[a.run]!.name : "", a.label ? labelName(a.label) : "", a.site ? siteName(a.site) : ""].filter(Boolean).join(" · ");
  if (flat.length > 2 || metric === "nodes") return [];
  const square = flat.length === 2 && flat[0]! > 1 && !/^rows:|density|weight/.test(field.axis) && !(flat[0]! <= 3 && flat[1]! > 24);
  const ridges = !square && /density/.test(field.axis);
  const scale = square ? limits(group) : { low: 0, high: 1 };
  const shown = group.length > 12 ? group.filter((_, i) => i % Math.ceil(group.length / 12) === 0) : group;
  return [new Figure({
    id: `array-${slug(`${signal}-${metric}`)}`, title: field.title, meaning: field.meaning, columns: 3,
    note: !ridges ? "" : "One ridge per shown step, the untrained model at the bottom; height is the logarithm of the density.",
    bar: square ? (p, x, y, w) => paintBar(p, x, y, w, { ...scale, middle: null, relative: false }, field.unit, theme()) : undefined,
    facets: shown.map((a) => ({ title: name(a), plot: () => (square ? new Matrix(a, `${field.title}, ${name(a)}`, scale) : ridges ? new Ridges(a, `${field.title}, ${name(a)}`) : new Profiles(a, `${field.title}, ${name(a)}`)) })),
  })];
}

// ---------------------------------------------------------------------------------------------------------------- pieces
function nulls(s: Series): Level[] {
  const found: Level[] = [];
  if (s.null.empty) return found;
  const short = s.field.null.split(":")[0]!, name = /majority/.test(short) ? "majority" : /chance/.test(short) ? "chance" : /zero/.test(short) ? "" : /floor/.test(short) ? "floor" : /uniform/.test(short) ? "uniform" : "null";
  const first = s.null.at(s.rows - 1, 0), constant = s.sites.every((_, c) => Math.abs(s.null.at(s.rows - 1, c) - first) < 1e-9) && Math.abs(s.null.at(0, 0) - first) < 1e-9;
  found.push(constant ? { name, value: first } : { name, series: s, col: best(s) });
  return found;
}

/** A null is drawn among several labels only where they share it. */
function commonNull(layer: Series[]): Level[] {
  const levels = layer.map(nulls), value = levels[0]?.[0]?.value;
  return value !== undefined && levels.every((l) => l[0]?.value !== undefined && Math.abs(l[0].value - value) < 1e-9) ? levels[0]! : [];
}

function best(s: Series): number {
  let at = 0, most = -Infinity;
  for (let c = 0; c < s.sites.length; c++) { const v = s.values.at(s.rows - 1, c); if (v > most) { most = v; at = c; } }
  return at;
}

function siteIndex(s: Series): number {
  const at = state.site === null ? -1 : s.sites.indexOf(state.site);
  return at < 0 ? s.sites.length - 1 : at;
}

function groupBy<T>(items: T[], key: (item: T) => string): Map<string, T[]> {
  const out = new Map<string, T[]>();
  for (const item of items) { const k = key(item); const list = out.get(k); if (list) list.push(item); else out.set(k, [item]); }
  return out;
}

function grid(figures: Figure[]): HTMLElement {
  const el = h("div", { class: "figures" }, ...figures.map((f) => f.el));
  // A figure alone in its row takes the whole row.
  let open = false;
  figures.forEach((f, i) => {
    if (f.el.classList.contains("wide")) { open = false; return; }
    const next = figures[i + 1];
    if (!open && (!next || next.el.classList.contains("wide"))) f.el.classList.add("wide");
    else open = !open;
  });
  return el;
}

function folded(what: string, figures: Figure[]): HTMLElement | null {
  return figures.length ? h("details", { class: "fold" }, h("summary", {}, `${figures.length} ${what}`), grid(figures)) : null;
}
