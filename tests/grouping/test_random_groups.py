"""Random groups have exactly the sizes asked for and are uniform."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from gnn_mtl._core.errors import UsageError
from gnn_mtl._core.seeding import generator
from gnn_mtl.grouping import equal_sizes, random_groups


@given(st.integers(1, 12), st.data(), st.integers(0, 2**32))
@settings(max_examples=80, deadline=None)
def test_sizes_and_coverage_are_exact(num_tasks, data, seed):
    sizes = data.draw(st.lists(st.integers(1, num_tasks), min_size=1, max_size=6))
    if sum(sizes) < num_tasks:
        sizes += [1] * (num_tasks - sum(sizes))
    groups = random_groups(sizes, num_tasks, generator=generator(seed))
    assert [len(set(group)) for group in groups] == [len(group) for group in groups] == sizes
    assert {task for group in groups for task in group} == set(range(num_tasks))
    assert all(list(group) == sorted(group) for group in groups)
    assert groups == random_groups(sizes, num_tasks, generator=generator(seed))


def test_partitions_are_uniform():
    draws = 3000
    found = Counter(
        tuple(random_groups((2, 1, 1), 4, generator=generator(seed))) for seed in range(draws)
    )
    assert len(found) == 12
    assert chisquare(list(found.values())).pvalue > 1e-4


def test_overlapping_groups_favour_no_task():
    found = Counter(
        task
        for seed in range(2000)
        for group in random_groups((3, 2), 4, generator=generator(seed))
        for task in group
    )
    assert chisquare([found[task] for task in range(4)]).pvalue > 1e-4


@pytest.mark.parametrize(
    ("sizes", "match"), [((1, 1), "add up"), ((0, 3), "lie in"), ((4,), "lie in"), ((), "add up")]
)
def test_impossible_sizes(sizes, match):
    with pytest.raises(UsageError, match=match):
        random_groups(sizes, 3, generator=generator(0))


@given(st.integers(1, 40), st.data())
@settings(max_examples=40, deadline=None)
def test_equal_sizes(num_tasks, data):
    num_groups = data.draw(st.integers(1, num_tasks))
    sizes = equal_sizes(num_groups, num_tasks)
    assert sum(sizes) == num_tasks
    assert len(sizes) == num_groups
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("num_groups", [0, 4])
def test_impossible_number_of_groups(num_groups):
    with pytest.raises(UsageError, match="number of groups"):
        equal_sizes(num_groups, 3)
