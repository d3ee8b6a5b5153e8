"""Our sampler inside PyG's own loader."""

import numpy as np
import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.loader import NodeLoader
from torch_geometric.nn import SAGEConv
from torch_geometric.sampler import NodeSamplerInput
from torch_geometric.utils import trim_to_layer

from gnn_mtl._core.errors import UsageError
from gnn_mtl.graph import CSCGraph, NeighborSampler, PyGNeighborSampler


@pytest.fixture(scope="module")
def graph(make_graph):
    return make_graph(60, edge_channels=2, seed=2)


def loader_of(graph, sampler, data=None):
    return NodeLoader(
        graph.to_pyg() if data is None else data, node_sampler=sampler, batch_size=8,
        input_nodes=torch.tensor(graph.split_idx["train"]),
    )  # fmt: skip


def test_samples_equal_those_of_the_neighbour_sampler(graph):
    sampler = PyGNeighborSampler(graph.csc, [3, 2], seed=7)
    sampler.epoch = 4
    nodes = torch.tensor([5, 9, 30])
    out = sampler.sample_from_nodes(NodeSamplerInput(input_id=torch.tensor([2, 0, 1]), node=nodes))
    reference = NeighborSampler(graph.csc, [3, 2], edge_positions=True, backend="torch")
    sample = reference.sample(nodes, seed=7, epoch=4, batch=2)
    assert torch.equal(out.node, sample.n_id)
    assert torch.equal(out.row, sample.indices.long())
    assert torch.equal(out.edge, sample.edge_positions)
    assert np.cumsum(out.num_sampled_nodes).tolist() == list(sample.num_nodes)
    assert sum(out.num_sampled_edges) == len(out.row)
    assert torch.equal(torch.bincount(out.col), sample.indptr.diff().long())


def test_node_loader_yields_subgraphs_of_the_graph(graph):
    data = graph.to_pyg()
    edges = {
        (u, v): attr
        for u, v, attr in zip(*data.edge_index.tolist(), data.edge_attr.tolist(), strict=True)
    }
    seen = []
    for batch in loader_of(graph, PyGNeighborSampler(graph.csc, [3, 2], seed=0)):
        seen += batch.n_id[: batch.batch_size].tolist()
        torch.testing.assert_close(batch.x, data.x[batch.n_id])
        torch.testing.assert_close(batch.y, data.y[batch.n_id], equal_nan=True)
        ends = batch.n_id[batch.edge_index]
        for u, v, attr in zip(*ends.tolist(), batch.edge_attr.tolist(), strict=True):
            assert edges[u, v] == attr
    assert seen == graph.split_idx["train"].tolist()


def test_original_edges_address_the_list_the_graph_was_built_from():
    rng = np.random.default_rng(0)
    edge_index = np.unique(rng.integers(0, 30, (2, 120)), axis=1)
    edge_index = rng.permutation(edge_index, axis=1)
    data = Data(
        edge_index=torch.from_numpy(edge_index), edge_attr=torch.from_numpy(edge_index.T.copy()),
        x=torch.zeros(30, 1), num_nodes=30,
    )  # fmt: skip
    csc = CSCGraph.from_edge_index(edge_index, 30, keep_edge_ids=True)
    sampler = PyGNeighborSampler(csc, [-1, 2], original_edges=True)
    for batch in NodeLoader(data, node_sampler=sampler, batch_size=4):
        assert torch.equal(batch.n_id[batch.edge_index].T, batch.edge_attr)
    bare = CSCGraph.from_edge_index(edge_index, 30)
    with pytest.raises(UsageError, match="keep_edge_ids"):
        PyGNeighborSampler(bare, [2], original_edges=True)


def test_trim_to_layer_gives_the_seeds_the_same_output(graph):
    convs = torch.nn.ModuleList([SAGEConv(6, 4), SAGEConv(4, 3)])
    for batch in loader_of(graph, PyGNeighborSampler(graph.csc, [3, 2], seed=0)):
        full, trimmed, edge_index = batch.x, batch.x, batch.edge_index
        for layer, conv in enumerate(convs):
            trimmed, edge_index, _ = trim_to_layer(
                layer, batch.num_sampled_nodes, batch.num_sampled_edges, trimmed, edge_index
            )
            trimmed = conv(trimmed, edge_index).relu()
            full = conv(full, batch.edge_index).relu()
        assert len(trimmed) < len(full)
        torch.testing.assert_close(trimmed[: batch.batch_size], full[: batch.batch_size])


def test_epochs_differ_and_repeat(graph):
    sampler = PyGNeighborSampler(graph.csc, [2], seed=0)
    passes = []
    for sampler.epoch in (0, 1, 0):
        passes.append(torch.cat([batch.n_id for batch in loader_of(graph, sampler)]))
    assert torch.equal(passes[0], passes[2])
    assert not torch.equal(passes[0], passes[1])


def test_only_nodes_are_served(graph):
    with pytest.raises(UsageError, match="NodeLoader"):
        PyGNeighborSampler(graph.csc, [2]).sample_from_edges(None)
