"""Inference time: one measurement of one model, with the same signals as a live run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lmtrace.errors import DataError, ModelError
from lmtrace.observe.interface import Signal
from lmtrace.records.run import Run, open_run
from lmtrace.text.panel import Panel
from lmtrace.tracer import Tracer


def analyze(
    model: nn.Module,
    panel: Panel,
    *,
    run: str | Path,
    signals: str | Sequence[str | Signal] = "standard",
    step: int = 0,
    **settings: Any,
) -> Run:
    """Measure a model once and return the run.

    Parameters
    ----------
    model, panel
        As for `lmtrace.Tracer`; the model is left exactly as it was.
    run
        Folder to write to.
    step
        The optimizer step that the model is at, for the records.
    settings
        Everything else that `Tracer` takes (`forward=`, `sites=`, `seed=`, `overwrite=`).
    """
    settings.setdefault("on_error", "disable")
    with Tracer(model, panel, run=run, signals=signals, every=[], start_step=step, **settings):
        pass
    return open_run(run)


def load_checkpoint(path: str, *, revision: str | None = None, trust_remote_code: bool = False) -> nn.Module:
    """Return the model saved in a folder or under a Hub name, with the head that its configuration names.

    Weights are read from safetensors or with `weights_only`; remote code runs only where the caller asks for it.

    Raises
    ------
    ModelError
        Where there is no model, or no known head.
    """
    import transformers
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
        names = getattr(config, "architectures", None) or []
        known = [n for n in names if hasattr(transformers, n)]
        if known:
            loader = getattr(transformers, known[0])
        elif getattr(config, "is_encoder_decoder", False):
            loader = transformers.AutoModelForSeq2SeqLM
        else:
            loader = transformers.AutoModelForCausalLM
        extra = {} if known else {"trust_remote_code": trust_remote_code}
        model = loader.from_pretrained(path, revision=revision, dtype=torch.float32, **extra)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"cannot load a model from {path}: {first}", "Give a folder with config.json") from error
    return model.eval()


def analyze_checkpoint(
    path: str,
    *,
    run: str | Path,
    panel: str | None = None,
    signals: str = "standard",
    revision: str | None = None,
    step: int | None = None,
    seed: int | None = None,
    overwrite: bool = False,
) -> Run:
    """Measure a saved checkpoint; the panel is that of its training where `lmtrace train` wrote the checkpoint.

    Raises
    ------
    DataError
        Where no panel is given and the checkpoint does not say which one it was measured with.
    """
    from lmtrace.jobs.data import DataConfig, build_panel, load_sentences, open_tokenizer, read_card, split

    model = load_checkpoint(path, revision=revision)
    tokenizer = open_tokenizer(path)
    card = read_card(path)
    if panel is not None:
        config = DataConfig(**{**(card or {}).get("data", {}), "panel": panel})
        training, held_out = None, load_sentences(panel, config)
    elif card is not None:
        config = DataConfig(**card["data"])
        training, held_out = split(config)
    else:
        raise DataError(f"{path} does not say which panel it belongs to", "Pass --panel FILE (CoNLL-U, JSONL, parquet)")
    from lmtrace.jobs.train import signals_for
    from lmtrace.observe.forward import objective_of

    built = build_panel(held_out, tokenizer, config, objective_of(model), training)
    card = card or {}
    return analyze(
        model,
        built,
        run=run,
        signals=signals_for(signals, held_out),
        step=int(card.get("step", 0)) if step is None else step,
        seed=int(card.get("seed", 0)) if seed is None else seed,
        overwrite=overwrite,
        data={"checkpoint": Path(path).name, "corpus": config.corpus},
    )
