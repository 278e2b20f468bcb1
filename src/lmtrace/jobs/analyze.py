"""Inference time: one measurement of one model, with the same signals as a live run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import huggingface_hub
import torch
from torch import nn

from lmtrace.errors import DataError, ModelError
from lmtrace.live.tracer import Tracer
from lmtrace.observe.interface import Signal
from lmtrace.run import Run, open_run
from lmtrace.text.panel import Panel


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


def check_name(path: str, *, what: str) -> None:
    """Say what is wrong with a path, in words that transformers' own (about a connection) do not have.

    Raises
    ------
    ModelError
        Where nothing is there and the Hub cannot be asked; or where a run lies, whose checkpoints are named.
    """
    if Path(path).is_dir():
        if not (Path(path) / "config.json").exists() and (inside := sorted(Path(path).glob("**/config.json"))):
            some = ", ".join(str(found.parent) for found in inside[:5])
            raise ModelError(f"{path} holds no model of its own", f"Checkpoints below it: {some}")
    elif huggingface_hub.constants.HF_HUB_OFFLINE:
        folder = f"models--{path.replace('/', '--')}"
        if not (Path(huggingface_hub.constants.HF_HUB_CACHE) / folder).exists():
            raise ModelError(
                f"cannot load {what}: {path} is no folder here, and no copy from the Hub is cached",
                "Check the path, or unset HF_HUB_OFFLINE to ask the Hub",
            )


def load_checkpoint(path: str, *, revision: str | None = None, trust_remote_code: bool = False) -> nn.Module:
    """Return the model saved in a folder or under a Hub name, with the head that its configuration names.

    Weights are read from safetensors or with `weights_only`; remote code runs only where the caller asks for it.

    Raises
    ------
    ModelError
        Where there is no model, or no known head.
    """
    check_name(path, what="a model")
    import transformers
    from safetensors import SafetensorError
    from transformers import AutoConfig
    from transformers.utils import logging as transformers_logging

    showed_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
        names = getattr(config, "architectures", None) or []
        known = [n for n in names if _is_model(getattr(transformers, str(n), None))]
        if known:
            loader: Any = getattr(transformers, known[0])
        elif getattr(config, "is_encoder_decoder", False):
            loader = transformers.AutoModelForSeq2SeqLM
        else:
            loader = transformers.AutoModelForCausalLM
        extra = {} if known else {"trust_remote_code": trust_remote_code}
        model, found = loader.from_pretrained(
            path, revision=revision, dtype=torch.float32, output_loading_info=True, **extra
        )
    except (
        OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError, UnpicklingError,
    ) as error:  # fmt: skip
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if "couldn't connect" in first:
            first = "it is no folder here, and the Hub cannot be reached"
        raise ModelError(f"cannot load a model from {path}: {first}", "Give a folder with config.json") from error
    finally:
        if showed_bars:
            transformers_logging.enable_progress_bar()
    if lacking := sorted(found["missing_keys"]):
        some = ", ".join(lacking[:3]) + (f" and {len(lacking) - 3} more" if len(lacking) > 3 else "")
        raise ModelError(f"the checkpoint {path} lacks weights, which would be random: {some}", "Save it again")
    return model.eval()


def _is_model(found: Any) -> bool:
    """Return whether a name in a configuration leads to a model, not to anything else that transformers holds."""
    from transformers import PreTrainedModel

    return isinstance(found, type) and issubclass(found, PreTrainedModel)


def checkpoint_and_panel(
    path: str, *, panel: str | None = None, signals: str = "standard", revision: str | None = None
) -> tuple[nn.Module, Panel, list[Signal]]:
    """Return a saved model, the panel that belongs to it, and the signals asked for.

    The panel is that of its training where `lmtrace train` wrote the checkpoint, or a file of annotated sentences.

    Raises
    ------
    DataError
        Where no panel is given and the checkpoint does not say which one it was measured with.
    """
    from lmtrace.jobs.data import DataConfig, build_panel, load_sentences, open_tokenizer, read_card, split
    from lmtrace.jobs.train import signals_for
    from lmtrace.observe.forward import objective_of

    model = load_checkpoint(path, revision=revision)
    card = read_card(path)
    training: Any = None
    if panel is not None:
        config = DataConfig(**{**(card or {}).get("data", {}), "panel": panel})
        held_out = load_sentences(panel, config)
    elif card is not None:
        config = DataConfig(**card["data"])
        training, held_out = split(config)
    else:
        raise DataError(f"{path} does not say which panel it belongs to", "Pass --panel FILE (CoNLL-U, JSONL, parquet)")
    end = None if card is None else True  # of `lmtrace train`, which puts an end after every sentence
    built = build_panel(held_out, open_tokenizer(path, revision), config, objective_of(model), training, end)
    return model, built, signals_for(signals, held_out)


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
    """Measure a saved checkpoint as the live run would have done at that step."""
    from lmtrace.jobs.data import read_card

    model, built, chosen = checkpoint_and_panel(path, panel=panel, signals=signals, revision=revision)
    card = read_card(path) or {}
    return analyze(
        model,
        built,
        run=run,
        signals=chosen,
        step=int(card.get("step", 0)) if step is None else step,
        seed=int(card.get("seed", 0)) if seed is None else seed,
        overwrite=overwrite,
        data={"checkpoint": Path(path).name, **({"corpus": card["data"]["corpus"]} if "data" in card else {})},
    )
