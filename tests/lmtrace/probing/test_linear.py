"""Linear probes against known answers, slow references and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.preprocessing import StandardScaler

from lmtrace.errors import ConfigError, DataError
from lmtrace.numerics.moments import ClassMeans, Moments, Sample
from lmtrace.probing.closed_form import Basis, lda, ridge
from lmtrace.probing.codelength import codelength
from lmtrace.probing.linear import fit, linear_probe
from lmtrace.probing.rows import Design, Targets
from lmtrace.probing.scores import Bootstrap, Tally, bootstrap_weights
from lmtrace.probing.softmax import Labellings, softmax_regression, softmax_regressions, whitener
from lmtrace.probing.splits import control_labels, lexical_split, sentence_split
from reference.probing import bootstrap_stderr_loop, gcv_by_hat_matrix, ridge_by_normal_equations


def planted(seed=0, n=12_000, types=600, d=64, classes=10, noise=0.3):
    """Zipf types, Gaussian embeddings with noise; one random label per type, per token, or a linear one."""
    rng = np.random.default_rng(seed)
    p = 1 / np.arange(1, types + 1) ** 1.05
    kind = rng.choice(types, n, p=p / p.sum())
    x = rng.standard_normal((types, d))[kind] + noise * rng.standard_normal((n, d))
    labels = {
        "type": rng.integers(classes, size=types)[kind],
        "token": rng.integers(classes, size=n),
        "linear": (x @ rng.standard_normal((d, classes))).argmax(1),
    }
    return x, labels, kind, np.arange(n) // 10


@pytest.fixture(scope="module")
def null():
    return planted()


def small(seed=0, n=300, d=6, classes=4):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) * np.geomspace(0.01, 100, d) + 5
    y = (x @ rng.standard_normal((d, classes)) / np.geomspace(0.01, 100, d).mean()).argmax(1)
    return torch.as_tensor(x), y, np.eye(classes)[y]


# -- sufficient statistics ------------------------------------------------------------------------------------------


def test_statistics_add_over_batches_far_from_the_origin():
    x, y, _ = small()
    x = x.float() + 1000
    whole = Moments.of(x)
    parts = Moments.of(x[:7]) + Moments.of(x[7:7]) + Moments.of(x[7:100]) + Moments.of(x[100:])
    exact = x.double() - x.double().mean(0)
    size = torch.outer(exact.norm(dim=0), exact.norm(dim=0))
    assert float(((whole.scatter - exact.T @ exact) / size).abs().max()) < 1e-6
    assert float(((parts.scatter - exact.T @ exact) / size).abs().max()) < 1e-6
    double = Moments.of(x.double()[:100]) + Moments.of(x.double()[100:])
    torch.testing.assert_close(double.scatter, exact.T @ exact, rtol=1e-10, atol=1e-9)
    torch.testing.assert_close(parts.mean, whole.mean)
    assert parts.n == 300
    codes = torch.as_tensor(y)
    means = ClassMeans.of(x, codes, 5)
    added = ClassMeans.of(x[:50], codes[:50], 5) + ClassMeans.of(x[50:], codes[50:], 5)
    torch.testing.assert_close(means.means[1], x.double()[codes == 1].mean(0))
    torch.testing.assert_close(added.means, means.means)
    assert means.counts.tolist() == np.bincount(y, minlength=5).tolist()
    assert means.means[4].abs().sum() == 0


@pytest.mark.parametrize("penalty", [1e-6, 1e-3, 0.3])
def test_ridge_equals_the_normal_equations(penalty):
    x, y, onehot = small()
    basis = Basis.of(Moments.of(x))
    ours = ridge(basis, ClassMeans.of(x, torch.as_tensor(y), 4), grid=(penalty,))
    expected = ridge_by_normal_equations(x.numpy(), onehot, penalty)(x.numpy())
    np.testing.assert_allclose(ours.scores(x).numpy(), expected, rtol=1e-8, atol=1e-9)


def test_ridge_chooses_the_penalty_with_the_least_gcv_of_the_hat_matrix():
    rng = np.random.default_rng(3)
    x = torch.as_tensor(rng.standard_normal((80, 30)))
    y = (x[:, :3].sum(1).numpy() + rng.standard_normal(80) > 0).astype(int)
    grid = tuple(10.0 ** np.arange(-4, 3.0))
    errors = [gcv_by_hat_matrix(x.numpy(), np.eye(2)[y], penalty) for penalty in grid]
    chosen = ridge(Basis.of(Moments.of(x)), ClassMeans.of(x, torch.as_tensor(y), 2), grid).penalty
    assert chosen == grid[int(np.argmin(errors))]
    assert 0 < int(np.argmin(errors)) < len(grid) - 1


def test_lda_gives_the_exact_posterior_of_gaussian_classes():
    rng = np.random.default_rng(0)
    n, means = 200_000, np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
    y = rng.choice(3, n, p=[0.5, 0.3, 0.2])
    x = torch.as_tensor(means[y] + rng.standard_normal((n, 2)))
    probe = lda(Basis.of(Moments.of(x)), ClassMeans.of(x, torch.as_tensor(y), 3))
    q = torch.tensor([[0.5, 0.5], [2.0, 1.0], [0.0, 2.0]], dtype=torch.float64)
    log_joint = -0.5 * torch.cdist(q, torch.as_tensor(means)) ** 2 + torch.tensor([0.5, 0.3, 0.2]).log()
    torch.testing.assert_close(torch.softmax(probe.scores(q), 1), torch.softmax(log_joint, 1), atol=0.02, rtol=0)


@pytest.mark.parametrize(("n", "d"), [(500, 40), (60, 80)])
def test_lda_equals_solving_with_the_scatter_within_classes(n, d):
    rng = np.random.default_rng(1)
    y = torch.as_tensor(rng.integers(0, 5, n))
    x = torch.as_tensor(rng.standard_normal((n, d)) * np.geomspace(0.1, 10, d) + 3)
    x[:, :6] += 2 * torch.nn.functional.one_hot(y, 6)  # the sixth class is empty
    moments, classes = Moments.of(x), ClassMeans.of(x, y, 6)
    probe = lda(Basis.of(moments), classes)
    offsets = ((classes.means - moments.mean) / moments.scale)[:5]
    within = moments.correlation - (offsets.T * classes.counts[:5]) @ offsets + probe.penalty * n * torch.eye(d)
    expected = n * torch.linalg.solve(within, offsets.T) / moments.scale[:, None]
    torch.testing.assert_close(probe.weight[:, :5], expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))
    assert probe.weight[:, 5].abs().max() == 0


def test_softmax_regression_equals_scikit_learn_on_standardised_features():
    x, labels, _, _ = planted(n=1500, types=100, d=12)
    y = labels["type"]
    z = StandardScaler().fit_transform(x)
    sk = LogisticRegression(C=0.5, max_iter=2000, tol=1e-8).fit(z, y)
    ours = softmax_regression(torch.as_tensor(x), torch.as_tensor(y), 10, penalty=2.0, max_iter=500)
    p = torch.softmax(ours.scores(torch.as_tensor(x)), 1).numpy()
    np.testing.assert_allclose(p, sk.predict_proba(z), atol=3e-3)


def rows_of_three_labellings(n=400, d=10):
    rng = np.random.default_rng(5)
    x = torch.as_tensor(rng.standard_normal((n, d)) * np.geomspace(0.1, 10, d) + 3).float()
    codes = np.stack([(x.numpy() @ rng.standard_normal((d, k)) + rng.gumbel(size=(n, k))).argmax(1) for k in (5, 2, 3)])
    return x, Sample.of(x), torch.as_tensor(codes), [5, 2, 3]


def test_labellings_side_by_side_are_fitted_as_if_alone():
    _, sample, codes, sizes = rows_of_three_labellings()
    white = whitener(sample.moments, 0.1)
    together = softmax_regressions(sample, white, Labellings(codes, sizes), 0.1, 6)
    for i, (size, found) in enumerate(zip(sizes, together, strict=True)):
        [alone] = softmax_regressions(sample, white, Labellings(codes[i : i + 1], [size]), 0.1, 6)
        for ours, theirs in ((found.weight, alone.weight), (found.bias, alone.bias)):
            assert float((ours - theirs).norm() / theirs.norm()) < 1e-4


def test_rows_without_a_label_are_neither_learned_from_nor_judged():
    x, sample, codes, sizes = rows_of_three_labellings()
    white, kept = whitener(sample.moments, 0.1), torch.arange(len(x)) % 3 > 0
    masked = codes[:1].masked_fill(~kept, -1)
    [found] = softmax_regressions(sample, white, Labellings(masked, sizes[:1]), 0.1, 6)
    fewer = Sample(sample.rows[kept], sample.origin, sample.moments)
    [expected] = softmax_regressions(fewer, white, Labellings(codes[:1, kept], sizes[:1]), 0.1, 6)
    assert float((found.weight - expected.weight).norm() / expected.weight.norm()) < 1e-4
    assert found.penalty == pytest.approx(expected.penalty) == pytest.approx(0.1 / int(kept.sum()))
    test = np.arange(len(x)) % 4 == 0
    [judged] = fit(Design.of(x, test), Targets.of([(masked[0].numpy(), 5)], test), "ridge")
    assert len(judged.predicted) == len(judged.probability) == int((kept.numpy() & test).sum())


def test_the_first_step_is_along_ridge_regression():
    _, sample, codes, sizes = rows_of_three_labellings()
    (n, d), scale = sample.rows.shape, sample.moments.scale
    z = sample.rows.double() / scale
    for i, (size, found) in enumerate(
        zip(
            sizes,
            softmax_regressions(sample, whitener(sample.moments, 2.0), Labellings(codes, sizes), 2.0, 1),
            strict=True,
        )
    ):
        onehot = torch.nn.functional.one_hot(codes[i], size).double()
        counts = onehot.sum(0)
        centred = onehot - (counts + 0.5) / (n + 0.5 * size)
        expected = torch.linalg.solve(z.T @ z + (4.0 + 4e-7 * d * n) * torch.eye(d), z.T @ centred)
        ours = found.weight * scale[:, None]
        cosine = (ours * expected).sum() / ours.norm() / expected.norm()
        assert float(cosine) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("n", [6, 400])
def test_whitened_rows_are_curved_alike(n):
    """Also where there are fewer rows than directions."""
    x = torch.as_tensor(np.random.default_rng(0).standard_normal((n, 12)) * np.geomspace(0.01, 100, 12)).float()
    moments = Moments.of(x)
    p, centred = whitener(moments, 0.1).double(), x.double() - x.double().mean(0)
    curved = centred.T @ centred / n + (0.2 / n + 4e-7 * 12) * torch.diag(moments.scale.square())
    torch.testing.assert_close(p @ curved @ p.T, torch.eye(12, dtype=torch.float64), atol=2e-3, rtol=0)


def test_rows_whose_squares_overflow_are_refused_and_not_searched_forever():
    x = torch.as_tensor(np.random.default_rng(0).standard_normal((400, 5))).float() * 1e30
    with pytest.raises(DataError, match="overflow"):
        linear_probe(x, np.arange(400) % 2, groups=np.arange(400) // 4)


# -- splits and control ---------------------------------------------------------------------------------------------


def test_sentences_are_never_divided_and_the_share_holds():
    groups = np.repeat(np.arange(40), np.random.default_rng(0).integers(1, 9, 40))
    test = sentence_split(groups, seed=1)
    assert not set(groups[test]) & set(groups[~test])
    assert len(set(groups[test])) == 10
    assert (sentence_split(groups, seed=1) == test).all()
    assert (sentence_split(groups, seed=2) != test).any()


def test_no_word_type_of_the_test_part_is_in_the_training_part(null):
    _, _, kind, _ = null
    test = lexical_split(kind, seed=0)
    assert not set(kind[test]) & set(kind[~test])
    assert 0.2 < test.mean() <= 0.25


def test_frequent_types_are_tested_only_where_there_is_nothing_else():
    counts = np.concatenate([[400, 300, 200], np.full(100, 9)])
    kind = np.repeat(np.arange(103), counts)
    for seed in range(20):
        test = lexical_split(kind, seed)
        assert not test[kind < 3].any()
        assert 0.23 < test.mean() <= 0.25
    few = np.repeat(np.arange(8), 50)
    shares = {lexical_split(few, seed).mean() for seed in range(20)}
    assert shares == {0.25}


def test_control_labels_are_one_per_type_with_the_same_marginals(null):
    _, labels, kind, _ = null
    y = labels["type"]
    control = control_labels(y, kind, 10, seed=0)
    assert all(len(set(control[kind == t])) == 1 for t in np.unique(kind)[:50])
    gap = np.abs(np.bincount(control, minlength=10) - np.bincount(y, minlength=10)) / len(y)
    assert gap.max() < 0.02
    per_type = {t: (control[kind == t][0], y[kind == t][0]) for t in np.unique(kind)}
    assert np.mean([a == b for a, b in per_type.values()]) < 0.3


# -- scores -----------------------------------------------------------------------------------------------------------


def tally(seed=0, groups=60, classes=3):
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), rng.integers(2, 8, groups))
    gold = rng.integers(classes, size=len(group))
    predicted = np.where(rng.random(len(group)) < 0.6, gold, rng.integers(classes, size=len(group)))
    return gold, predicted, group, Tally.of(gold, predicted, rng.random(len(group)), group, classes)


def test_scores_agree_with_scikit_learn():
    gold, predicted, _, counts = tally()
    per_class, macro = Bootstrap(counts.total, bootstrap_weights(60)).f1_scores(counts, ("a", "b", "c"))
    np.testing.assert_allclose([f.value for f in per_class.values()], f1_score(gold, predicted, average=None))
    assert macro.value == pytest.approx(f1_score(gold, predicted, average="macro"))
    assert [f.n for f in per_class.values()] == np.bincount(gold).tolist()


def test_a_rare_class_has_no_score_and_the_reason_names_it():
    _, _, _, counts = tally()
    least = int(counts.support.sum(0).max())
    per_class, macro = Bootstrap(counts.total, bootstrap_weights(60)).f1_scores(counts, ("a", "b", "c"), least)
    rare = [f for f in per_class.values() if f.value is None]
    assert len(rare) == 2
    assert rare[0].note.startswith("class a has") or rare[0].note.startswith("class b has")
    assert "left out" in macro.note


def test_bootstrap_equals_the_loop_over_drawn_sentences():
    _, _, _, counts = tally()
    weights = bootstrap_weights(60, seed=3, num_resamples=200)
    draws = [np.repeat(np.arange(60), row.astype(int)) for row in weights]
    assert all(len(d) == 60 for d in draws)
    bootstrap = Bootstrap(counts.total, weights)
    estimate, (low, high) = bootstrap.share(counts.correct), bootstrap.interval(counts.correct)
    groups = counts.total.sum() ** 2 / (counts.total**2).sum()  # in effect
    wider = np.sqrt(groups / (groups - 1)) * stats.t.ppf(0.975, groups - 1) / stats.norm.ppf(0.975)
    assert 1.02 < wider < 1.05
    assert estimate.stderr == pytest.approx(wider * bootstrap_stderr_loop(counts.correct, counts.total, draws))
    assert low < estimate.value < high


def test_one_group_says_next_to_nothing():
    bootstrap, right = Bootstrap(np.array([40.0]), bootstrap_weights(1)), np.array([3.0])
    estimate, (low, high) = bootstrap.share(right), bootstrap.interval(right)
    assert estimate.stderr > 0.15
    assert high - low > 0.4


def test_all_right_is_not_certain():
    whole = np.full(20, 5.0)
    bootstrap = Bootstrap(whole, bootstrap_weights(20))
    estimate, (low, high) = bootstrap.share(whole), bootstrap.interval(whole)
    assert estimate.value == 1.0
    assert estimate.stderr > 0
    assert low < 1.0 == high


def test_a_paired_gain_of_nothing_is_exactly_nothing():
    _, _, _, counts = tally()
    value, low = Bootstrap(counts.total, bootstrap_weights(60)).gain(counts.correct, counts.correct)
    assert (value.value, value.stderr, low) == (0.0, 0.0, 0.0)


@pytest.mark.statistical
def test_the_interval_covers_when_words_of_a_sentence_succeed_together():
    hits = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        sizes = rng.integers(3, 12, 120)
        chance = rng.beta(3, 2, 120)
        right = rng.binomial(sizes, chance).astype(float)
        low, high = Bootstrap(sizes.astype(float), bootstrap_weights(120, seed, 400)).interval(right)
        hits += low <= 0.6 <= high
    assert 0.91 < hits / 300 < 0.98


# -- probes -----------------------------------------------------------------------------------------------------------


def test_what_words_of_a_class_share_is_read_off_unseen_words():
    """Few steps with a small penalty learn frequent words by heart and miss what the vectors of a class share."""
    types, classes, d = 500, 8, 128
    found = {kind: [] for kind in ("ridge", "types", "logistic")}
    for seed in range(4):
        rng = np.random.default_rng(seed)
        of_type = rng.integers(classes, size=types)
        vectors = 0.25 * rng.standard_normal((classes, d))[of_type] + rng.standard_normal((types, d))
        p = 1 / np.arange(1, types + 1)
        kind = rng.choice(types, 3000, p=p / p.sum())
        x = torch.as_tensor(vectors[kind] + 0.3 * rng.standard_normal((3000, d))).float()
        y, test = of_type[kind], lexical_split(kind, 0)
        design, targets = Design.of(x, test), Targets.of([(y, classes)], test)
        for name, accuracies in found.items():
            [fitted] = fit(design, targets, name)
            accuracies.append((fitted.predicted == y[test]).mean())
    mean = {name: np.mean(accuracies) for name, accuracies in found.items()}
    assert mean["types"] > mean["ridge"] + 0.02
    assert mean["types"] > mean["logistic"] - 0.01


def test_planted_null_by_sentence_looks_like_knowledge_and_by_type_does_not(null):
    x, labels, kind, groups = null
    by_sentence = linear_probe(x, labels["type"], groups, kind)
    by_type = linear_probe(x, labels["type"], groups, kind, split="lexical")
    assert by_sentence.accuracy == pytest.approx(0.79, abs=0.03)
    assert abs(by_sentence.selectivity) < 0.12  # the control task is learned as well: no knowledge
    assert by_type.accuracy < 0.25
    assert by_type.missing == ""
    assert by_sentence.majority == pytest.approx(0.2, abs=0.06)


def test_planted_null_logistic_and_perceptron(null):
    x, labels, _, groups = null
    logistic = linear_probe(x, labels["type"], groups, kind="logistic")
    assert logistic.accuracy == pytest.approx(0.79, abs=0.03)
    assert logistic.control_accuracy is None
    mlp = linear_probe(x[:4000], labels["type"][:4000], groups[:4000], kind="mlp")
    assert mlp.accuracy > 0.9


@pytest.mark.statistical
def test_the_interval_of_unseen_types_covers_chance():
    hits = 0
    for seed in range(60):
        rng = np.random.default_rng(seed + 70)
        p = np.arange(1, 301) ** -1.05
        kind = rng.choice(300, 4000, p=p / p.sum())
        x = rng.standard_normal((300, 16))[kind] + 0.3 * rng.standard_normal((4000, 16))
        y = rng.integers(0, 4, 300)[kind]  # one random label per type
        result = linear_probe(x, y, np.arange(4000) // 12, kind, split="lexical", seed=seed)
        hits += result.interval[0] <= 0.25 <= result.interval[1]
    assert hits >= 52  # over sentences, 13 % of the intervals cover; without allowing for few and unequal types, 80 %


def test_a_random_label_per_token_is_at_chance(null):
    x, labels, kind, groups = null
    for split in ("sentence", "lexical"):
        result = linear_probe(x, labels["token"], groups, kind, split=split)
        assert abs(result.accuracy - 0.1) < 3 * result.stderr + 0.01


@pytest.mark.parametrize("kind", ["ridge", "lda", "logistic", "mlp"])
def test_a_constant_representation_scores_like_a_constant_predictor(kind):
    rng = np.random.default_rng(0)
    y = rng.choice(["a", "b", "c"], 400, p=[0.6, 0.3, 0.1])
    result = linear_probe(np.ones((400, 5)), y, np.arange(400) // 4, kind=kind)
    assert result.accuracy == result.majority
    assert result.f1["b"].value == 0.0
    p = result.majority
    assert result.f1["a"].value == pytest.approx(2 * p / (1 + p))
    assert result.confidence == pytest.approx(0.6**2 + 0.3**2 + 0.1**2, abs=0.06)


def test_confidence_of_the_ridge_is_calibrated():
    x, labels, _, groups = planted(seed=4, d=24, types=3000, n=6000, noise=1.0)
    ridge_, logistic = (linear_probe(x, labels["linear"], groups, kind=k) for k in ("ridge", "logistic"))
    # Scores of plain one-hot ridge, taken as probabilities, would give 0.3 here; large classes would mask small ones.
    assert 0.85 < ridge_.accuracy < logistic.accuracy
    assert ridge_.accuracy - 0.2 < ridge_.confidence < ridge_.accuracy


@pytest.mark.parametrize("kind", ["ridge", "lda", "logistic"])
def test_units_shifts_and_rotations_of_the_features_do_not_matter(kind):
    x, labels, _, groups = planted(n=2000, types=200, d=16)
    y = labels["linear"]
    base = linear_probe(x, y, groups, kind=kind)
    scaled = linear_probe(x * np.geomspace(1e-3, 1e3, 16) + 50, y, groups, kind=kind)
    assert scaled.accuracy == pytest.approx(base.accuracy, abs=0.005)


def test_float32_tensors_with_a_large_offset_agree_with_float64():
    x, labels, _, groups = planted(n=2000, types=200, d=16)
    exact = linear_probe(x + 1000, labels["linear"], groups)
    single = linear_probe(torch.as_tensor(x + 1000).float(), labels["linear"], groups)
    assert single.accuracy == pytest.approx(exact.accuracy, abs=0.005)


def test_results_repeat_exactly_and_depend_on_the_seed(null):
    x, labels, kind, groups = null
    first, second = (linear_probe(x[:3000], labels["type"][:3000], groups[:3000], kind[:3000]) for _ in range(2))
    assert first == second
    assert linear_probe(x[:3000], labels["type"][:3000], groups[:3000], kind[:3000], seed=1) != first


def test_strings_and_integers_as_labels_give_the_same_probe():
    x, labels, _, groups = planted(n=1000, types=50, d=8)
    y = labels["linear"]
    a, b = linear_probe(x, y, groups), linear_probe(x, np.array([f"c{v}" for v in y]), groups)
    assert a.accuracy == b.accuracy
    assert b.classes == tuple(sorted(f"c{v}" for v in np.unique(y)))


def test_nothing_to_measure_is_missing_with_its_reason():
    x = np.random.default_rng(0).standard_normal((60, 4))
    y, groups = np.arange(60) % 2, np.arange(60) // 3
    assert "1 sentence" in linear_probe(x, y, np.zeros(60)).missing
    single = linear_probe(x, np.zeros(60), groups)
    assert single.missing.startswith("only one class (0.0)")
    assert single.accuracy is None
    assert "fewer than 10" in linear_probe(x[:12], y[:12], groups[:12]).missing
    assert linear_probe(x[:0], y[:0], groups[:0]).missing == "no word has a label"


def test_a_class_seen_once_is_counted_but_has_no_score_of_its_own():
    x = np.random.default_rng(0).standard_normal((200, 4))
    y = np.arange(200) % 2
    y[17] = 2
    result = linear_probe(x, y, np.arange(200) // 4)
    assert result.accuracy is not None
    assert result.f1["2"].value is None
    assert "class 2 has" in result.f1["2"].note
    assert "2 (" in result.note


def test_more_features_than_rows_gives_no_false_perfection():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((200, 400)), rng.integers(2, size=200)
    result = linear_probe(x, y, np.arange(200) // 2)
    assert 0.25 < result.accuracy < 0.75
    assert 0.3 < result.confidence < 0.7


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("labels", [bool, int, str, list, torch.as_tensor])
@pytest.mark.parametrize("split", ["sentence", "lexical"])
def test_arrays_tensors_and_lists_of_any_label_type(dtype, labels, split):
    rng = np.random.default_rng(0)
    x, groups = rng.standard_normal((300, 4)).astype(dtype), [f"s{i // 5}" for i in range(300)]
    types = [f"w{i}" for i in rng.integers(60, size=300)]
    y = x[:, 0] > 0
    y = y.astype(labels) if labels in (bool, int, str) else labels(y)
    found = [linear_probe(v, y, groups, types, split) for v in (x, torch.as_tensor(x), x.tolist())]
    assert found[0] == found[1]
    assert all(r.accuracy > 0.9 for r in found)
    assert codelength(torch.as_tensor(x), y, groups=groups, seed=0).ratio < 0.8


@pytest.mark.parametrize("labels", [[1.0, np.nan] * 10, ["a", None] * 10])
def test_rows_without_a_label_are_an_error(labels):
    with pytest.raises(DataError, match="rows without a label"):
        linear_probe(np.ones((20, 2)), labels, np.arange(20))
    with pytest.raises(DataError, match="groups is None"):
        linear_probe(np.ones((20, 2)), np.arange(20), None)


def test_wrong_arguments_are_told():
    x, y, groups = np.ones((20, 2)), np.arange(20) % 2, np.arange(20)
    with pytest.raises(ConfigError, match="kind is 'svm'"):
        linear_probe(x, y, groups, kind="svm")
    with pytest.raises(ConfigError, match="needs the word type"):
        linear_probe(x, y, groups, split="lexical")
    with pytest.raises(DataError, match="x has 20 rows and y has 19"):
        linear_probe(x, y[:19], groups)
    with pytest.raises(DataError, match="not finite"):
        linear_probe(np.full((20, 2), np.nan), y, groups)


# -- description length -------------------------------------------------------------------------------------------------


def test_description_length_orders_the_planted_labels(null):
    x, labels, _, groups = null
    ratio = {name: codelength(x, y, groups).ratio for name, y in labels.items()}
    assert ratio["linear"] == pytest.approx(0.15, abs=0.05)
    assert ratio["type"] == pytest.approx(0.45, abs=0.1)
    assert 1.0 < ratio["token"] < 1.15


def test_description_length_agrees_with_scikit_learn_portion_by_portion():
    from reference.probing import prequential_bits

    x, labels, _, groups = planted(n=2000, types=100, d=8, classes=4)
    y = labels["type"]
    num = len(np.unique(groups))
    rank = np.random.default_rng([0, 5]).permutation(num)[groups]
    ends = sorted({max(1, round(f * num)) for f in
                   (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1)})  # fmt: skip

    def price(known, fresh):
        scaler = StandardScaler().fit(x[known])
        model = LogisticRegression(max_iter=1000, tol=1e-7).fit(scaler.transform(x[known]), y[known])
        p = np.zeros((fresh.sum(), 4))
        p[:, model.classes_] = model.predict_proba(scaler.transform(x[fresh]))
        gold = p[np.arange(len(p)), y[fresh]]
        return -np.log2((known.sum() * gold + 1) / (known.sum() + 4)).sum()

    expected = prequential_bits(price, rank, ends, y, 4)
    assert codelength(x, y, groups).bits == pytest.approx(expected, rel=0.02)


def test_description_length_of_one_class_or_sentence_is_missing():
    x = np.ones((5, 2))
    assert codelength(x, np.zeros(5), np.arange(5)).note == "1 class: nothing to encode"
    assert codelength(x, np.arange(5) % 2, np.zeros(5)).bits is None
