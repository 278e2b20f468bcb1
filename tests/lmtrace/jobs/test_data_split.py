"""The panel of `lmtrace train` shares no sentence with the training part; old checkpoints keep the panel that they had."""

import json

import numpy as np
import pytest

from lmtrace.jobs.data import CARD, DataConfig, build_panel, load_tokenizer, read_card, split, write_card


def corpus(path, sentences):
    path.write_text("".join(json.dumps({"tokens": words, "labels": {}}) + "\n" for words in sentences))
    return str(path)


def drawn(num, seed=0):
    rng = np.random.default_rng(seed)
    return [[f"v{i}" for i in row] for row in rng.integers(50, size=(num, 6))]


@pytest.mark.parametrize("copies", [2, 5])
def test_equal_sentences_are_in_one_part(tmp_path, copies):
    once = drawn(100)
    twice = [*once * copies, *([w.upper() for w in s] for s in once)]  # an uncased tokenizer reads these alike
    config = DataConfig(corpus=corpus(tmp_path / "c.jsonl", twice), panel_share=0.1)
    training, panel = split(config)
    seen = {tuple(w.lower() for w in s.tokens) for s in training}
    assert not [s for s in panel if tuple(w.lower() for w in s.tokens) in seen]
    assert len(training) + len(panel) == len(twice)
    assert len(panel) == pytest.approx(0.1 * len(twice), abs=copies + 1)


def test_a_generated_corpus_too():
    training, panel = split(DataConfig(corpus="absynth:tiny", sentences=3000))
    seen = {tuple(s.tokens) for s in training}
    assert len(panel) == 150
    assert not [s for s in panel if tuple(s.tokens) in seen]
    drawn_training, drawn_panel = split(DataConfig(corpus="absynth:tiny", sentences=3000, split_by="draw"))
    seen = {tuple(s.tokens) for s in drawn_training}
    assert 0.03 < np.mean([tuple(s.tokens) in seen for s in drawn_panel]) < 0.3


def test_without_twins_nothing_changes(tmp_path):
    once = drawn(80, seed=3)
    path = corpus(tmp_path / "c.jsonl", once)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(80)
        for how in ("sentence", "draw"):
            training, panel = split(DataConfig(corpus=path, seed=seed, panel_share=0.2, split_by=how))
            assert [list(s.tokens) for s in panel] == [once[i] for i in order[:16]]
            assert [list(s.tokens) for s in training] == [once[i] for i in order[16:]]


def test_one_sentence_many_times_is_drawn_and_told(tmp_path):
    config = DataConfig(corpus=corpus(tmp_path / "c.jsonl", [["a", "b"]] * 40))
    training, held_out = split(config)
    assert (len(training), len(held_out)) == (38, 2)
    panel = build_panel(held_out, load_tokenizer(config, training, "causal"), config, training=training)
    assert panel.in_training.all()
    assert panel.describe()["in_training"] == 1.0


def test_cards_of_before_keep_the_split_that_their_model_was_trained_with(tmp_path):
    write_card(tmp_path, DataConfig())
    assert read_card(tmp_path)["data"]["split_by"] == "sentence"
    card = json.loads((tmp_path / CARD).read_text())
    del card["data"]["split_by"]
    (tmp_path / CARD).write_text(json.dumps(card))
    assert read_card(tmp_path)["data"]["split_by"] == "draw"
