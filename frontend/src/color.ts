// Palettes that stay readable for colour-blind readers, in light and dark: Okabe-Ito for categories; for ordered quantities ramps whose
// lightness (OKLab) changes evenly, starting from the paper so that "nothing there" looks like nothing.

export interface Theme { dark: boolean; paper: string; ink: string; muted: string; rule: string; accent: string; surface: string; mark: string; markInk: string }

export function theme(): Theme {
  const style = getComputedStyle(document.documentElement);
  const get = (name: string) => style.getPropertyValue(name).trim();
  return {
    dark: get("--dark") === "1", paper: get("--paper"), ink: get("--ink"), muted: get("--muted"), rule: get("--rule"),
    accent: get("--accent"), surface: get("--surface"), mark: get("--mark"), markInk: get("--mark-ink"),
  };
}

const LIGHT = ["#0072b2", "#d55e00", "#009e73", "#b1508b", "#b87800", "#2f94c9", "#5d5d5d", "#8c510a"];
const DARK = ["#56b4e9", "#ff8b3d", "#2fc79b", "#e08fc0", "#e6a817", "#a9d8f5", "#b5b5b5", "#f0e442"];

export function category(index: number, dark: boolean): string {
  const colors = dark ? DARK : LIGHT;
  return colors[index % colors.length]!;
}

function oklch(l: number, c: number, h: number): [number, number, number] {
  const a = c * Math.cos((h * Math.PI) / 180), b = c * Math.sin((h * Math.PI) / 180);
  const x = (l + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const y = (l - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const z = (l - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const linear = [
    4.0767416621 * x - 3.3077115913 * y + 0.2309699292 * z,
    -1.2684380046 * x + 2.6097574011 * y - 0.3413193965 * z,
    -0.0041960863 * x - 0.7034186147 * y + 1.707614701 * z,
  ];
  return linear.map((v) => {
    const s = v <= 0.0031308 ? 12.92 * v : 1.055 * v ** (1 / 2.4) - 0.055;
    return Math.round(Math.min(1, Math.max(0, s)) * 255);
  }) as [number, number, number];
}

const hex = (rgb: [number, number, number]) => "#" + rgb.map((v) => v.toString(16).padStart(2, "0")).join("");

const SIZE = 128;
const tables = new Map<string, string[]>();

function table(name: string, make: (t: number) => [number, number, number]): string[] {
  let found = tables.get(name);
  if (!found) tables.set(name, (found = Array.from({ length: SIZE }, (_, i) => hex(make(i / (SIZE - 1))))));
  return found;
}

/** From paper to deep blue: 0 is nothing, 1 is most. */
export function sequential(dark: boolean): string[] {
  return dark
    ? table("seq-dark", (t) => oklch(0.23 + 0.7 * t, 0.02 + 0.13 * Math.sin(Math.PI * Math.min(1, t * 0.95 + 0.06)), 265 - 75 * t))
    : table("seq-light", (t) => oklch(0.972 - 0.67 * t, 0.008 + 0.13 * Math.sin(Math.PI * (0.04 + 0.72 * t)), 205 + 65 * t));
}

/** Below (0 to .5) in orange, above (.5 to 1) in blue, paper between. */
export function diverging(dark: boolean): string[] {
  const arm = (t: number, hue: number, turn: number): [number, number, number] =>
    dark ? oklch(0.25 + 0.62 * t, 0.012 + 0.14 * Math.sin(Math.PI * Math.min(1, 0.05 + 0.75 * t)), hue + turn * t)
      : oklch(0.965 - 0.6 * t, 0.006 + 0.145 * Math.sin(Math.PI * (0.03 + 0.62 * t)), hue + turn * t);
  return table(dark ? "div-dark" : "div-light", (t) => (t < 0.5 ? arm(1 - 2 * t, 75, -28) : arm(2 * t - 1, 215, 50)));
}

/** Colours of sites by depth: the first block light, the last dark (the other way round on dark paper). */
export function depth(index: number, count: number, dark: boolean): string {
  const t = count < 2 ? 1 : index / (count - 1);
  return hex(dark ? oklch(0.58 + 0.34 * t, 0.15 - 0.06 * t, 300 - 105 * t) : oklch(0.7 - 0.38 * t, 0.115 + 0.04 * t, 195 + 95 * t));
}

/** A line's colour for its name: closer to the ink, so that small text stays readable. */
export function legible(color: string, t: Theme): string {
  const rgb = (c: string) => [1, 3, 5].map((i) => parseInt(c.slice(i, i + 2), 16));
  if (!/^#[0-9a-f]{6}$/i.test(color) || !/^#[0-9a-f]{6}$/i.test(t.ink)) return color;
  const a = rgb(color), b = rgb(t.ink), share = t.dark ? 0.15 : 0.32;
  return hex(a.map((v, i) => Math.round(v * (1 - share) + b[i]! * share)) as [number, number, number]);
}

/** Ink or paper, whichever can be read on a colour. */
export function readable(on: string, t: Theme): string {
  const light = (c: string) => { const [r, g, b] = [1, 3, 5].map((i) => (parseInt(c.slice(i, i + 2), 16) / 255) ** 2.2); return 0.2126 * r! + 0.7152 * g! + 0.0722 * b!; };
  const far = (c: string) => { const a = light(c), b = light(on); return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); };
  return far(t.ink) >= far(t.paper) ? t.ink : t.paper;
}

export interface Scale { low: number; high: number; middle: number | null; colors: string[] }

export function colorOf(scale: Scale, value: number): string {
  const { low, high, middle, colors } = scale;
  let t: number;
  if (middle === null) t = high > low ? (value - low) / (high - low) : 0.5;
  else {
    const reach = Math.max(high - middle, middle - low) || 1;
    t = 0.5 + (0.5 * (value - middle)) / reach;
  }
  return colors[Math.round(Math.min(1, Math.max(0, t)) * (colors.length - 1))]!;
}
