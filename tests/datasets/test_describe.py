"""Statistics against networkx and loops."""

import json
from itertools import combinations

import networkx as nx
import numpy as np
import pytest

from gnn_mtl._core.errors import SealedLabelsError
from gnn_mtl.datasets import TaskGraph, describe

RNG = np.random.default_rng(4)
EDGES = RNG.integers(0, 37, size=(2, 120))
Y = (RNG.random((40, 6)) < 0.35).astype(float)
Y[:, 5] = Y[:, 2]
Y[30:35] = np.nan
SPLIT = {"train": np.arange(0, 20), "valid": np.arange(20, 30), "test": np.arange(30, 40)}


def by_hand(symmetric):
    pairs = {(int(u), int(v)) for u, v in EDGES.T}
    net = nx.Graph(pairs)
    net.add_nodes_from(range(40))
    sets = [frozenset(np.flatnonzero(row == 1)) for row in Y]
    if symmetric:
        pairs |= {(v, u) for u, v in pairs}
    jaccard = [
        len(sets[u] & sets[v]) / len(sets[u] | sets[v])
        for u, v in pairs if u != v and sets[u] and sets[v]
    ]  # fmt: skip
    return net, sets, pairs, float(np.mean(jaccard))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("split", ["node", "task"])
def test_statistics(symmetric, split):
    graph = TaskGraph.from_arrays(
        EDGES, Y, split=SPLIT if split == "node" else "task", directed=True,
        keep_direction=not symmetric, name="g",
    )  # fmt: skip
    found = describe(graph)
    assert json.loads(json.dumps(found)) == found
    net, sets, pairs, homophily = by_hand(symmetric)
    loops = nx.number_of_selfloops(net)
    assert found["edges"] == (net.number_of_edges() if symmetric else len(pairs))
    assert found["self_loops"] == loops
    assert found["isolated"] == sum(1 for v in net if set(net[v]) <= {v})
    degrees = np.bincount([v for _, v in pairs], minlength=40)
    assert found["degree_max"] == degrees.max()
    assert found["degree_mean"] == round(float(degrees.mean()), 3)
    assert found["degree_median"] == np.median(degrees)
    assert found["homophily"] == round(homophily, 4)
    assert found["labelled_nodes"] == 35
    assert found["cells_observed"] == round(35 / 40, 4)
    positives = np.nansum(Y, axis=0)
    assert found["positives_min"] == positives.min()
    assert found["positives_median"] == np.median(positives)
    assert found["positives_max"] == positives.max()
    labelled = [s for s, row in zip(sets, Y, strict=True) if not np.isnan(row).all()]
    assert found["labels_per_node"] == round(float(np.mean([len(s) for s in labelled])), 3)
    assert found["nodes_with_two"] == round(float(np.mean([len(s) >= 2 for s in labelled])), 4)
    copies = {b for a, b in combinations(range(6), 2) if np.array_equal(Y[:, a], Y[:, b], True)}
    assert found["duplicate_labels"] == len(copies) == 1
    assert found["split"] == split
    assert found["split_sizes"]["train"] == len(graph.split_idx["train"])
    assert (found["directed"], found["messages"]) == (
        True,
        "symmetric" if symmetric else "directed",
    )


@pytest.mark.filterwarnings("ignore:.*no positive in training")
def test_edge_cases():
    y = np.array([[1, 0, 1], [1, 0, 0], [1, 0, np.nan], [1, 0, 1]])
    split = {"train": [1, 2], "valid": [0], "test": [3]}
    found = describe(TaskGraph.from_arrays(np.zeros((2, 0), dtype=int), y, split=split))
    assert found["homophily"] is None
    assert found["one_class_labels"] == 2
    assert found["no_positive_in_training"] == 2
    assert found["isolated"] == 4
    assert found["features_kind"] == "none"
    assert found["cells_observed"] == round(11 / 12, 4)


def test_sealed_graphs_are_not_described():
    with pytest.raises(SealedLabelsError):
        describe(TaskGraph.from_arrays(EDGES, Y, split=SPLIT).sealed())
