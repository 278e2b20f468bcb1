import numpy as np
import pytest

from lmtrace.numerics.clustered import Groups, clustered_mean, grouped_means


def test_clusters_of_one_give_the_textbook_standard_error():
    x = np.random.default_rng(0).normal(size=200)
    estimate = clustered_mean(x, np.arange(200))
    assert estimate.value == pytest.approx(x.mean())
    assert estimate.stderr == pytest.approx(x.std(ddof=1) / np.sqrt(200))


def test_repeating_every_value_does_not_shrink_the_error():
    x = np.random.default_rng(1).normal(size=50)
    once, often = clustered_mean(x, np.arange(50)), clustered_mean(np.repeat(x, 20), np.repeat(np.arange(50), 20))
    assert often.stderr == pytest.approx(once.stderr)
    assert often.n == 1000


def test_one_cluster_or_none_has_no_error():
    assert clustered_mean(np.ones(3), np.zeros(3)).stderr is None
    assert clustered_mean(np.empty(0), np.empty(0)).value is None


@pytest.mark.statistical
def test_the_interval_covers_with_dependence_inside_of_clusters():
    rng, hits = np.random.default_rng(2), 0
    for _ in range(500):
        sizes = rng.integers(1, 9, 100)
        clusters = np.repeat(np.arange(100), sizes)
        x = rng.normal(size=100)[clusters] + 0.3 * rng.normal(size=len(clusters))
        e = clustered_mean(x, clusters)
        hits += abs(e.value) < 1.96 * e.stderr
    assert 0.92 < hits / 500 < 0.975


def test_groups_equal_one_mean_at_a_time():
    rng = np.random.default_rng(3)
    values, codes = rng.normal(5, 1, size=(300, 2)), rng.integers(-1, 4, 300)
    codes[codes == 2] = 3
    clusters = rng.integers(0, 30, 300)
    grouped = grouped_means(values, codes, clusters, 5)
    for g in range(5):
        for column in range(2):
            one = clustered_mean(values[codes == g, column], clusters[codes == g])
            assert grouped.n[g] == one.n
            if one.value is None:
                assert np.isnan(grouped.mean[g]).all()
                assert np.isnan(grouped.stderr[g]).all()
            else:
                assert grouped.mean[g, column] == pytest.approx(one.value, abs=1e-12)
                assert grouped.stderr[g, column] == pytest.approx(one.stderr, abs=1e-12)


def test_several_groupings_equal_each_by_itself():
    rng = np.random.default_rng(4)
    values, clusters = rng.normal(size=(200, 3)), rng.integers(0, 20, 200)
    groupings = [(rng.integers(-1, 3, 200), 3), (rng.integers(0, 2, 200), 4), (np.full(200, -1), 2)]
    groups = Groups.of(groupings, clusters)
    together = groups.means(values[groups.row].T)
    alone = [grouped_means(values, codes, clusters, num) for codes, num in groupings]
    for name in ("mean", "stderr", "n"):
        expected = np.concatenate([getattr(one, name) for one in alone])
        np.testing.assert_allclose(getattr(together, name), expected, atol=1e-12)
    np.testing.assert_array_equal(groups.mean(values[groups.row].T), together.mean)


def test_groups_of_nothing_and_of_one_cluster():
    assert np.isnan(grouped_means(np.empty((0, 3)), np.empty(0), np.empty(0), 2).mean).all()
    one = grouped_means(np.ones((4, 1)), np.zeros(4, int), np.full(4, 7), 1)
    assert one.mean[0, 0] == 1
    assert np.isnan(one.stderr[0, 0])
