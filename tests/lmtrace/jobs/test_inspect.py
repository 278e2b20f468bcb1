"""One sentence through models of every objective: numbers against a slow reference, and what is missing says why."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import absynth
import lmtrace
from lmtrace.cli.main import app
from lmtrace.errors import ConfigError, DataError
from lmtrace.jobs.inspect import inspect, inspect_checkpoints
from lmtrace.jobs.train import config_of, train
from lmtrace.live.tracer import Tracer
from lmtrace.records.inspection import read_inspections
from lmtrace.run import open_run
from lmtrace.show.pack import unpack
from lmtrace.show.payload import build, inspections
from lmtrace.signals.probe import Probe
from lmtrace.text.panel import Panel
from lmtrace.text.tokenizer import WordTokenizer
from lmtrace_helpers import PlainModel, tiny


@pytest.fixture(scope="module")
def language():
    return absynth.generate(absynth.Grammar.preset("tiny"), n=400, seed=0)


@pytest.fixture(scope="module")
def words(language):
    return WordTokenizer.from_corpus(language)


@pytest.fixture(scope="module")
def known(language, words):
    return Panel.from_annotated(language, words, size=150, seed=0)


def test_surprisal_is_that_of_a_plain_forward(language, words):
    model = tiny("gpt2", words).eval()
    sentence = list(language[0].tokens)
    found = inspect(model, words, " ".join(sentence))
    ids = [words.bos_token_id, *words.encode(sentence), words.eos_token_id]
    with torch.no_grad():
        law = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    expected = [-float(law[i, ids[i + 1]]) for i in range(len(ids) - 1)]
    moment = found.moments[0]
    assert np.allclose(moment["surprisal"], expected, atol=1e-5)
    assert [c["text"] for c in found.columns] == [*sentence, "</s>"]
    assert moment["rank"][0] == 1 + int((law[0] > law[0, ids[1]]).sum())
    assert np.allclose(moment["lens"]["surprisal"][-1], expected, atol=1e-4), "the last block's lens is the model"
    assert found.uniform == pytest.approx(math.log(len(words)))


def test_a_masked_token_is_scored_with_the_others_in_view(language, words):
    model = tiny("bert", words).eval()
    sentence = list(language[1].tokens)
    found = inspect(model, words, sentence)
    row = [words.bos_token_id, *words.encode(sentence), words.eos_token_id]
    expected = []
    for i in range(1, len(row) - 1):
        masked = [*row[:i], words.mask_token_id, *row[i + 1 :]]
        with torch.no_grad():
            expected.append(-float(model(torch.tensor([masked])).logits[0, i].double().log_softmax(-1)[row[i]]))
    assert found.objective == "masked"
    assert np.allclose(found.moments[0]["surprisal"], expected, atol=1e-5)
    assert "missing" not in found.moments[0]["attention"]


def test_sequence_to_sequence_reads_two_streams(language, words):
    found = inspect(tiny("t5", words), words, list(language[1].tokens))
    assert set(found.inputs) == {"encoder", "decoder"}
    assert len(found.moments[0]["surprisal"]) == len(found.columns)
    assert {"encoder", "decoder"} == set(found.moments[0]["attention"]["streams"])
    for stream, maps in zip(
        found.moments[0]["attention"]["streams"], found.moments[0]["attention"]["maps"], strict=True
    ):
        assert len(maps[0]) == len(found.inputs[stream])


def test_sequence_to_sequence_answers_with_what_it_was_trained_on(language, words):
    sentence = list(language[1].tokens)
    whole = WordTokenizer.from_corpus(language, targets=True)
    forms = Panel.from_annotated(language, whole, size=60, objective="seq2seq")
    assert forms.target == "logical form"
    answer = inspect(tiny("t5", whole), whole, sentence, panel=forms)
    assert "(" in "".join(c["text"] for c in answer.columns) or len(answer.columns) > len(sentence) + 1
    assert set(answer.moments[0]["probes"]["category"]["sites"]) == {
        "encoder.embed",
        "encoder.block.0",
        "encoder.block.1",
        "encoder.final",
    }
    own = Panel.from_annotated(language, words, size=60, objective="seq2seq")
    assert own.target == "sentence"
    assert [c["text"] for c in inspect(tiny("t5", words), words, sentence, panel=own).columns] == [*sentence, "</s>"]
    turned = inspect(tiny("t5", whole), whole, sentence[:2], panel=forms)
    assert any("No derivation" in note for note in turned.notes)


def test_attention_rows_are_laws_and_a_model_without_it_says_so(language, words):
    found = inspect(tiny("gpt2", words), words, list(language[0].tokens)).moments[0]["attention"]
    maps = np.array(found["maps"])
    assert maps.shape[0] == 2
    assert np.allclose(maps.sum(-1), 1, atol=0.02)
    assert (np.triu(maps, 1) == 0).all(), "a causal model does not look ahead"
    without = inspect(tiny("mamba", words), words, list(language[0].tokens)).moments[0]["attention"]
    assert without["missing"]
    plain = PlainModel(len(words)).eval()
    assert (
        "set_attn_implementation" in inspect(plain, words, list(language[0].tokens)).moments[0]["attention"]["missing"]
    )


def test_the_oracle_gives_exact_surprisal_labels_and_typed_errors(language, words):
    sentence = list(language[0].tokens)
    found = inspect(tiny("gpt2", words), words, sentence, oracle=language.oracle)
    assert np.allclose(found.oracle["surprisal"], language.oracle.score([sentence]).surprisal * math.log(2))
    assert found.oracle["accepted"]
    assert found.oracle["error"] is None
    assert all(0 <= v <= 1 for v in found.moments[0]["illegal"])
    # Any token after the last word but those that may end it is forbidden: the mass is counted by hand at the first word.
    law = next(language.oracle.laws([sentence]))[0]
    ids = words.convert_tokens_to_ids([*language.oracle.vocabulary])
    with torch.no_grad():
        start = torch.tensor([[words.bos_token_id]])
        q = tiny("gpt2", words).eval()(start).logits[0, 0].double().softmax(-1).numpy()
    allowed = q[np.array(ids)[law[:-1] > 0]].sum() + (q[words.eos_token_id] if law[-1] > 0 else 0)
    assert found.moments[0]["illegal"][0] == pytest.approx(1 - allowed, abs=1e-5)

    cut = inspect(tiny("gpt2", words), words, sentence[:2], oracle=language.oracle)
    assert cut.oracle["error"]["kind"] == "unfinished sentence"
    assert cut.oracle["surprisal"][-1] is None, "the end is impossible there"
    turned = inspect(tiny("gpt2", words), words, sentence[::-1], oracle=language.oracle)
    assert not turned.oracle["accepted"]
    assert 0 <= turned.oracle["error"]["position"] <= len(sentence)


def test_probes_read_the_words_and_agree_with_the_signal(known, words, tmp_path):
    model = tiny("gpt2", words)
    sentence = known.sentences[3]
    found = inspect(model, words, sentence.tokens, panel=known)
    probes = found.moments[0]["probes"]
    assert list(probes) == list(Probe().layers(known))
    category = probes["category"]
    assert category["sites"] == ["embed", "block.0", "block.1", "final"]
    # The embedding holds the word, and the word decides the category: a probe that works reads it.
    read = [found.layers["category"][c] for c in category["reading"][0]]
    assert sum(a == b for a, b in zip(read, sentence.labels["category"], strict=True)) >= len(read) - 1
    assert found.gold["category"] == list(sentence.labels["category"])
    assert all(0 < c <= 1 for c in category["confidence"][0])

    # The signal's probe is the same one, but for the rows of this sentence, which it must not learn from here.
    with Tracer(model, known, run=tmp_path / "run", signals=[Probe(labels="category", split="sentence")], every=[]):
        pass
    signal = open_run(tmp_path / "run").series(signal="probe", metric="accuracy", label="category", split="sentence")
    assert np.allclose(category["accuracy"], signal.values[0], atol=0.03)
    assert category["majority"] == pytest.approx(float(signal.null[0, 0]), abs=0.03)


def test_the_model_is_left_as_it_was(known, words):
    model = tiny("gpt2", words).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    inspect(model, words, known.sentences[0].tokens, panel=known)
    assert model.training
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert model.config._attn_implementation != "eager"


def test_unknown_words_one_word_and_none(language, words):
    model = tiny("gpt2", words)
    found = inspect(model, words, "xyzzy " + language[0].tokens[1], oracle=language.oracle)
    assert found.notes == ["The tokenizer does not know 'xyzzy' and reads <unk> instead."]
    assert found.oracle["error"]["kind"] == "unknown word"
    single = inspect(model, words, language[0].tokens[0], oracle=language.oracle)
    assert len(single.columns) == 2
    for empty in ("", "   ", []):
        with pytest.raises(DataError, match="the sentence is empty"):
            inspect(model, words, empty)
    with pytest.raises(DataError, match="reads at most 32"):
        inspect(model, words, " ".join([language[0].tokens[0]] * 40))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspect") / "run"
    config = config_of({
        "run": str(folder), "size": "1x32", "steps": 60, "every": 60, "batch_size": 32, "learning_rate": 1e-2, "signals": "output",
        "save_every": [20, 40], "data": {"corpus": "absynth:tiny", "sentences": 2000, "panel_size": 96},
    })  # fmt: skip
    train(config)
    return folder


def test_across_the_checkpoints_of_a_run(trained):
    panel_sentence = absynth.generate(absynth.Grammar.preset("tiny"), n=20, seed=7)[0].tokens
    found = inspect_checkpoints(trained, panel_sentence)
    assert [m["step"] for m in found.moments] == [0, 20, 40, 60]
    mean = [np.mean(m["surprisal"]) for m in found.moments]
    assert mean[0] == pytest.approx(found.uniform, abs=0.3)
    assert mean[-1] < mean[0] - 1
    for t, got in enumerate(found.got["columns"]):
        exact = found.oracle["surprisal"][t]
        close = [m["surprisal"][t] - exact <= math.log(2) for m in found.moments]
        assert (got is None) == (not close[-1])
        if got is not None:
            at = [0, 20, 40, 60].index(got)
            assert all(close[at:])
            assert at == 0 or not close[at - 1]
    kept = read_inspections(trained)
    assert [k.sentence for k in kept] == [found.sentence]
    assert kept[0].to_dict() == found.to_dict(), "what is read back is what was written"
    again = inspect_checkpoints(trained, panel_sentence)
    assert len(read_inspections(trained)) == 1
    assert again.moments[0]["surprisal"] == found.moments[0]["surprisal"]
    head, _ = unpack(build([open_run(trained)], [[]]))
    assert head["runs"][0]["inspections"][0]["sentence"] == found.sentence
    assert inspections(open_run(trained))


def test_the_command_prints_a_table_json_and_one_line_of_error(trained, tmp_path):
    sentence = " ".join(absynth.generate(absynth.Grammar.preset("tiny"), n=20, seed=8)[0].tokens)
    final = str(trained / "checkpoints" / "final")
    shown = CliRunner().invoke(app, ["inspect", final, sentence], env={"COLUMNS": "160"})
    assert shown.exit_code == 0, shown.output
    assert "Well-formed" in shown.output
    assert "surprisal" in shown.output
    printed = CliRunner().invoke(app, ["inspect", final, sentence, "--json", "--run", str(trained)])
    assert json.loads(printed.stdout)["words"] == sentence.split()
    assert sentence in [i.sentence for i in read_inspections(trained)]
    for arguments, message in (
        (["inspect", final, ""], "the sentence is empty"),
        (["inspect", str(tmp_path / "nothing"), "a b"], "nothing"),
        (["inspect", final, sentence, "--run", str(tmp_path)], "is not a run"),
    ):
        failed = CliRunner().invoke(app, arguments)
        assert isinstance(failed.exception, lmtrace.TraceError), arguments
        assert message in str(failed.exception)
        assert "\n" not in str(failed.exception)
    with pytest.raises(ConfigError):
        inspect_checkpoints(final, "a", run=tmp_path)


def test_a_notebook_shows_it(language, words):
    found = inspect(tiny("gpt2", words), words, "xyzzy <b>", oracle=language.oracle)
    html = found._repr_html_()
    assert "&lt;b&gt;" in html
    assert "<b>&lt;b&gt;" not in html.replace("<caption><b>", "")
    assert "Unknown word" in html
    assert "xyzzy" in str(found)
    assert lmtrace.inspect is inspect
