"""Affinity propagation against scikit-learn's, and the pitfalls of the released grouping."""

import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.cluster import AffinityPropagation
from sklearn.metrics import adjusted_rand_score

from gnn_mtl._core.errors import UsageError
from gnn_mtl.grouping import affinity_propagation, exemplars, group_tasks, similarities
from gnn_mtl.tasks import Affinity


def _blocks(num_groups, size, seed, noise=0.1):
    rng = np.random.default_rng(seed)
    owner = rng.permutation(np.repeat(np.arange(num_groups), size))
    values = np.where(owner[:, None] == owner, 0.8, -0.2) + rng.normal(0, noise, (owner.size,) * 2)
    np.fill_diagonal(values, 1.0)
    return owner, (values + values.T) / 2


def _net_similarity(values, labels, preference):
    """What the method maximises: similarities to the exemplars, and their preferences."""
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return sum(
        max(preference + values[group, one].sum() - values[one, one] for one in group)
        for group in groups
    )


@example(2, 2, 2224)  # equal pairs: both of two alike stayed exemplars
@given(st.integers(2, 5), st.integers(2, 6), st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_equals_scikit_learn_or_is_better(num_groups, size, seed):
    owner, values = _blocks(num_groups, size, seed)
    preference = float(np.median(values))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        oracle = AffinityPropagation(
            affinity="precomputed", preference=preference, damping=0.5, max_iter=2000,
            convergence_iter=50, random_state=0,
        ).fit(values)  # fmt: skip
    if len(set(oracle.labels_)) in (1, owner.size):  # it did not converge
        return
    found = exemplars(values, preference=preference)
    if adjusted_rand_score(found, oracle.labels_) < 1.0:  # it may stop too early
        ours, theirs = (_net_similarity(values, n, preference) for n in (found, oracle.labels_))
        assert ours > theirs


@pytest.mark.parametrize("seed", range(5))
def test_planted_blocks_are_found_without_being_told_how_many(seed):
    owner, values = _blocks(4, 6, seed)
    grouping = affinity_propagation(Affinity(values, "m", unit="gain"))
    found = np.empty(owner.size, dtype=int)
    for number, group in enumerate(grouping.groups):
        found[list(group)] = number
    assert adjusted_rand_score(owner, found) == 1.0
    assert grouping.is_disjoint
    assert grouping == group_tasks(Affinity(values, "m"), "affinity_propagation")


def test_the_more_preferred_the_more_groups():
    _, values = _blocks(3, 6, 0, noise=0.3)
    counts = [
        len(affinity_propagation(Affinity(values, "m"), preference=preference))
        for preference in (-5.0, 0.0, 0.9)
    ]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]


def test_columns_are_divided_by_what_the_recipient_does_for_itself():
    gains = np.array([[0.2, 0.1, 0.0], [0.05, 0.1, 0.0], [-0.1, 0.0, 0.4]])
    found = similarities(Affinity(gains, "m", unit="gain", symmetric=False))
    scaled = gains / gains.diagonal()
    np.testing.assert_allclose(found, (scaled + scaled.T) / 2)
    plain = similarities(Affinity(gains, "m", unit="gain", symmetric=False), normalize=False)
    np.testing.assert_allclose(plain, (gains + gains.T) / 2)


def test_a_task_that_never_helped_itself_does_not_divide_to_infinity():
    """A.4.2: the released code divides by 0 and scikit-learn raises."""
    _, values = _blocks(3, 4, 1)
    values = values * 0.01
    values[3, 3], values[7, 7] = 0.0, np.nan
    found = similarities(Affinity(values, "m", unit="gain"))
    assert np.isfinite(found).all()
    assert len(affinity_propagation(Affinity(values, "m", unit="gain"))) >= 1
    np.fill_diagonal(values, -1.0)
    with pytest.raises(UsageError, match="normalize=False"):
        affinity_propagation(Affinity(values, "m", unit="gain"))
    affinity_propagation(Affinity(values, "m", unit="gain"), normalize=False)


def test_unknown_cells_count_as_the_median():
    values = np.array([[1.0, 0.5, np.nan], [0.5, 1.0, -0.1], [np.nan, -0.1, 1.0]])
    assert similarities(Affinity(values, "m"))[0, 2] == pytest.approx(0.2)
    half = np.array([[1.0, 0.5, np.nan], [0.5, 1.0, -0.1], [0.3, -0.1, 1.0]])
    found = similarities(Affinity(half, "m", symmetric=False))
    assert found[0, 2] == found[2, 0] == pytest.approx(0.3)  # the direction that is known
    nothing = Affinity(np.full((3, 3), np.nan), "m")
    assert len(affinity_propagation(nothing, normalize=False)) == 1


def test_nothing_to_tell_tasks_by():
    """A.4.3: equal similarities give one group, or all alone if they prefer it."""
    equal = Affinity(np.full((4, 4), 0.5), "m")
    assert affinity_propagation(equal).sizes == (4,)
    assert affinity_propagation(equal, preference=1.1).sizes == (1, 1, 1, 1)


@pytest.mark.parametrize("num_tasks", [2, 3])
def test_tasks_that_all_harm_each_other_are_not_grouped(num_tasks):
    """Two opposed tasks have one similarity, which is its own median."""
    values = np.full((num_tasks, num_tasks), -0.4)
    np.fill_diagonal(values, 1.0)
    assert affinity_propagation(Affinity(values, "m")).sizes == (1,) * num_tasks
    assert affinity_propagation(Affinity(abs(values), "m")).sizes == (num_tasks,)
    assert affinity_propagation(Affinity(values, "m"), preference=-0.5).sizes == (num_tasks,)


def test_one_task_is_one_group():
    assert affinity_propagation(Affinity(np.ones((1, 1)), "m")).groups == ((0,),)


def test_deterministic():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 40)).round(1)  # many ties
    affinity = Affinity((values + values.T) / 2, "m", unit="gain")
    assert affinity_propagation(affinity, normalize=False) == affinity_propagation(
        affinity, normalize=False
    )


def test_random_directions_need_no_exemplar_by_hand():
    rng = np.random.default_rng(1)
    for num_tasks in (10, 40, 112):
        rows = rng.normal(size=(num_tasks, 300))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        grouping = affinity_propagation(Affinity(rows @ rows.T, "m"))
        assert 1 < len(grouping) < num_tasks


@pytest.mark.parametrize(
    ("options", "match"),
    [({"damping": 0.4}, "damping"), ({"damping": 1.0}, "damping"), ({"max_iterations": 0}, "max")],
)
def test_values_out_of_range(options, match):
    with pytest.raises(UsageError, match=match):
        affinity_propagation(Affinity(np.eye(3), "m"), **options)
