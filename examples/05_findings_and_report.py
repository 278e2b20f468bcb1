"""From a run to sentences: what emerged, when, where, how sure that is; and one HTML file.

Run: python examples/05_findings_and_report.py
"""

from __future__ import annotations

from pathlib import Path

from lmtrace.jobs.data import DataConfig
from lmtrace.jobs.train import TrainConfig, train
from lmtrace.show.report import write_report


def main(folder: Path = Path("runs/examples/05"), steps: int = 300, sentences: int = 20_000) -> list[str]:
    """Train, print the findings with their intervals and nulls, and write the report."""
    every = sorted(
        {max(1, round(steps * share)) for share in (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0)}
    )
    config = TrainConfig(
        data=DataConfig(corpus="absynth:tiny", sentences=sentences, panel_size=256), run=str(folder), size="tiny",
        learning_rate=4e-3, steps=steps, every=every, signals="standard", overwrite=True,
    )  # fmt: skip
    run = train(config)
    sentences_found = []
    for finding in run.findings():
        sentences_found.append(finding.sentence)
        print(f"[{finding.kind}] {finding.sentence}")
    write_report([run], folder / "report.html")
    print(f"\n{folder / 'report.html'}")
    return sentences_found


if __name__ == "__main__":
    main()
