"""Label propagation against dense float64 algebra, and what it must not read."""

import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from gnn_mtl.datasets import TaskGraph, planted
from gnn_mtl.records import read_run
from gnn_mtl.runs import RunConfig, _label_propagation, run_one
from gnn_mtl.runs._label_propagation import (
    ALPHAS,
    ITERATIONS,
    METHOD,
    PRIOR_MASS,
    propagate,
    train_label_propagation,
)

SPLITS = ("train", "valid", "test")


@pytest.fixture(scope="module", params=["node", "task"])
def communities(request):
    """300 nodes, 5 tasks, no features; masks per node or per (node, task), some cells unknown."""
    graph = planted(300, num_tasks=5, num_features=0, observed_share=0.9, split=request.param)
    return graph if graph.x is None else without_features(graph)


def without_features(graph, y=None):
    nodes = np.arange(graph.num_nodes)
    masks = {split: graph.targets(nodes, split)[1] for split in SPLITS}
    known = sum(masks.values()).astype(bool)
    if y is None:
        y = labels(graph)
    return TaskGraph.from_arrays(
        graph.csc.to_edge_index(), np.where(known, y, np.nan), num_nodes=graph.num_nodes,
        split=masks if graph.split_kind == "task" else graph.split_idx, directed=True,
        keep_direction=True, name=graph.name,
    )  # fmt: skip


def labels(graph):
    nodes = np.arange(graph.num_nodes)
    return sum(graph.targets(nodes, split)[0] for split in SPLITS)


def oracle(graph, alpha, steps):
    """The definition, as dense matrix powers in float64."""
    nodes = np.arange(graph.num_nodes)
    adjacency = np.zeros((graph.num_nodes, graph.num_nodes))
    source, target = graph.csc.to_edge_index()
    adjacency[target, source] = 1
    scale = 1 / np.sqrt(np.maximum(adjacency.sum(axis=1), 1))
    operator = scale[:, None] * adjacency * scale
    power = np.linalg.matrix_power
    spread = alpha**steps * power(operator, steps) + (1 - alpha) * sum(
        alpha**k * power(operator, k) for k in range(steps)
    )
    y, observed = (part.astype(float) for part in graph.targets(nodes, "train"))
    prior = y.sum(axis=0) / observed.sum(axis=0)
    return (spread @ y + PRIOR_MASS * prior) / (spread @ observed + PRIOR_MASS)


@pytest.mark.parametrize("alpha", [0.5, 0.99])
def test_scores_are_those_of_the_definition(alpha, communities):
    found = dict(propagate(communities, alpha, (1, 4)))
    assert found.keys() == {1, 4}
    for steps, scores in found.items():
        np.testing.assert_allclose(scores, oracle(communities, alpha, steps), atol=2e-6)
        assert scores.min() >= 0
        assert scores.max() <= 1 + 1e-6


def test_only_training_cells_of_the_same_task_are_read(communities):
    """Flip every label outside training, then all of another task: nothing happens."""
    nodes = np.arange(communities.num_nodes)
    training = communities.targets(nodes, "train")[1]
    y = labels(communities)
    ((_, before),) = propagate(communities, 0.9, (3,))
    ((_, after),) = propagate(
        without_features(communities, np.where(training, y, 1 - y)), 0.9, (3,)
    )
    np.testing.assert_array_equal(before, after)
    y[:, 2] = 1 - y[:, 2]
    ((_, after),) = propagate(without_features(communities, y), 0.9, (3,))
    np.testing.assert_array_equal(np.delete(before, 2, axis=1), np.delete(after, 2, axis=1))
    assert np.abs(before[:, 2] - after[:, 2]).max() > 0.1


def test_an_unlabelled_neighbour_says_nothing():
    """Node 0 sees one positive among unlabelled ones: as sure as if it saw that one alone."""
    y = np.full((8, 1), np.nan)
    y[1], y[[0, 6, 7]], y[5] = 1, 0, 0
    split = {"train": [1, 5], "valid": [6], "test": [0, 7]}
    crowd = TaskGraph.from_arrays([[0, 0, 0, 0, 5], [1, 2, 3, 4, 6]], y, split=split)
    alone = TaskGraph.from_arrays([[0, 5], [1, 6]], y, split=split)
    ((_, crowded),), ((_, lonely),) = (propagate(g, 0.9, (1,)) for g in (crowd, alone))
    assert lonely[0, 0] == pytest.approx((0.9 + 0.05) / (0.9 + 0.1))
    assert crowded[0, 0] > 0.85
    assert crowded[7, 0] == pytest.approx(0.5)  # isolated: the share of training positives
    assert crowded[6, 0] < 0.1


@pytest.fixture(scope="module")
def finished(communities, tmp_path_factory):
    """Its run."""
    out = tmp_path_factory.mktemp(communities.split_kind) / "run"
    return train_label_propagation(RunConfig(), out, graph=communities)


def test_share_and_steps_are_the_best_on_validation(communities, finished):
    def ap(scores, split):
        nodes = communities.split_idx[split]
        y, observed = communities.targets(nodes, split)
        each = []
        for t in range(5):
            seen = observed[:, t]
            each.append(average_precision_score(y[seen, t], scores[nodes][seen, t]))
        return np.mean(each)

    tried = {
        (alpha, steps): scores
        for alpha in ALPHAS
        for steps, scores in propagate(communities, alpha, ITERATIONS)
    }
    best = max(tried, key=lambda key: ap(tried[key], "valid"))
    summary = finished.summary
    assert (summary.extra["alpha"], summary.extra["iterations"]) == best
    for split, scores in (("valid", summary.valid), ("test", summary.test)):
        assert scores["ap"] == pytest.approx(ap(tried[best], split), abs=1e-6)


def test_a_complete_run_folder(communities, finished):
    record = read_run(finished.path, finished=True)
    assert record.method == METHOD
    assert record.summary.tasks == tuple(range(5))
    assert record.summary.num_parameters == record.summary.cost["steps"] == 0
    assert record.manifest.dataset["sha256"] == communities.fingerprint()
    assert json.loads((record.path / "config.json").read_text())["name"] == METHOD


def test_a_recipe_names_it(communities, finished, tmp_path, monkeypatch):
    config = RunConfig(name=METHOD)
    found = run_one(config, tmp_path / "run", graph=communities)
    assert found.summary.test == finished.summary.test
    monkeypatch.setattr(
        "gnn_mtl.runs._sweep.train_label_propagation", lambda *a, **k: pytest.fail("again")
    )
    assert run_one(config, tmp_path / "run", graph=communities).done


def test_blocks_of_tasks_give_the_same(communities, finished, tmp_path, monkeypatch):
    monkeypatch.setattr(_label_propagation, "CELLS_AT_ONCE", 2 * communities.num_nodes)
    again = train_label_propagation(RunConfig(), tmp_path / "run", graph=communities)
    assert again.summary.test == pytest.approx(finished.summary.test)


def test_test_labels_choose_nothing(communities, finished, tmp_path):
    nodes = np.arange(communities.num_nodes)
    y = labels(communities)
    tested = communities.targets(nodes, "test")[1]
    other = without_features(communities, np.where(tested, 1 - y, y))
    flipped = train_label_propagation(RunConfig(), tmp_path / "run", graph=other).summary
    assert flipped.valid == finished.summary.valid
    assert flipped.test["auroc"] == pytest.approx(1 - finished.summary.test["auroc"])
