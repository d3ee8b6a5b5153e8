"""The counting sort against sorted Python lists and scipy."""

import networkx as nx
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from gnn_mtl._core.errors import GraphError
from gnn_mtl.graph import CSCGraph, reverse_graph

NODES = 9
EDGES = st.lists(st.tuples(st.integers(0, NODES - 1), st.integers(0, NODES - 1)), max_size=30)


def brute_force(pairs, undirected, deduplicate, remove_self_loops):
    """(target, source, edge id) triples in the order they should be stored."""
    triples = []
    for edge, (u, v) in enumerate(pairs):
        if u == v and remove_self_loops:
            continue
        triples.append((v, u, edge))
        if undirected and u != v:
            triples.append((u, v, edge))
    triples.sort()
    if not deduplicate:
        return triples
    first = {}
    for v, u, edge in triples:
        first.setdefault((v, u), edge)
    return [(v, u, edge) for (v, u), edge in first.items()]


def as_edge_index(pairs, dtype=np.int64):
    return np.array(pairs, dtype=dtype).reshape(-1, 2).T.copy()


@settings(deadline=None, max_examples=150)
@given(EDGES, st.booleans(), st.booleans(), st.booleans(), st.booleans())
def test_equals_brute_force(pairs, undirected, deduplicate, remove_self_loops, keep_edge_ids):
    graph = CSCGraph.from_edge_index(
        as_edge_index(pairs), NODES, undirected=undirected, deduplicate=deduplicate,
        remove_self_loops=remove_self_loops, keep_edge_ids=keep_edge_ids,
    )  # fmt: skip
    expected = brute_force(pairs, undirected, deduplicate, remove_self_loops)
    sources, targets = graph.to_edge_index()
    assert list(zip(targets.tolist(), sources.tolist(), strict=True)) == [
        (v, u) for v, u, _ in expected
    ]
    if keep_edge_ids:
        assert graph.edge_ids.tolist() == [edge for *_, edge in expected]
    else:
        assert graph.edge_ids is None
    assert (graph.num_nodes, graph.num_edges) == (NODES, len(expected))
    assert graph.indptr.dtype == np.int64
    assert graph.indices.dtype == np.int32
    counts = np.bincount([v for v, *_ in expected], minlength=NODES)
    np.testing.assert_array_equal(graph.degrees, counts)
    for v in range(NODES):
        assert graph.neighbors(v).tolist() == [u for w, u, _ in expected if w == v]


@settings(deadline=None, max_examples=60)
@given(EDGES, st.lists(st.integers(0, 30), max_size=4), st.booleans())
def test_chunks_equal_one_shot(pairs, cuts, undirected):
    edges = as_edge_index(pairs)
    parts = np.split(edges, sorted(min(cut, edges.shape[1]) for cut in cuts), axis=1)
    chunked = CSCGraph.from_edge_chunks(
        lambda: ((np.ascontiguousarray(a), np.ascontiguousarray(b)) for a, b in parts),
        NODES, undirected=undirected, keep_edge_ids=True,
    )  # fmt: skip
    whole = CSCGraph.from_edge_index(edges, NODES, undirected=undirected, keep_edge_ids=True)
    np.testing.assert_array_equal(chunked.indptr, whole.indptr)
    np.testing.assert_array_equal(chunked.indices, whole.indices)
    np.testing.assert_array_equal(chunked.edge_ids, whole.edge_ids)


def test_equals_scipy_on_a_larger_graph():
    edges = np.random.default_rng(0).integers(0, 3000, size=(2, 40_000))
    graph = CSCGraph.from_edge_index(edges, 3000)
    oracle = sp.coo_matrix((np.ones(40_000), (edges[0], edges[1])), shape=(3000, 3000)).tocsc()
    oracle.sum_duplicates()
    oracle.sort_indices()
    np.testing.assert_array_equal(graph.indptr, oracle.indptr)
    np.testing.assert_array_equal(graph.indices, oracle.indices)
    backwards = oracle.tocsr()
    backwards.sort_indices()
    reverse = reverse_graph(graph)
    np.testing.assert_array_equal(reverse.indptr, backwards.indptr)
    np.testing.assert_array_equal(reverse.indices, backwards.indices)


def test_a_merged_pair_keeps_its_first_edge_in_long_rows():
    """Long rows need a stable sort."""
    edges = np.random.default_rng(0).integers(0, 7, size=(2, 3000))
    graph = CSCGraph.from_edge_index(edges, 7, keep_edge_ids=True)
    expected = brute_force(edges.T.tolist(), False, True, False)
    assert graph.edge_ids.tolist() == [edge for *_, edge in expected]
    every = CSCGraph.from_edge_index(edges, 7, deduplicate=False, keep_edge_ids=True)
    expected = brute_force(edges.T.tolist(), False, False, False)
    assert every.edge_ids.tolist() == [edge for *_, edge in expected]


def test_undirected_equals_networkx():
    oracle = nx.gnm_random_graph(50, 120, seed=1)
    graph = CSCGraph.from_edge_index(as_edge_index(list(oracle.edges)), 50, undirected=True)
    assert all(graph.neighbors(v).tolist() == sorted(oracle[v]) for v in range(50))
    assert graph.is_symmetric()


@pytest.mark.parametrize(
    ("pairs", "symmetric"), [([(0, 1), (1, 0), (2, 2)], True), ([(0, 1)], False)]
)
def test_is_symmetric(pairs, symmetric):
    assert CSCGraph.from_edge_index(as_edge_index(pairs), 4).is_symmetric() is symmetric


@pytest.mark.parametrize("dtype", [np.int32, np.uint16])
def test_any_integer_type_and_memory_order(dtype):
    pairs = [(3, 1), (0, 1), (3, 1), (2, 0)]
    expected = CSCGraph.from_edge_index(as_edge_index(pairs), 5)
    for edges in (as_edge_index(pairs, dtype), np.array(pairs, dtype=dtype).T):
        found = CSCGraph.from_edge_index(edges, 5)
        np.testing.assert_array_equal(found.indptr, expected.indptr)
        np.testing.assert_array_equal(found.indices, expected.indices)


@pytest.mark.parametrize("num_nodes", [0, 3])
def test_a_graph_without_edges(num_nodes):
    graph = CSCGraph.from_edge_index(
        np.empty((2, 0), dtype=np.int64), num_nodes, keep_edge_ids=True
    )
    assert (graph.num_nodes, graph.num_edges) == (num_nodes, 0)
    assert graph.is_symmetric()


@pytest.mark.parametrize(
    ("edges", "num_nodes", "message"),
    [
        (np.zeros((3, 2), dtype=int), 4, r"shape \[2, E\]"),
        (np.zeros(4, dtype=int), 4, r"shape \[2, E\]"),
        (np.zeros((2, 2)), 4, "integers"),
        (np.array([[0, 4], [1, 1]]), 4, r"source ids should lie in \[0, 4\). Found 4"),
        (np.array([[0, 1], [-1, 1]]), 4, r"target ids should lie in \[0, 4\). Found -1"),
        (np.zeros((2, 1), dtype=int), -1, "num_nodes"),
        (np.zeros((2, 1), dtype=int), 2**31, "num_nodes"),
    ],
)
def test_bad_edges_are_refused(edges, num_nodes, message):
    with pytest.raises(GraphError, match=message):
        CSCGraph.from_edge_index(edges, num_nodes)


def test_unequal_ends_are_refused():
    with pytest.raises(GraphError, match="equally many"):
        CSCGraph.from_edge_chunks(lambda: [(np.array([0, 1]), np.array([1]))], 3)


@pytest.mark.parametrize("undirected", [False, True])
@pytest.mark.parametrize(
    "second",
    [
        ([0, 1], [1, 2]),  # fewer
        ([0, 1, 2], [1, 2, 1]),  # other targets
        ([0, 1, 2] * 500, [1, 2, 3] * 500),  # more: no room
        ([0, 1, 9], [1, 2, 3]),  # out of range
    ],
)
def test_a_stream_that_changes_is_refused(second, undirected):
    passes = iter([([0, 1, 2], [1, 2, 3]), second])
    with pytest.raises(GraphError):
        CSCGraph.from_edge_chunks(
            lambda: [tuple(np.array(ids) for ids in next(passes))], 4, undirected=undirected
        )


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"indptr": np.array([0, 2], dtype=np.int32)}, "int64 vector"),
        ({"indptr": np.array([[0, 2]])}, "int64 vector"),
        ({"indptr": np.array([0, 3])}, "number of edges"),
        ({"indptr": np.array([1, 2])}, "number of edges"),
        ({"indptr": np.array([0, 3, 1, 2])}, "never decrease"),
        ({"indices": np.array([0, 1])}, "int32"),
        ({"indices": np.array([0, 2], dtype=np.int32)}, r"\[0, 2\)"),
        ({"indices": np.array([-1, 0], dtype=np.int32)}, r"\[0, 2\)"),
        ({"edge_ids": np.array([0])}, "edge_ids"),
    ],
)
def test_inconsistent_arrays_are_refused(arrays, message):
    good = {"indptr": np.array([0, 1, 2]), "indices": np.array([1, 0], dtype=np.int32)}
    CSCGraph(**good)
    with pytest.raises(GraphError, match=message):
        CSCGraph(**(good | arrays))
