"""Summaries over seeds and paired tests, against scipy, known values and their own guarantees."""

import numpy as np
import pytest
from scipy import stats

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.metrics import compare_paired, delta_p, holm, paired_test, summarize


def test_summarize():
    values = [0.3, 0.1, 0.7]
    summary = summarize(values)
    assert (summary.mean, summary.n) == (pytest.approx(np.mean(values)), 3)
    assert summary.std == pytest.approx(stats.tstd(values), abs=1e-15)
    assert summarize([0.4]).std is None
    for bad in ([], [0.1, np.nan]):
        with pytest.raises(UsageError, match="one finite number per seed"):
            summarize(bad)


def test_delta_p():
    assert delta_p([0.6, 0.1, 0.4], [0.5, 0.2, np.nan]) == pytest.approx((0.2 - 0.5) / 2)
    assert delta_p([0.6, 0.1], [0.5, 0.0]) == pytest.approx(0.2)
    with pytest.raises(UsageError, match="common labels"):
        delta_p([np.nan], [1.0])
    with pytest.raises(ShapeError):
        delta_p([1.0, 2.0], [1.0])


def test_paired_test_counts_and_tests():
    rng = np.random.default_rng(0)
    reference = rng.random((3, 20))
    ours = reference + rng.normal(0.01, 0.05, size=(3, 20))
    ours[:, 0] = reference[:, 0]
    ours[1, 1] = np.nan
    test = paired_test(ours, reference)
    by_label = np.delete((ours - reference).mean(axis=0), 1)
    assert (test.num_seeds, test.num_labels) == (3, 19)
    assert test.delta == pytest.approx(by_label.mean())
    assert (test.wins, test.losses, test.ties) == (
        (by_label > 0).sum(), (by_label < 0).sum(), 1
    )  # fmt: skip
    assert test.p_sign == stats.binomtest(test.wins, test.wins + test.losses).pvalue
    assert test.p_wilcoxon == pytest.approx(stats.wilcoxon(by_label).pvalue)
    assert test.low < test.delta < test.high
    assert test.p_holm == test.p_bootstrap
    assert paired_test(ours, reference, tolerance=1.0).ties == 19


def test_swapping_the_sides_mirrors_the_answer():
    rng = np.random.default_rng(1)
    a, b = rng.random((2, 4, 30))
    ours, theirs = paired_test(a, b), paired_test(b, a)
    assert ours.delta == -theirs.delta
    assert ours.p_bootstrap == theirs.p_bootstrap
    assert (ours.low, ours.wins) == (pytest.approx(-theirs.high), theirs.losses)


def test_clear_and_absent_differences():
    reference = np.random.default_rng(2).random((3, 40))
    better = paired_test(reference + 0.1, reference)
    assert better.p_bootstrap < 0.001
    assert better.p_wilcoxon < 1e-6
    assert (better.low, better.high) == (pytest.approx(0.1), pytest.approx(0.1))
    same = paired_test(reference, reference)
    assert (same.p_bootstrap, same.p_wilcoxon, same.p_sign) == (1.0, 1.0, 1.0)
    one = paired_test([0.5], [0.4])
    assert (one.num_seeds, one.num_labels, one.wins) == (1, 1, 1)


def test_bootstrap_rejects_true_nulls_at_about_its_level():
    """200 tables without a difference in mean: about 5 % have p < .05."""
    rng = np.random.default_rng(3)
    rejected = 0
    for seed in range(200):
        label_effect, noise = rng.normal(size=30), rng.normal(size=(10, 30))
        test = paired_test(label_effect + noise, np.zeros((10, 30)), resamples=400, seed=seed)
        rejected += test.p_bootstrap < 0.05
    assert 1 <= rejected <= 24


def test_compare_paired_corrects_over_the_methods():
    rng = np.random.default_rng(4)
    base = rng.random((3, 15))
    scores = {"a": base + rng.normal(0.02, 0.03, base.shape), "joint": base, "b": base + 0.2}
    tests = compare_paired(scores, "joint")
    assert list(tests) == ["a", "b"]
    p = [test.p_bootstrap for test in tests.values()]
    assert [test.p_holm for test in tests.values()] == pytest.approx(
        [max(p[0], 2 * min(p)) if p[0] > p[1] else 2 * p[0],
         max(p[1], 2 * min(p)) if p[1] > p[0] else 2 * p[1]]
    )  # fmt: skip
    with pytest.raises(UsageError, match="'absent'"):
        compare_paired(scores, "absent")


def test_holm_known_values():
    """Worked example of Holm (1979): the step-down maximum keeps the order."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]
    assert holm([]).size == 0


def test_bad_tables():
    with pytest.raises(ShapeError, match="pair the runs by seed"):
        paired_test(np.zeros((2, 3)), np.zeros((3, 3)))
    with pytest.raises(UsageError, match="nothing can be compared"):
        paired_test([[np.nan]], [[0.0]])
