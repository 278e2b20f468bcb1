"""lmtrace: what a language model knows, when it learned it, and where it is kept. Importing it does not import torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lmtrace.aliases import install

__version__ = "0.1.0"

_LAZY = {
    "Tracer": "lmtrace.live.tracer",
    "Panel": "lmtrace.text.panel",
    "WordTokenizer": "lmtrace.text.tokenizer",
    "Schedule": "lmtrace.live.schedule",
    "Signal": "lmtrace.observe.interface",
    "Needs": "lmtrace.observe.interface",
    "Field": "lmtrace.records.schema",
    "Record": "lmtrace.records.schema",
    "TraceError": "lmtrace.errors",
    "open_run": "lmtrace.run",
    "Converged": "lmtrace.analysis.stopping",
    "TraceCallback": "lmtrace.integrations.transformers",
    "LightningCallback": "lmtrace.integrations.lightning",
    "analyze": "lmtrace.jobs.analyze",
    "sweep": "lmtrace.jobs.sweep",
    "inspect": "lmtrace.jobs.inspect",
    "kept_probes": "lmtrace.jobs.probes",
    "plan": "lmtrace.jobs.plan",
    "verify": "lmtrace.jobs.verify",
    "functional": "lmtrace.functional",
}

__all__ = [*sorted(_LAZY), "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from lmtrace import functional as functional
    from lmtrace.analysis.stopping import Converged as Converged
    from lmtrace.errors import TraceError as TraceError
    from lmtrace.integrations.lightning import LightningCallback as LightningCallback
    from lmtrace.integrations.transformers import TraceCallback as TraceCallback
    from lmtrace.jobs.analyze import analyze as analyze
    from lmtrace.jobs.inspect import inspect as inspect
    from lmtrace.jobs.plan import plan as plan
    from lmtrace.jobs.probes import kept_probes as kept_probes
    from lmtrace.jobs.sweep import sweep as sweep
    from lmtrace.jobs.verify import verify as verify
    from lmtrace.live.schedule import Schedule as Schedule
    from lmtrace.live.tracer import Tracer as Tracer
    from lmtrace.observe.interface import Needs as Needs
    from lmtrace.observe.interface import Signal as Signal
    from lmtrace.records.schema import Field as Field
    from lmtrace.records.schema import Record as Record
    from lmtrace.run import open_run as open_run
    from lmtrace.text.panel import Panel as Panel
    from lmtrace.text.tokenizer import WordTokenizer as WordTokenizer


install()


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'lmtrace' has no attribute {name!r}")
    module = import_module(_LAZY[name])
    value = module if name == "functional" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
