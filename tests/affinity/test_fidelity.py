"""Fidelity of cosines and of predicted gains, against numbers worked out by hand."""

import networkx as nx
import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.affinity import edge_tau, fidelity, gain_fidelity
from gnn_mtl.grouping import color_graph
from gnn_mtl.tasks import Affinity, conflict_graph


def cosines(seed, tasks=12, noise=None):
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((tasks, 6))
    if noise is not None:
        rows = rows + noise * np.random.default_rng(seed + 1).standard_normal(rows.shape)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    values = np.clip(rows @ rows.T, -1, 1)
    values = (values + values.T) / 2
    np.fill_diagonal(values, 1.0)
    return values


def same_color(graph):
    """The pairs of tasks of one colour."""
    groups = color_graph(graph, "dsatur")
    return {(i, j) for group in groups for i in group for j in group if i < j}


def test_against_sklearn_and_networkx():
    exact, near = Affinity(cosines(0), "exact"), Affinity(cosines(0, noise=0.5), "near")
    found = fidelity(near, exact, 0.2)
    pairs = np.triu_indices(12, 1)
    truth, guess = (conflict_graph(a, 0.2)[pairs] for a in (exact, near))
    assert found.edge_f1 == pytest.approx(f1_score(truth, guess))
    assert found.edge_precision == pytest.approx(precision_score(truth, guess))
    assert found.edge_recall == pytest.approx(recall_score(truth, guess))
    difference = np.abs(exact.values - near.values)[pairs]
    assert found.cosine_mae == pytest.approx(difference.mean())
    assert found.cosine_max == pytest.approx(difference.max())
    assert found.pearson == pytest.approx(
        np.corrcoef(exact.values[pairs], near.values[pairs])[0, 1]
    )
    assert found.exact_in_group_conflict == pytest.approx(truth.mean())
    assert (found.edges, found.exact_edges) == (guess.sum(), truth.sum())
    colors = nx.greedy_color(nx.from_numpy_array(conflict_graph(near, 0.2)), strategy="DSATUR")
    assert 0 <= found.in_group_conflict < found.exact_in_group_conflict
    ours, theirs = (same_color(conflict_graph(a, 0.2)) for a in (near, exact))
    clash = conflict_graph(exact, 0.2)
    assert found.in_group_conflict == sum(clash[pair] for pair in ours) / len(ours) > 0
    assert found.same_color_jaccard == len(ours & theirs) / len(ours | theirs) < 1
    assert len(set(colors.values())) > 1
    assert found.noise is None
    lowest = np.argsort(near.values[pairs])[: truth.sum()]
    assert found.edge_f1_as_many == pytest.approx(truth[lowest].mean())
    shifted = near.values - 0.5 * (1 - np.eye(12))
    moved = fidelity(Affinity(shifted.clip(-1, 1), "moved"), exact, 0.2)
    assert moved.edge_f1 < found.edge_f1


def test_itself_is_perfect():
    exact = Affinity(cosines(3), "exact", stderr=np.full((12, 12), 0.1))
    found = fidelity(exact, exact, 0.1)
    assert found.cosine_mae == found.cosine_max == found.in_group_conflict == 0.0
    assert found.edge_f1 == found.same_color_jaccard == 1.0
    assert found.pearson == pytest.approx(1.0)
    assert found.noise == pytest.approx(0.1 / exact.values[np.triu_indices(12, 1)].std())
    assert found.to_dict()["edge_f1"] == 1.0


def test_empty_graphs_have_no_f1():
    exact = Affinity(cosines(3), "exact")
    empty = Affinity(np.eye(12), "empty")
    found = fidelity(empty, exact, 0.1)
    assert (found.edge_f1, found.edge_precision, found.edge_recall) == (None, None, 0.0)
    assert found.pearson is None
    found = fidelity(exact, empty, 0.1)
    assert (found.edge_f1, found.edge_recall) == (None, None)


def test_unknown_pairs_are_left_out():
    values = cosines(4)
    partly = values.copy()
    partly[0], partly[:, 0] = np.nan, np.nan
    found = fidelity(Affinity(partly, "partly"), Affinity(values, "exact"), 0.1)
    assert found.cosine_max == 0.0
    assert found.edge_recall < 1.0
    nothing = Affinity(np.full((12, 12), np.nan), "nothing")
    with pytest.raises(UsageError, match="share a known pair"):
        fidelity(nothing, Affinity(values, "exact"), 0.1)
    with pytest.raises(ShapeError, match="same tasks"):
        fidelity(Affinity(cosines(1, 5), "five"), Affinity(values, "exact"), 0.1)


def test_tau_gives_the_share_of_edges():
    exact = Affinity(cosines(5, 40), "exact")
    for share in (0.1, 0.3):
        edges = conflict_graph(exact, edge_tau(exact, share))[np.triu_indices(40, 1)]
        assert edges.mean() == pytest.approx(share, abs=0.01)
    with pytest.raises(UsageError, match="share"):
        edge_tau(exact, 0.0)


def test_gains_of_trained_groups():
    values = np.array([[1.0, 0.5, -0.5], [0.2, 1.0, 0.3], [0.4, -0.1, 1.0]])
    affinity = Affinity(values, "made", unit="gain", symmetric=False)
    trained = {(0, 1): (0.2, 0.5), (0, 2): (0.4, -0.5), (1, 2): (-0.1, 0.3)}
    found = gain_fidelity(affinity, trained)  # predictions are the gains themselves
    assert found.spearman == found.row_spearman == pytest.approx(1.0)
    assert (found.sign_agreement, found.cells, found.pairs) == (1.0, 6, 3)
    worse = {group: tuple(-g for g in gains) for group, gains in trained.items()}
    assert gain_fidelity(affinity, worse).row_spearman == pytest.approx(-1.0)
    assert gain_fidelity(affinity, worse).sign_agreement == 0.0
    level = {group: tuple(g + 10 * t for t, g in zip(group, gains, strict=True))
             for group, gains in trained.items()}  # fmt: skip
    assert gain_fidelity(affinity, level).row_spearman == pytest.approx(1.0)
    triple = gain_fidelity(affinity, {(0, 1, 2): (0.3, 0.2, -0.1)})
    assert (triple.row_spearman, triple.sign_agreement, triple.pairs) == (None, None, 0)


def test_a_gain_that_is_the_tasks_mean_is_ranked_too():
    """One task with three partners of affinity 1, 2 and 3 whose gains rank 1, 3 and 2."""
    values = np.zeros((4, 4))
    values[1:, 0] = 1.0, 2.0, 3.0
    affinity = Affinity(values, "made", unit="gain", symmetric=False)
    for scale in (1.0, 1e-18):
        gains = {(0, 1): 0.1 * scale, (0, 2): 0.4 * scale, (0, 3): 0.2 * scale}
        trained = {pair: (gain, np.nan) for pair, gain in gains.items()}
        found = gain_fidelity(affinity, trained)
        assert found.row_spearman == found.spearman == pytest.approx(0.5)
        assert found.sign_agreement == 0.5  # of the two partners off the mean of the predictions
    level = dict.fromkeys(gains, (1000000.0 + 1 / 3, np.nan))
    assert gain_fidelity(affinity, level).row_spearman is None


def test_bad_tables():
    affinity = Affinity(cosines(0), "exact")
    with pytest.raises(UsageError, match="at least one subset"):
        gain_fidelity(affinity, {})
    with pytest.raises(UsageError, match="at least two tasks"):
        gain_fidelity(affinity, {(1,): (0.1,)})
    with pytest.raises(UsageError, match="2 tasks and 1 gains"):
        gain_fidelity(affinity, {(1, 2): (0.1,)})
