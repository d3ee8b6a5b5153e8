"""Minimum coverage never lets two conflicting tasks meet (SON-GOKU T2, bug B3)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.grouping import minimum_coverage, welsh_powell


def _random_graph(num_tasks, p, seed):
    upper = np.triu(np.random.default_rng(seed).random((num_tasks, num_tasks)) < p, 1)
    return upper | upper.T


@given(st.integers(1, 20), st.floats(0, 1), st.integers(0, 2**32), st.integers(1, 4))
@settings(max_examples=80, deadline=None)
def test_covered_where_possible_and_never_in_conflict(num_tasks, p, seed, min_coverage):
    adjacency = _random_graph(num_tasks, p, seed)
    groups = welsh_powell(adjacency)
    covered = minimum_coverage(groups, adjacency, min_coverage)
    assert len(covered.groups) == len(groups)
    for before, after in zip(groups, covered.groups, strict=True):
        assert set(before) <= set(after)
        assert not adjacency[np.ix_(after, after)].any()
    counts = [sum(task in group for group in covered.groups) for task in range(num_tasks)]
    assert covered.counts == tuple(counts)
    wanted = min(min_coverage, len(groups))
    assert covered.uncovered == tuple(t for t in range(num_tasks) if counts[t] < wanted)
    for task in covered.uncovered:  # nothing more could have been done for it
        for group in covered.groups:
            assert task in group or adjacency[task, list(group)].any()


def test_one_changes_nothing():
    adjacency = _random_graph(12, 0.4, 1)
    groups = welsh_powell(adjacency)
    assert minimum_coverage(groups, adjacency, 1).groups == groups


def test_duplicates_see_the_duplicates_before_them():
    adjacency = np.zeros((4, 4), dtype=bool)
    adjacency[0, 1] = adjacency[1, 0] = True
    covered = minimum_coverage([(0,), (1,), (2, 3)], adjacency, 2)
    # 0 joins (2, 3); so 1, which conflicts with it, finds no second group
    assert covered.groups == [(0, 2), (1, 3), (0, 2, 3)]
    assert covered.uncovered == (1,)
    assert "1 are in" in covered.message(2)


def test_a_task_that_conflicts_with_everyone_stays_alone():
    adjacency = np.zeros((3, 3), dtype=bool)
    adjacency[0, 1:] = adjacency[1:, 0] = True
    covered = minimum_coverage(welsh_powell(adjacency), adjacency, 2)
    assert covered.groups == [(0,), (1, 2)]
    assert covered.uncovered == (0, 1, 2)


def test_a_task_in_every_group_is_covered():
    """Without a conflict there is one group, active at every step: nothing to warn of."""
    covered = minimum_coverage([(0, 1, 2)], np.zeros((3, 3), dtype=bool), 2)
    assert covered.groups == [(0, 1, 2)]
    assert covered.uncovered == ()


def test_long_lists_are_cut_in_the_message():
    complete = ~np.eye(12, dtype=bool)
    covered = minimum_coverage(welsh_powell(complete), complete, 2)
    assert "0, 1, 2, 3, 4, 5, 6, 7 and 4 more" in covered.message(2)


def test_wrong_input():
    empty = np.zeros((2, 2), dtype=bool)
    with pytest.raises(UsageError, match="min_coverage"):
        minimum_coverage([(0, 1)], empty, 0)
    with pytest.raises(UsageError, match=r"\[1\] are in none"):
        minimum_coverage([(0,)], empty, 1)
    with pytest.raises(ShapeError):
        minimum_coverage([(0, 1)], np.zeros((2, 3), dtype=bool), 1)
