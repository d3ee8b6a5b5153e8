"""Searches over partitions against brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnn_mtl._core.errors import UsageError
from gnn_mtl.grouping import (
    branch_and_bound,
    branch_and_bound_groups,
    exact_groups,
    exact_partition,
    greedy_groups,
    local_search,
    merged_groups,
    objective,
)
from gnn_mtl.grouping._branch_and_bound import _largest_shares, _search
from gnn_mtl.tasks import Affinity

GOALS = ("density", "ptg", "tag", "association")


def partitions(num_tasks):
    def extend(task, groups):
        if task == num_tasks:
            yield [tuple(group) for group in groups]
            return
        for group in groups:
            group.append(task)
            yield from extend(task + 1, groups)
            group.pop()
        groups.append([task])
        yield from extend(task + 1, groups)
        groups.pop()

    return extend(0, [])


def drawn(num_tasks, seed, name="density"):
    values = np.random.default_rng(seed).normal(size=(num_tasks, num_tasks))
    values = np.abs(values) if name == "association" else values
    return Affinity(values, "drawn", unit="gain", symmetric=num_tasks == 1)


@pytest.mark.parametrize("name", GOALS)
@pytest.mark.parametrize(("num_tasks", "seed"), [(1, 0), (2, 1), (4, 2), (6, 3), (8, 4)])
def test_exact_equals_brute_force(name, num_tasks, seed):
    affinity = drawn(num_tasks, seed, name)
    keep = seed % 2 == 1
    goal = objective(affinity, name, keep_diagonal=keep)
    best = {}
    for groups in partitions(num_tasks):
        worth = goal.of(groups)
        for key in (None, len(groups)):
            best[key] = max(best.get(key, -np.inf), worth)
    for number, value in best.items():
        found = exact_groups(affinity, num_groups=number, objective=name, keep_diagonal=keep)
        assert number in (None, len(found))
        assert goal.of(found.groups) == pytest.approx(value, abs=1e-9)
        greedy = greedy_groups(affinity, num_groups=number, objective=name, keep_diagonal=keep)
        assert number in (None, len(greedy))
        assert goal.of(greedy.groups) <= value + 1e-9


@given(st.integers(1, 10), st.integers(0, 10**6), st.sampled_from(GOALS[:3]), st.data())
@settings(max_examples=20, deadline=None)
def test_branch_and_bound_equals_exact(num_tasks, seed, name, data):
    affinity = drawn(num_tasks, seed)
    number = data.draw(st.none() | st.integers(1, num_tasks))
    keep = data.draw(st.booleans())
    options = {"num_groups": number, "objective": name, "keep_diagonal": keep}
    goal = objective(affinity, name, keep_diagonal=keep)
    best = goal.of(exact_partition(goal, number))
    found = branch_and_bound(affinity, **options)
    assert found.optimal
    assert found.value == pytest.approx(best, abs=1e-9)
    assert found.upper_bound == found.value
    assert number in (None, len(found.grouping))
    assert branch_and_bound_groups(affinity, **options) == found.grouping
    cut = branch_and_bound(affinity, max_nodes=0, **options)
    assert not cut.optimal
    assert cut.nodes == 0
    assert cut.value <= best + 1e-9 <= cut.upper_bound + 2e-9
    assert "optimal=false" in cut.grouping.method


@given(st.integers(2, 8), st.integers(0, 10**6), st.sampled_from(GOALS[:3]), st.data())
@settings(max_examples=15, deadline=None)
def test_branches_lead_from_a_bad_start_to_the_best(num_tasks, seed, name, data):
    affinity = drawn(num_tasks, seed)
    number = data.draw(st.none() | st.integers(1, num_tasks))
    goal = objective(affinity, name, keep_diagonal=data.draw(st.booleans()))
    worst = min(
        (groups for groups in partitions(num_tasks) if number in (None, len(groups))), key=goal.of
    )
    limit = _largest_shares(goal, num_tasks + 1 - (number or 1))
    found, _, optimal = _search(goal, worst, number or 0, limit, 10**6)
    assert optimal
    assert number in (None, len(found))
    best = goal.of(exact_partition(goal, number))
    assert goal.of(found) == pytest.approx(best, abs=1e-9)
    assert best <= limit.sum() + 1e-9


def test_the_budget_ends_the_search_and_says_so():
    affinity = drawn(30, 0)
    found = branch_and_bound(affinity, num_groups=4, objective="tag", max_nodes=500)
    assert found.nodes == 500
    assert not found.optimal
    assert found.upper_bound > found.value
    goal = objective(affinity, "tag")
    start = local_search(goal, merged_groups(goal, 4))
    assert found.value >= goal.of(start) - 1e-9


def test_many_tasks_are_bounded_without_branches():
    affinity = drawn(160, 0)
    found = branch_and_bound(affinity, num_groups=5, objective="tag")
    assert (found.nodes, found.optimal) == (0, False)
    assert found.upper_bound > found.value


@given(st.integers(2, 12), st.integers(0, 10**6), st.sampled_from(GOALS), st.booleans())
@settings(max_examples=30, deadline=None)
def test_local_search_never_loses_and_ends_where_no_move_helps(num_tasks, seed, name, fixed):
    affinity = drawn(num_tasks, seed, name)
    goal = objective(affinity, name, keep_diagonal=seed % 2 == 0)
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, num_tasks)
    start = [tuple(np.flatnonzero(labels == g)) for g in range(4) if (labels == g).any()]
    found = local_search(goal, start, fixed_number=fixed)
    worth = goal.of(found)
    assert worth >= goal.of(start) - 1e-9
    assert sorted(task for group in found for task in group) == list(range(num_tasks))
    assert not fixed or len(found) == len(start)
    labels = np.empty(num_tasks, dtype=int)
    for number, group in enumerate(found):
        labels[list(group)] = number
    for task in range(num_tasks):  # by hand: no task gains by moving
        for number in range(len(found) + (0 if fixed else 1)):
            moved = labels.copy()
            moved[task] = number
            groups = [tuple(np.flatnonzero(moved == g)) for g in range(len(found) + 1)]
            groups = [group for group in groups if group]
            if not fixed or len(groups) == len(found):
                assert goal.of(groups) <= worth + 1e-8


def test_swaps_go_where_moves_cannot():
    """Two pairs crossed: every move of one task makes it worse."""
    values = np.zeros((4, 4))
    values[0, 1] = values[1, 0] = values[2, 3] = values[3, 2] = 1.0
    values[0, 2] = values[2, 0] = values[1, 3] = values[3, 1] = 0.9
    goal = objective(Affinity(values, "m", unit="gain"), "tag")
    assert local_search(goal, [(0, 2), (1, 3)]) == [(0, 1), (2, 3)]


def test_free_numbers_merge_and_split():
    ones = objective(Affinity(np.ones((6, 6)), "m", unit="gain"))
    assert local_search(ones, [(0, 1, 2), (3, 4, 5)], fixed_number=False) == [(0, 1, 2, 3, 4, 5)]
    assert local_search(ones, [(0, 1, 2), (3, 4, 5)]) != [(0, 1, 2, 3, 4, 5)]
    against = objective(Affinity(-np.ones((3, 3)), "m", unit="gain"))
    assert local_search(against, [(0, 1, 2)], fixed_number=False) == [(0,), (1,), (2,)]
    assert merged_groups(against) == [(0,), (1,), (2,)]


@pytest.mark.parametrize("name", ["density", "tag"])
def test_greedy_finds_planted_groups_of_many_tasks(name):
    owner = np.arange(200) % 8
    noise = np.random.default_rng(0).normal(size=(200, 200))
    affinity = Affinity(
        (owner[:, None] == owner) + 0.2 * noise, "planted", unit="gain", symmetric=False
    )
    for number in (8, None):
        found = greedy_groups(affinity, num_groups=number, objective=name)
        if number or name == "density":
            assert sorted(found.sizes) == [25] * 8
            assert all(len({owner[t] for t in group}) == 1 for group in found.groups)


def test_refuses():
    affinity = drawn(17, 0)
    with pytest.raises(UsageError, match="up to 16 tasks"):
        exact_groups(affinity)
    for method in (exact_groups, branch_and_bound_groups, greedy_groups):
        with pytest.raises(UsageError, match=r"should lie in \[1, 5\]"):
            method(drawn(5, 0), num_groups=6)
        with pytest.raises(UsageError, match="`objective` should be one of"):
            method(drawn(5, 0), objective="best")
    with pytest.raises(UsageError, match="no bound for 'association'"):
        branch_and_bound(drawn(5, 0), objective="association")
    with pytest.raises(UsageError, match="max_nodes"):
        branch_and_bound(drawn(5, 0), max_nodes=-1)


@pytest.mark.parametrize("name", GOALS)
def test_the_unit_of_the_affinity_does_not_matter(name):
    values = np.array(drawn(9, 3, "association").values)
    values[4] = values[:, 4] = 0.0  # a task without any affinity
    for method in (greedy_groups, exact_groups):
        found = {
            method(
                Affinity(unit * values, "m", unit="gain", symmetric=False),
                num_groups=3, objective=name,
            ).groups
            for unit in (1e-14, 1.0, 1e14)
        }  # fmt: skip
        assert len(found) == 1
