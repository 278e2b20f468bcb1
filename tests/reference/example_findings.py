"""Findings of the made-up run, in the form in which the analysis gives them."""

from __future__ import annotations

from typing import Any


def example_findings() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for layer, base in {"category": 90, "upos": 160, "role": 610}.items():
        for i, site in enumerate(["block.0", "block.1", "block.2", "block.3", "final"]):
            middle = base * (1.5 - 0.12 * i)
            found.append({
                "kind": "emergence", "sentence": f"Probe accuracy of {layer} rose above its majority class at {site} "
                f"between steps {round(middle / 2, -2):.0f} and {round(middle / 2 + 100, -2):.0f}.",
                "series": {"signal": "probe", "metric": "accuracy", "label": layer, "split": "lexical"}, "site": site,
                "numbers": {"onset": middle * 0.5, "midpoint": middle, "saturation": middle * 3.1, "p_value": 0.0004},
                "interval": [middle * 0.85, middle * 1.2], "null": "majority class",
                "caveats": ["Times are known to one measurement (100 steps)."],
            })  # fmt: skip
    found.append(
        {
            "kind": "order",
            "sentence": "Word category was readable before semantic role: 520 steps earlier (95 % interval 430 to 640, one seed).",
            "interval": [430, 640],
            "caveats": ["One seed: the interval covers measurement noise, not other seeds."],
        }
    )
    found.append(
        {
            "kind": "phases",
            "sentence": "No transition: the change in sharpness is no larger than in smooth curves with the same noise.",
            "numbers": {"p_value": 0.31},
        }
    )
    found.append({"kind": "order", "sentence": "Selection before role: not resolved.", "interval": [-180, 420]})
    found.append(
        {
            "kind": "compression",
            "sentence": "Dimension rose to 22.4 and fell to 14.8 in block 2, with its peak at step 800.",
            "interval": [700, 1000],
            "caveats": ["Depends on n = 2,000 tokens."],
        }
    )
    found.append(
        {
            "kind": "convergence",
            "sentence": "The panel loss has not converged: its slope is below zero over the last 1,000 steps.",
            "interval": [-0.021, -0.008],
        }
    )
    found.append(
        {
            "kind": "alert",
            "sentence": "Loss spike at step 212: 2.1 nats above the running level. Look at the learning rate and the batch.",
            "numbers": {"step": 212},
        }
    )
    return found
