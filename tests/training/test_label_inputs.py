"""Labels as inputs: other nodes' training labels are read, a node's own never."""

import dataclasses
import signal

import numpy as np
import pytest
import torch
from torch_geometric.nn import SAGEConv

from gnn_mtl._core.errors import InterruptedRunError, SealedLabelsError, UsageError
from gnn_mtl.datasets import LabelInputGraph, TaskGraph, with_label_inputs
from gnn_mtl.gradients import probe
from gnn_mtl.graph import NeighborLoader
from gnn_mtl.nn import (
    GCN,
    GIN,
    MLP,
    SAGE,
    SIGN,
    GATv2,
    LabelModel,
    Linear,
    PyGEncoder,
    exact_logits,
)
from gnn_mtl.runs import Features, RunConfig, build_model, train
from gnn_mtl.schedulers import JointScheduler
from gnn_mtl.training import Train, evaluate_split, fit

TASKS, OWN = 5, 6


def random_cells(graph, seed=5):
    """A split per (node, task)."""
    part = np.random.default_rng(seed).integers(0, 3, size=(graph.num_nodes, TASKS))
    return {name: part == code for code, name in enumerate(("train", "valid", "test"))}


@pytest.fixture(scope="module", params=["node", "task"])
def graph(request, make_graph):
    made = make_graph(missing=0.0)
    return made if request.param == "node" else made.with_split(random_cells(made))


def flipped(graph, cells):
    """The same dataset with some labels turned round; ``cells`` is bool ``[N, T]``."""
    y = graph._labels.gather(slice(None))[0] ^ cells
    edges = graph.csc.to_edge_index()
    split = graph.split_idx
    if graph.split_kind == "task":
        split = {name: graph._split.mask(slice(None), name) for name in split}
    return TaskGraph.from_arrays(edges, y.astype(float), x=graph.x, split=split)


def cells_of(graph, nodes, split="train"):
    """The labels of some nodes in a split, as a mask of cells."""
    cells = np.zeros((graph.num_nodes, TASKS), dtype=bool)
    nodes = np.atleast_1d(nodes)
    cells[nodes] = graph.targets(nodes, split)[1]
    return cells


def new_model(config=None):
    torch.manual_seed(1)
    config = config or SAGE(hidden_channels=8, dropout=0.0)
    model = LabelModel(config.build(OWN + TASKS + 1), Linear().build(8, TASKS))
    return model.eval()


def loader_of(graph, **options):
    options = {"num_neighbors": [-1, -1], "batch_size": 8, "seed": 3, "num_workers": 0} | options
    return NeighborLoader(with_label_inputs(graph), "train", **options)


ENCODERS = [
    SAGE(hidden_channels=8, dropout=0.0), GCN(hidden_channels=8, dropout=0.0),
    GATv2(hidden_channels=8, dropout=0.0, heads=2), GIN(hidden_channels=8, dropout=0.0),
    MLP(hidden_channels=8, dropout=0.0),
]  # fmt: skip


class Wrapped(torch.nn.Module):
    """A user's module of two PyG layers."""

    def __init__(self):
        super().__init__()
        self.convs = torch.nn.ModuleList([SAGEConv(OWN + TASKS + 1, 8), SAGEConv(8, 8)])

    def forward(self, x, edge_index):
        return self.convs[1](self.convs[0](x, edge_index).relu(), edge_index)


def wrapped_model():
    torch.manual_seed(1)
    return LabelModel(PyGEncoder(Wrapped(), 8, 2), Linear().build(8, TASKS)).eval()


def test_columns_hold_training_labels_only(graph):
    seen = with_label_inputs(graph)
    assert isinstance(seen, LabelInputGraph)
    assert with_label_inputs(seen) is seen
    assert seen.num_features == OWN + TASKS + 1
    nodes = np.arange(graph.num_nodes)
    x, (y, observed) = seen.features(nodes), graph.targets(nodes, "train")
    np.testing.assert_array_equal(x[:, :OWN], graph.features(nodes))
    np.testing.assert_array_equal(x[:, OWN:-1], y)
    np.testing.assert_array_equal(x[:, -1], observed.any(axis=1))
    one = seen.select_tasks([2])
    assert one.num_features == OWN + 2
    np.testing.assert_array_equal(one.features(nodes)[:, OWN], y[:, 2])
    with pytest.raises(SealedLabelsError):
        seen.sealed().targets([0], "test")


def test_without_own_features(graph):
    bare = with_label_inputs(graph)
    bare.x = None
    assert bare.features([3, 4]).shape == (2, TASKS + 1)


def test_batches_hide_all_labels_of_their_seeds(graph):
    plain = NeighborLoader(
        graph, "train", num_neighbors=[3, 2], batch_size=8, seed=3, num_workers=0
    )
    for batch, other in zip(loader_of(graph, num_neighbors=[3, 2]), plain, strict=True):
        assert torch.equal(batch.n_id, other.n_id)
        assert len(batch.n_id.unique()) == len(batch.n_id)
        assert torch.equal(batch.x[:, :OWN], other.x)
        labels = torch.from_numpy(with_label_inputs(graph).features(batch.n_id.numpy())[:, OWN:])
        assert not batch.x[: batch.batch_size, OWN:].any()
        assert torch.equal(batch.x[batch.batch_size :, OWN:], labels[batch.batch_size :])
        assert torch.equal(batch.y, other.y)


@pytest.mark.parametrize("config", ENCODERS, ids=lambda config: config.kind)
def test_own_labels_do_not_enter_a_training_logit(graph, config):
    model = new_model(config)
    batch = loader_of(graph).batch(0, 0)
    logits = model(batch)
    own = cells_of(graph, batch.seeds.numpy())
    again = loader_of(flipped(graph, own)).batch(0, 0)
    assert torch.equal(model(again), logits)
    assert not torch.equal(again.y, batch.y)
    neighbours = np.setdiff1d(batch.n_id.numpy(), batch.seeds.numpy())
    others = cells_of(graph, neighbours)
    changed = model(loader_of(flipped(graph, others)).batch(0, 0))
    assert torch.equal(changed, logits) == isinstance(config, MLP)


def test_own_labels_do_not_enter_a_probe(graph):
    """With the targets held fixed, the gradients of seeds do not move with their labels."""
    model = new_model()
    batch = loader_of(graph).batch(0, 0)
    again = loader_of(flipped(graph, cells_of(graph, batch.seeds.numpy()))).batch(0, 0)
    again = dataclasses.replace(again, y=batch.y)
    for mode in ("last_layer", "full"):
        one, other = probe(model, batch, mode=mode), probe(model, again, mode=mode)
        assert torch.equal(one.jacobian, other.jacobian)


@pytest.mark.parametrize("make", [new_model, wrapped_model])
def test_exact_inference_never_reads_own_labels(graph, make):
    """Flip the labels of one node at a time: its logits stay, some neighbour's change."""
    model, nodes = make(), np.arange(graph.num_nodes)
    logits = exact_logits(model, with_label_inputs(graph), nodes)
    moved = 0
    for node in graph.split_idx["train"][:12]:
        other = with_label_inputs(flipped(graph, cells_of(graph, node)))
        found = exact_logits(model, other, nodes)
        np.testing.assert_array_equal(found[node], logits[node])
        moved += not np.array_equal(found, logits)
    assert moved > 6


def test_validation_and_test_labels_never_enter(graph):
    model, nodes = new_model(), np.arange(graph.num_nodes)
    logits = exact_logits(model, with_label_inputs(graph), nodes)
    cells = cells_of(graph, nodes, "valid") | cells_of(graph, nodes, "test")
    other = flipped(graph, cells)
    np.testing.assert_array_equal(exact_logits(model, with_label_inputs(other), nodes), logits)
    for epoch in range(2):
        for one, two in zip(loader_of(graph), loader_of(other), strict=True):
            assert torch.equal(one.x, two.x)
            assert torch.equal(one.y, two.y), epoch


def test_inference_reads_the_labels_of_others(graph):
    model = new_model()
    nodes = graph.split_idx["valid"]
    logits = exact_logits(model, with_label_inputs(graph), nodes)
    other = flipped(graph, cells_of(graph, graph.split_idx["train"]))
    assert not np.array_equal(exact_logits(model, with_label_inputs(other), nodes), logits)


def test_nodes_without_training_labels_see_all_of_them(make_graph):
    """With a split of nodes, validation is one pass over the features as they are."""
    graph = make_graph(missing=0.0)
    seen = with_label_inputs(graph)
    nodes = graph.split_idx["valid"]
    ((source, rows),) = seen.label_passes(nodes)
    assert source is seen
    assert rows.tolist() == list(range(len(nodes)))
    everything = graph.with_features(seen.features(np.arange(60)))
    np.testing.assert_array_equal(
        exact_logits(new_model(), seen, nodes), exact_logits(new_model(), everything, nodes)
    )


def test_passes_cover_every_node_once_and_do_not_depend_on_the_question(graph):
    seen = with_label_inputs(graph)
    nodes = np.random.default_rng(0).permutation(graph.num_nodes)
    rows = np.concatenate([rows for _, rows in seen.label_passes(nodes)])
    assert sorted(rows.tolist()) == list(range(len(nodes)))
    for source, rows in seen.label_passes(nodes):
        assert not source.features(nodes[rows])[:, OWN:].any()
    model = new_model()
    all_logits = exact_logits(model, seen, np.arange(graph.num_nodes))
    some = nodes[:7]
    np.testing.assert_allclose(exact_logits(model, seen, some), all_logits[some], atol=1e-6)
    assert exact_logits(model, seen, nodes[:0]).shape == (0, TASKS)


def test_a_batch_of_all_training_nodes_is_refused(graph, budget):
    with pytest.raises(UsageError, match="smaller than the training set"):
        fit(new_model(), with_label_inputs(graph), JointScheduler(TASKS), budget(batch_size=60))


def test_a_probe_leaves_half_of_the_training_nodes_to_be_read(graph, budget, new_schedule):
    """However many nodes it was asked for."""
    seen = with_label_inputs(graph)
    done = fit(new_model(), seen, new_schedule("coloring"), budget(epochs=1, probe_batch_size=60))
    assert done.cost.probes > 0


@pytest.mark.parametrize("name", ["joint", "coloring"])
def test_training_repeats_and_resumes_bit_for_bit(
    graph, name, new_schedule, budget, assert_same_weights, tmp_path, steps_seen
):
    """Threads do not matter, and a run broken off goes on as if it had not been."""
    seen, weights = with_label_inputs(graph), []
    options = {"epochs": 4, "batch_size": 8}
    for workers in (0, 2):
        model = new_model().train()
        done = fit(model, seen, new_schedule(name), budget(num_workers=workers, **options), seed=4)
        weights.append(model)
    assert_same_weights(*weights)
    assert done.valid["ap"] == evaluate_split(model, seen, "valid").macro["ap"]

    start = len(steps_seen.list)
    steps_seen.hooks.append(
        lambda count: signal.raise_signal(signal.SIGTERM) if count == start + 7 else None
    )
    model = new_model().train()
    with pytest.raises(InterruptedRunError):
        fit(model, seen, new_schedule(name), budget(**options), seed=4, checkpoints=tmp_path)
    model = new_model().train()
    fit(
        model, seen, new_schedule(name), budget(**options), seed=4, checkpoints=tmp_path,
        resume=True,
    )  # fmt: skip
    assert_same_weights(model, weights[0])


def test_a_run_with_labels(tmp_path, make_graph):
    graph = make_graph(missing=0.0)
    config = RunConfig(
        dataset="tiny", encoder=SAGE(hidden_channels=8), features=Features(dim=4, labels=True),
        train=Train(
            epochs=2, batch_size=10, probe_batch_size=10, num_neighbors=(3, 2), num_workers=0,
            device="cpu",
        ),
    )  # fmt: skip
    assert RunConfig.from_dict(config.to_dict()) == config
    run = train(config, tmp_path / "run", graph=graph)
    assert run.summary.test["ap"] > 0
    width = build_model(config, with_label_inputs(graph)).encoder.in_channels
    assert width == OWN + TASKS + 1
    with pytest.raises(UsageError, match="sign"):
        train(dataclasses.replace(config, encoder=SIGN()), tmp_path / "sign", graph=graph)
    assert not (tmp_path / "sign").exists()
