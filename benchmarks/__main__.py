"""Run every benchmark (or those named) and print one table.

Ratios are medians of paired runs in one process, in processor time on one thread; rows that say "wall time" use all cores.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import platform
import sys
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

import benchmarks


def within(value: float, bound: str) -> str:
    """Say whether a value keeps a bound such as "<= 2.2" or ">= 100000"."""
    if not bound:
        return ""
    sign, number = bound.split()
    kept = {"<=": value <= float(number), ">=": value >= float(number)}[sign]
    return "yes" if kept else "no"


def main() -> int:
    """Print the table and write it to bench-results/."""
    names = sys.argv[1:] or [m.name for m in pkgutil.iter_modules(benchmarks.__path__) if not m.name.startswith("_")]
    table = Table("benchmark", "what", "value", "unit", "bound", "kept", "note", box=None, pad_edge=False)
    results = []
    torch.set_num_threads(1)
    for name in names:
        start = time.perf_counter()
        Console(stderr=True).print(f"benchmark {name} ...")
        with threadpool_limits(1):
            rows = importlib.import_module(f"benchmarks.{name}").rows()
        for row in rows:
            bound = row.get("bound", "")
            value = row["value"]
            table.add_row(
                name, row["name"], f"{value:,.4g}", row["unit"], bound, within(value, bound), row.get("note", "")
            )
            results.append({"benchmark": name, **row, "kept": within(value, bound)})
        Console(stderr=True).print(f"benchmark {name}: {time.perf_counter() - start:.0f} s")
    Console(width=200).print(table)
    folder = Path("bench-results")
    folder.mkdir(exist_ok=True)
    content = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "rows": results,
    }
    (folder / "latest.json").write_text(json.dumps(content, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
