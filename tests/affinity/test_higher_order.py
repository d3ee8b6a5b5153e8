"""Affinities from tables of subsets, against loops over the formula."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnn_mtl._core.errors import GnnMtlWarning, UsageError
from gnn_mtl.affinity import all_pairs, draw_subsets, pair_affinity, subset_affinity
from gnn_mtl.tasks import SubsetTable


def random_table(num_tasks=6, number=40, seed=0, **options):
    rng = np.random.default_rng(seed)
    masks = rng.random((number, num_tasks)) < 0.6
    masks[:, 0] |= ~masks.any(axis=1)
    masks[:2] = True  # every pair is seen
    scores = np.where(masks, rng.normal(size=masks.shape), np.nan)
    scores[rng.random(masks.shape) < 0.1] = np.nan
    scores[:2] = rng.normal(size=(2, num_tasks))
    return SubsetTable(masks, scores, "trained", **options)


def looped(table, scores, giver, recipient):
    rows = [
        k for k, row in enumerate(table.masks)
        if row[giver] and row[recipient] and not np.isnan(scores[k, recipient])
    ]  # fmt: skip
    return rows, [scores[k, recipient] for k in rows]


@given(st.integers(0, 300), st.sampled_from(["zscore", "relative", "none"]))
@settings(max_examples=25, deadline=None)
def test_equals_the_formula(seed, normalize):
    table = random_table(seed=seed, baseline=np.arange(1.0, 7.0))
    scores = table.scores.copy()
    if normalize == "zscore":
        scores = (scores - np.nanmean(scores, axis=0)) / np.nanstd(scores, axis=0)
    if normalize == "relative":
        scores = (scores - table.baseline) / table.baseline
    found = subset_affinity(table, normalize=normalize)
    for j in range(6):
        for i in range(6):
            rows, cell = looped(table, scores, j, i)
            assert found.values[j, i] == pytest.approx(np.mean(cell), abs=1e-12)
            assert found.counts[j, i] == len(rows)
            spread = np.nanstd(scores[:, i], ddof=1)
            assert found.stderr[j, i] == pytest.approx(spread / np.sqrt(len(rows)))
    assert not found.symmetric


def test_rows_are_givers():
    """Task 0 does better wherever task 1 is; task 1 does not care. The transpose would say else."""
    masks = np.array([[1, 1, 0], [1, 0, 1], [1, 1, 1], [0, 1, 1]], dtype=bool)
    scores = np.where(masks, 0.0, np.nan)
    scores[[0, 2], 0] = 1.0
    found = subset_affinity(SubsetTable(masks, scores, "trained", "ap"), normalize="none").values
    assert found[1, 0] == 1.0
    assert found[0, 1] == 0.0
    assert found[2, 0] == 0.5


def test_z_scores_do_not_see_scale_nor_level_and_have_mean_0():
    table = random_table(number=200)
    one = subset_affinity(table).values
    scaled = replace(table, scores=table.scores * 1e-5 + 3.0, baseline=None)
    np.testing.assert_allclose(subset_affinity(scaled).values, one, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(one.diagonal(), 0.0, atol=1e-12)


def test_a_task_that_never_varies_has_affinity_0():
    table = random_table()
    scores = table.scores.copy()
    scores[:, 2] = np.where(np.isnan(scores[:, 2]), np.nan, 0.1 + 0.2)
    found = subset_affinity(replace(table, scores=scores)).values
    np.testing.assert_array_equal(found[:, 2], 0.0)


def test_pairs_never_together_are_unknown_and_named():
    masks = np.array([[1, 1, 0], [0, 1, 1]], dtype=bool)
    table = SubsetTable(
        masks, np.where(masks, 1.0, np.nan), "trained", label_names=("ant", "bee", "cat")
    )
    with pytest.warns(GnnMtlWarning, match="2 of 6 ordered pairs.*'ant' -> 'cat'"):
        found = subset_affinity(table, normalize="none")
    np.testing.assert_array_equal(np.argwhere(np.isnan(found.values)), [[0, 2], [2, 0]])
    assert found.details["unknown_pairs"] == {"number": 2, "first": [[0, 2], [2, 0]]}
    with pytest.warns(GnnMtlWarning, match="6 of 6"):
        rare = subset_affinity(table, normalize="none", min_count=2)
    assert rare.known.tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_task_ids_do_not_matter():
    table, order = random_table(), np.array([3, 5, 0, 1, 4, 2])
    moved = replace(table, masks=table.masks[:, order], scores=table.scores[:, order])
    np.testing.assert_allclose(
        subset_affinity(moved).values,
        subset_affinity(table).values[np.ix_(order, order)],
        atol=1e-12,
    )


def test_the_order_of_subsets_does_not_matter():
    table = random_table()
    moved = table.select_subsets(np.arange(table.num_subsets)[::-1])
    np.testing.assert_allclose(
        subset_affinity(moved).values, subset_affinity(table).values, atol=1e-12
    )


def test_planted_blocks_come_out():
    """KDD'23's planted model: a task gains from every companion of its block, with noise."""
    rng, blocks = np.random.default_rng(0), np.arange(30) % 3
    masks = draw_subsets(30, 6, 400)
    same = blocks[:, None] == blocks[None, :]
    scores = masks.astype(float) @ same + rng.normal(scale=1.0, size=masks.shape)
    found = subset_affinity(SubsetTable(masks, np.where(masks, scores, np.nan), "trained")).values
    off = ~np.eye(30, dtype=bool)
    assert found[same & off].mean() > 0.4
    assert found[~same].mean() < -0.15
    assert (found[same & off][:, None] > found[~same][None, :]).mean() > 0.95


def test_relative_to_a_baseline():
    masks = np.ones((1, 3), dtype=bool)
    table = SubsetTable(
        masks, np.array([[-0.4, 0.6, 0.1]]), "trained", "ap", baseline=np.array([-0.5, 0.5, 0.0])
    )
    with pytest.warns(GnnMtlWarning, match="unknown"):
        found = subset_affinity(table, normalize="relative")
    assert found.unit == "relative_gain"
    np.testing.assert_allclose(found.values[:, 0], 0.2)
    np.testing.assert_allclose(found.values[:, 1], 0.2)
    assert np.isnan(found.values[:, 2]).all()


def test_pairs_read_only_subsets_of_two():
    rng = np.random.default_rng(1)
    masks = np.concatenate([all_pairs(4), np.ones((1, 4), dtype=bool)])
    scores = np.where(masks, rng.normal(size=masks.shape), np.nan)
    found = pair_affinity(SubsetTable(masks, scores, "trained", "auroc"))
    for k, (i, j) in enumerate([(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]):
        assert found.values[j, i] == pytest.approx(scores[k, i])
        assert found.values[i, j] == pytest.approx(scores[k, j])
    assert (found.method, found.unit) == ("pairwise", "auroc")
    with pytest.raises(UsageError, match="subsets of two"):
        pair_affinity(SubsetTable(masks[-1:], scores[-1:], "trained"))


def test_wrong_arguments():
    table = random_table()
    with pytest.raises(UsageError, match="normalize"):
        subset_affinity(table, normalize="rank")
    with pytest.raises(UsageError, match="min_count"):
        subset_affinity(table, min_count=0)
    with pytest.raises(UsageError, match="The table has none"):
        subset_affinity(table, normalize="relative")
