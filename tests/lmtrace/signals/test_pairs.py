"""Minimal pairs: log-likelihoods against plain loops, ties, truncation, BLiMP."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from lmtrace.errors import DataError
from lmtrace.jobs.data import train_bpe
from lmtrace.numerics import pairs as F
from lmtrace.numerics.pairs import wilson_interval
from lmtrace.observe.instrument import Instrument
from lmtrace.observe.view import Measurement, MeasurementView
from lmtrace.signals.pairs import Pairs, encode, log_likelihoods
from lmtrace.text.pairs import MinimalPair, as_pairs, read_pairs
from lmtrace.text.panel import Panel
from lmtrace_helpers import tiny


def view_of(model, panel, signal):
    instrument = Instrument(model.eval(), panel, [signal], on_error="raise")
    measurement = Measurement(0, instrument.model, instrument.panel, instrument.known_sites, None)
    return MeasurementView(measurement, signal, 0, instrument.needs[0])


def test_accuracy_counts_ties_as_half():
    estimate = F.minimal_pair_accuracy([-1.0, -3.0, -2.0, -5.0], [-2.0, -2.0, -2.0, -9.0])
    assert estimate.value == pytest.approx(2.5 / 4)
    assert estimate.n == 4
    rows = torch.tensor([[-1.0, -3.0], [-2.0, -2.0]], requires_grad=True)
    assert F.minimal_pair_accuracy(rows[0], rows[1]).value == 0.5


def test_wilson_interval_against_its_equation():
    for share, n in ((0.0, 10), (0.3, 50), (1.0, 7)):
        low, high = wilson_interval(share, n)
        for edge in (low, high):
            assert (edge - share) ** 2 == pytest.approx(1.959964**2 * edge * (1 - edge) / n, abs=1e-9)


@pytest.mark.parametrize(("right", "n"), [(0, 23), (23, 23), (5, 40), (31, 77)])
def test_two_errors_of_the_accuracy_hold_the_wilson_interval(right, n):
    margins = [1.0] * right + [-1.0] * (n - right)
    found = F.minimal_pair_accuracy(margins, [0.0] * n)
    low, high = wilson_interval(right / n, n)
    assert found.value - 2 * found.stderr <= low
    assert found.value + 2 * found.stderr >= high
    assert found.stderr < (high - low) / 1.95


def test_the_interval_and_the_end_of_the_records(panel, tokenizer, sentences, tmp_path):
    """Pairs of a file are scored by their words; others with the end where the panel has one; `end=` decides otherwise."""
    model = tiny("gpt2", tokenizer).eval()
    texts = [(" ".join(s.tokens), " ".join(s.tokens[::-1])) for s in sentences[:21]]
    path = tmp_path / "kind.jsonl"
    path.write_text("\n".join(json.dumps({"sentence_good": a, "sentence_bad": b}) for a, b in texts))
    pairs = tuple(MinimalPair(a, b, "kind") for a, b in texts)

    def scored(text, end):
        ids = [tokenizer.bos_token_id, *tokenizer.encode(text), *([tokenizer.eos_token_id] if end else [])]
        with torch.no_grad():
            log_probs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        return sum(float(log_probs[j, ids[j + 1]]) for j in range(len(ids) - 1))

    margins = {end: [scored(a, end) - scored(b, end) for a, b in texts] for end in (False, True)}
    cases = (
        (Pairs(pairs=str(path)), panel, False),
        (Pairs(pairs=pairs), panel, True),
        (Pairs(pairs=pairs), panel.with_end(False), False),
        (Pairs(pairs=pairs, end=False), panel, False),
        (Pairs(pairs=str(path), end=True), panel, True),
        (Pairs(pairs=(str(path), *pairs)), panel, None),
    )
    for signal, read, end in cases:
        by = {(r.metric, r.label): r for r in signal.measure(view_of(model, read, signal))}
        both = margins[False] + margins[True]
        expected = np.mean(both if end is None else margins[end])
        assert by["margin", None].value == pytest.approx(expected, abs=1e-5)
        share = np.mean(np.array(both if end is None else margins[end]) > 0)
        low, high = wilson_interval(share, len(both) if end is None else 21)
        assert (by["accuracy_low", None].value, by["accuracy_high", None].value) == pytest.approx((low, high))


def test_the_sample_of_a_kind_is_not_its_beginning(panel, tokenizer):
    pairs = tuple(MinimalPair(("noun1",) * (1 + i // 30), ("verb1",), f"k{i % 3}") for i in range(240))
    chosen, _ = Pairs(pairs=pairs, per_kind=30)._chosen(True)
    assert {kind: sum(p.kind == kind for p in chosen) for kind in ("k0", "k1", "k2")} == {"k0": 30, "k1": 30, "k2": 30}
    lengths = [len(p.good) for p in chosen]
    assert np.mean(lengths) == pytest.approx(4.5, abs=0.8)  # the first thirty of each have 2 on average
    assert Pairs(pairs=pairs, per_kind=30)._chosen(True)[0] == chosen


def test_bad_input_of_accuracy():
    assert F.minimal_pair_accuracy([], []).value is None
    left = F.minimal_pair_accuracy([-1.0, math.nan], [-2.0, -1.0])
    assert (left.value, left.n) == (1.0, 1)
    assert "1 of 2 pairs left out" in left.note
    with pytest.raises(ValueError, match="same length"):
        F.minimal_pair_accuracy([1.0], [1.0, 2.0])


@pytest.mark.parametrize("style", ["gpt2", "llama", "bert"])
def test_log_likelihoods_equal_a_plain_loop(style, panel, tokenizer, sentences):
    model = tiny(style, tokenizer).eval()
    view = view_of(model, panel, Pairs())
    rows = [tokenizer.encode(s.tokens) for s in sentences[:12]]
    found = log_likelihoods(view, rows, [True] * len(rows))
    for row, value in zip(rows, found, strict=True):
        ids = [tokenizer.bos_token_id, *row, tokenizer.eos_token_id]
        total = 0.0
        with torch.no_grad():
            if style == "bert":
                for j in range(1, len(ids) - 1):
                    masked = torch.tensor([[*ids[:j], tokenizer.mask_token_id, *ids[j + 1 :]]])
                    total += float(model(input_ids=masked).logits[0, j].log_softmax(-1)[ids[j]])
            else:
                log_probs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
                total = sum(float(log_probs[j, ids[j + 1]]) for j in range(len(ids) - 1))
        assert value == pytest.approx(total, rel=1e-6, abs=1e-5)


def test_a_model_that_knows_the_rule_gets_every_pair(panel, tokenizer, sentences):
    model = tiny("gpt2", tokenizer)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for i in range(150):
        rows = [tokenizer.encode(s.tokens, add_special_tokens=True) for s in sentences[(i * 32) % 160 :][:32]]
        batch = torch.nn.utils.rnn.pad_sequence([torch.tensor(r) for r in rows], batch_first=True)
        loss = model(
            input_ids=batch, attention_mask=(batch > 0).long(), labels=batch.masked_fill(batch == 0, -100)
        ).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    pairs = tuple(MinimalPair(tuple(s.tokens), (s.tokens[-1], *s.tokens[:-1]), "order") for s in sentences[160:200])
    records = list(Pairs(pairs=pairs).measure(view_of(model, panel, Pairs(pairs=pairs))))
    accuracy = next(r for r in records if r.metric == "accuracy" and r.label == "kind=order")
    assert accuracy.value > 0.9
    assert accuracy.null == 0.5
    assert next(r for r in records if r.metric == "margin").value > 1.0
    same = tuple(MinimalPair(p.good, p.good, "same") for p in pairs)
    tied = list(Pairs(pairs=same).measure(view_of(model, panel, Pairs(pairs=same))))
    assert next(r for r in tied if r.metric == "accuracy").value == 0.5


def test_severity_is_that_of_the_law_and_the_margin_follows_it(panel, tokenizer, sentences, monkeypatch):
    good = [tuple(s.tokens) for s in sentences[:30]]
    exact = np.random.default_rng(0).normal(3.0, 1.0, 30)
    pairs = tuple(MinimalPair(g, g[::-1], "order", float(x)) for g, x in zip(good, exact, strict=True))
    pairs += (MinimalPair(good[0], good[1], "order"), MinimalPair(good[0], good[1], "no law"))
    signal = Pairs(pairs=pairs)
    margins = iter([np.append(2 * exact + 0.1, [0.0, 0.0]), np.zeros(32)])
    monkeypatch.setattr("lmtrace.signals.pairs.log_likelihoods", lambda view, rows, ends: next(margins))
    by = {(r.metric, r.label): r for r in signal.measure(view_of(tiny("gpt2", tokenizer), panel, signal))}
    assert by["severity", "kind=order"].value == pytest.approx(exact.mean())
    assert by["severity", "kind=order"].n == 30
    assert by["severity_correlation", "kind=order"].value == pytest.approx(1.0)
    assert ("severity", "kind=no law") not in by


def test_ties_of_the_margin_have_no_correlation(panel, tokenizer, sentences):
    pairs = tuple(MinimalPair(tuple(s.tokens), tuple(s.tokens), "same", float(i)) for i, s in enumerate(sentences[:12]))
    signal = Pairs(pairs=pairs)
    by = {(r.metric, r.label): r for r in signal.measure(view_of(tiny("gpt2", tokenizer), panel, signal))}
    assert by["severity_correlation", None].missing == "all margins are equal"
    few = Pairs(pairs=pairs[:5])
    by = {(r.metric, r.label): r for r in few.measure(view_of(tiny("gpt2", tokenizer), panel, few))}
    assert by["severity_correlation", None].missing.startswith("5 pairs have two finite margins")


def test_pairs_longer_than_the_context_are_left_out_and_counted(panel, tokenizer, sentences):
    model = tiny("gpt2", tokenizer)
    long = tuple(sentences[0].tokens) * 20
    pairs = (MinimalPair(long, long[::-1], "long"), MinimalPair(tuple(sentences[0].tokens), ("noun1",), "short"))
    records = list(Pairs(pairs=pairs).measure(view_of(model, panel, Pairs(pairs=pairs))))
    by = {(r.metric, r.label): r for r in records}
    assert by["left_out", None].value == 0.5
    assert by["accuracy", None].n == 1
    assert "left out" in by["accuracy", "kind=long"].missing


def test_missing_with_a_reason(panel, tokenizer):
    records = list(Pairs().measure(view_of(tiny("gpt2", tokenizer), panel, Pairs())))
    assert all("no minimal pairs were given" in r.missing for r in records)
    pairs = (MinimalPair(("noun1",), ("verb1",), "x"),)
    records = list(Pairs(pairs=pairs).measure(view_of(tiny("t5", tokenizer), panel, Pairs(pairs=pairs))))
    assert all("encoder-decoder" in r.missing for r in records)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ('{"sentence_good": "a"}\n', "line 1.*sentence_bad"),
        ('{"sentence_good": "a", "sentence_bad": "b"}\nnot json\n', "line 2"),
        ('{"sentence_good": "a", "sentence_bad": 3}\n', "line 1"),
        ("", "holds no pairs"),
    ],
)
def test_broken_pair_files(content, match, tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=match):
        read_pairs(path)


def test_all_blimp_files_run(data_dir, sentences):
    files = sorted((data_dir / "blimp").glob("*.jsonl"))
    assert len(files) == 13
    pairs = as_pairs(data_dir / "blimp")
    assert len(pairs) == 13_000
    texts = [p.good for p in pairs[::13]]
    tokenizer = train_bpe(texts, 600)
    panel = Panel.from_annotated(sentences[:20], tokenizer)
    for style in ("gpt2", "bert"):
        model = tiny(style, tokenizer).eval()
        signal = Pairs(pairs=str(data_dir / "blimp"), per_kind=6)
        view = view_of(model, panel, signal)
        by = {(r.metric, r.label): r for r in signal.measure(view)}
        kinds = {label for metric, label in by if metric == "accuracy" and label}
        assert kinds == {f"kind={f.stem}" for f in files}
        for file in files:
            first = json.loads(file.read_text().splitlines()[0])
            ids = encode(first["sentence_good"], tokenizer)
            value = log_likelihoods(view, [ids], [True])[0]
            full = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
            if len(full) > 32:
                assert np.isnan(value)
                continue
            with torch.no_grad():
                if style == "gpt2":
                    log_probs = model(input_ids=torch.tensor([full])).logits[0].log_softmax(-1)
                    expected = sum(float(log_probs[j, full[j + 1]]) for j in range(len(full) - 1))
                else:
                    expected = 0.0
                    for j in range(1, len(full) - 1):
                        masked = torch.tensor([[*full[:j], tokenizer.mask_token_id, *full[j + 1 :]]])
                        expected += float(model(input_ids=masked).logits[0, j].log_softmax(-1)[full[j]])
            assert value == pytest.approx(expected, rel=1e-6, abs=1e-5)
