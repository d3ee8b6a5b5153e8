"""Colourings against networkx, brute force and the bounds of the literature (SON-GOKU T2-T4)."""

import itertools

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.affinity import gradient_cosine
from gnn_mtl.grouping import color_graph, dsatur, exact_coloring, first_fit, welsh_powell
from gnn_mtl.tasks import conflict_graph

ALL = [welsh_powell, dsatur, exact_coloring]


def _random_graph(num_tasks, p, seed):
    upper = np.triu(np.random.default_rng(seed).random((num_tasks, num_tasks)) < p, 1)
    return upper | upper.T


graphs = st.builds(_random_graph, st.integers(1, 24), st.floats(0, 1), st.integers(0, 2**32))


def _networkx(adjacency, strategy):
    graph = nx.from_numpy_array(adjacency)
    colors = nx.greedy_color(graph, strategy=strategy)
    classes = [[] for _ in range(max(colors.values()) + 1)]
    for vertex, color in colors.items():
        classes[color].append(vertex)
    return [tuple(sorted(group)) for group in classes]


def _chromatic_number(adjacency):
    """Fewest colours, by trying every assignment."""
    num_tasks = len(adjacency)
    edges = np.argwhere(np.triu(adjacency)).tolist()
    for number in range(1, num_tasks + 1):
        for rest in itertools.product(range(number), repeat=num_tasks - 1):
            colors = (0, *rest)
            if all(colors[u] != colors[v] for u, v in edges):
                return number
    raise AssertionError


@pytest.mark.parametrize("coloring", ALL)
@given(graphs)
@settings(max_examples=60, deadline=None)
def test_proper_complete_sorted_and_within_the_degree_bound(coloring, adjacency):
    classes = coloring(adjacency)
    assert sorted(task for group in classes for task in group) == list(range(len(adjacency)))
    assert all(list(group) == sorted(group) for group in classes)
    for group in classes:
        assert not adjacency[np.ix_(group, group)].any()
    assert len(classes) <= adjacency.sum(axis=1).max() + 1


@given(graphs)
@settings(max_examples=100, deadline=None)
def test_welsh_powell_equals_networkx_and_keeps_its_own_bound(adjacency):
    classes = welsh_powell(adjacency)
    assert classes == _networkx(adjacency, "largest_first")
    degrees = sorted(adjacency.sum(axis=1).tolist(), reverse=True)
    assert len(classes) <= max(min(d + 1, i + 1) for i, d in enumerate(degrees))


@given(graphs)
@settings(max_examples=60, deadline=None)
def test_dsatur_equals_networkx(adjacency):
    assert dsatur(adjacency) == _networkx(adjacency, "DSATUR")


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_larger_graphs_equal_networkx(p):
    adjacency = _random_graph(120, p, 7)
    assert welsh_powell(adjacency) == _networkx(adjacency, "largest_first")
    assert dsatur(adjacency) == _networkx(adjacency, "DSATUR")
    assert len(dsatur(adjacency)) < len(welsh_powell(adjacency))


@given(st.builds(_random_graph, st.integers(1, 7), st.floats(0, 1), st.integers(0, 2**32)))
@settings(max_examples=60, deadline=None)
def test_exact_equals_brute_force(adjacency):
    assert len(exact_coloring(adjacency)) == _chromatic_number(adjacency)


def test_exact_beats_both_where_they_fail():
    graphs_found = [_random_graph(18, 0.4, seed) for seed in range(40)]
    counts = np.array([[len(f(graph)) for f in ALL] for graph in graphs_found])
    assert (counts[:, 2] <= counts[:, :2].min(axis=1)).all()
    assert (counts[:, 2] < counts[:, 0]).any()
    assert (counts[:, 2] < counts[:, 1]).any()


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_dsatur_is_exact_on_bipartite_graphs(left, right, seed):
    rng = np.random.default_rng(seed)
    adjacency = np.zeros((left + right,) * 2, dtype=bool)
    adjacency[:left, left:] = rng.random((left, right)) < 0.6
    adjacency |= adjacency.T
    order = rng.permutation(left + right)
    assert len(dsatur(adjacency[np.ix_(order, order)])) == 1 + adjacency.any()


@pytest.mark.parametrize("coloring", ALL)
@pytest.mark.parametrize("num_tasks", [1, 2, 9])
def test_edgeless_complete_and_complete_bipartite(coloring, num_tasks):
    empty = np.zeros((num_tasks, num_tasks), dtype=bool)
    assert coloring(empty) == [tuple(range(num_tasks))]
    assert coloring(~np.eye(num_tasks, dtype=bool)) == [(task,) for task in range(num_tasks)]
    sides = np.arange(num_tasks) % 2
    assert len(coloring(sides[:, None] != sides)) == min(2, num_tasks)


def test_golden_examples():
    three = np.array([[0, 0, 1], [0, 0, 1], [1, 1, 0]], dtype=bool)
    assert welsh_powell(three) == dsatur(three) == exact_coloring(three) == [(2,), (0, 1)]
    path = np.zeros((4, 4), dtype=bool)
    for u, v in [(0, 1), (1, 2), (2, 3)]:
        path[u, v] = path[v, u] = True
    assert welsh_powell(path) == [(1, 3), (0, 2)]
    crown = np.zeros((6, 6), dtype=bool)  # order 0 3 1 4 2 5 of a crown graph fools first-fit
    for u, v in itertools.product(range(3), range(3, 6)):
        crown[u, v] = crown[v, u] = v != u + 3
    assert first_fit(crown, [0, 3, 1, 4, 2, 5]) == [(0, 3), (1, 4), (2, 5)]
    assert dsatur(crown) == [(0, 1, 2), (3, 4, 5)]


@given(graphs, st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_relabelling_moves_the_classes_along_when_ties_are_broken_alike(adjacency, seed):
    new = np.random.default_rng(seed).permutation(len(adjacency))  # task t is called new[t]
    moved = np.zeros_like(adjacency)
    moved[np.ix_(new, new)] = adjacency
    order = np.argsort(-adjacency.sum(axis=1), kind="stable")
    expected = [tuple(sorted(new[list(group)].tolist())) for group in welsh_powell(adjacency)]
    assert first_fit(moved, new[order].tolist()) == expected


@given(graphs, st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_warm_start_keeps_a_partition_that_still_fits(adjacency, seed):
    first = welsh_powell(adjacency)
    assert welsh_powell(adjacency, previous=first) == first
    rng = np.random.default_rng(seed)
    u, v = rng.integers(len(adjacency), size=2)
    changed = adjacency.copy()
    changed[u, v] = changed[v, u] = u != v
    warm = welsh_powell(changed, previous=first)
    assert all(not changed[np.ix_(group, group)].any() for group in warm)
    assert len(warm) <= changed.sum(axis=1).max() + 1


@pytest.mark.parametrize("tau", [0.1, 0.25, 0.5])
def test_no_clique_of_exact_cosines_exceeds_1_plus_1_over_tau(tau):
    largest = 0
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(30, 4, generator=generator)
        edges = conflict_graph(gradient_cosine(rows), tau)
        largest = max(largest, *map(len, nx.find_cliques(nx.from_numpy_array(edges))))
    assert 2 <= largest < 1 + 1 / tau


def test_color_graph_finds_them_by_name():
    graph = _random_graph(10, 0.5, 0)
    for name, coloring in zip(("welsh_powell", "dsatur", "exact"), ALL, strict=True):
        assert color_graph(graph, name) == coloring(graph)
    with pytest.raises(UsageError, match=r"coloring.*Did you mean 'dsatur'"):
        color_graph(graph, "dsature")


@pytest.mark.parametrize(
    "adjacency",
    [
        np.zeros((2, 3), dtype=bool),
        np.zeros((0, 0), dtype=bool),
        np.zeros(3, dtype=bool),
        np.zeros((2, 2)),
        np.eye(2, dtype=bool),
        np.array([[False, True], [False, False]]),
    ],
)
@pytest.mark.parametrize("coloring", ALL)
def test_what_is_not_an_undirected_graph(coloring, adjacency):
    with pytest.raises(ShapeError, match="adjacency"):
        coloring(adjacency)


def test_wrong_orders_and_sizes():
    graph = _random_graph(3, 0.5, 0)
    with pytest.raises(UsageError, match="each of the 3"):
        first_fit(graph, [0, 1, 1])
    with pytest.raises(UsageError, match="previous"):
        welsh_powell(graph, previous=[(0, 1), (1, 2)])
    with pytest.raises(UsageError, match="at most 24"):
        exact_coloring(np.zeros((25, 25), dtype=bool))
