"""The one error that users of absynth meet."""

from __future__ import annotations


class AbsynthError(ValueError):
    """A setting, grammar, file or request is not what it should be.

    Parameters
    ----------
    field
        Which setting, or which file and line ("sizes.noun", "my.toml:12: frames.motion.verb").
    value
        What was given.
    allowed
        What would have been right, in words.
    """

    def __init__(self, field: str, value: object, allowed: str) -> None:
        self.field = field
        self.value = value
        self.allowed = allowed
        super().__init__(f"{field}: got {value!r}; allowed: {allowed}")

    def __reduce__(self) -> tuple[type[AbsynthError], tuple[str, object, str]]:
        return AbsynthError, (self.field, self.value, self.allowed)
