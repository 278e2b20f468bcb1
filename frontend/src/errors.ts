// The worst generated sentences, with the place of the error marked.

import { Run } from "./data";
import { h } from "./figure";

interface Example { text: string; type: string; start: number | null; end: number | null; note: string }

/** Finds examples in events, whatever the writer called the keys: text or tokens, and where the error is. */
export function examples(run: Run): { step: number; list: Example[] } | null {
  for (const event of [...run.events].reverse()) {
    const found = (event.data?.examples ?? event.data?.worst) as any[] | undefined;
    if (!Array.isArray(found) || !found.length) continue;
    const list = found.map((e): Example => {
      const words: string[] | null = Array.isArray(e.tokens ?? e.words) ? (e.tokens ?? e.words).map(String) : null;
      const text = String(e.text ?? e.sentence ?? words?.join(" ") ?? "");
      let start = typeof e.start === "number" ? e.start : null, end = typeof e.end === "number" ? e.end : null;
      const word = e.position ?? e.word ?? e.index;
      if (start === null && typeof word === "number") {
        const parts = words ?? text.split(" ");
        start = parts.slice(0, word).join(" ").length + (word ? 1 : 0);
        end = start + (parts[word]?.length ?? 0);
      }
      return { text, type: String(e.type ?? e.kind ?? e.error ?? "error"), start, end, note: e.expected ? `expected: ${e.expected}` : String(e.note ?? e.reason ?? "") };
    });
    return { step: event.step, list };
  }
  return null;
}

export function errorSection(runs: Run[]): HTMLElement | null {
  const parts: Node[] = [];
  for (const run of runs) {
    const found = examples(run);
    if (!found) continue;
    const list = h("ul", { class: "examples" });
    for (const e of found.list.slice(0, 24)) {
      const line = h("p", {});
      if (e.start === null) line.append(e.text);
      else {
        const end = Math.max(e.end ?? e.start, e.start);
        line.append(e.text.slice(0, e.start), h("mark", {}, end > e.start ? e.text.slice(e.start, end) : "\u2038"), e.text.slice(end));
      }
      list.append(h("li", {}, h("span", { class: "kind" }, e.type.replace(/_/g, " ")), line, ...(e.note ? [h("span", { class: "facts" }, e.note)] : [])));
    }
    parts.push(h("div", { class: "block" }, h("h3", {}, `Generated at step ${found.step.toLocaleString("en")}` + (runs.length > 1 ? `, ${run.name}` : "")), list));
  }
  return parts.length ? h("div", { class: "sentences" }, ...parts) : null;
}
