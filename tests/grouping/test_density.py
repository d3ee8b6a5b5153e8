"""What groupings are worth: golden values by hand, and the one form behind every goal."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnn_mtl._core.errors import UsageError
from gnn_mtl.grouping import (
    average_density,
    exact_groups,
    normalized_association,
    objective,
    pair_values,
    tag_value,
)
from gnn_mtl.tasks import Affinity

# three quadratic tasks with targets (1, 0), (1, 1), (-1, 0), step .1
PTG = np.array(
    [[9.9, 0.069959, -0.117284], [0.098765, 9.9, -0.123457], [-0.117284, -0.078189, 9.9]]
)
TAG = np.array([[0.095, 0.063333, -0.105], [0.09, 0.126667, -0.11], [-0.105, -0.07, 0.095]])


def test_golden_values_of_three_quadratic_tasks():
    gains = PTG - np.diag(PTG.diagonal())
    assert average_density(gains, [(0, 1), (2,)]) == pytest.approx((0.069959 + 0.098765) / 2)
    assert average_density(gains, [(0, 1, 2)]) == pytest.approx(-0.26749 / 3)
    assert tag_value(TAG, [(0, 1), (2,)]) == pytest.approx(0.063333 + 0.09)
    assert tag_value(TAG, [(0, 1, 2)]) == pytest.approx((-0.015 - 0.006667 - 0.215) / 2)
    for name, values in (("ptg", PTG), ("tag", TAG), ("density", PTG)):
        affinity = Affinity(values, "fixture", unit="gain", symmetric=False)
        assert exact_groups(affinity, objective=name).groups == ((0, 1), (2,))


def test_tag_and_ptg_disagree():
    """A third task with .4 to both of a pair: joining costs TAG's members, and pays PTG's."""
    values = np.array([[0, 1, 0.4], [1, 0, 0.4], [0.4, 0.4, 0]])
    affinity = Affinity(values, "m", unit="gain")
    pair, all_ = [(0, 1), (2,)], [(0, 1, 2)]
    assert (average_density(values, pair), average_density(values, all_)) == (1, pytest.approx(1.2))
    assert (tag_value(values, pair), tag_value(values, all_)) == (2, pytest.approx(1.8))
    assert exact_groups(affinity, objective="ptg").groups == ((0, 1, 2),)
    assert exact_groups(affinity, objective="tag").groups == ((0, 1), (2,))


def test_overlapping_groups():
    """PTG counts every membership, TAG each task where it is served best."""
    values = np.array([[0.0, 3.0, 1.0], [2.0, 0.0, 0.0], [5.0, 0.0, 0.0]])
    groups = [(0, 1), (0, 2)]
    assert average_density(values, groups) == (3 + 2) / 2 + (1 + 5) / 2
    assert tag_value(values, groups) == max(2, 5) + 3 + 1


def test_association_is_what_the_normalised_cut_leaves():
    rng = np.random.default_rng(0)
    values = rng.random((6, 6))
    values = values + values.T
    groups = [(0, 3), (1, 2, 5), (4,)]
    cut = sum(
        values[np.ix_(g, [t for t in range(6) if t not in g])].sum() / values[list(g)].sum()
        for g in groups
    )
    assert normalized_association(values, groups) == pytest.approx(len(groups) - cut)
    affinity = Affinity(values, "m", unit="gain")
    goal = objective(affinity, "association", keep_diagonal=True)
    assert goal.of(groups) == pytest.approx(len(groups) - cut)
    with pytest.raises(UsageError, match="not negative"):
        objective(Affinity(values - 1, "m", unit="gain"), "association")


@given(st.integers(1, 7), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_every_goal_has_the_one_form(num_tasks, seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(num_tasks, num_tasks))
    labels = rng.integers(0, 3, num_tasks)
    groups = [tuple(np.flatnonzero(labels == g)) for g in range(3) if (labels == g).any()]
    affinity = Affinity(values, "m", unit="gain", symmetric=False)
    bare = values - np.diag(values.diagonal())
    assert objective(affinity, "density").of(groups) == pytest.approx(average_density(bare, groups))
    assert objective(affinity, "tag", keep_diagonal=True).of(groups) == pytest.approx(
        tag_value(values, groups)
    )
    kept = objective(affinity, "ptg", keep_diagonal=True)
    assert kept.of(groups) == pytest.approx(average_density(values, groups))


def test_unknown_pairs_are_imputed_and_counted():
    nan = np.nan
    values = np.array([[nan, 1.0, nan, nan], [3.0, 9.0, 4.0, nan], [nan, nan, 9.0, 7.0]])
    values = np.vstack([values, [nan, nan, nan, nan]])
    found = pair_values(Affinity(values, "m", unit="gain", symmetric=False))
    assert found.num_imputed == 3  # (0, 2), (0, 3) and (1, 3)
    assert found.values[0, 1] == 2.0
    assert found.values[1, 2] == 4.0  # known one way
    assert found.values[0, 2] == 4.0  # median of 2, 4, 7
    assert found.values.diagonal().tolist() == [0.0] * 4
    kept = pair_values(Affinity(values, "m", unit="gain", symmetric=False), keep_diagonal=True)
    assert kept.values.diagonal().tolist() == [0.0, 9.0, 9.0, 0.0]
    with pytest.raises(UsageError, match="only NaN"):
        pair_values(Affinity(np.full((3, 3), nan), "m"))


def test_an_unknown_goal():
    with pytest.raises(UsageError, match="density, ptg, tag, association"):
        objective(Affinity(np.eye(2), "m"), "best")
