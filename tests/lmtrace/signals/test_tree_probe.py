from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from lmtrace.probing.splits import sentence_split
from lmtrace.signals.tree_probe import TreeProbe
from lmtrace.signals.tree_probe.scores import Judged, TreeScores, punctuation
from lmtrace.signals.tree_probe.structural import (
    Sentences,
    distance_spearman,
    linear_chain,
    structural_probes,
    tree_distances,
    uuas,
)
from lmtrace.testing import check_signal
from lmtrace.text.sentences import AnnotatedSentence
from probe_views import PlantedView, by, word_panel
from reference.probing import tree_distance_by_walk, uuas_by_hand


def random_heads(rng, n):
    order = rng.permutation(n)
    heads = np.full(n, -1)
    for place in range(1, n):
        heads[order[place]] = order[rng.integers(place)]
    return heads


def test_distances_and_scores_agree_with_walks_and_kruskal():
    rng = np.random.default_rng(0)
    for n in (3, 5, 9, 17):
        heads = random_heads(rng, n)
        gold = tree_distances(heads)
        np.testing.assert_array_equal(gold, tree_distance_by_walk(heads.tolist()))
        predicted = rng.random((n, n))
        predicted = predicted + predicted.T
        np.fill_diagonal(predicted, 0)
        edges = {(min(i, h), max(i, h)) for i, h in enumerate(heads.tolist()) if h >= 0}
        assert uuas(predicted, gold) == pytest.approx(uuas_by_hand(predicted, edges))
        assert uuas(gold, gold) == 1.0
        others = ~np.eye(n, dtype=bool)
        expected = [spearmanr(predicted[i][others[i]], gold[i][others[i]]).statistic for i in range(n)
                    if len(set(gold[i][others[i]])) > 1]  # fmt: skip
        varied = sum(len(set(gold[i][others[i]])) > 1 for i in range(n))
        assert distance_spearman(predicted, gold) * n == pytest.approx(np.mean(expected) * varied)


def slow_probe(x, rows, gold, rank, steps, rate=0.02):
    """The structural probe, sentence by sentence, in float64 with autograd: classical scaling, then Adam."""
    d = x.shape[1]
    centred = [x[row] - x[row].mean(0) for row in rows]
    scatter, moment = np.zeros((d, d)), np.zeros((d, d))
    for h, tree in zip(centred, gold, strict=True):
        j = np.eye(len(h)) - 1 / len(h)
        scatter += h.T @ h / len(h)
        moment += h.T @ (-0.5 * j @ tree @ j) @ h / len(h)
    unit = np.sqrt(scatter.diagonal())
    values, vectors = np.linalg.eigh(scatter / np.outer(unit, unit))
    white = vectors / np.sqrt(values + values.mean()) / unit[:, None]
    values, vectors = np.linalg.eigh(white.T @ moment @ white)
    directions, values = (white @ vectors)[:, ::-1][:, : 2 * rank], values[::-1][:rank]
    size = np.sqrt(np.square(np.concatenate(centred) @ directions).mean(0))
    directions = torch.as_tensor(directions / size)
    words = [torch.as_tensor(h) @ directions for h in centred]
    trees = [torch.as_tensor(tree) for tree in gold]

    def distances(b, h):
        return ((h[:, None] - h[None]) @ b).square().sum(2)

    b = torch.zeros(len(size), rank, dtype=torch.float64)
    b[:rank] = torch.diag(torch.as_tensor(np.sqrt(np.maximum(values, 1e-4 * abs(values).max())) * size[:rank]))
    pairs = [(distances(b, h), tree, len(h) ** 2) for h, tree in zip(words, trees, strict=True)]
    above = sum((found * tree).sum() / n for found, tree, n in pairs)
    b = (b * (above / sum(found.square().sum() / n for found, _, n in pairs)).sqrt()).requires_grad_()
    optimizer = torch.optim.Adam([b], lr=rate)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        gaps = [(distances(b, h) - tree).abs().mean() for h, tree in zip(words, trees, strict=True)]
        optimizer.zero_grad()
        (sum(gaps) / len(gaps)).backward()
        optimizer.step()
    return (directions @ b).detach().numpy()


def test_the_probe_agrees_with_a_loop_and_autograd():
    rng = np.random.default_rng(3)
    sizes = rng.integers(3, 12, size=40)
    rows = np.split(np.arange(sizes.sum()), np.cumsum(sizes)[:-1])
    gold = [tree_distances(random_heads(rng, n)) for n in sizes]
    x = rng.standard_normal((sizes.sum(), 12)) + 5
    both = [x, 2 * x[:, ::-1]]
    found = structural_probes(
        [torch.as_tensor(x.copy()) for x in both], Sentences.by_length(rows, gold, torch.device("cpu")), 4, 8
    )
    for representation, probe in zip(both, found, strict=True):
        slow, got = slow_probe(representation, rows, gold, 4, 8), probe.b.double().numpy()
        # The map is only known up to a rotation.
        np.testing.assert_allclose(got @ got.T, slow @ slow.T, atol=1e-4 * abs(slow @ slow.T).max())


def test_heads_that_are_no_single_tree_have_no_distances():
    assert tree_distances(np.array([-1, -1, 0])) is None
    assert tree_distances(np.array([1, 0, -1])) is None


def test_words_at_one_place_are_not_an_error():
    gold = tree_distances(np.array([-1, 0, 1, 2]))
    assert 0.0 <= uuas(np.zeros((4, 4)), gold) <= 1.0
    assert distance_spearman(np.zeros((4, 4)), gold) == 0.0


def tree_embedding(panel, rng, d=24, noise=0.02):
    """Word vectors whose squared distances are exactly the tree's, in the same directions of every sentence, and noise."""
    x = np.zeros((panel.num_words, d))
    path = np.eye(d)
    for i in range(panel.num_words):
        head = panel.heads[i]
        if head >= 0:  # one step from the head, along a direction that the words of the sentence do not share
            x[i] = x[head] + path[panel.word_position[i]]
    return torch.as_tensor(x + noise * rng.standard_normal(x.shape)).float()


@pytest.fixture(scope="module")
def panel():
    return word_panel(num_sentences=160, min_words=5, max_words=10)


def test_a_planted_tree_is_found_and_noise_is_not(panel):
    rng = np.random.default_rng(0)
    mixed = tree_embedding(panel, rng) @ torch.as_tensor(rng.standard_normal((24, 24))).float()
    noise = torch.as_tensor(rng.standard_normal((panel.num_words, 24))).float()
    records = list(TreeProbe(rank=24).measure(PlantedView(panel, {"block.0": mixed, "embed": noise})))
    assert by(records, "uuas", site="block.0").value > 0.9
    assert by(records, "spearman", site="block.0").value > 0.9
    found = by(records, "uuas", site="embed")
    assert found.value < 0.45
    assert by(records, "uuas_gain_over_embed").value == pytest.approx(
        by(records, "uuas", site="block.0").value - found.value
    )
    assert 0 < found.null < 1


def test_the_chain_finds_all_edges_of_a_chain():
    gold = tree_distances(np.array([-1, 0, 1, 2, 3]))
    assert uuas(linear_chain(5), gold) == 1.0
    assert distance_spearman(linear_chain(5), gold) == 1.0


def test_the_null_is_the_linear_chain(panel):
    position = torch.as_tensor(panel.word_position.astype(np.float32))[:, None]
    steps = (position > torch.arange(12)[None]).float()  # ||x_i - x_j||^2 = |i - j|
    records = list(TreeProbe(rank=12, num_steps=300).measure(PlantedView(panel, {"block.0": steps})))
    found = by(records, "uuas", site="block.0")
    assert found.null is not None
    neighbours = []
    for sentence in np.flatnonzero(sentence_split(np.arange(panel.num_sentences), 0)):
        rows = np.flatnonzero(panel.word_sentence == sentence)
        heads = [int(h - rows[0]) if h >= 0 else -1 for h in panel.heads[rows]]
        neighbours.append([abs(i - h) == 1 for i, h in enumerate(heads) if h >= 0])
    assert found.null == pytest.approx(np.mean(np.concatenate(neighbours)))
    assert by(records, "uuas_by_sentence", site="block.0").null == pytest.approx(
        np.mean([np.mean(x) for x in neighbours])
    )


def hewitt_and_manning(predicted, gold, marks):
    """Their evaluation from its description, one sentence after the other: Kruskal among the words that are no punctuation."""

    def tree(distance, words):
        group = {word: word for word in words}
        edges = set()
        for _, i, j in sorted((distance[i, j], i, j) for i in words for j in words if i < j):
            if group[i] != group[j]:
                edges.add((i, j))
                old = group[j]
                group = {word: group[i] if at == old else at for word, at in group.items()}
        return edges

    hits = total = 0
    by_length = {}
    for mine, true, mark in zip(predicted, gold, marks, strict=True):
        words = np.flatnonzero(~mark).tolist()
        right = tree(true, words)
        hits += len(tree(mine, words) & right)
        total += len(right)
        others = ~np.eye(len(true), dtype=bool)
        varied = [i for i in range(len(true)) if len(set(true[i][others[i]])) > 1]
        rho = [spearmanr(mine[i][others[i]], true[i][others[i]]).statistic for i in varied]
        rho += [0.0] * (len(true) - len(varied))  # a word as far from all others has no correlation
        by_length.setdefault(len(true), []).extend(rho)
    return hits / total, np.mean([np.mean(rho) for length, rho in by_length.items() if 5 <= length <= 50])


def test_scores_are_those_of_hewitt_and_manning():
    """Of trees whose punctuation hangs at the end, as treebanks have it, and of sentences of very different lengths."""
    rng = np.random.default_rng(11)
    sizes = [3, 4, 4, 6, 6, 9, 17, 31, 31, 44, 53]
    gold = [tree_distances(random_heads(rng, n)) for n in sizes]
    marks = []
    for tree in gold:
        leaves = np.flatnonzero((tree == 1).sum(1) == 1)
        mark = np.zeros(len(tree), bool)
        mark[rng.choice(leaves, len(leaves) // 2, replace=False)] = True
        marks.append(mark)
    predicted = [tree + rng.random(tree.shape) * 3 for tree in gold]
    predicted = [np.triu(p, 1) + np.triu(p, 1).T for p in predicted]
    judged = [Judged.of(np.array([i]), np.arange(n)[None], gold[i][None], ~marks[i][None]) for i, n in enumerate(sizes)]
    scores = TreeScores.empty(judged, 1, np.arange(sum(len(group.places) for group in judged)))
    for group, distance in zip(judged, predicted, strict=True):
        scores.fill(group, distance[None, None])
    uuas_there, spearman_there = hewitt_and_manning(predicted, gold, marks)
    assert scores.of(0).uuas().value == pytest.approx(uuas_there, abs=1e-12)
    assert scores.of(0).spearman().value == pytest.approx(spearman_there, abs=1e-12)
    assert abs(scores.of(0).uuas_by_sentence().value - uuas_there) > 0.02


def test_errors_of_pooled_scores_cover():
    rng = np.random.default_rng(4)
    found = []
    for _ in range(300):
        edges = rng.integers(2, 40, size=60)
        chance = np.clip(rng.normal(0.55, 0.15, size=60), 0, 1)
        hits = rng.binomial(edges, chance).astype(float)
        score = TreeScores(hits, hits / edges, chance, edges, edges + 1, np.arange(60))
        found.append((score.uuas().value, score.uuas().stderr))
    value, error = np.array(found).T
    assert error.mean() == pytest.approx(value.std(), rel=0.15)


def test_what_punctuation_is():
    words = ("Well", ",", "``", "$", "-LRB-", "x.", "…")
    assert punctuation(AnnotatedSentence(tokens=words)).tolist() == [False, True, True, False, True, False, True]
    upos = AnnotatedSentence(tokens=("a", "."), labels={"upos": ("PUNCT", "NOUN")})
    assert punctuation(upos).tolist() == [True, False]
    xpos = AnnotatedSentence(tokens=("a", "."), labels={"xpos": (":", None)})
    assert punctuation(xpos).tolist() == [True, False]


def test_too_few_trees_are_missing():
    small = word_panel(num_sentences=8)
    (record,) = TreeProbe().measure(PlantedView(small, {"embed": torch.ones(small.num_words, 4)}))
    assert "8 sentences of 3 to 50 words are whole trees" in record.missing


def test_contract_on_a_model(panel):
    from lmtrace_helpers import PlainModel

    records = check_signal(TreeProbe(num_steps=5), PlainModel(len(panel.tokenizer)), panel)
    assert by(records, "uuas", site="final").n == 40


@pytest.mark.parametrize("noise", [1e-7, 1e-6, 1e-5])
def test_rounding_does_not_decide_the_tree(noise):
    """Words after a layer norm do not differ in one direction; what rounding leaves there must not be read."""
    panel = word_panel(num_sentences=80)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(len(panel.type_names), 24, generator=generator)[torch.as_tensor(panel.word_types)]
    x = torch.nn.functional.layer_norm(x + 0.1 * torch.randn(x.shape, generator=generator), (24,))
    found = []
    for activations in (x, x + noise * torch.randn(x.shape, generator=generator)):
        records = list(TreeProbe(num_steps=5).measure(PlantedView(panel, {"embed": activations})))
        found.append([by(records, metric).value for metric in ("uuas", "spearman")])
    assert found[1] == pytest.approx(found[0], abs=2e-3)
