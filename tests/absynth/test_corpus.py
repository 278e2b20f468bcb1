"""Corpora: slices, splits, files."""

import pickle

import numpy as np
import pytest

import absynth
from absynth import AbsynthError, Grammar


@pytest.fixture(scope="module")
def corpus():
    return absynth.generate(Grammar.preset("small"), 4000, seed=1)


def test_slices(corpus):
    assert len(corpus[10:20]) == 10
    assert corpus[10:20][3] == corpus[13]
    assert corpus[-1] == corpus[len(corpus) - 1]
    assert corpus[::-1][0] == corpus[-1]
    assert list(corpus[5:8]) == [corpus[5], corpus[6], corpus[7]]
    assert corpus[5:5].fingerprint != corpus[5:6].fingerprint
    with pytest.raises(IndexError, match="sentence 4000 of a corpus of 4000"):
        corpus[4000]
    assert len(corpus.filter(lambda s: s.complexity == "complex")) == sum(s.complexity == "complex" for s in corpus)


def test_pickle(corpus):
    again = pickle.loads(pickle.dumps(corpus[:20]))
    assert again.fingerprint == corpus[:20].fingerprint
    assert again[3] == corpus[3]


def test_oracle_is_shared(corpus):
    assert corpus.oracle is corpus[:10].oracle
    assert absynth.Corpus(np.zeros(1), np.array([0, 1]), ("a",)).oracle is None


def test_sentence_split(corpus):
    train, dev, test = corpus.split(train=0.8, dev=0.1, test=0.1, seed=3)
    assert (len(train), len(dev), len(test)) == (3200, 400, 400)
    again = corpus.split(train=0.8, dev=0.1, test=0.1, seed=3)
    assert [p.fingerprint for p in (train, dev, test)] == [p.fingerprint for p in again]
    assert sorted(str(s) for part in (train, dev, test) for s in part) == sorted(str(s) for s in corpus)


def test_lexical_split():
    corpus = absynth.generate(Grammar.preset("small"), 30_000, seed=1)
    parts = corpus.split(train=0.8, dev=0.1, test=0.1, seed=3, disjoint="lexical")
    seen = []
    for part in parts:
        lemma, _ = part.column("lemma")
        role, _ = part.column("role")
        upos, names = part.column("upos")
        open_class = np.isin(upos, [names.index(x) for x in ("NOUN", "VERB", "ADJ", "ADV")])
        seen.append(set(zip(lemma[open_class].tolist(), role[open_class].tolist())))
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]
    sizes = np.array([len(part) for part in parts])
    assert sizes.sum() + parts[0].provenance["split"]["left_out"] == len(corpus)
    assert sizes[0] > sizes[1] > 50
    assert 0.02 < sizes[2] / sizes.sum() < 0.4


def test_construction_split(corpus):
    parts = corpus.split(train=0.8, dev=0.1, test=0.1, seed=3, disjoint="construction")
    names = [{s.construction for s in part} for part in parts]
    assert not names[0] & names[1]
    assert not names[0] & names[2]
    assert not names[1] & names[2]
    assert sum(len(part) for part in parts) == len(corpus)
    assert len(parts[2]) == pytest.approx(400, abs=60)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (dict(train=0.5, dev=0.1, test=0.1), "sum to 1"),
        (dict(train=1.5, dev=-0.5, test=0), "train: got 1.5"),
        (
            dict(train=0.8, dev=0.1, test=0.1, disjoint="word"),
            "disjoint: got 'word'; allowed: one of sentence, lexical, construction",
        ),
    ],
)
def test_wrong_splits_are_named(corpus, call, text):
    with pytest.raises(AbsynthError, match=text):
        corpus.split(**call)


def test_an_empty_part_is_an_error():
    with pytest.raises(AbsynthError, match="leaves dev empty"):
        absynth.generate(Grammar.preset("tiny"), 3, seed=1).split(train=0.9, dev=0.05, test=0.05)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_files_round_trip(corpus, tmp_path, suffix):
    part = corpus[:500]
    part.save(tmp_path / f"c{suffix}")
    again = absynth.load(tmp_path / f"c{suffix}")
    assert again.fingerprint == part.fingerprint
    assert list(again) == list(part)
    assert again.grammar == part.grammar


def test_parquet_is_small(corpus, tmp_path):
    corpus.save(tmp_path / "c.parquet")
    assert (tmp_path / "c.parquet").stat().st_size / len(corpus) < 60


def test_unwritable_path(corpus, tmp_path):
    with pytest.raises(AbsynthError, match="a path that can be written"):
        corpus.save(tmp_path / "absent" / "c.parquet")
    with pytest.raises(AbsynthError, match="a name that ends in"):
        corpus.save(tmp_path / "c.docx")


def test_unknown_layer(corpus):
    with pytest.raises(AbsynthError, match="layer: got 'mood'; allowed: one of category"):
        corpus.column("mood")


@pytest.mark.parametrize(("preset", "number"), [("tiny", 2500), ("small", 12_000)])
def test_no_sentence_of_one_part_occurs_in_another(preset, number):
    corpus = absynth.generate(Grammar.preset(preset), number, seed=7)
    parts = corpus.split(train=0.7, dev=0.1, test=0.2, seed=5)
    sets = [{s.tokens for s in part} for part in parts]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert not sets[a] & sets[b]
    assert [len(part) for part in parts] == [round(share * number) for share in (0.7, 0.1, 0.2)]
    drawn = corpus.split(train=0.7, dev=0.1, test=0.2, seed=5, disjoint="draw")
    assert {s.tokens for s in drawn[0]} & {s.tokens for s in drawn[2]}
    assert [len(part) for part in drawn] == [len(part) for part in parts]


def test_a_corpus_without_twins_is_split_as_it_is_drawn():
    corpus = absynth.generate(Grammar.preset("small"), 400, seed=2)
    first = {s.tokens: i for i, s in reversed(list(enumerate(corpus)))}
    corpus = corpus.select(np.array(sorted(first.values())))
    by_sentence = corpus.split(train=0.8, dev=0.1, test=0.1, seed=3)
    drawn = corpus.split(train=0.8, dev=0.1, test=0.1, seed=3, disjoint="draw")
    assert [list(a) for a in by_sentence] == [list(b) for b in drawn]


def test_frequent_sentences_go_to_every_part_by_its_share():
    """Twenty sentences, the most frequent one a ninth of all: over many seeds each part has its share of every sentence."""
    counts = np.arange(20, 0, -1)
    ids = np.repeat(np.arange(20), counts)
    corpus = absynth.Corpus(ids, np.arange(len(ids) + 1), tuple(f"s{i}" for i in range(20)))
    sizes, mass = [], np.zeros((3, 20))
    for seed in range(200):
        parts = corpus.split(train=0.5, dev=0.25, test=0.25, seed=seed)
        sizes.append([len(part) for part in parts])
        for i, part in enumerate(parts):
            mass[i] += np.bincount(part.ids, minlength=20)
    np.testing.assert_allclose(np.mean(sizes, 0) / len(ids), [0.5, 0.25, 0.25], atol=0.02)
    assert np.ptp(np.array(sizes), axis=0).max() <= 20
    share = mass / mass.sum(0)
    np.testing.assert_allclose(share[:, :8].mean(1), [0.5, 0.25, 0.25], atol=0.04)
    np.testing.assert_allclose(share[:, 8:].mean(1), [0.5, 0.25, 0.25], atol=0.04)
    assert share[2].min() > 0.1


def test_a_language_of_few_sentences_leaves_no_part_empty():
    ids = np.repeat(np.arange(4), (50, 30, 15, 5))
    corpus = absynth.Corpus(ids, np.arange(101), tuple("abcd"))
    for seed in range(5):
        parts = corpus.split(train=0.9, dev=0.05, test=0.05, seed=seed)
        assert min(len(part) for part in parts) > 0
        assert sum(len(part) for part in parts) == 100
