"""Suites against a plain loop: three invented ones, nested formulas, two tokenizers, words whole."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from lmtrace.jobs.data import train_bpe
from lmtrace.observe.instrument import Instrument
from lmtrace.observe.view import Measurement, MeasurementView
from lmtrace.signals.suites import Suites, region_surprisals
from lmtrace.text.panel import Panel
from lmtrace.text.sentences import AnnotatedSentence
from lmtrace.text.tokenizer import WordTokenizer
from lmtrace.text.word_begins import word_begins
from lmtrace_helpers import tiny

WORDS = "the old boat boats near bay sinks sink slowly ."
TEXTS = ["the old boat near the bay sinks .", "boats sink slowly .", "the boats near the old bay sink ."]
ITEMS = [
    {"match": ["the boats", "near the bay", "sink", "."], "mismatch": ["the boats", "near the bay", "sinks", "."]},
    {"match": ["the old boat", "", "sinks", "slowly ."], "mismatch": ["the old boat", "", "sink", "slowly ."]},
    {"match": ["boats", "near boats", "sink slowly", "."], "mismatch": ["boats", "near boats", "sinks slowly", "."]},
]
SUITES = {
    "plain": ["(3;%match%) < (3;%mismatch%)"],
    "nested": ["[((2;%match%) + (3;%match%)) < ((2;%mismatch%) + (3;%mismatch%))] & ((1;%match%) = (1;%mismatch%))"],
    "several": [
        "[(*;%match%) > (*;%mismatch%)] | [((3;%match%) - (4;%match%)) < [(3;%mismatch%) - (4;%mismatch%)]]",
        "((4;%mismatch%) < (4;%match%)) & [((1;%match%) > 0) & ((*;%match%) < 1000)]",
    ],
}


def by_hand(name, m, x):
    """Return whether each prediction of a suite holds, written out; m and x are the surprisals of an item's conditions."""
    if name == "plain":
        return [m["3"] < x["3"]]
    if name == "nested":
        return [m["2"] + m["3"] < x["2"] + x["3"] and m["1"] == x["1"]]
    return [
        sum(m.values()) > sum(x.values()) or m["3"] - m["4"] < x["3"] - x["4"],
        x["4"] < m["4"] and m["1"] > 0 and sum(m.values()) < 1000,
    ]


def suite_file(folder, name):
    items = [
        {"item_number": i, "conditions": [
            {"condition_name": c, "regions": [{"region_number": k, "content": t} for k, t in enumerate(regions, 1)]}
            for c, regions in item.items()]}
        for i, item in enumerate(ITEMS, 1)
    ]  # fmt: skip
    content = {"meta": {"name": name, "metric": "sum"}, "items": items}
    content["predictions"] = [{"type": "formula", "formula": f} for f in SUITES[name]]
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(params=["words", "bpe"])
def setting(request):
    tokenizer = WordTokenizer(WORDS.split()) if request.param == "words" else train_bpe([*(TEXTS * 20), WORDS], 290)
    sentences = [AnnotatedSentence(tokens=tuple(t.split()), labels={"upos": ("X",) * len(t.split())}) for t in TEXTS]
    panel = Panel.from_annotated(sentences, tokenizer)
    torch.manual_seed(4)
    model = tiny("gpt2", tokenizer).eval()
    with torch.no_grad():  # sharper than at initialisation, so that nothing is equal by chance
        for parameter in model.parameters():
            parameter.mul_(3.0)
    return model, panel, tokenizer


def view_of(model, panel, signal):
    instrument = Instrument(model, panel, [signal], on_error="raise")
    measurement = Measurement(0, instrument.model, instrument.panel, instrument.known_sites, None)
    return MeasurementView(measurement, signal, 0, instrument.needs[0])


def plain(model, tokenizer, regions, corrected):
    """Return region -> surprisal, one token and one region at a time."""
    bytewise = not isinstance(tokenizer, WordTokenizer)
    pieces = []
    for number, content in enumerate(regions, 1):
        lead = " " if bytewise and pieces else ""
        if content:
            pieces.append((str(number), tokenizer.encode(lead + content, add_special_tokens=False)))
    ids = [tokenizer.bos_token_id, *(i for _, part in pieces for i in part)]
    with torch.no_grad():
        law = model(torch.tensor([ids])).logits[0].double().softmax(-1).numpy()
    opens = [i for i in range(len(tokenizer)) if not bytewise or tokenizer.convert_ids_to_tokens(i)[0] == "Ġ"]
    opens = sorted({*opens, *tokenizer.all_special_ids})
    found = {str(k): 0.0 for k in range(1, len(regions) + 1)}
    at = 0
    for number, part in pieces:
        probability = math.prod(law[at + j][token] for j, token in enumerate(part))
        if corrected:
            before = law[at][opens].sum() if at else 1.0
            probability *= law[at + len(part)][opens].sum() / before
        found[number] = -math.log(probability)
        at += len(part)
    return found


@pytest.mark.parametrize("corrected", [True, False])
def test_regions_and_suites_equal_a_plain_loop(setting, tmp_path, corrected):
    model, panel, tokenizer = setting
    files = tuple(str(suite_file(tmp_path, name)) for name in SUITES)
    signal = Suites(suites=files, corrected=corrected)
    view = view_of(model, panel, signal)
    hand = [{c: plain(model, tokenizer, regions, corrected) for c, regions in item.items()} for item in ITEMS]
    for item, expected in zip(ITEMS, hand, strict=True):
        for condition, regions in item.items():
            numbered = tuple((str(k), text) for k, text in enumerate(regions, 1))
            (found,) = region_surprisals(view, [numbered], "sum", corrected)
            assert found is not None
            for number, value in expected[condition].items():
                assert found[number] == pytest.approx(value, abs=2e-4)
    records = {(r.metric, r.label): r for r in signal.measure(view)}
    right = {name: np.array([by_hand(name, item["match"], item["mismatch"]) for item in hand]) for name in SUITES}
    for name, held in right.items():
        assert records["accuracy", f"suite={name}"].value == pytest.approx(held.all(1).mean())
        assert records["left_out", f"suite={name}"].value == 0
    for k in range(2):
        assert records["accuracy", f"prediction=several {k + 1}"].value == pytest.approx(right["several"][:, k].mean())
    everything = np.concatenate([held.all(1) for held in right.values()])
    assert 0 < everything.mean() < 1, "a test in which all or nothing holds tells little"
    overall = records["accuracy", None]
    assert (overall.value, overall.n) == (pytest.approx(everything.mean()), 9)
    assert overall.stderr > 0


def test_without_suites_and_for_masked_models_there_is_a_reason(setting, tmp_path):
    model, panel, tokenizer = setting
    (record, _) = Suites().measure(view_of(model, panel, Suites()))
    assert record.missing == "no suites were given: Suites(suites=...)"
    if isinstance(tokenizer, WordTokenizer):
        masked = panel.with_objective("masked")
        signal = Suites(suites=str(suite_file(tmp_path, "plain")))
        (record, _) = signal.measure(view_of(tiny("bert", tokenizer), masked, signal))
        assert "only a causal model" in record.missing


def test_items_that_are_too_long_are_left_out(setting, tmp_path):
    model, panel, _ = setting
    path = suite_file(tmp_path, "plain")
    content = json.loads(path.read_text())
    content["items"][0]["conditions"][0]["regions"][0]["content"] = "the old " * 400
    path.write_text(json.dumps(content))
    signal = Suites(suites=str(path))
    records = {(r.metric, r.label): r for r in signal.measure(view_of(model, panel, signal))}
    assert records["left_out", None].value == pytest.approx(1 / 3)
    assert records["accuracy", None].n == 2


def test_where_words_begin():
    assert word_begins(WordTokenizer(["a"])).all()
    tokenizer = train_bpe(TEXTS, 280)
    begins = word_begins(tokenizer)
    assert begins[tokenizer.convert_tokens_to_ids("Ġ")]
    assert not begins[tokenizer.convert_tokens_to_ids("a")]
    assert begins[tokenizer.eos_token_id]

    class Silent:
        all_special_ids = ()

        def __len__(self):
            return 2

        def convert_ids_to_tokens(self, ids):
            return ["x", "y"]

    assert word_begins(Silent()) == "the tokens of Silent do not show where a word begins"
