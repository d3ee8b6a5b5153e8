"""``TaskGraph`` against dense arrays, PyG and what it must refuse."""

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch_geometric.data import Data

from gnn_mtl._core.errors import (
    DataError,
    FeatureError,
    GraphError,
    LabelError,
    LabelWarning,
    SealedLabelsError,
    SplitError,
    UsageError,
)
from gnn_mtl.datasets import NodeSplit, TaskGraph, TaskNodeSplit
from gnn_mtl.datasets._splits import SPLITS
from gnn_mtl.graph import CSCGraph

EDGES = np.array([[0, 1, 1, 2, 5, 3], [1, 0, 2, 2, 0, 1]])  # both ways, a self-loop; 4 is alone
Y = np.array([[1, 0], [0, 1], [1, np.nan], [0, 1], [np.nan, np.nan], [1, 0]])
SPLIT = {"train": [0, 1, 4], "valid": [3, 2], "test": [5]}
CODES = np.array([[0, 1], [1, 0], [2, 0], [0, 2], [0, 0], [1, 2]])


def graph(**changes):
    return TaskGraph.from_arrays(**({"edge_index": EDGES, "y": Y, "split": SPLIT} | changes))


def cell_split():
    return {name: code == CODES for code, name in enumerate(SPLITS)}


def oracle(split, name):
    """Targets of all nodes from dense arrays."""
    if split == "node":
        inside = np.isin(np.arange(6), SPLIT[name])[:, None]
    else:
        inside = SPLITS.index(name) == CODES
    observed = ~np.isnan(Y) & inside
    return np.where(observed, Y, 0), observed


@pytest.mark.parametrize("split", ["node", "task"])
@pytest.mark.parametrize("name", SPLITS)
@pytest.mark.parametrize("tasks", [[0, 1], [1, 0], [1]])
def test_targets_and_counts(split, name, tasks):
    whole = graph(split=SPLIT if split == "node" else cell_split())
    chosen = whole.select_tasks(tasks)
    nodes = np.array([3, 0, 5, 4, 2, 1, 0])
    y, observed = oracle(split, name)
    got_y, got_observed = chosen.targets(nodes, name)
    assert got_y.dtype == np.float32
    assert got_observed.dtype == np.bool_
    np.testing.assert_array_equal(got_y, y[nodes][:, tasks])
    np.testing.assert_array_equal(got_observed, observed[nodes][:, tasks])
    np.testing.assert_array_equal(chosen.positives(name), y[:, tasks].sum(axis=0))
    np.testing.assert_array_equal(chosen.observed_counts(name), observed[:, tasks].sum(axis=0))
    if split == "task":
        wanted = np.flatnonzero(observed[:, tasks].any(axis=1))
        np.testing.assert_array_equal(chosen.split_idx[name], wanted)
    else:
        np.testing.assert_array_equal(chosen.split_idx[name], SPLIT[name])
    assert whole.num_tasks == 2


def test_writing_into_targets_changes_nothing():
    whole = graph()
    y, observed = whole.targets(np.arange(6), "train")
    y[:], observed[:] = 7, True
    np.testing.assert_array_equal(
        whole.targets(np.arange(6), "train")[1], oracle("node", "train")[1]
    )


def test_select_tasks_keeps_names_and_splits():
    whole = graph(label_names=["a", "b"])
    one = whole.select_tasks([1])
    assert one.label_names == ("b",)
    assert one.num_tasks == 1
    assert one.fingerprint() != whole.fingerprint()
    assert one.fingerprint() == graph(y=Y[:, 1:], label_names=["b"]).fingerprint()
    with pytest.raises(UsageError, match="distinct"):
        whole.select_tasks([0, 0])


@pytest.mark.parametrize("split", [SPLIT, cell_split()])
def test_sealed_graphs_keep_test_labels_to_themselves(split):
    whole = graph(split=split)
    sealed = whole.sealed().select_tasks([0, 1])
    assert sealed.is_sealed
    assert not whole.is_sealed
    whole.positives("test")
    for call in (
        lambda: sealed.targets(np.arange(6), "test"),
        lambda: sealed.positives("test"),
        lambda: sealed.observed_counts("test"),
        lambda: sealed.with_split(NodeSplit([5], [0], [1], num_nodes=6)),
    ):
        with pytest.raises(SealedLabelsError, match="sealed"):
            call()
    np.testing.assert_array_equal(
        sealed.targets(np.arange(6), "train")[0], whole.targets(np.arange(6), "train")[0]
    )
    y = sealed.to_pyg().y.numpy()
    hidden = whole.targets(np.arange(6), "test")[1]
    np.testing.assert_array_equal(np.isnan(y), np.isnan(Y) | hidden)
    assert sealed.fingerprint() == whole.fingerprint()
    np.testing.assert_array_equal(sealed.split_idx["test"], whole.split_idx["test"])


def test_edges_pass_messages_both_ways_unless_told():
    both = {(u, v) for u, v in zip(*EDGES, strict=True)}
    both |= {(v, u) for u, v in both}
    plain = graph(directed=True)
    assert plain.directed
    assert {tuple(e) for e in plain.csc.to_edge_index().T.tolist()} == both
    kept = graph(directed=True, keep_direction=True)
    one_way = {(int(u), int(v)) for u, v in EDGES.T}
    assert {tuple(e) for e in kept.csc.to_edge_index().T.tolist()} == one_way
    assert kept.csc.num_edges == len(one_way)
    twice = graph(edge_index=np.concatenate([EDGES, EDGES], axis=1))
    assert twice.csc.num_edges == len(both)
    assert twice.fingerprint() == graph().fingerprint()


@pytest.mark.parametrize("directed", [False, True])
def test_edge_features_follow_their_edges(directed):
    attr = np.arange(12, dtype=np.float64).reshape(6, 2)
    whole = graph(edge_attr=attr, directed=directed)
    assert whole.edge_attr.dtype == np.float32
    source, target = whole.csc.to_edge_index()
    for u, v, row in zip(source, target, whole.edge_attr[whole.csc.edge_ids], strict=True):
        forward = np.flatnonzero((EDGES[0] == u) & (EDGES[1] == v))
        backward = np.flatnonzero((EDGES[0] == v) & (EDGES[1] == u))
        # An edge given both ways: a directed source keeps a row for each, an undirected the first.
        own = (forward if len(forward) else backward) if directed else np.union1d(forward, backward)
        assert row.tolist() == attr[own[0]].tolist()


def test_ordinary_input_warns_of_nothing():
    empty = graph(edge_index=np.zeros((2, 0), dtype=int))
    assert empty.csc.num_edges == 0
    one_class = np.array([[1, 1], [1, 0], [1, 1], [1, 1], [1, 0], [1, 1]])
    assert graph(y=one_class).positives("train").tolist() == [3, 1]
    mostly = np.where(np.arange(12).reshape(6, 2) % 3 == 0, 1.0, np.nan)
    assert graph(y=mostly, split={"train": [0, 1], "valid": [3], "test": [4]}).num_tasks == 2


def test_a_label_without_training_positive_is_named():
    y = np.array([[0, 1], [0, 1], [1, 1], [1, 1], [0, 1], [1, 1]])
    with pytest.warns(LabelWarning, match=r"1 of 2 labels of g have no positive.*rare.*Choose"):
        graph(y=y, name="g", label_names=["rare", "common"])


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"edge_index": EDGES + 1}, GraphError, r"\[0, 6\)"),
        ({"edge_index": EDGES[0]}, GraphError, "shape"),
        ({"edge_index": EDGES * 1.0}, GraphError, "integers"),
        ({"num_nodes": 7}, LabelError, "7 nodes.*6 rows"),
        ({"y": Y * 2}, LabelError, "0, 1, or NaN"),
        ({"label_names": ["a"]}, LabelError, "2 names"),
        ({"x": np.ones((5, 3))}, FeatureError, r"\[6, F\].*\(5, 3\)"),
        ({"x": np.ones(6)}, FeatureError, r"\[6, F\]"),
        ({"x": np.full((6, 3), "a")}, FeatureError, "dtype"),
        ({"edge_attr": np.ones((5, 2))}, FeatureError, "6 columns"),
        ({"edge_attr": np.full((6, 1), np.inf)}, FeatureError, "edge 0"),
        ({"split": {"train": [0], "valid": [0], "test": [1]}}, SplitError, "overlap"),
        ({"split": {"train": [0], "valid": [4], "test": [1]}}, SplitError, "`valid`.*unlabelled"),
        ({"split": NodeSplit([0], [1], [2], num_nodes=5)}, SplitError, "6 nodes.*5"),
        ({"split": TaskNodeSplit(*(np.eye(6)[:, k : k + 1] for k in range(3)))}, SplitError, "2 t"),
    ],
)
def test_bad_input(changes, error, words):
    with pytest.raises(error, match=words):
        graph(**changes)


@pytest.mark.parametrize("make", [np.array, sp.csr_matrix])
def test_the_first_bad_feature_row_is_named(make):
    x = np.ones((6, 3))
    x[4, 1], x[5, 0] = np.nan, np.inf
    with pytest.raises(FeatureError, match="nan at node 4"):
        graph(x=make(x))


def test_features_of_any_kind_gather_alike(tmp_path):
    x = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    x[np.abs(x) < 0.5] = 0
    np.save(tmp_path / "x.npy", x)
    kinds = [x, x.astype(np.float64), sp.csr_matrix(x), sp.coo_matrix(x)]
    kinds.append(np.load(tmp_path / "x.npy", mmap_mode="r"))
    for kind in kinds:
        whole = graph(x=kind)
        got = whole.features(np.array([5, 0, 0]))
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, x[[5, 0, 0]])
        assert whole.num_features == 4
    assert isinstance(graph(x=kinds[-1]).x, np.memmap)
    assert graph(x=x.astype(np.float16)).x.dtype == np.float16
    with pytest.raises(FeatureError, match="with_structural_features"):
        graph().features([0])


@pytest.mark.parametrize("name", ["val", "", "TEST"])
def test_unknown_split(name):
    with pytest.raises(UsageError, match="train, valid, test"):
        graph().targets([0], name)


def test_fingerprint_sees_every_part():
    base = {
        "x": np.eye(6, dtype=np.float32), "edge_attr": np.arange(6.0), "label_names": ["a", "b"],
    }  # fmt: skip
    changed_y = Y.copy()
    changed_y[5, 0] = 0
    changed_edges = EDGES.copy()
    changed_edges[1, 5] = 2
    changes = [
        {}, {"y": changed_y}, {"y": np.nan_to_num(Y)}, {"x": 2 * base["x"]}, {"x": None},
        {"edge_index": changed_edges}, {"edge_attr": np.arange(6.0) + 1}, {"split": cell_split()},
        {"label_names": ["a", "c"]}, {"split": {"train": [0, 1], "valid": [3, 2], "test": [5]}},
    ]  # fmt: skip
    digests = [graph(**(base | change)).fingerprint() for change in changes]
    assert len(set(digests)) == len(digests)
    assert graph(**base).fingerprint() == digests[0]
    as_csr = graph(y=sp.csr_matrix(np.nan_to_num(Y)), observed=~np.isnan(Y))
    assert as_csr.fingerprint() == graph().fingerprint()


@pytest.mark.parametrize("split", [SPLIT, cell_split()])
def test_pyg_round_trip(split):
    whole = graph(
        split=split, x=np.arange(12.0).reshape(6, 2), edge_attr=np.arange(6.0), directed=False
    )
    data = whole.to_pyg()
    assert data.validate()
    np.testing.assert_array_equal(data.y.numpy(), Y.astype(np.float32))
    assert data.train_mask.dtype == torch.bool
    back = TaskGraph.from_pyg(data, name=whole.name)
    for name in SPLITS:
        for mine, theirs in zip(
            whole.targets(np.arange(6), name), back.targets(np.arange(6), name), strict=True
        ):
            np.testing.assert_array_equal(mine, theirs)
    assert not back.directed
    np.testing.assert_array_equal(back.x, whole.x)
    for mine, theirs in zip(whole.csc.to_edge_index(), back.csc.to_edge_index(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(
        whole.edge_attr[whole.csc.edge_ids], back.edge_attr[back.csc.edge_ids]
    )


def test_pyg_edge_rows_of_both_directions_stay_apart():
    edges = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    data = Data(edge_index=edges, y=torch.ones(3, 1), edge_attr=torch.arange(4.0), num_nodes=3)
    whole = TaskGraph.from_pyg(data)
    rows = whole.edge_attr[whole.csc.edge_ids, 0]
    wanted = {(0, 1): 0.0, (1, 0): 1.0, (1, 2): 2.0, (2, 1): 3.0}
    found = [tuple(edge) for edge in whole.csc.to_edge_index().T.tolist()]
    assert {edge: float(row) for edge, row in zip(found, rows, strict=True)} == wanted
    assert not whole.directed


def test_pyg_without_masks_directed_and_integer():
    data = Data(edge_index=torch.tensor([[0, 1, 2], [1, 2, 3]]), y=torch.eye(4, 1).int() + 0)
    data.y[:, 0] = 1
    whole = TaskGraph.from_pyg(data)
    assert whole.directed
    assert whole.csc.is_symmetric()
    assert TaskGraph.from_pyg(data, keep_direction=True).csc.num_edges == 3
    assert sorted(np.concatenate(list(whole.split_idx.values()))) == [0, 1, 2, 3]


def test_pyg_lacking_something():
    edges = torch.tensor([[0, 1], [1, 0]])
    with pytest.raises(DataError, match="`y`"):
        TaskGraph.from_pyg(Data(edge_index=edges, num_nodes=2))
    mask = torch.ones(2, dtype=torch.bool)
    with pytest.raises(SplitError, match="Missing: val_mask, test_mask"):
        TaskGraph.from_pyg(Data(edge_index=edges, y=torch.ones(2, 1), train_mask=mask))


def test_edge_features_need_edge_ids():
    whole = graph()
    with pytest.raises(FeatureError, match="edge_ids"):
        TaskGraph(whole.csc, whole._labels, whole._split, edge_attr=np.ones((3, 1), np.float32))
    csc = CSCGraph.from_edge_index(EDGES, 6, undirected=True, keep_edge_ids=True)
    with pytest.raises(FeatureError, match="3 rows"):
        TaskGraph(csc, whole._labels, whole._split, edge_attr=np.ones((3, 1), np.float32))


def test_with_features_and_with_split():
    whole = graph()
    assert whole.with_features(np.ones((6, 2))).num_features == 2
    assert whole.num_features == 0
    moved = whole.with_split({"train": [5], "valid": [0], "test": [1]})
    assert moved.split_idx["train"].tolist() == [5]
    assert moved.positives("train").tolist() == [1, 0]
    with pytest.raises(SplitError):
        whole.with_split(NodeSplit([0], [1], [2], num_nodes=9))


def test_repr_and_random_split():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LabelWarning)
        drawn = graph(split=None, name="g", seed=5)
        assert drawn.fingerprint() == graph(split="random", seed=5).fingerprint()
        many = TaskGraph.from_arrays(EDGES % 40, np.ones((40, 2)), split="task")
    assert many.split_kind == "task"
    assert "nodes=6" in repr(drawn)
    assert "sealed" in repr(drawn.sealed())
