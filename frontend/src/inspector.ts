// The page of one sentence: what the model makes of it, block by block, and from which checkpoint on it got it.

import { Run, siteName } from "./data";
import { Figure, FigureSpec, h } from "./figure";
import { Arcs, Cell, Cells, Surprisals } from "./tokens";
import { exactAt, comparable, Inspection, isMissing, LensRead, Maps, Moment, momentName, momentOf, ProbeRead } from "./inspection";
import { category, sequential, theme } from "./color";
import { paintBar } from "./heat";
import { section } from "./sections";
import { listen, number, state, stepText, tell } from "./state";

let shown = "";

export const sentenceCount = (runs: Run[]) => runs.reduce((n, r) => n + (r.inspections?.length ?? 0), 0);

export function inspector(runs: Run[], again: () => void): Node[] {
  const all = runs.flatMap((run) => run.inspections.map((of) => ({ run, of, key: `${run.id}|${of.sentence}` })));
  if (!all.length) return [h("header", { class: "hero" }, h("h1", {}, "Sentences"), hint(runs))];
  const chosen = all.find((a) => a.key === shown) ?? all[0]!, { of } = chosen;
  const parts = [surprise(of), growth(of), lens(of), readings(of), attention(of)];
  return [header(chosen.run, of, runs.length > 1), picker(all, chosen.key, again, runs.length > 1), checkpoints(of), ...parts.filter((p): p is HTMLElement => p !== null), h("div", { class: "gap" }), hint(runs)];
}

function hint(runs: Run[]): HTMLElement {
  return h("p", { class: "note" }, "To look at another sentence: ", h("code", {}, `lmtrace inspect ${runs[0]?.name ?? "RUN"} "…"`), " with the run's folder; it appears here.");
}

function header(run: Run, of: Inspection, many: boolean): HTMLElement {
  const wrong = of.oracle?.error ?? null, line = h("h1", { class: "sentence" });
  of.words.forEach((word, i) => line.append(...(i ? [" "] : []), wrong?.position === i ? h("mark", {}, word) : word));
  if (wrong && wrong.position >= of.words.length) line.append(" ", h("mark", { "aria-label": "the end" }, "\u2038"));
  const verdict = h("p", { class: "verdict" }), facts = h("p", { class: "facts" });
  if (wrong) verdict.append(h("span", { class: "kind alert" }, wrong.kind), ` ${wrong.message}.`);
  else if (of.oracle?.accepted) verdict.append(h("span", { class: "kind found" }, "well-formed"), of.oracle.derivations! > 1 ? ` ${of.oracle.derivations} derivations.` : "");
  else if (of.oracle_reason) verdict.append(h("span", { class: "kind" }, "not judged"), ` ${of.oracle_reason}.`);
  const list = h("dl", { class: "tiles" });
  const fill = () => {
    const m = momentOf(of);
    facts.textContent = [of.model, { causal: "next token", masked: "each token masked in turn", seq2seq: "sequence to sequence" }[of.objective] ?? of.objective, momentName(m), ...(many ? [run.name] : [])].join(" · ");
    list.replaceChildren(...tiles(of, m).map(([name, value, note]) => h("div", {}, h("dt", {}, name), h("dd", {}, value, ...(note ? [h("small", {}, note)] : [])))));
  };
  fill();
  listen((topic) => { if (topic === "time") fill(); }, list);
  return h("header", { class: "hero" }, line, verdict, facts, ...of.notes.map((n) => h("p", { class: "facts warn" }, n)), list);
}

function tiles(of: Inspection, m: Moment): [string, string, string][] {
  const values = m.surprisal.filter((v): v is number => v !== null), out: [string, string, string][] = [];
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const exact = of.columns.map((_, i) => exactAt(of, i, of.oracle?.surprisal)), whole = comparable(of) && exact.every((v) => v !== null);
  out.push(["Surprisal per token", number(mean), whole ? `exact ${number(exact.reduce<number>((a, b) => a + b!, 0) / exact.length)} nats` : "nats"]);
  out.push(["First choices", `${m.rank.filter((r) => r === 1).length} of ${m.rank.length}`, "most probable"]);
  const illegal = (m.illegal ?? []).filter((v): v is number => v !== null);
  if (illegal.length) out.push(["Mass on the forbidden", number(Math.max(...illegal), 2), "at most"]);
  if (of.moments.length > 1) {
    const got = of.got.columns.map((g, i) => ({ g, i })).filter(({ i }) => !comparable(of) || exact[i] !== null), late = got.filter(({ g }) => g === null).length;
    out.push(["Got", late ? `${got.length - late} of ${got.length}` : `step ${stepText(Math.max(...got.map(({ g }) => g!)))}`, late ? "tokens by the end" : got.length < of.columns.length ? "every possible token" : "every token from there on"]);
  }
  return out;
}

function picker(all: { run: Run; of: Inspection; key: string }[], key: string, again: () => void, many: boolean): HTMLElement {
  if (all.length < 2) return h("div");
  const select = h("select", { "aria-label": "Sentence", class: "sentences-list" }, ...all.map((a) => h("option", { value: a.key }, `${a.of.oracle?.error ? "✗ " : ""}${a.of.sentence}${many ? ` (${a.run.name})` : ""}`)));
  select.value = key;
  select.onchange = () => { shown = select.value; again(); document.querySelector<HTMLElement>(".sentences-list")?.focus(); };
  return h("div", { class: "choose" }, h("span", { class: "facts" }, `${all.length} sentences`), select);
}

function checkpoints(of: Inspection): HTMLElement {
  if (of.moments.length < 2) return h("div");
  const group = h("div", { class: "choose", role: "group", "aria-label": "Checkpoint" }, h("span", { class: "facts" }, "Checkpoint"));
  const buttons = of.moments.map((m, i) => {
    const b = h("button", { type: "button", class: "step" }, stepText(m.step));
    b.onclick = () => { state.time = i === of.moments.length - 1 ? null : m.step; tell("time"); };
    group.append(b);
    return b;
  });
  const mark = () => { const at = of.moments.indexOf(momentOf(of)); buttons.forEach((b, i) => b.setAttribute("aria-pressed", String(i === at))); };
  mark();
  listen((topic) => { if (topic === "time") mark(); }, group);
  return group;
}

const one = (spec: FigureSpec) => new Figure({ ...spec, wide: true, columns: 1 }).el;

function surprise(of: Inspection): HTMLElement | null {
  const note = comparable(of) ? "Bars: the model. Thick marks: the exact law of the language; ∞ where a word cannot stand. Dashed: a model that knows nothing." : "Dashed: a model that knows nothing.";
  return section("surprisal", "How surprising each token is", "", one({ id: "token-surprisal", title: "Surprisal per token", meaning: of.objective === "masked" ? "Minus the log-probability of each token, masked alone, given all the others." : "Minus the log-probability of each token, given what stands before it.", note, facets: [{ title: "", plot: () => new Surprisals(of, `Surprisal of each token of: ${of.sentence}`) }] }));
}

function growth(of: Inspection): HTMLElement | null {
  if (of.moments.length < 2) return null;
  // Of an ill-formed sentence the exact surprisal is infinite from the error on.
  const over = comparable(of) && !of.oracle!.error, specs: HTMLElement[] = [], most = over ? Math.max(Math.log(2) * 2, of.uniform - 1) : of.uniform;
  const value = (m: Moment, i: number) => { const v = m.surprisal[i] ?? null, exact = exactAt(of, i, of.oracle?.surprisal); return v === null ? null : over ? (exact === null ? null : Math.max(0, v - exact)) : v; };
  const rows = () => of.moments.map((m) => ({
    name: `step ${stepText(m.step)}`, strong: m === momentOf(of),
    cells: of.columns.map((c, i): Cell => {
      const v = value(m, i), got = of.got.columns[i] === m.step;
      return { value: v, text: v === null ? "" : number(v, 2), ring: got, fact: { title: c.text, meaning: over ? "Nats above the exact surprisal." : "Surprisal in nats.", short: `${c.text} · step ${stepText(m.step)}\n${v === null ? "cannot stand here" : `${number(v)} nats${over ? " above the exact" : ""}`}${got ? "\ngot from here on" : ""}`, lines: [["Checkpoint", stepText(m.step)], ["Value", v === null ? "none: the word cannot stand here" : `${number(v, 4)} nats`], ["Surprisal", `${number(m.surprisal[i] ?? NaN, 4)} nats`], ["Rank", number(m.rank[i]!)]] } };
    }),
  }));
  const scale = () => ({ low: 0, high: most, middle: null, colors: sequential(theme().dark) });
  specs.push(one({ id: "token-growth", title: over ? "Nats above the exact surprisal, by checkpoint" : "Surprisal, by checkpoint", meaning: "Training runs upwards; the first row is the earliest checkpoint.", note: `Framed: got, that is ${of.got.rule}.`, bar: (p, x, y, w) => paintBar(p, x, y, w, { ...scale(), relative: false, flip: false }, "nats", theme()), facets: [{ title: "", plot: () => new Cells({ of, label: `Every token at every checkpoint: ${of.sentence}`, rowTitle: "checkpoint", scale, rows }) }] }));
  const layers = Object.entries(of.got.labels);
  if (layers.length) specs.push(one({
    id: "label-growth", title: "Labels read right, by checkpoint", meaning: "The probe at the site that reads best at the end. Colour is the confidence; underlined readings are wrong. Grey words have no label of this kind.", note: "Framed: right, from there on.", bar: confidenceBar,
    facets: layers.map(([layer, found]) => ({ title: `${layer.replace(/_/g, " ")}, at ${siteName(found.site)}`, plot: () => new Cells({
      of, label: `${layer} of every word at every checkpoint`, rowTitle: "checkpoint", scale: confidence, heads: of.words,
      rows: () => of.moments.map((m) => {
        const p = m.probes[layer] as ProbeRead, at = p.sites.indexOf(found.site);
        return { name: `step ${stepText(m.step)}`, strong: m === momentOf(of), cells: of.words.map((_, w) => ({ ...reading(of, layer, p, at, w, m), ring: found.words[w] === m.step })) };
      }),
    }) })),
  }));
  return section("got", "When the model got it", "", ...specs);
}

const confidence = () => ({ low: 0, high: 1, middle: null, colors: sequential(theme().dark) });
const confidenceBar: FigureSpec["bar"] = (p, x, y, w) => paintBar(p, x, y, w, { ...confidence(), relative: false, flip: false }, "1", theme());

function reading(of: Inspection, layer: string, p: ProbeRead, at: number, w: number, m: Moment): Cell {
  const code = p.reading[at]?.[w] ?? null, name = code === null ? "" : of.layers[layer]![code]!.replace(/_/g, " "), sure = p.confidence[at]?.[w] ?? null, known = layer in of.gold, gold = of.gold[layer]?.[w] ?? null, right = gold?.replace(/_/g, " ") ?? null;
  const where = siteName(p.sites[at]!), quiet = known && gold === null;
  const lines: [string, string][] = [["Checkpoint", stepText(m.step)], ["Site", where], ["Reading", name], ["Confidence", number(sure ?? NaN)]];
  if (known) lines.push(["Right", right ?? "this word has no label of this kind"]);
  lines.push(["Held-out accuracy here", number(p.accuracy[at]!)], ["Control task", number(p.control[at]!)], ["Majority class", number(p.majority)], ["n", number(p.n)]);
  return { value: sure, text: name, quiet, wrong: known && right !== null && right !== name, fact: { title: `${of.words[w]}: ${layer}`, meaning: "Read by a ridge probe that was fitted on the panel at this checkpoint and site.", lines, short: `${of.words[w]} · ${where} · step ${stepText(m.step)}\n${name} ${number(sure ?? NaN, 2)}` + (right !== null ? `   right: ${right}` : "") + `\nheld-out accuracy ${number(p.accuracy[at]!, 2)}, control ${number(p.control[at]!, 2)}` } };
}

function lens(of: Inspection): HTMLElement | null {
  const last = of.moments.at(-1)!.lens;
  if (isMissing(last)) return section("lens", "What each block would say", "", missing(last.missing));
  const scale = () => ({ low: 0, high: 1, middle: null, colors: sequential(theme().dark) });
  const rows = () => {
    const m = momentOf(of);
    if (isMissing(m.lens)) return [];
    const l = m.lens as LensRead;
    return l.sites.map((site, r) => ({
      name: siteName(site), cells: of.columns.map((c, i): Cell => {
        const p = Math.exp(-(l.surprisal[r]![i] ?? Infinity)), [word, q] = l.top[r]![i]!;
        return { value: p, text: word, wrong: word !== c.text, fact: { title: c.text, meaning: "Final norm and unembedding on the residual stream after this block, where the token is predicted.", short: `${c.text} · ${siteName(site)} · step ${stepText(m.step)}\nwould say ${word} ${number(q, 2)}   ${c.text} ${number(p, 2)}`, lines: [["Checkpoint", stepText(m.step)], ["Site", siteName(site)], ["Probability of this token", number(p)], ["Surprisal", `${number(-Math.log(p), 4)} nats`], ["Most probable", `${word} (${number(q)})`], ["Null", `${number(Math.exp(-of.uniform))} (uniform)`]] } };
      }),
    }));
  };
  return section("lens", "What each block would say", "", one({ id: "token-lens", title: "Logit lens", meaning: "The most probable token after each block. Colour is the probability of the token that came; underlined where another is more probable.", bar: (p, x, y, w) => paintBar(p, x, y, w, { ...scale(), relative: false, flip: false }, "1", theme()), note: `With nothing known every token has probability ${number(Math.exp(-of.uniform), 2)}.`, facets: [{ title: "", plot: () => new Cells({ of, label: `Logit lens: ${of.sentence}`, rowTitle: "block", scale, rows }) }] }));
}

function readings(of: Inspection): HTMLElement | null {
  const found = Object.entries(of.moments.at(-1)!.probes);
  if (!found.length) return null;
  const facets = found.filter(([, p]) => !isMissing(p)).map(([layer, p]) => {
    const { accuracy, control, majority, sites } = p as ProbeRead, at = accuracy.indexOf(Math.max(...accuracy));
    return {
      title: `${layer.replace(/_/g, " ")}: held-out ${number(accuracy[at]!, 2)} at ${siteName(sites[at]!)}, control ${number(control[at]!, 2)}, majority ${number(majority, 2)}`,
      plot: () => new Cells({
        of, label: `Probe reading of ${layer}, site by word`, rowTitle: "site", scale: confidence, heads: of.words,
        rows: () => { const m = momentOf(of), now = m.probes[layer] as ProbeRead; return now && !isMissing(now) ? now.sites.map((site, r) => ({ name: siteName(site), cells: of.words.map((_, w) => reading(of, layer, now, r, w, m)) })) : []; },
      }),
    };
  });
  const without = found.filter(([, p]) => isMissing(p)).map(([layer, p]) => missing(`${layer}: ${(p as { missing: string }).missing}`));
  const known = Object.keys(of.gold).length > 0;
  return section("readings", "What can be read from each word", "", facets.length ? one({ id: "word-readings", title: "Probe readings, by site", meaning: `Colour is the confidence${known ? "; underlined readings are not those of the grammar's derivation, and grey words have no label of this kind" : ""}.`, note: "A reading is worth what its probe is worth: compare the held-out accuracy with the control task and the majority class.", bar: confidenceBar, facets }) : null, ...without);
}

function attention(of: Inspection): HTMLElement | null {
  const last = of.moments.at(-1)!.attention;
  if (isMissing(last)) return section("arcs", "What each token looks at", "", missing(last.missing));
  const maps = last as Maps, num = Math.max(...maps.maps.map((m) => m.length));
  let only: number | null = null;
  const figures: { el: HTMLElement; figure: Figure }[] = [];
  const block = (i: number) => ({ title: "", plot: () => new Arcs(of, `Attention of ${siteName(maps.sites[i]!)}`, maps.sites[i]!, maps.streams[i]!, () => only) });
  const order = maps.sites.map((_, i) => i).reverse(), first = order.slice(0, 6), rest = order.slice(6);
  const figure = new Figure({ id: "token-arcs", title: "Attention arcs", meaning: "From each token to what it looks at, the last block on top; thickness is the weight, from .1 on. A dot is a token that looks at itself. Point at a token for its weights.", wide: true, columns: 1, facets: first.map(block) });
  figures.push({ el: figure.el, figure });
  const group = h("div", { class: "choose heads", role: "group", "aria-label": "Heads shown" }, h("span", { class: "facts" }, "Head"));
  const buttons = [null, ...Array.from({ length: Math.min(num, 32) }, (_, i) => i)].map((head) => {
    const swatch = h("span", { class: "swatch", "aria-hidden": "true" }), b = h("button", { type: "button", class: "step" }, ...(head === null ? ["all"] : [swatch, String(head)]));
    const paint = () => { if (head !== null) swatch.style.background = category(head, theme().dark); };
    paint();
    b.onclick = () => { only = head; mark(); for (const f of figures) for (const p of f.figure.plots) p.invalidate(); };
    listen((topic) => { if (topic === "theme") paint(); }, b);
    group.append(b);
    return { b, head };
  });
  const mark = () => buttons.forEach(({ b, head }) => b.setAttribute("aria-pressed", String(head === only)));
  mark();
  let more: HTMLElement | null = null;
  if (rest.length) {
    more = h("details", { class: "fold" }, h("summary", {}, `${rest.length} more blocks`));
    more.addEventListener("toggle", () => { const f = new Figure({ id: "token-arcs-more", title: "Attention arcs, earlier blocks", wide: true, columns: 1, facets: rest.map(block) }); figures.push({ el: f.el, figure: f }); more!.append(f.el); }, { once: true });
  }
  return section("arcs", "What each token looks at", "", group, figure.el, more);
}

const missing = (reason: string) => h("p", { class: "note" }, `Missing: ${reason}.`);
