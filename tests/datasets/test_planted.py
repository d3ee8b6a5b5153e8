"""Planted graphs keep what they promise."""

import resource
import sys

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from gnn_mtl._core.errors import UsageError
from gnn_mtl.datasets import planted
from gnn_mtl.datasets._planted_edges import CHUNK, _alias_tables, _draw, _draws_for, _tables


def labels(graph):
    return graph._labels.gather(slice(None))[0].astype(float)


def group_correlations(graph):
    """Return the correlations of label pairs and the difference of their groups' numbers."""
    correlation = np.corrcoef(labels(graph).T)
    groups = graph.extras["task_groups"]
    upper = np.triu_indices(len(groups), 1)
    return correlation[upper], groups[upper[0]], groups[upper[1]]


@pytest.fixture(scope="module")
def small():
    return planted()


def test_the_default(small):
    assert (small.num_nodes, small.num_tasks, small.num_features) == (2_000, 24, 32)
    assert small.csc.num_edges == 2 * 16_000
    assert np.bincount(small.extras["task_groups"]).tolist() == [6, 6, 6, 6]
    for name, group in zip(small.label_names, small.extras["task_groups"], strict=True):
        assert name.startswith(f"group{group}_")
    edges = small.csc.to_edge_index()
    assert (edges[0] != edges[1]).all()
    assert len(np.unique(edges, axis=1).T) == 32_000
    assert small.csc.is_symmetric()


def test_equal_arguments_give_equal_graphs(small):
    assert planted(seed=0).fingerprint() == small.fingerprint()
    assert planted(seed=1).fingerprint() != small.fingerprint()


@pytest.mark.parametrize("num_edges", [0, 1, 777, 30_000])
def test_edges_are_met_exactly(num_edges):
    assert planted(600, num_edges, 2, 1).csc.num_edges == 2 * num_edges


def test_many_edges_are_met_closely():
    graph = planted(60_000, 2_500_000, 1, 1, num_features=0)
    assert graph.x is None
    assert 0.995 <= graph.csc.num_edges / 5_000_000 <= 1.005


def test_edges_follow_communities_and_degrees_a_power_law():
    graph = planted(20_000, 200_000, 4, 2, num_communities=200, overlap=0.0, mixing=0.1, seed=2)
    source, target = graph.csc.to_edge_index()
    community = graph.extras["community"]
    inside = (community[source] == community[target]).mean()
    assert 0.8 < inside < 0.95
    loose = planted(20_000, 200_000, 4, 2, num_communities=200, overlap=0.0, mixing=1.0, seed=2)
    source, target = loose.csc.to_edge_index()
    assert (loose.extras["community"][source] == loose.extras["community"][target]).mean() < 0.05
    degrees = np.sort(loose.csc.degrees)[-2_000:].astype(float)
    exponent = 1 + 1 / np.log(degrees / degrees[0]).mean()  # Hill's estimator
    assert 2.2 < exponent < 3.2


def test_label_groups():
    graph = planted(6_000, num_tasks=24, num_groups=4, num_communities=300)
    correlation, first, second = group_correlations(graph)
    same = correlation[first == second]
    assert same.min() > 0.2
    assert same.mean() > 0.4
    assert np.abs(correlation[first != second]).max() < 0.15
    loose = planted(6_000, num_tasks=24, num_groups=4, num_communities=300, within=0.2)
    correlation, first, second = group_correlations(loose)
    assert correlation[first == second].mean() < 0.3


def test_opposed_groups():
    graph = planted(6_000, num_groups=4, num_communities=300, conflict=1.0, prevalence=(0.3, 0.5))
    correlation, first, second = group_correlations(graph)
    paired = (first // 2 == second // 2) & (first != second)
    assert correlation[paired].max() < -0.3
    assert np.abs(correlation[first // 2 != second // 2]).max() < 0.15


def test_prevalence_and_observed_shares():
    graph = planted(4_000, prevalence=(0.02, 0.5), labelled_share=0.5, observed_share=0.7)
    y, known = graph._labels.gather(slice(None))
    labelled = graph.labelled()
    assert abs(labelled.mean() - 0.5) < 0.03
    assert abs(known[labelled].mean() - 0.7) < 0.02
    shares = np.sort(y.sum(axis=0) / known.sum(axis=0))
    np.testing.assert_allclose(shares, np.geomspace(0.02, 0.5, 24), rtol=0.35)


def test_neighbours_tell_more_than_features_alone():
    graph = planted(seed=3)
    y, nodes = labels(graph), graph.split_idx
    source, target = graph.csc.to_edge_index()
    mean = np.zeros_like(graph.x)
    np.add.at(mean, target, graph.x[source])
    mean /= np.maximum(graph.csc.degrees, 1)[:, None]

    def score(x):
        return np.mean([
            roc_auc_score(
                y[nodes["test"], task],
                LogisticRegression(max_iter=300)
                .fit(x[nodes["train"]], y[nodes["train"], task])
                .decision_function(x[nodes["test"]]),
            )
            for task in range(0, 24, 4)
        ])  # fmt: skip

    alone, both = score(graph.x), score(np.hstack([graph.x, mean]))
    assert alone > 0.7
    assert both > alone + 0.02


def test_task_split():
    graph = planted(500, num_tasks=6, num_groups=2, split="task")
    assert graph.split_kind == "task"
    assert graph.positives("train").min() > 0


def test_chunks_repeat_and_agree_with_the_tables():
    rng = np.random.default_rng(0)
    weight = np.concatenate([rng.pareto(1.5, 50) + 0.01, [0.0, 3.0]])
    indptr = np.array([0, 30, 30, 52])
    keep, alias = np.empty(52), np.empty(52, dtype=np.int64)
    _alias_tables(indptr, weight, keep, alias)
    for start, stop in ((0, 30), (30, 52)):
        chance = np.bincount(
            [_draw(u, start, stop, keep, alias) for u in (np.arange(40_000) + 0.5) / 40_000],
            minlength=52,
        )[start:stop]
        wanted = weight[start:stop] / weight[start:stop].sum()
        np.testing.assert_allclose(chance / 40_000, wanted, atol=2e-3)


def test_the_pilot_counts_distinct_edges():
    graph = planted(800, 4_000, 1, 1, seed=5)
    from gnn_mtl.datasets._planted import _memberships

    _, members = _memberships(800, 12, 0.3, 5)
    stream = _tables(members, 0.2, 2.6, 5)
    draws = _draws_for(stream, 4_000, 800)

    def distinct(number):
        pairs = {
            (min(u, v), max(u, v))
            for source, target in stream.take(number)
            for u, v in zip(source.tolist(), target.tolist(), strict=True)
            if u != v
        }
        return len(pairs)

    assert distinct(draws) == 4_000
    assert distinct(draws - 1) == 3_999
    assert sum(len(source) for source, _ in stream.take(CHUNK + 3)) == CHUNK + 3
    assert graph.csc.num_edges == 8_000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_nodes": 5}, "num_nodes"),
        ({"num_tasks": 2, "num_groups": 3}, "num_groups <= num_tasks"),
        ({"num_nodes": 100, "num_edges": 4_000}, "num_edges"),
        ({"mixing": 2.0}, "mixing"),
        ({"conflict": -0.1, "within": 3.0}, r"within.*conflict"),
        ({"prevalence": (0.5, 0.1)}, "prevalence"),
        ({"split": "edges"}, "split"),
        ({"observed_share": 0.0}, "observed_share"),
        ({"num_communities": 0}, "num_communities"),
    ],
)
def test_arguments_out_of_range(arguments, words):
    with pytest.raises(UsageError, match=words):
        planted(**arguments)


def test_communities_too_small_for_the_edges():
    with pytest.raises(UsageError, match="more mixing"):
        planted(1_000, 100_000, 2, 1, num_communities=500, mixing=0.0, overlap=0.0)


@pytest.mark.slow
def test_the_largest_size():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    graph = planted(1_200_000, 21_000_000, 500, 20, num_features=64)
    assert abs(graph.csc.num_edges / 42_000_000 - 1) < 0.005
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024
    assert (peak - before) * unit < 2.5e9
    assert graph.positives("train").min() > 0
