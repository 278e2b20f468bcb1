// The page around the sections: title, navigation, step axis, theme, the replay slider.

import { category } from "./color";
import { Run, Series } from "./data";
import { drawAll, drawIdly, forget, h } from "./figure";
import { inspector, sentenceCount } from "./inspector";
import { sections } from "./sections";
import { listen, number, state, stepText, tell } from "./state";

const ROMAN: Record<string, string> = { findings: "Findings", loss: "Loss", emergence: "When", maps: "Where", probe: "Probes", dimension: "Dimension", curvature: "Curvature", output: "Output", errors: "Errors", pairs: "Pairs", attention: "Attention", inside: "Inside", cost: "Cost", provenance: "Provenance", surprisal: "Surprisal", got: "When", lens: "Lens", readings: "Probes", arcs: "Attention" };

function button(text: string, label: string, act: () => void): HTMLButtonElement {
  const b = h("button", { type: "button", "aria-label": label, title: label }, text);
  b.onclick = act;
  return b;
}

/** What all runs share: the last step and the first measured one. */
export function frame(runs: Run[]) {
  let last = 1, unit = Infinity;
  for (const run of runs) for (const s of run.series) {
    if (!s.rows) continue;
    last = Math.max(last, s.steps[s.rows - 1]!);
    if (s.signal === "train") continue;
    for (let r = 0; r < Math.min(3, s.rows); r++) if (s.steps[r]! > 0) { unit = Math.min(unit, s.steps[r]!); break; }
  }
  state.lastStep = last;
  state.unit = Number.isFinite(unit) ? unit : Math.max(1, last / 100);
  state.runNames = runs.map((r) => r.name);
}

export function page(runs: Run[], extra: { side?: HTMLElement; live?: boolean } = {}) {
  frame(runs);
  forget();
  const again = () => page(runs, extra), sentences = onSentences(runs, extra.live ?? false);
  const main = h("main", { id: "main" }, ...(sentences ? inspector(runs, again) : [hero(runs, extra.live ?? false), ...sections(runs)]));
  const links = [...main.querySelectorAll("section")].map((s) => h("a", { href: `#${s.id}` }, ROMAN[s.id] ?? s.querySelector("h2")!.textContent!));
  const nav = h("nav", { "aria-label": "Sections" }, ...(extra.side ? [extra.side] : []), h("div", { class: "links" }, ...links));
  const old = document.getElementById("app")!;
  // What is being read stays where it is when the page is made anew.
  const anchor = extra.live ? [...document.querySelectorAll("main > section")].find((s) => s.getBoundingClientRect().bottom > 90) : undefined;
  const offset = scrollY > 0 ? anchor?.getBoundingClientRect().top : undefined;
  old.replaceChildren(bar(runs, tabs(runs, extra.live ?? false, again)), h("div", { class: extra.side ? "layout with-runs" : "layout" }, nav, main), ...(extra.live || runs.some((r) => r.series.some((s) => s.rows > 1)) ? [replay()] : []));
  const same = offset !== undefined ? document.getElementById(anchor!.id) : null;
  if (same) scrollBy({ top: same.getBoundingClientRect().top - offset!, behavior: "instant" });
  spy(links, [...main.querySelectorAll("section")]);
  document.title = `${runs.map((r) => r.name).join(", ")} · TRACE`;
}

function hero(runs: Run[], live: boolean): HTMLElement {
  const el = h("header", { class: "hero" });
  if (runs.length === 1) {
    const { header, name } = runs[0]!, m = header.model ?? {}, p = header.panel ?? {}, facts: string[] = [];
    if (m.class) facts.push(m.class);
    if (m.num_blocks) facts.push(`${m.num_blocks} blocks${m.d_model ? ` × ${m.d_model}` : ""}`);
    if (m.num_parameters) facts.push(`${number(m.num_parameters / (m.num_parameters >= 1e6 ? 1e6 : 1e3))}${m.num_parameters >= 1e6 ? " M" : " k"} parameters`);
    if (p.num_sentences) facts.push(`panel of ${Number(p.num_sentences).toLocaleString("en")} sentences`);
    el.append(h("h1", {}, name), h("span", { class: "state", "data-run": runs[0]!.id }, status(header.status)), h("p", { class: "facts" }, facts.join(" · ")));
  } else {
    const table = h("table", { class: "overview" });
    overview(runs, table);
    if (live) listen((topic) => { if (topic === "data") overview(runs, table); }, table);
    el.append(h("h1", {}, `${runs.length} runs`), h("div", { class: "table plain", tabindex: "0", role: "group", "aria-label": "The runs" }, table));
  }
  const numbers = h("dl", { class: "tiles" });
  tiles(runs, numbers);
  if (live) listen((topic) => { if (topic === "data") tiles(runs, numbers); }, numbers);
  if (runs.length === 1) el.append(numbers);
  return el;
}

export function status(text: string): HTMLElement {
  return h("span", { class: `status ${String(text).replace(/\s/g, "-")}` }, String(text || "unknown"));
}

function tiles(runs: Run[], list: HTMLElement) {
  const run = runs[0]!, out: [string, string, string][] = [];
  const find = (signal: string, metric: string) => run.series.find((s) => s.signal === signal && s.metric === metric && s.label === null && s.rows);
  out.push(["Step", state.lastStep.toLocaleString("en"), ""]);
  const panel = find("output", "loss") ?? find("train", "loss");
  if (panel) {
    const r = panel.rows - 1, v = panel.values.at(r, 0), se = panel.stderr.at(r, 0);
    out.push([panel.signal === "train" ? "Training loss" : "Panel loss", number(v, 4), Number.isFinite(se) ? `± ${number(se, 2)} nats` : "nats"]);
    const floor = run.header.data?.floor_nats;
    if (typeof floor === "number" && panel.signal !== "train") out.push(["Above the floor", number(v - floor, 3), `floor ${number(floor, 4)} nats`]);
  }
  for (const [signal, metric] of [["probe", "accuracy"]] as const) {
    let top: { v: number; label: string; null_: number } | null = null;
    for (const s of run.series) if (s.signal === signal && s.metric === metric && s.rows && !s.label?.includes("=")) for (let c = 0; c < s.sites.length; c++) {
      const v = s.values.at(s.rows - 1, c), null_ = s.null.at(s.rows - 1, c);
      if (v === v && (!top || v - (null_ || 0) > top.v - (top.null_ || 0))) top = { v, label: s.label ?? "", null_ };
    }
    if (top) out.push([`Best probe: ${top.label}`, number(top.v, 3), Number.isFinite(top.null_) ? `majority ${number(top.null_)}` : ""]);
  }
  const tokens = find("train", "tokens_seen");
  // Tokens come with the payload, not with live numbers: an old count is not shown beside a new step.
  if (tokens && (!panel || tokens.steps[tokens.rows - 1]! >= panel.steps[panel.rows - 1]!)) out.push(["Tokens seen", short(tokens.values.at(tokens.rows - 1, 0)), ""]);
  list.replaceChildren(...out.map(([name, value, note]) => h("div", {}, h("dt", {}, name), h("dd", {}, value, ...(note ? [h("small", {}, note)] : [])))));
}

/** Where every run stands, side by side. */
function overview(runs: Run[], table: HTMLElement) {
  const last = (run: Run, signal: string, metric: string) => run.series.find((s) => s.signal === signal && s.metric === metric && s.label === null && s.split === null && s.rows);
  const rows = runs.map((run, i) => {
    const swatch = h("span", { class: "swatch", "aria-hidden": "true" }), loss = last(run, "output", "loss"), excess = last(run, "truth", "excess");
    swatch.style.background = category(i, isDark());
    const of = (s: Series | undefined) => { if (!s) return "–"; const se = s.stderr.at(s.rows - 1, 0); return number(s.values.at(s.rows - 1, 0), 4) + (Number.isFinite(se) ? ` ± ${number(se, 2)}` : ""); };
    const step = Math.max(0, ...run.series.filter((s) => s.signal !== "train" && s.rows).map((s) => s.steps[s.rows - 1]!));
    return h("tr", {}, h("th", { scope: "row" }, swatch, ` ${run.name}`), h("td", {}, h("span", { class: "state", "data-run": run.id }, status(run.header.status))), h("td", {}, step.toLocaleString("en")), h("td", {}, of(loss)), h("td", {}, of(excess)));
  });
  table.replaceChildren(h("thead", {}, h("tr", {}, ...["run", "status", "step", "panel loss (nats)", "above the floor (nats)"].map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, ...rows));
}

function short(v: number) { return v >= 1e9 ? `${number(v / 1e9)} B` : v >= 1e6 ? `${number(v / 1e6)} M` : v >= 1e3 ? `${number(v / 1e3)} k` : number(v); }

/** The page of sentences is there where one was inspected, and on the live page, where it says how. */
const onSentences = (runs: Run[], live: boolean) => state.page === "sentences" && (live || sentenceCount(runs) > 0);

function tabs(runs: Run[], live: boolean, again: () => void): HTMLElement | null {
  const count = sentenceCount(runs);
  if (!count && !live) return null;
  const link = (name: typeof state.page, text: string) => {
    const a = h("a", { href: `#${name}` }, text);
    if ((name === "sentences") === onSentences(runs, live)) a.setAttribute("aria-current", "page");
    a.onclick = (e) => {
      e.preventDefault();
      state.page = name;
      history.replaceState(null, "", `${location.search}${name === "run" ? "" : "#sentences"}` || location.pathname);
      scrollTo({ top: 0, behavior: "instant" });
      again();
      setReady(true);
      document.querySelector<HTMLElement>(`.tabs a[href="#${name}"]`)?.focus();
    };
    return a;
  };
  return h("nav", { class: "tabs", "aria-label": "Pages" }, link("run", runs.length > 1 ? "Runs" : "Run"), link("sentences", count ? `Sentences ${count}` : "Sentences"));
}

function bar(runs: Run[], pages: HTMLElement | null): HTMLElement {
  const axis = button("", "", () => { state.axis = state.axis === "log" ? "linear" : "log"; say(); tell("view"); });
  const say = () => { const scale = state.axis === "log" ? "Log" : "Linear"; axis.replaceChildren(scale, h("span", { class: "axis-name" }, " steps")); axis.setAttribute("aria-label", `${scale} steps: change the step axis`); axis.title = "Change the step axis"; };
  say();
  const reset = button("Reset zoom", "Reset zoom", () => { state.range = null; tell("view"); });
  reset.hidden = true;
  listen((topic) => { if (topic === "view") reset.hidden = state.range === null; }, reset);
  const mode = button("", "", () => { setTheme(isDark() ? "light" : "dark"); name(); });
  const name = () => { mode.textContent = isDark() ? "Light" : "Dark"; mode.setAttribute("aria-label", `${mode.textContent}: change to the ${isDark() ? "light" : "dark"} theme`); mode.title = "Change the theme"; };
  name();
  const sites = runs.length > 1 ? sitePicker(runs) : null;
  return h("header", { class: "top" }, h("a", { class: "skip", href: "#main" }, "Skip to the content"), h("span", { class: "brand" }, "TRACE"), h("span", { class: "where" }, runs.map((r) => r.name).join(", ")), ...(pages ? [pages] : []), ...(sites ? [sites] : []), reset, axis, mode);
}

function sitePicker(runs: Run[]): HTMLElement {
  const names = [...new Set(runs.flatMap((r) => r.series.flatMap((s) => s.sites.filter((n): n is string => n !== null && /(^|\.)(embed|final|block\.\d+)$/.test(n)))))];
  const select = h("select", { "aria-label": "Site shown where runs are overlaid" }, ...names.map((n) => h("option", { value: n }, n)));
  select.value = state.site ?? names.find((n) => n.endsWith("final")) ?? names.at(-1) ?? "";
  select.onchange = () => { state.site = select.value; const side = document.querySelector<HTMLElement>(".runs"); page(runs, side ? { side, live: true } : {}); };
  return select;
}

export function isDark(): boolean {
  return getComputedStyle(document.documentElement).getPropertyValue("--dark").trim() === "1";
}

export function setTheme(theme: "light" | "dark") {
  document.documentElement.dataset.theme = theme;
  tell("theme");
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => tell("theme"));
// Paper is light. The drawings are made again before the printer looks, not at the next frame.
let onScreen: string | undefined;
addEventListener("beforeprint", () => { onScreen = document.documentElement.dataset.theme; document.documentElement.dataset.theme = "light"; drawAll(true); });
addEventListener("afterprint", () => { if (onScreen) document.documentElement.dataset.theme = onScreen; else delete document.documentElement.dataset.theme; drawAll(true); });

/** The slider that replays the training: figures over steps are veiled after it, arrays show that moment. */
function replay(): HTMLElement {
  const N = 400;
  const slider = h("input", { type: "range", min: "0", max: String(N), value: String(N), "aria-label": "Replay: show the training up to a step" });
  const text = h("output", {}), play = button("▶", "Replay the training", () => (timer ? stop() : start()));
  let timer = 0, chosen = state.time;
  const toStep = (v: number) => (state.axis === "log" ? state.unit * (10 ** ((v / N) * Math.log10(1 + state.lastStep / state.unit)) - 1) : (v / N) * state.lastStep);
  const show = (exactly?: number | null) => {
    const v = +slider.value;
    chosen = state.time = exactly !== undefined ? exactly : v >= N ? null : Math.round(toStep(v));
    text.textContent = state.time === null ? `step ${stepText(state.lastStep)}, latest` : `step ${stepText(state.time)}`;
    slider.setAttribute("aria-valuetext", text.textContent);
  };
  const start = () => {
    if (+slider.value >= N) slider.value = "0";
    play.textContent = "❚❚";
    play.setAttribute("aria-label", "Pause the replay");
    timer = window.setInterval(() => { slider.value = String(+slider.value + 2); show(); tell("time"); if (+slider.value >= N) stop(); }, 50);
  };
  const stop = () => { clearInterval(timer); timer = 0; play.textContent = "▶"; play.setAttribute("aria-label", "Replay the training"); };
  slider.oninput = () => { show(); tell("time"); };
  const follow = () => { slider.value = state.time === null ? String(N) : String(Math.round(state.axis === "log" ? (N * Math.log10(1 + state.time / state.unit)) / Math.log10(1 + state.lastStep / state.unit) : (N * state.time) / state.lastStep)); };
  // The buttons of the sentence page choose a checkpoint too.
  listen((topic) => { if (topic === "data") show(); if (topic === "time" && state.time !== chosen) { chosen = state.time; follow(); show(chosen); } }, slider);
  follow();
  show(state.time);
  return h("footer", { class: "replay" }, play, slider, text);
}

function spy(links: HTMLAnchorElement[], parts: HTMLElement[]) {
  const seen = new Set<Element>();
  const watch = new IntersectionObserver((entries) => {
    for (const e of entries) if (e.isIntersecting) seen.add(e.target); else seen.delete(e.target);
    const at = parts.findIndex((p) => seen.has(p));
    links.forEach((l, i) => (i === at ? l.setAttribute("aria-current", "true") : l.removeAttribute("aria-current")));
  }, { rootMargin: "-80px 0px -55% 0px" });
  for (const p of parts) watch.observe(p);
}

/** Said on the page itself, so that whoever drives it can wait without running a script. */
export function setReady(ready: boolean) {
  window.lmtrace.ready = ready;
  document.body.dataset.ready = String(ready);
  if (ready) drawIdly();
}
