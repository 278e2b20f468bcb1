"""The errors that users meet: one line that says what, where, and what to do."""

from __future__ import annotations


class TraceError(Exception):
    """Base of every error that lmtrace raises on purpose.

    Parameters
    ----------
    message
        What went wrong and where, in one line.
    fix
        What to do about it; appended to the message.
    """

    def __init__(self, message: str, fix: str = "") -> None:
        self.message = message
        self.fix = fix
        message = message.rstrip(". ")  # another program's words may end with a full stop
        super().__init__(f"{message}. {fix}" if fix else message)


class DataError(TraceError):
    """A corpus, panel or file is not what it should be."""


class ModelError(TraceError):
    """The model cannot be observed as asked (blocks, outputs, attention)."""


class RunError(TraceError):
    """A run folder cannot be created, read or written."""


class ConfigError(TraceError):
    """A setting has a value that is not allowed."""


class SignalError(TraceError):
    """A signal broke its contract: an undeclared need, a value outside its field, a leaked hook."""
