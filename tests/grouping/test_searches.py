"""Colourings that search, repair, balance or cap: proper, never worse, deterministic, stable."""

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.grouping import (
    cap_sizes,
    color_graph,
    dsatur,
    equitable_coloring,
    exact_coloring,
    fill,
    iterated_greedy,
    minimum_coverage,
    moved_tasks,
    recolor,
    tabu_coloring,
    welsh_powell,
)
from gnn_mtl.grouping._search import clique_bound

SEARCHES = [tabu_coloring, iterated_greedy]
ALL = [*SEARCHES, equitable_coloring]


def _random_graph(num_tasks, p, seed):
    upper = np.triu(np.random.default_rng(seed).random((num_tasks, num_tasks)) < p, 1)
    return upper | upper.T


graphs = st.builds(_random_graph, st.integers(1, 24), st.floats(0, 1), st.integers(0, 2**32))
seeds = st.integers(0, 2**32)


def assert_proper(groups, adjacency):
    assert sorted(task for group in groups for task in group) == list(range(len(adjacency)))
    for group in groups:
        assert group
        assert list(group) == sorted(group)
        assert not adjacency[np.ix_(group, group)].any()


def _relabelled(adjacency, seed):
    new = np.random.default_rng(seed).permutation(len(adjacency))
    moved = np.zeros_like(adjacency)
    moved[np.ix_(new, new)] = adjacency
    return moved


# searches


@pytest.mark.parametrize("coloring", SEARCHES)
@given(graphs, seeds)
@settings(max_examples=60, deadline=None)
def test_proper_never_worse_than_dsatur_and_a_function_of_the_seed(coloring, adjacency, seed):
    groups = coloring(adjacency, iterations=200, seed=seed)
    assert_proper(groups, adjacency)
    assert len(groups) <= len(dsatur(adjacency))
    assert len(groups) >= clique_bound(adjacency)
    assert groups == coloring(adjacency.copy(), iterations=200, seed=seed)


@pytest.mark.parametrize("coloring", SEARCHES)
@given(graphs, graphs, seeds)
@settings(max_examples=40, deadline=None)
def test_a_start_is_kept_or_beaten(coloring, adjacency, other, seed):
    start = welsh_powell(adjacency)
    groups = coloring(adjacency, previous=start, iterations=100, seed=seed)
    assert_proper(groups, adjacency)
    assert groups == start or len(groups) < len(start)
    assert coloring(adjacency, previous=start, iterations=0) == start


@pytest.mark.parametrize("coloring", SEARCHES)
@given(st.builds(_random_graph, st.integers(2, 14), st.floats(0.1, 0.9), seeds), seeds)
@settings(max_examples=40, deadline=None)
def test_the_number_of_colours_hardly_depends_on_the_names_of_the_tasks(coloring, adjacency, seed):
    """On small graphs both reach the fewest possible, whatever the labelling."""
    fewest = len(exact_coloring(adjacency))
    found = coloring(_relabelled(adjacency, seed), iterations=2000)
    assert len(found) <= fewest + (coloring is iterated_greedy)


@pytest.mark.parametrize(("p", "fewer"), [(0.1, 0), (0.5, 2), (0.9, 4)])
def test_searches_save_colours_on_larger_graphs(p, fewer):
    adjacency = _random_graph(120, p, 7)
    theirs = len(set(nx.greedy_color(nx.from_numpy_array(adjacency), "DSATUR").values()))
    tabu = tabu_coloring(adjacency, iterations=5000)
    assert_proper(tabu, adjacency)
    assert len(tabu) <= theirs - fewer
    assert len(tabu) <= len(iterated_greedy(adjacency, iterations=60)) <= theirs


def test_a_larger_budget_is_not_worse():
    adjacency = _random_graph(60, 0.5, 3)
    counts = [len(tabu_coloring(adjacency, iterations=n)) for n in (0, 30, 300, 3000)]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] < counts[0] == len(dsatur(adjacency))


def test_another_seed_is_another_search():
    adjacency = _random_graph(60, 0.5, 4)
    assert len({str(tabu_coloring(adjacency, seed=seed, iterations=1000)) for seed in range(4)}) > 1


@given(graphs)
@settings(max_examples=40, deadline=None)
def test_the_clique_bound_is_a_clique_size(adjacency):
    largest = max(map(len, nx.find_cliques(nx.from_numpy_array(adjacency))))
    assert 1 <= clique_bound(adjacency) <= largest


@pytest.mark.parametrize("coloring", ALL)
@pytest.mark.parametrize("num_tasks", [1, 2, 9])
def test_edgeless_complete_and_bipartite(coloring, num_tasks):
    empty = np.zeros((num_tasks, num_tasks), dtype=bool)
    assert coloring(empty) == [tuple(range(num_tasks))]
    assert len(coloring(~np.eye(num_tasks, dtype=bool))) == num_tasks
    sides = np.arange(num_tasks) % 2
    assert len(coloring(sides[:, None] != sides)) == min(2, num_tasks)


@pytest.mark.parametrize("coloring", ALL)
def test_wrong_input(coloring):
    with pytest.raises(ShapeError, match="adjacency"):
        coloring(np.eye(2, dtype=bool))
    with pytest.raises(UsageError, match="previous"):
        coloring(np.zeros((3, 3), dtype=bool), previous=[(0, 1)])
    if coloring in SEARCHES:
        with pytest.raises(UsageError, match="iterations"):
            coloring(np.zeros((3, 3), dtype=bool), iterations=-1)


# repair


@given(graphs, seeds, st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_recolouring_moves_only_tasks_of_new_edges(adjacency, seed, changes):
    before = welsh_powell(adjacency)
    assert recolor(adjacency, before) == before
    rng = np.random.default_rng(seed)
    touched = set()
    for _ in range(changes):
        u, v = rng.integers(len(adjacency), size=2).tolist()
        if u != v and not adjacency[u, v]:
            adjacency[u, v] = adjacency[v, u] = True
            touched |= {u, v}
    after = recolor(adjacency, before)
    assert_proper(after, adjacency)
    assert moved_tasks(before, after) <= min(changes, len(touched))
    fresh = dsatur(adjacency)
    assert moved_tasks(before, after) <= moved_tasks(before, fresh)


@pytest.mark.parametrize("name", ["welsh_powell", "dsatur", "exact", "tabu", "iterated_greedy"])
def test_a_warm_start_moves_fewer_tasks_than_a_cold_one(name):
    rng = np.random.default_rng(0)
    adjacency = _random_graph(20, 0.4, 1)
    warm = cold = color_graph(adjacency, name)
    moves = {"warm": 0, "cold": 0}
    for _ in range(15):
        u, v = rng.choice(20, 2, replace=False)
        adjacency[u, v] = adjacency[v, u] = not adjacency[u, v]
        before, warm = warm, color_graph(adjacency, name, previous=warm)
        moves["warm"] += moved_tasks(before, warm)
        before, cold = cold, color_graph(adjacency, name)
        moves["cold"] += moved_tasks(before, cold)
        assert_proper(warm, adjacency)
    assert moves["warm"] < 0.6 * moves["cold"]


@pytest.mark.parametrize("name", ["dsatur", "exact"])
def test_a_cold_colouring_still_wins_where_it_needs_fewer(name):
    path = np.zeros((3, 3), dtype=bool)
    path[0, 1] = path[1, 0] = True
    wasteful = [(0,), (1,), (2,)]
    assert len(color_graph(path, name, previous=wasteful)) == 2
    assert color_graph(path, name, previous=[(0,), (1, 2)]) == [(0,), (1, 2)]


# sizes


@given(graphs, st.one_of(st.none(), st.integers(1, 8)))
@settings(max_examples=80, deadline=None)
def test_equitable(adjacency, max_size):
    groups = equitable_coloring(adjacency, max_size=max_size)
    assert_proper(groups, adjacency)
    sizes = [len(group) for group in groups]
    assert max(sizes) - min(sizes) <= 1
    assert max_size is None or max(sizes) <= max_size
    guaranteed = adjacency.sum(axis=1).max() + 1
    needed = 1 if max_size is None else -(-len(adjacency) // max_size)
    assert len(groups) <= max(guaranteed, len(dsatur(adjacency)), needed)
    assert equitable_coloring(adjacency, max_size=max_size, previous=groups) == groups


def test_equitable_where_it_must_have_more_colours():
    star = np.zeros((8, 8), dtype=bool)
    star[0, 1:] = star[1:, 0] = True
    assert len(dsatur(star)) == 2
    groups = equitable_coloring(star)
    assert sorted(map(len, groups)) == [1, 1, 2, 2, 2] or sorted(map(len, groups)) == [1, 2, 2, 3]
    assert max(map(len, groups)) == 2  # the centre is alone, so the others are at most pairs


def test_equitable_falls_back_on_the_theorem(monkeypatch):
    from gnn_mtl.grouping import _equitable_coloring

    monkeypatch.setattr(_equitable_coloring, "_balance", lambda groups, adjacency: None)
    for seed in range(5):
        adjacency = _random_graph(15, 0.3, seed)
        groups = equitable_coloring(adjacency)
        assert_proper(groups, adjacency)
        assert max(map(len, groups)) - min(map(len, groups)) <= 1
        assert len(groups) == adjacency.sum(axis=1).max() + 1


@given(graphs, st.integers(1, 10))
@settings(max_examples=80, deadline=None)
def test_caps_are_kept_and_cost_as_few_classes_as_pieces(adjacency, max_size):
    groups = dsatur(adjacency)
    capped = cap_sizes(groups, adjacency, max_size)
    assert_proper(capped, adjacency)
    assert max(map(len, capped)) <= max_size
    assert len(capped) >= -(-len(adjacency) // max_size)
    assert len(groups) <= len(capped) <= sum(-(-len(group) // max_size) for group in groups)
    if max(map(len, groups)) <= max_size:
        assert capped == groups
    assert cap_sizes(capped, adjacency, max_size) == capped


def test_a_cap_forces_more_colours_only_where_no_class_has_room():
    free = np.zeros((5, 5), dtype=bool)
    assert cap_sizes([(0, 1, 2, 3, 4)], free, 2) == [(0, 1), (2, 3), (4,)]
    assert [len(group) for group in cap_sizes([(0, 1, 2, 3), (4,)], free, 3)] == [3, 2]
    one_way = free.copy()
    one_way[3, 4] = one_way[4, 3] = True
    assert len(cap_sizes([(0, 1, 2, 3), (4,)], one_way, 3)) == 2
    one_way[0, 4] = one_way[4, 0] = one_way[1, 4] = one_way[4, 1] = True
    assert cap_sizes([(0, 1, 2, 3), (4,)], one_way, 3) == [(0, 1, 3), (2, 4)]
    for task in range(3):
        one_way[task, 4] = one_way[4, task] = True
    assert cap_sizes([(0, 1, 2, 3), (4,)], one_way, 3) == [(0, 1, 2), (4,), (3,)]
    with pytest.raises(UsageError, match="max_size"):
        cap_sizes([(0,)], np.zeros((1, 1), dtype=bool), 0)
    with pytest.raises(UsageError, match="max_size"):
        equitable_coloring(free, max_size=0)


# coverage under a cap, filling


@given(graphs, st.integers(1, 8), st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_coverage_respects_the_cap(adjacency, max_size, min_coverage):
    groups = cap_sizes(welsh_powell(adjacency), adjacency, max_size)
    covered = minimum_coverage(groups, adjacency, min_coverage, max_size=max_size)
    assert max(map(len, covered.groups)) <= max_size
    for group in covered.groups:
        assert not adjacency[np.ix_(group, group)].any()


@given(graphs, st.one_of(st.none(), st.integers(1, 8)))
@settings(max_examples=50, deadline=None)
def test_filled_classes_are_maximal(adjacency, max_size):
    groups = welsh_powell(adjacency)
    if max_size is not None:
        groups = cap_sizes(groups, adjacency, max_size)
    filled = fill(groups, adjacency, max_size=max_size)
    assert filled.uncovered == ()
    assert len(filled.groups) == len(groups)
    for before, after in zip(groups, filled.groups, strict=True):
        assert set(before) <= set(after)
        assert not adjacency[np.ix_(after, after)].any()
        assert max_size is None or len(after) <= max_size
        if max_size is None or len(after) < max_size:
            outside = set(range(len(adjacency))) - set(after)
            assert all(adjacency[task, list(after)].any() for task in outside)


# moves


def test_moves_do_not_see_names_or_order():
    assert moved_tasks([(0, 1), (2,)], [(2,), (0, 1)]) == 0
    assert moved_tasks([(0, 1), (2, 3)], [(0, 2), (1, 3)]) == 2
    assert moved_tasks([(0, 1, 2)], [(0,), (1,), (2,)]) == 2
    with pytest.raises(UsageError, match="partitions"):
        moved_tasks([(0, 1)], [(0,)])
    with pytest.raises(UsageError, match="partitions"):
        moved_tasks([(0, 0)], [(0, 0)])
