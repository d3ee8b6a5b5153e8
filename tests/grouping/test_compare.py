"""Pair Jaccard and in-group conflict against plain sets (bug B11)."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnn_mtl._core.errors import UsageError
from gnn_mtl.grouping import in_group_conflict, pair_jaccard

groupings = st.lists(st.lists(st.integers(0, 7), min_size=1, unique=True), min_size=1, max_size=5)


def _pairs(groups):
    return {frozenset(pair) for group in groups for pair in combinations(group, 2)}


@given(groupings, groupings)
@settings(max_examples=100, deadline=None)
def test_jaccard_equals_sets(groups, others):
    pairs, other_pairs = _pairs(groups), _pairs(others)
    union = pairs | other_pairs
    expected = len(pairs & other_pairs) / len(union) if union else 1.0
    assert pair_jaccard(groups, others) == expected == pair_jaccard(others, groups)


def test_two_partitions_into_singletons_are_the_same():
    assert pair_jaccard([(0,), (1,)], [(1,), (0,)]) == 1.0
    assert pair_jaccard([(0,), (1,)], [(0, 1)]) == 0.0
    assert pair_jaccard([], []) == 1.0


@given(groupings, st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_in_group_conflict_equals_sets(groups, seed):
    upper = np.triu(np.random.default_rng(seed).random((8, 8)) < 0.5, 1)
    adjacency = upper | upper.T
    pairs = [sorted(pair) for pair in _pairs(groups)]
    expected = sum(adjacency[u, v] for u, v in pairs) / len(pairs) if pairs else 0.0
    assert in_group_conflict(groups, adjacency) == pytest.approx(expected)


def test_tasks_outside_the_graph():
    with pytest.raises(UsageError, match=r"lie in \[0, 2\)"):
        in_group_conflict([(0, 2)], np.zeros((2, 2), dtype=bool))
