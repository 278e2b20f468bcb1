"""One sentence, looked at closely: by one model, or by every checkpoint of a run."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from lmtrace.analysis.inspection import when_got
from lmtrace.errors import ConfigError, DataError, TraceError
from lmtrace.jobs.readers import read_words
from lmtrace.jobs.sentence import TOP, Reading, look, read, texts
from lmtrace.observe.forward import objective_of
from lmtrace.observe.isolation import undisturbed
from lmtrace.observe.sites import find_sites, unwrap
from lmtrace.records.layout import DATABASE
from lmtrace.show.inspection import InspectionTable
from lmtrace.text.adapted import adapted
from lmtrace.text.panel import Panel, PanelSettings
from lmtrace.text.sentences import AnnotatedSentence, as_annotated
from lmtrace.text.sequences import special_id
from lmtrace.text.tokenizer import WordTokenizer

LN2 = math.log(2.0)
MAX_CHECKPOINTS = 24
"""More are thinned, evenly in their order, with the first and the last among them."""
_WORDS = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]+")


def inspect(
    model: nn.Module,
    tokenizer: Any,
    sentence: str | Sequence[str],
    *,
    panel: Panel | None = None,
    oracle: Any = None,
    run: str | Path | None = None,
    step: int = 0,
    seed: int = 0,
) -> InspectionTable:
    """Return what a model makes of one sentence: surprisal, logit lens, attention, probes, and the errors in it.

    The model is left exactly as it was.

    Parameters
    ----------
    model
        Any model that `lmtrace.Tracer` takes.
    tokenizer
        A `WordTokenizer` or any other that docs/formats.md names.
    sentence
        Text, or its words.
    panel
        The probes are fitted on it; without one there are none. Its oracle is used too.
    oracle
        Of the language (`absynth.Grammar(...).oracle`, `corpus.oracle`): exact surprisal, and a parse with typed errors.
    run
        Folder of a run to keep the inspection in; report and dashboard show it.
    step
        The optimizer step that the model is at.
    seed
        Of the probes' split.

    Raises
    ------
    DataError
        For an empty sentence, or one that is longer than the model can read.
    """
    found = _Inspector(sentence, tokenizer, panel, oracle, objective_of(unwrap(model)), seed)
    found.add(model, step, "")
    return found.finish(run)


def inspect_checkpoints(
    source: str | Path,
    sentence: str | Sequence[str],
    *,
    panel: str | None = None,
    run: str | Path | None = None,
    seed: int | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> InspectionTable:
    """Return what saved models make of one sentence, by rising step: when did the model get it?

    Parameters
    ----------
    source
        A checkpoint, a folder of checkpoints, a run with checkpoints, or a name on the Hub.
    panel
        A file of annotated sentences; by default that of the training, where the checkpoint says which.
    run
        Folder of a run to keep the inspection in; by default the one that `source` is.

    Raises
    ------
    DataError, ModelError
        Where there is no checkpoint that can be read.
    """
    from lmtrace.jobs.analyze import checkpoint_and_panel, load_checkpoint
    from lmtrace.jobs.checkpoints import find_checkpoints, with_steps
    from lmtrace.jobs.data import open_tokenizer, read_card

    words_of(sentence, None)  # an empty sentence is refused before anything is loaded
    if run is not None and not (Path(run) / DATABASE).is_file():
        raise ConfigError(f"{run} is not a run", "Give --run the folder of one, or leave it out")
    found, problems = find_checkpoints([source])
    if not found:
        reason = problems[0][1] if problems else "there is no checkpoint"
        raise DataError(f"{source}: {reason}", "Train with --save-every N to keep checkpoints on the way")
    known = with_steps(found, None)
    # A run's last checkpoint may be there twice, as the Trainer's and as "final": the later one in the list has the card.
    chosen = sorted({c.step or 0: c for c in known}.values(), key=lambda c: c.step or 0)
    if len(chosen) > MAX_CHECKPOINTS:
        chosen = [chosen[i] for i in np.unique(np.linspace(0, len(chosen) - 1, MAX_CHECKPOINTS).round().astype(int))]
    tell = on_progress or (lambda done, total, message: None)
    tell(0, len(chosen), "preparing the panel")
    last = chosen[-1]
    notes: list[str] = []
    built: Panel | None = None
    carded = next((c for c in reversed(chosen) if read_card(c.path)), None)
    if panel is not None or carded is not None:
        _, built, _ = checkpoint_and_panel((carded or last).path, panel=panel, revision=last.revision)
    else:
        notes.append(
            "No panel: the checkpoint does not say which one it was measured with. Pass --panel FILE for probes."
        )
    card = read_card(carded.path) if carded else None
    tokenizer = built.tokenizer if built is not None else open_tokenizer(last.path, last.revision)
    inspector: _Inspector | None = None
    chosen_seed = int((card or {}).get("seed", 0)) if seed is None else seed
    for i, checkpoint in enumerate(chosen):
        tell(i, len(chosen), f"{checkpoint.path if checkpoint.step is None else f'step {checkpoint.step}'}")
        try:
            model = load_checkpoint(checkpoint.path, revision=checkpoint.revision)
        except TraceError as error:
            if len(chosen) == 1:
                raise
            notes.append(f"Left out: {error}")
            continue
        if inspector is None:
            inspector = _Inspector(sentence, tokenizer, built, None, objective_of(model), chosen_seed)
        inspector.add(model, checkpoint.step or 0, Path(checkpoint.path).name)
    if inspector is None:
        raise DataError(f"{source}: none of {len(chosen)} checkpoints could be read: {notes[-1]}")
    inspector.notes += notes
    own = Path(source) if (Path(source) / DATABASE).is_file() else None
    return inspector.finish(run if run is not None else own)


def words_of(sentence: str | Sequence[str], tokenizer: Any) -> list[str]:
    """Return the words of a sentence: parted at spaces, and punctuation from words unless the tokenizer knows whole words.

    Raises
    ------
    DataError
        Where there are none.
    """
    if not isinstance(sentence, str):
        words = [str(word) for word in sentence if str(word).strip()]
    else:
        words = sentence.split() if isinstance(tokenizer, WordTokenizer) else _WORDS.findall(sentence)
    if not words:
        raise DataError(
            "inspect: the sentence is empty", 'Give at least one word: lmtrace inspect MODEL "the dog sees"'
        )
    return words


class _Inspector:
    """The sentence, what the oracle says of it, and one moment per model."""

    def __init__(
        self, sentence: str | Sequence[str], tokenizer: Any, panel: Panel | None, oracle: Any, objective: Any, seed: int
    ) -> None:
        self.words = words_of(sentence, tokenizer)
        self.tokenizer, self.panel, self.seed = adapted(tokenizer), panel, seed
        self.oracle = oracle if oracle is not None or panel is None else panel.oracle
        settings = PanelSettings(objective=objective) if panel is None else panel.settings
        self.settings = replace(settings, objective=objective, layers=None, frequencies=None, max_length=None)
        self.notes: list[str] = []
        self.parse, self.exact, self.reason = self._ask_oracle()
        text = (
            sentence if isinstance(sentence, str) and not isinstance(tokenizer, WordTokenizer) else " ".join(self.words)
        )
        self.sentence = self._annotated(text.strip())
        self.moments: list[dict[str, Any]] = []
        self.reading: Reading | None = None
        self.model = ""

    def _ask_oracle(self) -> tuple[Any, dict[str, Any] | None, str]:
        if self.oracle is None:
            return (
                None,
                None,
                "this language has no oracle" if self.panel is not None else "no panel or oracle was given",
            )
        oracle = self.oracle
        score = oracle.score([self.words])
        surprisal = [max(0.0, float(v)) * LN2 for v in score.surprisal]
        law = next(iter(oracle.laws([self.words])))
        names = [*(str(w) for w in oracle.vocabulary), "</s>"]
        order = np.argsort(-law, axis=1)[:, :TOP]
        exact: dict[str, Any] = {
            "surprisal": [v if math.isfinite(v) else None for v in surprisal],
            "entropy": [float(v) * LN2 for v in score.entropy],
            "allowed": (law > 0).sum(1).tolist(),
            "top": [
                [[names[i], float(row[i])] for i in best if row[i] > 0] for row, best in zip(law, order, strict=True)
            ],
        }
        parse = oracle.parse(self.words) if hasattr(oracle, "parse") else None
        if parse is not None:
            wrong = parse.diagnosis
            exact |= {
                "accepted": bool(parse.accepted),
                "derivations": len(parse.derivations),
                "error": None if wrong is None else {
                    "kind": str(wrong.kind), "position": int(wrong.position), "message": str(wrong.message), "role": wrong.role,
                },
            }  # fmt: skip
        return parse, exact, ""

    def _annotated(self, text: str) -> AnnotatedSentence:
        """Return the sentence with the labels of its most probable derivation, or without any; with the target it was trained on."""
        target = "" if self.panel is None else self.panel.target
        if self.parse is not None and self.parse.derivations:
            found = as_annotated(self.parse.derivations[0].sentence)
            return replace(found, target=None) if target == "sentence" else found
        if target == "logical form":
            self.notes.append(
                "No derivation gives the logical form that this model answers with: it is asked for the sentence itself."
            )
        return AnnotatedSentence(tokens=tuple(self.words), text=text)

    def add(self, model: nn.Module, step: int, checkpoint: str) -> None:
        """Look at the sentence with one more model."""
        model = unwrap(model)
        self.model = type(model).__name__
        with undisturbed(model):
            oracle = self.oracle if self.settings.objective == "causal" else None
            reading = read(self.sentence, self.tokenizer, self.settings, oracle, model)
            sites = find_sites(model, ids=[ids.cpu().numpy() for ids in reading.streams().values()])
            seen = look(model, sites, reading, self.tokenizer, self.settings.policy)
            probes = {}
            if self.panel is not None:
                probes = read_words(model, self.panel, sites, seen.words, self.words, self.seed)
        self.reading = self.reading or reading
        self.moments.append({"step": int(step), "checkpoint": checkpoint, **seen.moment, "probes": probes})

    def finish(self, run: str | Path | None) -> InspectionTable:
        """Return the inspection, kept in a run's folder where one is given."""
        reading = self.reading
        if reading is None:
            raise DataError("inspect: no model was given")
        read_layers = [] if self.panel is None else [name for name in self.moments[-1]["probes"]]
        labels = dict(self.sentence.labels)
        if self.sentence.deprels is not None:
            labels.setdefault("deprel", self.sentence.deprels)
        shown = texts(self.tokenizer, reading.target.tolist())
        final = {int(w): t for t, w in enumerate(reading.word) if w >= 0}
        columns = [
            {"text": text, "word": None if w < 0 else int(w), "end": w >= 0 and final[int(w)] == t}
            for t, (text, w) in enumerate(zip(shown, reading.word.tolist(), strict=True))
        ]
        inspection = InspectionTable(
            sentence=self.sentence.text, words=self.words, model=self.model, objective=self.settings.objective, columns=columns,
            inputs={name: texts(self.tokenizer, ids.tolist()) for name, ids in reading.streams().items()},
            uniform=math.log(len(self.tokenizer)),
            layers={name: list(self.panel.labels(name).names) for name in read_layers} if self.panel is not None else {},
            gold={name: list(labels[name]) for name in read_layers if name in labels},
            oracle=self.exact, oracle_reason=self.reason, moments=sorted(self.moments, key=lambda m: m["step"]),
            notes=[*self._unknown(), *self.notes], created=datetime.now(UTC).isoformat(timespec="seconds"),
        )  # fmt: skip
        inspection = replace(inspection, got=when_got(inspection))
        if run is not None:
            inspection.save(run)
        return inspection

    def _unknown(self) -> list[str]:
        unknown = special_id(self.tokenizer, "unk")
        if unknown is None or self.reading is None:
            return []
        ids = self.reading.plain["input_ids"][0].tolist()
        if unknown not in ids:
            return []
        first, last = self.reading.spans.get("encoder", (np.zeros(0, int), np.zeros(0, int)))
        lost = [w for w, a, b in zip(self.words, first, last, strict=False) if a >= 0 and unknown in ids[a : b + 1]]
        return [
            f"The tokenizer does not know {', '.join(repr(w) for w in dict.fromkeys(lost))} and reads <unk> instead."
        ]
