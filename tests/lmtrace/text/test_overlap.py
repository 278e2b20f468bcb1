"""Which of the panel's sentences were trained on, in every form that training data has."""

import numpy as np
import pytest
import torch

from lmtrace.errors import ConfigError
from lmtrace.integrations.transformers import token_rows
from lmtrace.live.tracer import Tracer
from lmtrace.run import open_run
from lmtrace.text.overlap import in_training
from lmtrace.text.panel import Panel
from lmtrace.text.sentences import AnnotatedSentence
from lmtrace.text.tokenizer import WordTokenizer
from lmtrace_helpers import tiny

WORDS = [f"w{i}" for i in range(20)]
MINE = [("w1", "w2"), ("w3",), ("w4", "w5", "w6"), ("w1", "w2", "w3")]
SEEN = [True, False, True, False]
THEIRS = [("w4", "w5", "w6"), ("w9",), ("w1", "w2"), ("w1", "w2", "w4"), ("w3", "w3")]


class MapStyle(torch.utils.data.Dataset):
    """Goes on for ever: only its length says where it ends."""

    def __len__(self):
        return len(THEIRS)

    def __getitem__(self, i):
        return {"input_ids": torch.tensor(ids(THEIRS[i % len(THEIRS)]))}


class Column:
    """As a `datasets.Dataset` with a transform that must not run."""

    column_names = ("input_ids", "labels")

    def __getitem__(self, key):
        raise AssertionError("the user's transform was run")

    def with_format(self, kind):
        assert kind is None
        return {"input_ids": [ids(words) for words in THEIRS]}


TOKENIZER = WordTokenizer(WORDS)


def ids(words):
    return [TOKENIZER.bos_token_id, *TOKENIZER.encode(words), TOKENIZER.eos_token_id]


def padded():
    return [[*ids(words), *[TOKENIZER.pad_token_id] * (4 - len(words))] for words in THEIRS]


@pytest.fixture
def panel():
    return Panel.from_annotated([AnnotatedSentence(tokens=words) for words in MINE], TOKENIZER)


@pytest.mark.parametrize(
    "training",
    [
        [AnnotatedSentence(tokens=words) for words in THEIRS],
        [" ".join(words) for words in THEIRS],
        [ids(words) for words in THEIRS],
        [{"input_ids": row} for row in padded()],
        np.array(padded()),
        [[token for words in THEIRS for token in ids(words)]],  # packed, with ends between
        MapStyle(),
    ],
    ids=["annotated", "texts", "rows", "mappings", "array", "packed", "map-style"],
)
def test_every_form_of_training_data(panel, training):
    assert in_training(panel, training).tolist() == SEEN


def test_what_cannot_be_read_is_left_alone(panel):
    once = iter(THEIRS)
    assert in_training(panel, once) is None
    assert next(once) == THEIRS[0]
    assert in_training(panel, [{"pixel_values": 1}]) is None
    assert in_training(panel, []).tolist() == [False] * 4
    with pytest.raises(ConfigError, match="training is int"):
        in_training(panel, 3)


def test_rows_of_a_trainers_data_set_are_read_without_its_code():
    assert token_rows(Column()) == [ids(words) for words in THEIRS]
    assert token_rows(MapStyle()) is None
    assert token_rows(None) is None
    assert token_rows(THEIRS) is THEIRS


@pytest.mark.parametrize("by", ["tracer", "panel"])
def test_the_share_is_warned_of_and_in_the_header(by, panel, tmp_path, caplog):
    training = [AnnotatedSentence(tokens=words) for words in THEIRS]
    settings = {"training": training} if by == "tracer" else {}
    if by == "panel":
        panel = Panel.from_annotated([AnnotatedSentence(tokens=words) for words in MINE], TOKENIZER, training=training)
    with (
        caplog.at_level("WARNING"),
        Tracer(tiny("gpt2", TOKENIZER), panel, signals=["output"], run=tmp_path / "run", **settings),
    ):
        pass
    assert "50.0% of the panel's sentences are in the training data too" in caplog.text
    with open_run(tmp_path / "run") as run:
        assert run.header.data["panel_in_training"] == 0.5
        assert [e.data["share"] for e in run.events("warning")] == [0.5]


def test_a_panel_of_its_own_is_not_warned_of(panel, tmp_path, caplog):
    with (
        caplog.at_level("WARNING"),
        Tracer(tiny("gpt2", TOKENIZER), panel, signals=["output"], run=tmp_path / "run", training=["w7 w8"]),
    ):
        pass
    assert "training data" not in caplog.text
    with open_run(tmp_path / "run") as run:
        assert run.header.data["panel_in_training"] == 0.0
        assert not run.events("warning")
