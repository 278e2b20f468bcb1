// Starts the page: the report reads its payload from the page itself, the dashboard asks its server.

import { decode, fromBase64, Run } from "./data";
import { drawAll } from "./figure";
import { page, setReady } from "./page";
import { receive, startDashboard } from "./dashboard";

declare global { interface Window { lmtrace: { drawAll: () => void; runs: Run[]; ready: boolean; drawn: number; live: number; updates: number; receive: typeof receive } } }

window.lmtrace = { drawAll: () => drawAll(), runs: [], ready: false, drawn: 0, live: 0, updates: 0, receive };

async function start() {
  const holder = document.getElementById("payload");
  if (!holder) { await startDashboard(); return; }
  const began = performance.now();
  try {
    const runs = decode(await fromBase64(holder.textContent ?? ""));
    window.lmtrace.runs = runs;
    page(runs);
    requestAnimationFrame(() => requestAnimationFrame(() => { window.lmtrace.drawn = performance.now() - began; setReady(true); }));
  } catch (error) {
    const p = document.createElement("p");
    p.className = "broken";
    p.textContent = `This report cannot be shown here: ${error instanceof Error ? error.message : error}. It needs a browser from 2023 or later; the findings are in the text below.`;
    document.querySelector("main")!.prepend(p);
    throw error;
  }
}

void start();
