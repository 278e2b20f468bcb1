"""Every model with every signal: a number or a reason. `python tests/model_table.py` writes docs/models.md from such a run."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

import absynth
import lmtrace
from lmtrace.integrations.absynth import minimal_pairs
from lmtrace.jobs.data import Collator, training_rows
from lmtrace.signals import available
from lmtrace.signals.curvature import Curvature
from lmtrace.signals.errors import Errors
from lmtrace.signals.pairs import Pairs
from lmtrace.signals.tree_probe import TreeProbe
from lmtrace_helpers import PlainModel, tiny

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
STEPS = 2


@cache
def language() -> tuple[Any, Any, Any]:
    """Return the training sentences, the tokenizer and the panel of a small language whose law is known."""
    corpus = absynth.generate(absynth.Grammar.preset("small"), n=1200, seed=0)
    train, _, test = corpus.split(train=0.8, dev=0.1, test=0.1, seed=0)
    tokenizer = lmtrace.WordTokenizer.from_corpus(corpus)
    return train, tokenizer, lmtrace.Panel.from_annotated(test, tokenizer, size=100, seed=0, training=train)


def signals() -> list[Any]:
    """Return every signal that exists, the expensive ones small."""
    train, _, _ = language()
    small = {
        "curvature": Curvature(sequences=4, num_probes=2, quantities=("spectrum", "trace")),
        "errors": Errors(samples=16),
        "pairs": Pairs(pairs=minimal_pairs(train, per_kind=10)),
        "tree_probe": TreeProbe(num_steps=20),
    }
    return [small.get(name) or signal() for name, signal in sorted(available().items())]


def _family(style: str) -> Callable[[], nn.Module]:
    return lambda: tiny(style, language()[1], "2x32")


def _lora() -> nn.Module:
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(r=4, target_modules=["c_attn"], task_type="CAUSAL_LM", fan_in_fan_out=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft reads an attribute that transformers has renamed
        return get_peft_model(tiny("gpt2", language()[1], "2x32"), settings)  # pyright: ignore[reportArgumentType]


def _compiled() -> nn.Module:
    torch._dynamo.reset()
    return torch.compile(_family("llama")(), backend="aot_eager")  # pyright: ignore[reportReturnType]


def _checkpointed() -> nn.Module:
    model: Any = _family("gpt2")()
    (getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable)()
    return model


MODELS: dict[str, tuple[Callable[[], nn.Module], torch.dtype | None]] = {
    "GPT-2": (_family("gpt2"), None),
    "Llama": (_family("llama"), None),
    "GPT-NeoX": (_family("gpt_neox"), None),
    "Qwen 2": (_family("qwen"), None),
    "Gemma": (_family("gemma"), None),
    "OPT": (_family("opt"), None),
    "Mixtral": (_family("mixtral"), None),
    "Mamba": (_family("mamba"), None),
    "BERT": (_family("bert"), None),
    "T5": (_family("t5"), None),
    "plain `nn.Module`": (lambda: PlainModel(len(language()[1])), None),
    "GPT-2 with LoRA": (_lora, None),
    "Llama, compiled": (_compiled, None),
    "GPT-2, checkpointed": (_checkpointed, None),
    "GPT-2, bf16 autocast": (_family("gpt2"), torch.bfloat16),
    "GPT-2, fp16 autocast": (_family("gpt2"), torch.float16),
    "GPT-2, bf16 weights": (lambda: _family("gpt2")().to(torch.bfloat16), None),
}
"""Row of the table -> (how to make the model, the autocast it is trained under)."""


def row(name: str, folder: str | Path) -> dict[str, float | str]:
    """Train the model for a few steps and return signal -> its first metric at the last one, or why there is none."""
    train, tokenizer, panel = language()
    make, autocast = MODELS[name]
    torch.manual_seed(0)
    model = make().train()
    style = {"BERT": "masked", "T5": "seq2seq"}.get(name, "causal")
    rows, collate = training_rows(train, tokenizer, style, 32), Collator(tokenizer, style)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with lmtrace.Tracer(
        model, panel, run=Path(folder) / "run", every=1, signals=signals(), optimizer=optimizer, overwrite=True
    ) as tracer:
        for step in range(STEPS):
            batch = collate([rows[i] for i in range(8 * step, 8 * step + 8)])
            with torch.autocast("cpu", autocast) if autocast else contextlib.nullcontext():
                if isinstance(model, PlainModel):
                    logits = model(batch["input_ids"])[:, :-1]
                    loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten())
                else:
                    loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            tracer.last_step = STEPS
            tracer.step(loss=loss)
    with lmtrace.open_run(Path(folder) / "run") as run:
        return {signal: cell(run, signal) for signal in sorted(available())}


def cell(run: Any, signal: str) -> float | str:
    """Return the signal's first metric at the last step: of all labels together where it can be, at the last site."""
    metric = available()[signal].fields[0].metric
    keys = sorted((k for k in run.keys() if (k.signal, k.metric) == (signal, metric)), key=lambda k: k.label or "")
    reasons: list[str] = []
    for key in keys:
        series = run.series(signal=signal, metric=metric, label=key.label, split=key.split)
        where = series.steps.tolist().index(STEPS) if STEPS in series.steps else None
        if where is None:
            continue
        values = [float(v) for v in series.values[where] if v == v]
        if values:
            return values[-1]
        reasons += [reason for (step, _), reason in series.missing.items() if step == STEPS]
    return reasons[0] if reasons else ""


RULES = [
    "## How a model is read",
    "",
    "- Two trial passes over a few tokens show which module's output becomes which module's input. Blocks are the repeated modules "
    "on the residual path, wherever they are kept (ModuleList, ModuleDict, Sequential, numbered attributes, one block in a loop: a "
    "site for every time it runs); `final` is the norm that reads the last block's output; encoder and decoder are told apart by "
    "the length of what they read. Blocks that give (hidden, residual) are read as the sum. Sequence-first layouts, prompts in "
    "front and padding inside are recognised because the two passes differ in the number and the length of the sequences.",
    "- A site that cannot be read (several streams side by side, other lengths, a block that does not run) is missing with its "
    "reason; the other sites and all signals that need no site are measured.",
    '- `sites={"block": "path", "final": "path"}` overrides all of it; `layers` and `ln_final` are understood too.',
    "- Attention maps belong to the block whose attention made them. Rows must be weights: scores and linear states are refused "
    "per block; rows that give a part to a sink that is no token are divided by the rest, and the run says so.",
    "- The lens is the model's own code after its last block (projection, transform, scale, bias, soft cap). Where that does not "
    "give the model's logits to 1e-5, it is missing.",
    "- A model that sees padding is read in batches of one length, and the run says so. Masks may be called `padding_mask`, "
    "`src_key_padding_mask`, `key_padding_mask`, `input_mask` or `mask`.",
    '- Models without logits over the vocabulary give what needs none. A panel made with `objective="masked"` is read so by every '
    "model that is no encoder-decoder.",
    "",
    "## Every signal on every kind of model",
]


def render(table: dict[str, dict[str, float | str]]) -> str:
    """Return the page."""
    names = sorted(available())
    reasons = list(dict.fromkeys(v for cells in table.values() for v in cells.values() if isinstance(v, str)))
    letters = {reason: chr(ord("a") + i) for i, reason in enumerate(reasons)}
    lines = [
        "# Models and signals",
        "",
        "What every signal gives on every kind of model, from a run: two blocks of width 32, random weights, "
        f"{STEPS} steps of training on a small ABSynth language, one measurement. A number is the signal's first metric at "
        "its last site; a letter is the reason why there is none. The numbers mean nothing by themselves: they show that the "
        "path works. `python tests/model_table.py` writes this page, and the tests check that no cell has become empty.",
        "",
        *RULES,
        "",
        "| model | " + " | ".join(f"{name}" for name in names) + " |",
        "| --- |" + " ---: |" * len(names),
    ]
    for model, cells in table.items():
        shown = [f"({letters[v]})" if isinstance(v, str) else f"{v:.3g}" for v in (cells[n] for n in names)]
        lines.append(f"| {model} | " + " | ".join(shown) + " |")
    lines += ["", "Shown are:", ""]
    for name in names:
        first = available()[name].fields[0]
        unit = "" if first.unit == "1" else f" ({first.unit})"
        lines.append(f"- {name}: {first.title}{unit}")
    lines += ["", "Reasons:", "", *(f"- ({letter}) {reason}" for reason, letter in letters.items()), ""]
    return "\n".join(lines)


def main() -> None:
    """Write the page."""
    table = {}
    for name in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            table[name] = row(name, folder)
        sys.stderr.write(f"{name}\n")
    PAGE.write_text(render(table), encoding="utf-8")


if __name__ == "__main__":
    main()
