"""The rules of the conflict graph: shares, neighbours, hysteresis; and merged tasks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.affinity import gradient_cosine
from gnn_mtl.grouping import (
    ConflictRule,
    coarse_coloring,
    group_tasks,
    merged_affinity,
    supertasks,
    welsh_powell,
)
from gnn_mtl.tasks import Affinity, conflict_graph


def _cosines(num_tasks, seed, width=4):
    return gradient_cosine(
        torch.randn(num_tasks, width, generator=torch.Generator().manual_seed(seed))
    )


affinities = st.builds(_cosines, st.integers(1, 14), st.integers(0, 10**6))


@given(affinities, st.floats(-1, 1))
@settings(max_examples=40, deadline=None)
def test_the_threshold_is_the_papers_rule(affinity, tau):
    found = ConflictRule().edges(affinity, tau)
    assert np.array_equal(found, conflict_graph(affinity, tau))


@given(affinities, st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_a_quantile_gives_its_share_of_the_pairs_and_no_more(affinity, share):
    rule = ConflictRule(name="quantile", edge_share=share)
    graph = rule.edges(affinity, rule.tau(affinity))
    pairs = affinity.num_tasks * (affinity.num_tasks - 1) // 2
    assert graph.sum() // 2 == int(share * pairs + 1e-9)  # random cosines have no ties


@given(affinities, st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_a_density_never_makes_friends_conflict(affinity, share):
    rule = ConflictRule(name="density", edge_share=share)
    graph = rule.edges(affinity, rule.tau(affinity))
    pairs = affinity.num_tasks * (affinity.num_tasks - 1) // 2
    negative = int((affinity.values < 0).sum()) // 2
    assert (affinity.values[graph] < 0).all()
    assert graph.sum() // 2 == min(int(share * pairs + 1e-9), negative)


def test_ties_stay_out_and_unknown_pairs_never_conflict():
    values = np.eye(4)
    values[0, 1] = values[1, 0] = values[2, 3] = values[3, 2] = -0.5
    tied = Affinity(values, "m")
    one_edge = ConflictRule(name="quantile", edge_share=1 / 6)
    assert one_edge.edges(tied, one_edge.tau(tied)).sum() == 0
    two = ConflictRule(name="quantile", edge_share=2 / 6)
    assert two.edges(tied, two.tau(tied)).sum() == 4
    values[0] = values[:, 0] = np.nan
    unknown = Affinity(values, "m")
    for name in ("quantile", "density", "knn"):
        rule = ConflictRule(name=name, edge_share=1.0)
        graph = rule.edges(unknown, rule.tau(unknown) if rule.sets_tau else -1.0)
        assert not graph[0].any()
    nothing = Affinity(np.full((3, 3), np.nan), "m")
    rule = ConflictRule(name="quantile")
    assert not rule.edges(nothing, rule.tau(nothing)).any()


@given(affinities, st.integers(1, 5), st.sampled_from([-1.0, 0.0, 0.3]))
@settings(max_examples=60, deadline=None)
def test_nearest_enemies(affinity, number, tau):
    """B14: the released rule also joins tasks whose nearest enemy is a friend; tau forbids it."""
    graph = ConflictRule(name="knn", num_neighbors=number).edges(affinity, tau)
    threshold = conflict_graph(affinity, tau)
    assert not (graph & ~threshold).any()
    expected = np.zeros_like(graph)
    for task in range(affinity.num_tasks):
        others = [t for t in range(affinity.num_tasks) if t != task]
        worst = sorted(others, key=lambda t: (affinity.values[task, t], t))[:number]
        expected[task, worst] = expected[worst, task] = True
    assert np.array_equal(graph, expected & threshold)


def test_hysteresis_enters_high_and_leaves_low():
    def graph(cosine, previous):
        rule = ConflictRule(hysteresis=0.1)
        affinity = Affinity(np.array([[1.0, cosine], [cosine, 1.0]]), "m")
        return bool(rule.edges(affinity, 0.25, previous)[0, 1])

    none, edge = np.zeros((2, 2), dtype=bool), ~np.eye(2, dtype=bool)
    assert [graph(c, none) for c in (-0.2, -0.3, -0.36)] == [False, False, True]
    assert [graph(c, edge) for c in (-0.36, -0.2, -0.14)] == [True, True, False]
    assert not graph(-0.3, None)
    joint = Affinity(np.array([[1.0, -1.0], [-1.0, 1.0]]), "m")
    assert not ConflictRule(hysteresis=0.1).edges(joint, 1.0, edge).any()
    with pytest.raises(ShapeError, match="2 tasks"):
        ConflictRule(hysteresis=0.1).edges(joint, 0.5, np.zeros((3, 3), dtype=bool))


def test_hysteresis_stops_flicker():
    rng = np.random.default_rng(0)
    flips = {}
    for delta in (0.0, 0.1):
        rule, graph, flips[delta] = ConflictRule(hysteresis=delta), None, 0
        for _ in range(50):
            cosine = -0.25 + rng.normal(0, 0.03)
            affinity = Affinity(np.array([[1.0, cosine], [cosine, 1.0]]), "m")
            before, graph = graph, rule.edges(affinity, 0.25, graph)
            flips[delta] += before is not None and bool(graph[0, 1] != before[0, 1])
    assert flips[0.1] == 0
    assert flips[0.0] > 10


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"name": "signed"}, "rule"),
        ({"edge_share": -0.1}, "edge_share"),
        ({"edge_share": 1.1}, "edge_share"),
        ({"num_neighbors": 0}, "num_neighbors"),
        ({"hysteresis": -0.1}, "hysteresis"),
        ({"hysteresis": float("nan")}, "hysteresis"),
    ],
)
def test_values_out_of_range(options, match):
    with pytest.raises(UsageError, match=match):
        ConflictRule(**options)


def test_a_given_tolerance_is_not_found():
    with pytest.raises(UsageError, match="given its tolerance"):
        ConflictRule(name="knn").tau(_cosines(3, 0))


# groups by rule


def test_group_tasks_by_rule_and_colouring():
    affinity = _cosines(20, 1)
    for method in ("coloring", "tabu", "iterated_greedy", "equitable"):
        for rule in ("threshold", "quantile", "density", "knn"):
            groups = group_tasks(affinity, method, rule=rule, tau=0.1, edge_share=0.2)
            assert groups.is_disjoint
            assert 1 < len(groups) < 20
    fewest = len(group_tasks(affinity, "tabu", tau=0.1))
    assert fewest <= len(group_tasks(affinity, "coloring", tau=0.1))
    capped = group_tasks(affinity, "tabu", tau=0.1, max_group_size=3)
    assert max(capped.sizes) <= 3
    sizes = group_tasks(affinity, "equitable", tau=0.1).sizes
    assert max(sizes) - min(sizes) <= 1
    filled = group_tasks(affinity, "tabu", tau=0.1, fill_groups=True)
    assert not filled.is_disjoint
    again = group_tasks(affinity, "tabu", tau=0.1, previous=group_tasks(affinity, "tabu", tau=0.1))
    assert again == group_tasks(affinity, "tabu", tau=0.1)
    with pytest.raises(TypeError, match="base_method"):
        group_tasks(affinity, "tabu", base_method="pcgrad")


# super-tasks


def test_merged_cosines_are_those_of_summed_unit_gradients():
    rows = torch.randn(9, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    groups = [(0, 4), (1, 2, 3), (5,), (6, 7, 8)]
    unit = torch.nn.functional.normalize(rows)
    sums = torch.stack([unit[list(group)].sum(dim=0) for group in groups])
    merged = merged_affinity(gradient_cosine(rows), groups)
    np.testing.assert_allclose(merged.values, gradient_cosine(sums).values, atol=1e-12)


def test_supertasks_are_alike_tasks():
    centres = torch.randn(4, 30, generator=torch.Generator().manual_seed(1))
    rows = centres[[0, 1, 2, 3] * 3] + 0.1 * torch.randn(12, 30)
    merged = supertasks(gradient_cosine(rows), 4)
    assert merged == [(0, 4, 8), (1, 5, 9), (2, 6, 10), (3, 7, 11)]
    assert supertasks(gradient_cosine(rows), 99) == [(task,) for task in range(12)]
    assert supertasks(gradient_cosine(rows[:1]), 3) == [(0,)]
    unknown = Affinity(np.full((3, 3), np.nan), "m")
    assert sum(map(len, supertasks(unknown, 2))) == 3
    with pytest.raises(UsageError, match="num_supertasks"):
        supertasks(gradient_cosine(rows), 0)


@given(affinities, st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_coarse_colours_are_few_and_cover_every_task(affinity, max_colors):
    def color(merged):
        return welsh_powell(conflict_graph(merged, -0.5))

    classes, number = coarse_coloring(affinity, max_colors, color)
    assert len(classes) <= max_colors
    tasks = sorted(task for group in classes for task in group)
    assert tasks == list(range(affinity.num_tasks))
    assert number >= min(max_colors, affinity.num_tasks) or number >= len(classes)
    if len(color(affinity)) <= max_colors:
        assert number == affinity.num_tasks or len(classes) <= max_colors
    with pytest.raises(UsageError, match="max_colors"):
        coarse_coloring(affinity, 0, color)


def test_opposite_camps_stay_apart_when_merged():
    direction = torch.randn(1, 20, generator=torch.Generator().manual_seed(2))
    rows = torch.cat([direction.repeat(5, 1), -direction.repeat(5, 1)])
    rows += 0.05 * torch.randn(10, 20, generator=torch.Generator().manual_seed(3))
    classes, _ = coarse_coloring(
        gradient_cosine(rows), 2, lambda merged: welsh_powell(conflict_graph(merged, 0.25))
    )
    assert sorted(classes) == [(0, 1, 2, 3, 4), (5, 6, 7, 8, 9)]
