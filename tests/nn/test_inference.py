"""Exact inference against a forward pass with full fan-out, and propagation against matrices."""

import functools

import numpy as np
import pytest
import torch

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.graph import NeighborLoader, full_blocks
from gnn_mtl.nn import (
    GCN,
    GIN,
    MLP,
    SAGE,
    SIGN,
    GATv2,
    LabelModel,
    Linear,
    MLPHead,
    PyGEncoder,
    exact_logits,
    propagate,
)

WIDTH = 8
NODES = np.array([0, 59, 7, 33, 7])  # 59 is isolated


class UserGCN(torch.nn.Module):
    """What a user of PyG would write."""

    def __init__(self):
        super().__init__()
        from torch_geometric.nn import GCNConv

        self.first, self.second = GCNConv(6, WIDTH), GCNConv(WIDTH, WIDTH)
        self.norm = torch.nn.BatchNorm1d(WIDTH)

    def forward(self, x, edge_index):
        return self.second(self.norm(self.first(x, edge_index)).relu(), edge_index)


BUILDERS = {
    "sage": lambda: SAGE(hidden_channels=WIDTH).build(6),
    "sage of 3": lambda: SAGE(hidden_channels=WIDTH, num_layers=3, norm="layer").build(6),
    "gcn": lambda: GCN(hidden_channels=WIDTH).build(6),
    "gatv2": lambda: GATv2(hidden_channels=WIDTH).build(6, 3),
    "gin": lambda: GIN(hidden_channels=WIDTH, norm="none").build(6),
    "sign": lambda: SIGN(hidden_channels=WIDTH, hops=1).build(6),
    "mlp": lambda: MLP(hidden_channels=WIDTH).build(6),
    "user": lambda: PyGEncoder(UserGCN(), WIDTH, 2),
}


@pytest.fixture(scope="module")
def graph(make_graph):
    return make_graph(60, edge_channels=3, seed=4)


@pytest.fixture(params=BUILDERS)
def model(request, graph):
    """A model whose normalisation has seen some batches."""
    model = LabelModel(BUILDERS[request.param](), MLPHead(hidden_channels=4).build(WIDTH, 5))
    loader = NeighborLoader(
        graph, num_neighbors=[3] * model.encoder.num_hops, batch_size=20, num_workers=0
    )
    for batch in loader:
        model(batch)
    return model


def forward_with_full_fan_out(model, graph, nodes):
    if isinstance(model.encoder, PyGEncoder):  # on the whole graph, as PyG would
        data = graph.to_pyg()
        model.eval()
        h = model.encoder.module(data.x, data.edge_index)
        return model.heads(h)[nodes].detach().numpy()
    loader = NeighborLoader(
        graph, num_neighbors=[-1] * model.encoder.num_hops, batch_size=3, shuffle=False,
        input_nodes=nodes, num_workers=0,
    )  # fmt: skip
    model.eval()
    with torch.no_grad():
        return torch.cat([model(batch) for batch in loader]).numpy()


def test_equals_a_forward_pass_with_all_neighbours(model, graph):
    found = exact_logits(model, graph, NODES)
    assert found.dtype == np.float32
    expected = forward_with_full_fan_out(model, graph, NODES)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert found.std() > 1e-3


@pytest.mark.parametrize("edges_per_chunk", [1, 40])
def test_chunks_do_not_show(model, graph, edges_per_chunk, monkeypatch):
    expected = exact_logits(model, graph, NODES)
    room = "gnn_mtl.nn._inference"
    small = functools.partial(full_blocks, edges_per_chunk=edges_per_chunk)
    monkeypatch.setattr(f"{room}.full_blocks", small)
    monkeypatch.setattr(f"{room}.ROWS_PER_CHUNK", 2)
    np.testing.assert_allclose(exact_logits(model, graph, NODES), expected, rtol=1e-4, atol=1e-5)


def test_leaves_no_trace(model, graph):
    model.train()
    for module in list(model.modules())[::3]:
        module.training = False  # a user may have frozen some layers
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    rng = torch.get_rng_state()
    exact_logits(model, graph, NODES)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), rng)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert all(p.grad is None for p in model.parameters())


def test_reads_no_sealed_label_and_takes_any_nodes(model, graph):
    sealed = graph.sealed()
    assert exact_logits(model, sealed, np.array([], dtype=np.int64)).shape == (0, 5)
    test_nodes = graph.split_idx["test"]  # read-only
    found = exact_logits(model, sealed, test_nodes)
    everything = exact_logits(model, sealed, np.arange(60))
    np.testing.assert_allclose(found, everything[test_nodes], rtol=1e-4, atol=1e-5)


def test_an_error_leaves_the_mode_as_it_was(model, graph):
    model.train()
    with pytest.raises(Exception):  # noqa: B017, PT011
        exact_logits(model, graph.with_features(np.zeros((60, 4), dtype=np.float32)), NODES)
    assert model.training


@pytest.mark.gpu
def test_cuda_equals_cpu(model, graph):
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    here = exact_logits(model, graph, NODES)
    there = exact_logits(model.cuda(), graph, NODES, device="cuda")
    np.testing.assert_allclose(there, here, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("hops", [0, 1, 3])
def test_propagate_gives_powers_of_the_mean_operator(make_graph, hops, monkeypatch):
    graph = make_graph(60, directed=True, keep_direction=True, loops=True, seed=9)
    small = functools.partial(full_blocks, edges_per_chunk=10)
    monkeypatch.setattr("gnn_mtl.nn._sign.full_blocks", small)
    adjacency = np.zeros((60, 60))
    sources, targets = graph.csc.to_edge_index()
    adjacency[targets, sources] = 1
    operator = adjacency / np.maximum(adjacency.sum(axis=1, keepdims=True), 1)
    x = graph.features(np.arange(60))
    expected = np.concatenate(
        [np.linalg.matrix_power(operator, hop) @ x for hop in range(hops + 1)], axis=1
    )
    found = propagate(graph.csc, x, hops)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_sign_refuses_what_was_not_propagated(graph):
    with pytest.raises(UsageError, match="hops"):
        propagate(graph.csc, graph.features(np.arange(60)), -1)
    with pytest.raises(ShapeError, match="propagate"):
        SIGN(hops=2).build(8)


def test_sign_maps_each_copy_by_its_own_matrix():
    encoder = SIGN(hidden_channels=WIDTH, hops=2, norm="none").build(12).eval()
    x = torch.randn(5, 12)
    mapped = [linear(x[:, 4 * k : 4 * k + 4]) for k, linear in enumerate(encoder.maps)]
    expected = encoder.last(torch.cat(mapped, dim=1).relu()).relu()
    torch.testing.assert_close(encoder.encode(x), expected)


def test_a_users_module_is_called_on_the_sampled_subgraph(graph):
    module = UserGCN().eval()
    encoder = PyGEncoder(module, WIDTH, 2)
    batch = NeighborLoader(graph, num_neighbors=[3, 2], batch_size=10).batch(0, 0)
    expected = module(batch.x, batch.edge_index)[:10]
    torch.testing.assert_close(encoder(batch), expected)
    assert encoder.final_linears() == []
    final = {id(p) for p in encoder.final_parameters()}
    assert final == {id(p) for p in module.norm.parameters()}  # its last child
    chosen = PyGEncoder(module, WIDTH, 2, final=module.second)
    assert {id(p) for p in chosen.final_parameters()} == {id(p) for p in module.second.parameters()}
    assert sum(1 for _ in chosen.parameters()) == sum(1 for _ in module.parameters())


def test_the_last_layer_of_a_module_is_looked_for_in_lists():
    from torch_geometric.nn import SAGEConv

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.convs = torch.nn.ModuleList([SAGEConv(6, 4), SAGEConv(4, 4)])
            self.dropout = torch.nn.Dropout()

        def forward(self, x, edge_index):
            return x

    net = Net()
    final = {id(p) for p in PyGEncoder(net, 4, 2).final_parameters()}
    assert final == {id(p) for p in net.convs[1].parameters()}
    lonely = SAGEConv(6, 4)
    assert len(PyGEncoder(lonely, 4, 1).final_parameters()) == 1  # lin_r, its last child


def test_edge_features_reach_a_user_module_that_takes_them(graph):
    class Takes(torch.nn.Module):
        def forward(self, x, edge_index, edge_attr):
            assert edge_attr.shape == (edge_index.shape[1], 3)
            return x

    batch = NeighborLoader(graph, num_neighbors=[3], batch_size=10).batch(0, 0)
    torch.testing.assert_close(PyGEncoder(Takes(), 6, 1)(batch), batch.x[:10])


@pytest.mark.parametrize(("width", "rows"), [(5, slice(None)), (6, slice(0, 3))])
def test_what_a_user_module_returns_is_checked(graph, width, rows):
    class Wrong(torch.nn.Module):
        def forward(self, x, edge_index):
            return x[rows]

    batch = NeighborLoader(graph, num_neighbors=[3], batch_size=10).batch(0, 0)
    with pytest.raises(ShapeError, match="should return"):
        PyGEncoder(Wrong(), width, 1)(batch)
    with pytest.raises(UsageError, match="num_hops"):
        PyGEncoder(Wrong(), width, 0)


def test_a_model_asked_for_some_tasks(graph):
    model = LabelModel(SAGE(hidden_channels=WIDTH).build(6), Linear().build(WIDTH, 5)).eval()
    batch = NeighborLoader(graph, num_neighbors=[3, 2], batch_size=10).batch(0, 0)
    torch.testing.assert_close(model(batch, (3, 1)), model(batch)[:, [3, 1]])
