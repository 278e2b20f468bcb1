// The order in which a reader needs it: verdicts, loss, when, where, then every signal, costs, provenance.

import { category, depth, theme } from "./color";
import { Curves, CurveSpec, lastFinite, Level, Line } from "./curves";
import { Arrays, join, labelLayer, labelName, labelValue, Run, Series, siteName } from "./data";
import { byOnset, emergences, findingCards } from "./findings";
import { Facet, Figure, FigureSpec, h } from "./figure";
import { Heat, heatScale, HeatScale, paintBar } from "./heat";
import { limits, Matrix, Ridges } from "./arrays";
import { Profiles } from "./profiles";
import { Dots } from "./dots";
import { errorSection } from "./errors";
import { costSection, provenance } from "./provenance";
import { state } from "./state";
import { Emergence, Timeline } from "./timeline";

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
  const parts: Node[] = [], between = runs[0]?.comparison ?? [];
  if (between.length) {
    const names = runs.length === 2 ? `First is ${runs[0]!.name}, second is ${runs[1]!.name}.` : `${runs.length} runs, taken as seeds of one setting.`;
    parts.push(h("h3", { class: "whose" }, "Between the runs"), h("p", { class: "note" }, names), findingCards({ ...runs[0]!, findings: between, events: [] }, 6)!);
  }
  for (const run of runs) {
    const cards = findingCards(run) ?? (run.waiting === undefined ? null : h("p", { class: "note" }, run.waiting ? "Looking for what emerged…" : "No findings yet: too few measurements, or nothing to compare with its null."));
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
  const facet: Facet = { title: "", plot: () => draw({ label: "Loss over the training steps", lines, levels, low: null, high: null, unit: "nats", height: 340 }) };
  const note = [thinned(lines.map((l) => l.series)), levels.length ? "Dashed: simpler predictors on the same panel, and the floor." : "", "Bands are two standard errors, here and in every figure."].filter(Boolean).join(" ");
  const small: FigureSpec[] = [];
  for (const metric of [...new Set(all.filter((s) => s.signal === "train" && s.metric !== "loss" && s.metric !== "tokens_seen" && s.metric !== "wall_time").map((s) => s.metric))]) {
    const found = all.filter((s) => s.signal === "train" && s.metric === metric);
    small.push(({ id: `train-${slug(metric)}`, title: found[0]!.field.title, facets: [{ title: "", plot: () => new Curves({ label: found[0]!.field.title, lines: found.map((s) => ({ series: s, col: 0, name: many ? runs[s.run]!.name : "", color: color(s.run, 0), quiet: true })), levels: [], low: null, high: null, unit: found[0]!.field.unit, height: 170 }) }] }));
  }
  const main = new Figure({ id: "loss-figure", title: "Loss per token", meaning: "In nats: 0 would be perfect foresight, the floor is what the language allows.", note, wide: true, facets: [facet] });
  return section("loss", "Loss", "", main.el, small.length ? grid(small) : null);
}

/** One measurement has no curve: it is drawn as dots. */
const once = (spec: CurveSpec) => spec.lines.every((l) => l.series.rows <= 1);
const draw = (spec: CurveSpec): Curves | Dots => (once(spec) ? new Dots(spec) : new Curves(spec));

function thinned(series: Series[]): string {
  const most = series.reduce((a, s) => (s.total > a.total ? s : a), series[0]!);
  return most && most.rows < most.total ? `${most.rows.toLocaleString("en")} of ${most.total.toLocaleString("en")} points are drawn, every extreme among them.` : "";
}

// -------------------------------------------------------------------------------------------------------------- timeline
function timelineSection(runs: Run[]): HTMLElement | null {
  const items = emergences(runs), groups = groupBy(items, (i) => `${i.signal}|${i.nested}|${i.metric}`);
  if (!items.length) return null;
  const rank = (i: Emergence) => (i.nested ? 1000 : 0) + (FIRST.indexOf(i.metric) < 0 ? 500 : FIRST.indexOf(i.metric));
  const shown: Emergence[] = [], more: Emergence[][] = [], seen = new Set<string>();
  // One quantity per signal is drawn at once, the one asked for first; the others are folded.
  for (const group of [...groups.values()].sort((a, b) => rank(a[0]!) - rank(b[0]!))) {
    if (!group[0]!.nested && !seen.has(group[0]!.signal) && shown.length + group.length <= 90) { seen.add(group[0]!.signal); shown.push(...group); }
    else for (let at = 0; at < group.length; at += 90) more.push(group.slice(at, at + 90));
  }
  if (!shown.length) shown.push(...more.shift()!);
  const figure = (part: Emergence[], at: number): FigureSpec => ({
    id: at < 0 ? "timeline" : `timeline-${at}`, title: at < 0 ? "From onset to saturation" : `From onset to saturation: ${part[0]!.title}${part[0]!.nested ? ", by label" : ""}`, wide: true,
    meaning: at < 0 ? "A bar runs from the first step above the null to 90 % of the way; the dot is the midpoint, the line through it its interval. A pale bar has not levelled off." : "",
    facets: [{ title: "", plot: () => new Timeline(byOnset(part), at < 0 ? "Emergence timeline" : `Emergence timeline, ${part[0]!.title}`) }],
  });
  return section("emergence", "When it emerged", "", new Figure(figure(shown, -1)).el, folded("more timelines", more.map(figure)));
}

// ------------------------------------------------------------------------------------------------------------------ order
/** What a reader asks for first; the rest follows in the order in which the signal declares it. */
const FIRST = ["accuracy", "loss", "two_nn", "lambda_max", "sharpness", "trace", "kl", "well_formed", "rate", "norm", "selectivity", "gain_over_embed", "component_trace", "f1", "participation_ratio", "illegal_mass", "excess", "margin", "category_mass", "cka_previous"];

function ordered(groups: Series[][], runs: Run[]): Series[][] {
  const rank = (g: Series[]) => {
    const { run, signal, metric } = g[0]!, at = FIRST.indexOf(metric), declared = Object.keys(runs[run]!.fields[signal] ?? {}).indexOf(metric);
    return at >= 0 ? at : 100 + (declared < 0 ? 100 : declared);
  };
  return groups.map((g, i) => ({ g, i, r: rank(g) })).sort((a, b) => a.r - b.r || a.i - b.i).map(({ g }) => g);
}

/** Facets are named by what tells them apart. */
function facetName(s: Series, group: Series[], runs: Run[]): string {
  const several = (of: (s: Series) => unknown) => group.some((g) => of(g) !== of(group[0]!));
  return [runs.length > 1 && several((g) => g.run) ? runs[s.run]!.name : "", s.label === null ? "" : labelName(s.label), several((g) => g.split) ? `${s.split} split` : ""].filter(Boolean).join(" · ");
}

const splitOf = (group: Series[]) => (group.every((s) => s.split === group[0]!.split) && group[0]!.split ? `, ${group[0]!.split} split` : "");
const columnsFor = (n: number) => (n === 2 || n === 4 ? 2 : 3);

// ------------------------------------------------------------------------------------------------------------------ maps
function mapSection(runs: Run[], all: Series[]): HTMLElement | null {
  const maps = all.filter((s) => s.sites.length > 1 && s.rows && !HIDDEN.has(s.signal));
  const rank = new Map(CHAPTERS.flatMap((c) => c.signals).map((name, i) => [name, i]));
  if (maps.every((s) => s.rows <= 1)) return null;
  const signals = [...new Set(maps.map((s) => s.signal))].sort((a, b) => (rank.get(a) ?? 99) - (rank.get(b) ?? 99));
  const shown: FigureSpec[] = [], more: FigureSpec[] = [];
  for (const signal of signals) {
    const groups = [...groupBy(maps.filter((s) => s.signal === signal), (s) => s.metric).values()].flatMap((group) => {
      const top = group.filter((s) => !s.label?.includes("="));
      return top.length ? [top] : group.length <= 12 ? [group] : [];
    });
    ordered(groups, runs).forEach((group, i) => (i ? more : shown).push(heatFigure(runs, group)));
  }
  return section("maps", "Where and when", "Every site of the model over the training steps. The untrained model is the separate column 0. Where a quantity has a null, colour is the distance from it: paper is the null, orange lies on the wrong side of it, and dotted cells cannot be told from it. Hatched cells are missing.", shown.length ? grid(shown) : null, folded("more maps", more));
}

function heatFigure(runs: Run[], group: Series[], id = "map", names: ((s: Series) => string) | null = null): FigureSpec {
  let scale: HeatScale | null = null, rows = -1;
  const current = () => { const now = group.reduce((a, s) => a + s.rows, 0); if (now !== rows) { rows = now; scale = heatScale(group); } return scale!; };
  const { field, signal, metric } = group[0]!, name = names ?? ((s: Series) => facetName(s, group, runs));
  return ({
    id: `${id}-${slug(`${signal}-${metric}`)}`, title: field.title + splitOf(group) + (names && group[0]!.label ? ", all labels" : ""), meaning: field.meaning, columns: names ? 2 : columnsFor(group.length),
    note: [group.every((s) => !s.null.empty && s.rows > 1) ? `Colour is the distance from the null${field.null ? `: ${field.null}` : ""}.` : "", thinned(group)].filter(Boolean).join(" "),
    bar: group.every((s) => s.rows <= 1) ? undefined : (p, x, y, w) => paintBar(p, x, y, w, current(), field.unit, theme()),
    facets: group.map((s) => ({ title: name(s), plot: () => s.rows <= 1 && s.parts ? new Dots({ label: [field.title, name(s)].join(", "), lines: s.parts.map(({ series, col }, i) => ({ series, col, name: s.sites[i]!, color: (t) => category(0, t.dark) })), levels: [], low: field.low, high: field.high, unit: field.unit }) : new Heat(s, [field.title, name(s), names ? "value by step" : "site by step"].filter(Boolean).join(", "), current) })),
  });
}

// -------------------------------------------------------------------------------------------------------------- chapters
/** How much of a signal is shown at once: its first figures, large ones counted twice. */
const SHOWN = 6;

function chapter(c: Chapter, runs: Run[], all: Series[], arrays: Arrays[]): HTMLElement | null {
  const parts: (Node | null)[] = [];
  for (const signal of c.signals) {
    const own = all.filter((s) => s.signal === signal && s.rows), figures: FigureSpec[] = [], more: FigureSpec[] = [];
    const room = c.signals[0] === signal ? SHOWN : SHOWN / 2;
    let used = 0;
    const hasAccuracy = own.some((s) => s.metric === "accuracy");
    const heads = arrayFigures(runs, arrays.filter((a) => a.signal === signal));
    const lead = signal === "attention" ? heads : [];
    figures.push(...lead);
    for (const group of ordered([...groupBy(own, (s) => s.metric).values()], runs)) {
      if (hasAccuracy && /^(control|ceiling)/.test(group[0]!.metric)) continue;
      const known = signal === "output" && group[0]!.metric === "loss" ? group.filter((s) => s.label !== null) : group;
      if (!known.length) continue;
      for (const figure of metricFigures(runs, known, own)) {
        // What never moves (a setting, a share that is always zero) is not what a reader asks for first.
        if (known.every(still)) { more.push(figure); continue; }
        (used < room ? figures : more).push(figure);
        used += figure.facets.length > 4 ? 2 : 1;
      }
    }
    if (!lead.length) heads.forEach((f, i) => (i < 4 && !f.sparse ? figures : more).push(f));
    if (figures.length) parts.push(c.signals.length > 1 && parts.length ? h("div", { class: "gap" }) : null, grid(figures), folded(`more of ${signal.replace(/_/g, " ")}`, more));
  }
  if (c.id === "errors") parts.push(errorSection(runs));
  return section(c.id, c.title, c.about, ...parts);
}

/** Whether a series that was measured several times has one value throughout. */
function still(s: Series): boolean {
  if (s.rows < 2) return false;
  return s.sites.every((_, c) => { let first = NaN; for (let r = 0; r < s.rows; r++) { const v = s.values.at(r, c); if (v !== v) continue; if (first !== first) first = v; else if (v !== first) return false; } return true; });
}

/** The figures of one metric: whole layers as curves, few values as curves, many values as maps. */
function metricFigures(runs: Run[], group: Series[], own: Series[]): FigureSpec[] {
  const out: FigureSpec[] = [];
  const top = group.filter((s) => !s.label?.includes("=")), values = group.filter((s) => s.label?.includes("="));
  const single = (s: Series) => s.sites.length === 1;
  if (top.length > 8 && top.every((s) => single(s) && s.label !== null)) out.push(heatFigure(runs, joined(top, runs, () => ""), "values", (s) => s.label ?? ""));
  else if (top.length) out.push(curveFigure(runs, top, own));
  if (!values.length) return out;
  const layers = [...groupBy(values, (s) => labelLayer(s.label)!).values()];
  const few = layers.filter((l) => new Set(l.map((s) => s.label)).size <= 8 && l.every(single)).flat();
  const many = layers.filter((l) => !few.includes(l[0]!)).flat();
  if (few.length) out.push(curveFigure(runs, few, own));
  if (many.length) out.push(heatFigure(runs, joined(many, runs, (s) => labelLayer(s.label)!), "values", (s) => s.label ?? ""));
  return out;
}

/** One map per layer (and run, and split): its values as rows, sorted by where they ended; at the site where they ended highest. */
function joined(all: Series[], runs: Run[], layer: (s: Series) => string): Series[] {
  const splits = new Set(all.map((s) => s.split)).size > 1;
  return [...groupBy(all, (s) => `${s.run}|${layer(s)}|${s.split ?? ""}`).values()].map((group) => {
    const first = group[0]!, down = first.field.better === "down";
    let col = 0, most = -Infinity;
    first.sites.forEach((_, c) => {
      let sum = 0;
      for (const s of group) { const v = c < s.sites.length ? lastFinite(s, c, false) : NaN; if (v === v) sum += down ? -v : v; }
      if (sum > most) { most = sum; col = c; }
    });
    const parts = group.map((series) => ({ series, col: Math.min(col, series.sites.length - 1), last: lastFinite(series, Math.min(col, series.sites.length - 1), false) }));
    parts.sort((a, b) => (Number.isFinite(a.last) ? a.last : -Infinity) - (Number.isFinite(b.last) ? b.last : -Infinity));
    const shown = parts.length > 48 ? [...parts.slice(0, 24), ...parts.slice(-24)] : parts;
    const out = join(shown, shown.map((p) => (layer(p.series) ? labelValue(p.series.label) : p.series.label ?? "")));
    const title = [runs.length > 1 ? runs[first.run]!.name : "", capital(layer(first).replace(/_/g, " ")), splits ? `${first.split} split` : "", first.sites.length > 1 ? `at ${siteName(first.sites[col]!)}` : "", shown.length < parts.length ? `24 lowest and 24 highest of ${parts.length}` : ""];
    out.label = title.filter(Boolean).join(" · ");
    return out;
  });
}

function curveFigure(runs: Run[], group: Series[], own: Series[]): FigureSpec {
  const many = runs.length > 1, { field, signal, metric } = group[0]!, nested = group[0]!.label?.includes("=") ?? false;
  // The split of a quantity of the whole model names one of several (the rungs of a ladder): they are lines of one drawing.
  const variants = group.length > 1 && group.every((s) => s.sites.length === 1 && s.label === null) && new Set(group.map((s) => s.split)).size > 1;
  const facets: { title: string; lines: Line[]; levels: Level[] }[] = [];
  if (group.some((s) => s.sites.length > 1)) {
    for (const same of groupBy(group, (s) => `${s.label ?? ""}|${s.split ?? ""}`).values()) {
      const lines: Line[] = [], levels = nulls(same[0]!);
      for (const s of same) {
        const sites = many ? [siteIndex(s)] : s.sites.map((_, i) => i);
        sites.forEach((col) => lines.push({
          series: s, col, color: (t) => (many ? category(s.run, t.dark) : depth(col, s.sites.length, t.dark)),
          name: many ? runs[s.run]!.name : s.sites.length <= 8 || col === 0 || col === s.sites.length - 1 ? siteName(s.sites[col]!) : "", width: 1.5, band: many || s.sites.length <= 8,
        }));
        if (many || metric !== "accuracy") continue;
        const beside = (name: RegExp) => own.find((o) => o.run === s.run && name.test(o.metric) && o.label === s.label && (o.split === s.split || o.split === null));
        const control = beside(/^control/), ceiling = beside(/^ceiling$/);
        if (control) lines.push({ series: control, col: best(control), name: "control", color: (t) => category(1, t.dark), dash: [2, 3], width: 1.6 });
        if (ceiling) { const v = lastFinite(ceiling, 0, false); if (Number.isFinite(v)) levels.push({ name: "ceiling", value: v }); }
      }
      facets.push({ title: facetName(same[0]!, group.filter((s) => s.run === same[0]!.run), runs), lines, levels });
    }
  } else if (many) {
    for (const same of groupBy(group, (s) => (variants ? s.split ?? "" : `${s.label ?? ""}|${s.split ?? ""}`)).values())
      facets.push({ title: variants ? labelValue(same[0]!.split) : facetName(same[0]!, group.filter((s) => s.run === same[0]!.run), runs), lines: same.map((s) => ({ series: s, col: 0, name: runs[s.run]!.name, color: (t) => category(s.run, t.dark), band: true })), levels: nulls(same[0]!) });
  } else {
    for (const layer of groupBy(group, (s) => `${nested ? labelLayer(s.label) : ""}|${variants ? "" : s.split ?? ""}`).values()) {
      const title = [nested ? capital((labelLayer(layer[0]!.label) ?? "").replace(/_/g, " ")) : "", !variants && splitOf(group) === "" && layer[0]!.split ? `${layer[0]!.split} split` : ""].filter(Boolean).join(" · ");
      facets.push({ title, lines: layer.map((s, i) => ({ series: s, col: 0, name: variants ? labelValue(s.split) : s.label !== null || layer.length > 1 ? labelValue(s.label) : "", color: (t) => category(i, t.dark), band: true })), levels: commonNull(layer) });
    }
  }
  let plots: (Curves | Dots)[] = [];
  const share = () => {
    const ranges = plots.map((p) => p.range());
    const low = Math.min(...ranges.map((r) => r[0])), high = Math.max(...ranges.map((r) => r[1]));
    // Where one drawing would flatten the others, each keeps its own scale.
    if (ranges.every((r) => r[1] - r[0] > 0.22 * (high - low))) for (const p of plots) p.setRange(low, high);
    plots = [];
  };
  const banded = facets.some((f) => f.lines.some((l) => l.band && !l.series.stderr.empty)), control = facets.some((f) => f.lines.some((l) => l.name === "control"));
  const note = [facets.some((f) => f.levels.length) && field.null ? `Dashed: ${field.null}.` : "", control ? "Dotted: the same probe on random labels, at its best site." : "", thinned(group)].filter(Boolean).join(" ");
  const by = nested && facets.length === 1 && !/ by /.test(field.title) ? ` by ${labelLayer(group[0]!.label)!.replace(/_/g, " ")}` : nested && facets.length > 1 ? " by label" : "";
  return ({
    id: `curves-${slug([signal, metric, nested ? "values" : ""].filter(Boolean).join("-"))}`, title: field.title + by + (variants ? "" : splitOf(group)), meaning: field.meaning, note, banded, columns: columnsFor(facets.length),
    facets: facets.map((f, i) => ({
      title: facets.length > 1 || (!nested && f.title) ? f.title : "",
      plot: () => {
        const plot = draw({ label: [field.title, f.title].filter(Boolean).join(", "), lines: f.lines, levels: f.levels, low: field.low, high: field.high, unit: field.unit });
        plots.push(plot);
        if (i === facets.length - 1) share();
        return plot;
      },
    })),
  });
}

function arrayFigures(runs: Run[], own: Arrays[]): FigureSpec[] {
  const out: FigureSpec[] = [], kind = (a: Arrays) => {
    const flat = a.shapes.at(-1)!, { axis } = a.field;
    if (flat.length > 2 || a.metric === "nodes") return "";
    if (flat.length === 2 && flat[0]! > 1 && !/^rows:|density|weight/.test(axis) && !(flat[0]! <= 3 && flat[1]! > 24)) return "matrix";
    return /density/.test(axis) ? "ridges" : "profiles";
  };
  const name = (a: Arrays) => [runs.length > 1 ? runs[a.run]!.name : "", a.label ? labelName(a.label) : "", a.site ? siteName(a.site) : "", a.split ?? ""].filter(Boolean).join(" · ");
  // Matrices on one scale and with the same axes are one figure (every statistic of the heads).
  const key = (a: Arrays) => (kind(a) === "matrix" ? `${a.field.axis}|${a.field.unit}|${a.field.high ?? a.metric}` : a.metric);
  for (const group of [...groupBy(own.filter((a) => kind(a)), key).values()].sort((a, b) => Number(kind(b[0]!) === "ridges") - Number(kind(a[0]!) === "ridges") || new Set(b.map((x) => x.metric)).size - new Set(a.map((x) => x.metric)).size)) {
    const { field, signal, metric } = group[0]!, what = kind(group[0]!), several = new Set(group.map((a) => a.metric)).size > 1;
    const scale = what === "matrix" ? limits(group) : { low: 0, high: 1 };
    const shown = group.length > 12 && !several ? group.filter((_, i) => i % Math.ceil(group.length / 12) === 0) : group;
    const title = (a: Arrays) => [several ? a.field.title.replace(/, per head$/, "") : "", name(a)].filter(Boolean).join(" · ");
    out.push(({
      id: `array-${slug(several ? `${signal}-${field.axis}-${field.unit}` : `${signal}-${metric}`)}`, title: several ? `Every ${field.axis.split(",")[0]!.trim() || signal}` : field.title, meaning: several ? "" : field.meaning, columns: 3, wide: several,
      sparse: what === "profiles" && shown.every((a) => a.frames.every((f) => f.length <= 2)),
      note: what === "ridges" && shown.some((a) => a.frames.length > 1) ? "One ridge per shown step, the untrained model at the bottom; height is the logarithm of the density." : "",
      bar: what === "matrix" ? (p, x, y, w) => paintBar(p, x, y, w, { ...scale, middle: null, relative: false, flip: false }, field.unit, theme()) : undefined,
      facets: shown.map((a) => ({ title: title(a), plot: () => (what === "matrix" ? new Matrix(a, [a.field.title, name(a)].filter(Boolean).join(", "), scale) : what === "ridges" ? new Ridges(a, `${field.title}, ${name(a)}`) : new Profiles(a, `${field.title}, ${name(a)}`)) })),
    }));
  }
  return out;
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
  const at = s.sites.indexOf(state.site ?? "final");
  return at < 0 ? s.sites.length - 1 : at;
}

function groupBy<T>(items: T[], key: (item: T) => string): Map<string, T[]> {
  const out = new Map<string, T[]>();
  for (const item of items) { const k = key(item); const list = out.get(k); if (list) list.push(item); else out.set(k, [item]); }
  return out;
}

function grid(specs: FigureSpec[]): HTMLElement {
  const figures = specs.map((spec) => new Figure(spec)), el = h("div", { class: "figures" }, ...figures.map((f) => f.el));
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

/** Figures behind a line that says how many they are; they are made when it is opened. */
function folded(what: string, specs: FigureSpec[]): HTMLElement | null {
  if (!specs.length) return null;
  const el = h("details", { class: "fold" }, h("summary", {}, `${specs.length} ${what}`));
  el.addEventListener("toggle", () => el.append(grid(specs)), { once: true });
  return el;
}
