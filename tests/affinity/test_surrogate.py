"""Surrogates of subset scores, against scikit-learn."""

import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.affinity import SubsetSurrogate, draw_subsets, subset_affinity
from gnn_mtl.tasks import SubsetTable


def planted_table(num_tasks=8, number=50, noise=0.1, seed=0, pairs=False):
    rng = np.random.default_rng(seed)
    masks = draw_subsets(num_tasks, 4, number, seed=seed, min_pairs=0)
    weights = rng.normal(size=(num_tasks, num_tasks))
    np.fill_diagonal(weights, 0.0)
    scores = masks @ weights
    if pairs:
        scores = scores * 0 + 3.0 * (masks[:, :1] ^ masks[:, 1:2])
    scores = scores + rng.normal(scale=noise, size=masks.shape)
    return SubsetTable(masks, np.where(masks, scores, np.nan), "trained", "ap"), weights


def test_linear_equals_ridge_with_an_intercept():
    table, _ = planted_table()
    other = draw_subsets(8, 3, 20, seed=9)
    found = SubsetSurrogate("linear", ridge=0.3).fit(table).predict(other)
    assert found.source == "surrogate:linear"
    assert (found.known == other).all()
    for task in range(8):
        rows = table.masks[:, task]
        ridge = Ridge(alpha=0.3).fit(table.masks[rows].astype(float), table.scores[rows, task])
        asked = other[:, task]
        np.testing.assert_allclose(
            found.scores[asked, task], ridge.predict(other[asked].astype(float)), atol=1e-9
        )


def test_kernel_equals_kernel_ridge_on_centred_scores():
    table, _ = planted_table()
    other = draw_subsets(8, 3, 20, seed=9)
    found = SubsetSurrogate("kernel").fit(table).predict(other)
    for task in range(8):
        rows, asked = table.masks[:, task], other[:, task]
        mean = table.scores[rows, task].mean()
        model = KernelRidge(alpha=1e-3, kernel="rbf", gamma=1 / 8)
        model.fit(table.masks[rows].astype(float), table.scores[rows, task] - mean)
        expected = mean + model.predict(other[asked].astype(float))
        np.testing.assert_allclose(found.scores[asked, task], expected, atol=1e-9)
    assert found.details["gamma"] == 1 / 8


def test_the_weights_are_the_planted_affinity():
    table, weights = planted_table(number=70, noise=1e-3)
    found = SubsetSurrogate(ridge=1e-6).fit(table).affinity(normalize="none")
    off = ~np.eye(8, dtype=bool)
    assert np.isnan(found.values.diagonal()).all()
    for task in range(8):  # subsets are of one size, so weights are known up to a constant
        ours = found.values[off[:, task], task]
        theirs = weights[off[:, task], task]
        np.testing.assert_allclose(ours - ours.mean(), theirs - theirs.mean(), atol=5e-3)
    assert not found.symmetric
    assert found.unit == "ap"
    scaled = SubsetSurrogate(ridge=1e-6).fit(table).affinity()
    assert scaled.unit == "zscore"
    np.testing.assert_allclose(
        scaled.values[off], (found.values / np.nanstd(table.scores, axis=0))[off]
    )
    with pytest.raises(UsageError, match="The table has none"):
        SubsetSurrogate().fit(table).affinity(normalize="relative")


def test_weights_do_not_carry_the_noise_of_other_members():
    """Two halves of a table agree better by weights than by means over subsets."""
    table, _ = planted_table(16, 300, noise=0.05)
    halves = [table.select_subsets(np.arange(start, 300, 2)) for start in (0, 1)]
    off = ~np.eye(16, dtype=bool)
    weights = [SubsetSurrogate().fit(half).affinity().values[off] for half in halves]
    means = [subset_affinity(half).values[off] for half in halves]
    assert np.corrcoef(*weights)[0, 1] > 0.98 > np.corrcoef(*means)[0, 1]


def test_cross_validation_tells_structure_from_noise():
    table, _ = planted_table(number=70)
    r2, per_task = SubsetSurrogate().cross_validated_r2(table)
    assert r2 > 0.95
    assert per_task.shape == (8,)
    noise = SubsetTable(
        table.masks,
        np.where(table.masks, np.random.default_rng(0).normal(size=table.masks.shape), np.nan),
        "trained",
    )
    assert SubsetSurrogate().cross_validated_r2(noise)[0] < 0.1


def test_the_kernel_sees_interactions_that_weights_do_not():
    table, _ = planted_table(number=70, pairs=True)
    linear = SubsetSurrogate("linear").cross_validated_r2(table)[0]
    kernel = SubsetSurrogate("kernel").cross_validated_r2(table)[0]
    assert kernel > 0.9 > linear + 0.1


def test_unknown_scores_are_left_out():
    table, _ = planted_table()
    scores = table.scores.copy()
    scores[:, 3] = np.nan
    scores[0] = np.nan
    partly = SubsetTable(table.masks, scores, "trained")
    found = SubsetSurrogate().fit(partly).predict(table.masks)
    assert np.isnan(found.scores[:, 3]).all()
    rest = table.select_subsets(np.arange(1, table.num_subsets))
    expected = SubsetSurrogate().fit(rest).predict(table.masks).scores
    keep = [0, 1, 2, 4, 5, 6, 7]
    np.testing.assert_allclose(found.scores[:, keep], expected[:, keep])
    assert np.isnan(SubsetSurrogate().fit(partly).affinity().values[:, 3]).all()
    assert np.isnan(SubsetSurrogate().cross_validated_r2(partly)[1][3])


def test_task_ids_do_not_matter():
    table, order = planted_table()[0], np.array([3, 7, 0, 1, 4, 2, 6, 5])
    moved = SubsetTable(table.masks[:, order], table.scores[:, order], "trained")
    one = SubsetSurrogate("kernel").fit(table).predict(table.masks).scores[:, order]
    np.testing.assert_allclose(
        SubsetSurrogate("kernel").fit(moved).predict(moved.masks).scores, one
    )


def test_wrong_arguments():
    table, _ = planted_table()
    with pytest.raises(UsageError, match="`kind`"):
        SubsetSurrogate("cubic")
    with pytest.raises(UsageError, match="positive"):
        SubsetSurrogate(ridge=0.0)
    with pytest.raises(UsageError, match="positive"):
        SubsetSurrogate("kernel", gamma=-1.0)
    with pytest.raises(UsageError, match="call fit"):
        SubsetSurrogate().predict(table.masks)
    with pytest.raises(UsageError, match="kernel one"):
        SubsetSurrogate("kernel").fit(table).affinity()
    with pytest.raises(UsageError, match="2 folds"):
        SubsetSurrogate().cross_validated_r2(table, folds=1)
    with pytest.raises(ShapeError):
        SubsetSurrogate().fit(table).predict(np.ones((1, 3), dtype=bool))
    nothing = SubsetTable(table.masks, np.full(table.masks.shape, np.nan), "trained")
    with pytest.raises(UsageError, match="Found none"):
        SubsetSurrogate().fit(nothing)
