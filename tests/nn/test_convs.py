"""Every encoder layer against PyG's own on the full graph, and blocks against whole subgraphs."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch_geometric.nn import GATv2Conv, GCNConv, GINConv, SAGEConv

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.datasets import TaskGraph
from gnn_mtl.graph import Block, NeighborLoader
from gnn_mtl.nn import GCN, GIN, MLP, SAGE, SIGN, GATv2

WIDTH = 8
CONFIGS = [SAGE, GCN, GATv2, GIN]
HOPS = 2


@pytest.fixture(scope="module", params=[False, True], ids=["undirected", "directed"])
def graph(request, make_graph):
    options = {"directed": True, "keep_direction": True} if request.param else {}
    return make_graph(60, edge_channels=3, seed=4, **options)


def whole(graph):
    data = graph.to_pyg()
    return data.x, data.edge_index, data.edge_attr


def full_batch(graph, hops=HOPS, input_nodes=None):
    """The seeds in order, with all their neighbours."""
    if input_nodes is None:
        input_nodes = np.arange(graph.num_nodes)
    loader = NeighborLoader(
        graph, num_neighbors=[-1] * hops, batch_size=1000, input_nodes=input_nodes, shuffle=False
    )
    return loader.batch(0, 0)


def pyg_twin(config, layer, in_channels, edge_channels):
    """PyG's own layer with the weights of one of ours, as a function of (x, edge_index, attr)."""
    if config is SAGE:
        twin = SAGEConv(in_channels, WIDTH)
        twin.load_state_dict(layer.state_dict())
        return lambda x, ei, _: twin(x, ei)
    if config is GCN:
        twin = GCNConv(in_channels, WIDTH)
        twin.load_state_dict({"lin.weight": layer.lin.weight, "bias": layer.lin.bias})
        return lambda x, ei, _: twin(x, ei)
    if config is GIN:
        mlp = nn.Sequential(layer.lin_in, layer.norm, nn.ReLU(), layer.lin_out)
        twin = GINConv(mlp, eps=float(layer.eps.detach()))
        return lambda x, ei, _: twin(x, ei)
    twin = GATv2Conv(
        in_channels,
        WIDTH // 4,
        heads=4,
        edge_dim=edge_channels,
        add_self_loops=False,
        residual=True,
    )
    twin.load_state_dict(layer.conv.state_dict())
    return twin


@pytest.fixture(params=CONFIGS, ids=lambda c: c.kind)
def built(request, graph):
    """(encoder in evaluation mode, its PyG layers)."""
    config = request.param
    encoder = config(hidden_channels=WIDTH, num_layers=HOPS).build(graph.num_features, 3)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if name.endswith("eps"):
                parameter.fill_(0.3)
        for norm in encoder.norms:
            norm.running_mean.uniform_(-0.2, 0.2)
            norm.running_var.uniform_(0.5, 2)
    encoder.eval()
    widths = [graph.num_features, WIDTH]
    twins = [pyg_twin(config, conv, w, 3) for conv, w in zip(encoder.convs, widths, strict=True)]
    return encoder, twins


def oracle(encoder, twins, x, edge_index, edge_attr):
    for norm, twin in zip(encoder.norms, twins, strict=True):
        x = norm(twin(x, edge_index, edge_attr)).relu()
    return x


def test_full_neighbourhoods_give_pyg_on_the_full_graph(graph, built):
    encoder, twins = built
    found = encoder(full_batch(graph))
    torch.testing.assert_close(found, oracle(encoder, twins, *whole(graph)), rtol=1e-4, atol=1e-5)
    assert found.std() > 0.05


def test_some_seeds_give_their_rows(graph, built):
    encoder, twins = built
    seeds = np.array([59, 0, 33, 7, 7])  # 59 is isolated, 7 twice
    found = encoder(full_batch(graph, input_nodes=seeds))
    expected = oracle(encoder, twins, *whole(graph))[seeds]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_gradients_by_the_features_equal_those_of_pyg(graph, built):
    encoder, twins = built
    batch = full_batch(graph)
    back = torch.randn(graph.num_nodes, WIDTH)
    batch.x.requires_grad_()
    (ours,) = torch.autograd.grad(encoder(batch), batch.x, back)
    x, edge_index, edge_attr = whole(graph)
    x.requires_grad_()
    (theirs,) = torch.autograd.grad(oracle(encoder, twins, x, edge_index, edge_attr), x, back)
    torch.testing.assert_close(ours, theirs[batch.n_id], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.kind)
def test_bipartite_layers_equal_the_whole_sampled_subgraph(graph, config):
    """Rows that no later layer reads are not computed, and nobody notices."""
    encoder = config(hidden_channels=WIDTH, num_layers=3).build(graph.num_features, 3).eval()
    batch = NeighborLoader(graph, num_neighbors=[3, 2, 2], batch_size=10, seed=3).batch(0, 0)
    x, everything = batch.x, batch.blocks[0]
    for index in range(3):
        rows = encoder.layer(index, x, x[: everything.num_dst], everything)
        last_hop = torch.full((len(x) - len(rows), WIDTH), 123.0)  # no edge leads there
        x = torch.cat([rows, last_hop])
    torch.testing.assert_close(encoder(batch), x[: batch.batch_size])


@pytest.mark.parametrize("config", [GCN, GIN], ids=lambda c: c.kind)
def test_scaled_sums_are_unbiased(config):
    """The mean over all pairs of the four neighbours is the output with all four."""
    conv = config(hidden_channels=3, num_layers=1).build(3).convs[0]
    if config is GIN:  # linear on positive numbers without its MLP
        conv.lin_in = conv.norm = conv.lin_out = nn.Identity()
    x = torch.rand(5, 3)

    def output(sources):
        block = Block(
            torch.tensor([0, len(sources)]), torch.tensor(sources), 5,
            src_degrees=torch.tensor([4, 1, 2, 7, 3]), dst_degrees=torch.tensor([4]),
        )  # fmt: skip
        return conv(x, x[:1], block)

    pairs = [output(list(pair)) for pair in itertools.combinations([1, 2, 3, 4], 2)]
    torch.testing.assert_close(torch.stack(pairs).mean(dim=0), output([1, 2, 3, 4]))


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
@pytest.mark.parametrize("config", [*CONFIGS, MLP, SIGN], ids=lambda c: c.kind)
def test_every_norm_trains_and_a_single_row_is_no_error(make_graph, config, norm):
    graph = make_graph(60, 5, 6, seed=1)
    encoder = config(hidden_channels=WIDTH, norm=norm, dropout=0.5).build(6)
    for input_nodes in (np.arange(20), np.array([59])):
        batch = full_batch(graph, encoder.num_hops, input_nodes)
        out = encoder(batch)
        assert out.shape == (len(input_nodes), WIDTH) == (len(input_nodes), encoder.out_channels)
        out.sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in encoder.parameters() if p.grad is not None)
    assert all(torch.isfinite(b).all() for b in encoder.buffers())


def test_dropout_is_drawn_while_training_only(tiny):
    encoder = SAGE(hidden_channels=WIDTH, dropout=0.5).build(6)
    batch = full_batch(tiny)
    assert not torch.equal(encoder(batch), encoder(batch))
    encoder.eval()
    assert torch.equal(encoder(batch), encoder(batch))


def test_final_linears_are_those_of_the_last_layer():
    sage = SAGE(hidden_channels=WIDTH).build(6)
    assert sage.final_linears() == [sage.convs[1].lin_l, sage.convs[1].lin_r]
    for config in (GCN, GIN, MLP, SIGN):
        encoder = config(hidden_channels=WIDTH).build(6)
        (linear,) = encoder.final_linears()
        assert {id(p) for p in encoder.final_parameters()} == {id(linear.weight), id(linear.bias)}
    gat = GATv2(hidden_channels=WIDTH).build(6)
    assert gat.final_linears() == []
    assert {id(p) for p in gat.final_parameters()} == {id(p) for p in gat.convs[-1].parameters()}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.kind)
@pytest.mark.parametrize("change", ["in_channels", "num_layers", "hidden_channels", "norm"])
def test_bad_sizes_are_refused(config, change):
    sizes = {"in_channels": 6, "num_layers": 2, "hidden_channels": 8, "norm": "batch"}
    sizes[change] = "group" if change == "norm" else 0
    in_channels = sizes.pop("in_channels")
    with pytest.raises(UsageError, match="should be"):
        config(**sizes).build(in_channels)


def test_contracts_between_layers_and_blocks(tiny, make_graph):
    batch = full_batch(tiny, 1)
    with pytest.raises(ShapeError, match="one sampled hop per layer"):
        SAGE(hidden_channels=WIDTH).build(6)(batch)
    with pytest.raises(ShapeError, match="edge features"):
        GATv2(hidden_channels=WIDTH, num_layers=1).build(6, 3)(batch)
    with pytest.raises(UsageError, match="multiple of `heads`"):
        GATv2(hidden_channels=10, heads=4).build(6)
    block = batch.blocks[0]
    block.src_degrees = None
    with pytest.raises(ShapeError, match="degrees of the whole graph"):
        GCN(hidden_channels=WIDTH, num_layers=1).build(6)(batch)


def test_gcn_counts_a_self_loop_once(make_graph):
    """A - I stays: with loops in the data the layer is D^-1/2 (A + I) D^-1/2 of that A."""
    edges = np.array([[0, 1, 1, 2], [1, 2, 1, 3]])
    graph = TaskGraph.from_arrays(
        edges, np.array([[1.0], [0.0], [1.0], [0.0], [1.0]]), x=np.eye(5),
        split={"train": [0, 1], "valid": [2], "test": [3, 4]},
    )  # fmt: skip
    conv = GCN(hidden_channels=5, num_layers=1).build(5).convs[0]
    with torch.no_grad():
        conv.lin.weight.copy_(torch.eye(5))
        conv.lin.bias.zero_()
    adjacency = np.zeros((5, 5))
    adjacency[edges[0], edges[1]] = adjacency[edges[1], edges[0]] = 1
    hat = adjacency + np.eye(5)
    root = np.diag(hat.sum(axis=1) ** -0.5)
    batch = full_batch(graph, 1)
    found = conv(batch.x, batch.x[:5], batch.blocks[0])
    columns = batch.n_id.numpy()
    expected = (root @ hat @ root) @ np.eye(5)
    np.testing.assert_allclose(found.detach().numpy()[np.argsort(columns[:5])], expected, atol=1e-6)
