"""Small multiples as SVG: every seed's line is drawn, on a light background, readable without colour (dashes differ too)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np

BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#777777"
_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 250, 170, 46, 46, 22


@dataclass
class Lines:
    """Curves of one quantity, one per seed."""

    name: str
    colour: str
    curves: Sequence[tuple[np.ndarray, np.ndarray]]
    dash: str = ""


@dataclass
class Panel:
    """One diagram."""

    title: str
    lines: list[Lines]
    level: float | None = None
    switch: float | None = None
    marks: list[tuple[float, str]] = field(default_factory=list)


def draw(path: Path, panels: Sequence[Panel], unit: str, log: bool = False, low: float | None = None) -> None:
    """Write the diagrams side by side, three in a row, over a common scale; x is log(1 + step)."""
    values = np.concatenate([y for p in panels for line in p.lines for _, y in line.curves])
    values = values[np.isfinite(values) & (values > 0 if log else True)]
    bottom = float(values.min()) if low is None else low
    top = float(values.max())
    last = max(float(x[-1]) for p in panels for line in p.lines for x, _ in line.curves)
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    width = columns * (_WIDTH + _LEFT) + _GAP
    height = rows * (_HEIGHT + _TOP + _GAP) + 26

    def place_y(v: float) -> float:
        share = np.log(max(v, bottom) / bottom) / np.log(top / bottom) if log else (v - bottom) / (top - bottom)
        return _HEIGHT * (1 - float(np.clip(share, 0, 1)))

    def place_x(s: float) -> float:
        return _WIDTH * float(np.log1p(s) / np.log1p(last))

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for i, panel in enumerate(panels):
        x0, y0 = _LEFT + (i % columns) * (_WIDTH + _LEFT), _TOP + (i // columns) * (_HEIGHT + _TOP + _GAP) - 16
        out.append(
            f'<g transform="translate({x0},{y0})"><text x="0" y="-8" font-weight="bold">{escape(panel.title)}</text>'
        )
        out.append(f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="#bbbbbb"/>')
        for step in (0, 1, 10, 100, 1000):
            if step <= last:
                x = place_x(step)
                out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_HEIGHT}" y2="{_HEIGHT + 4}" stroke="#777"/>')
                out.append(f'<text x="{x:.1f}" y="{_HEIGHT + 15}" text-anchor="middle" fill="#444">{step}</text>')
        for tick in _ticks(bottom, top, log):
            y = place_y(tick)
            out.append(f'<line x1="-4" x2="0" y1="{y:.1f}" y2="{y:.1f}" stroke="#777"/>')
            out.append(f'<text x="-6" y="{y + 4:.1f}" text-anchor="end" fill="#444">{tick:g}</text>')
        if panel.level is not None:
            y = place_y(panel.level)
            out.append(f'<line x1="0" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="{GREY}" stroke-dasharray="2 3"/>')
        if panel.switch is not None:
            x = place_x(panel.switch)
            out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{_HEIGHT}" stroke="#000" stroke-dasharray="1 2"/>')
            out.append(f'<text x="{x - 3:.1f}" y="11" text-anchor="end" fill="#444">switch</text>')
        for line in panel.lines:
            dash = f' stroke-dasharray="{line.dash}"' if line.dash else ""
            for x, y in line.curves:
                keep = np.isfinite(y)
                points = " ".join(f"{place_x(a):.1f},{place_y(b):.1f}" for a, b in zip(x[keep], y[keep]))
                out.append(
                    f'<polyline points="{points}" fill="none" stroke="{line.colour}" stroke-opacity="0.75"{dash}/>'
                )
        out.append("</g>")
    x = _LEFT
    names = list({line.name: line for p in panels for line in p.lines}.values())
    for line in names:
        dash = f' stroke-dasharray="{line.dash}"' if line.dash else ""
        out.append(
            f'<line x1="{x}" x2="{x + 26}" y1="{height - 12}" y2="{height - 12}" stroke="{line.colour}" stroke-width="2"{dash}/>'
        )
        out.append(f'<text x="{x + 31}" y="{height - 8}">{escape(line.name)}</text>')
        x += 50 + 6 * len(line.name)
    out.append(
        f'<text x="{width - _GAP}" y="{height - 8}" text-anchor="end" fill="#444">x: step; y: {escape(unit)}</text></svg>'
    )
    path.write_text("\n".join(out), encoding="utf-8")


def _ticks(bottom: float, top: float, log: bool) -> list[float]:
    if log:
        powers = range(int(np.floor(np.log10(bottom))), int(np.floor(np.log10(top))) + 1)
        within = {
            steps: [m * 10.0**p for p in powers for m in steps if bottom <= m * 10.0**p <= top]
            for steps in ((1,), (1, 2, 5))
        }
        return within[(1,)] if len(within[(1,)]) > 2 else within[(1, 2, 5)]
    raw = (top - bottom) / 4
    unit = 10 ** np.floor(np.log10(raw))
    step = unit * next(m for m in (1, 2, 2.5, 5, 10) if m * unit >= raw)
    return [float(round(v, 6)) for v in np.arange(np.ceil(bottom / step) * step, top + 1e-9, step)]
