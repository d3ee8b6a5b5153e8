"""The Gramian read off a training step equals one ``autograd.grad`` per task on the same graph."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.datasets import planted
from gnn_mtl.gradients import _layer_end, _tapped, task_gramian
from gnn_mtl.gradients._tapped import tapped
from gnn_mtl.graph import NeighborLoader
from gnn_mtl.nn import Adapters, LabelModel, LinearHeads, MLPEncoder, SAGEEncoder, masked_bce
from gnn_mtl.training import Optimizers, Train, train_step

TASKS = (2, 0, 3, 4)  # no label of task 3 is observed
LINEAR_ENDED = ["sage", "gcn", "gin", "sign", "mlp"]


def by_autograd(losses, parameters):
    """One plain backward pass per task through the same graph."""
    rows = []
    for loss in losses:
        found = torch.autograd.grad(loss, parameters, retain_graph=True)
        rows.append(torch.cat([g.flatten() for g in found]).double())
    rows = torch.stack(rows)
    return rows @ rows.T


def close(found, expected, tolerance):
    """Errors in shares of the two norms, valid rows only."""
    norms = expected.diagonal().sqrt()
    known = norms > 0
    assert found.isnan()[~known].all()
    error = (found - expected)[known][:, known].abs()
    assert (error <= tolerance * torch.outer(norms, norms)[known][:, known]).all()


def forward(model, batch, tasks=TASKS, **options):
    with tapped(model) as tap:
        losses = masked_bce(model(batch, tasks), batch.y, batch.observed, tasks, **options)
    return tap, losses


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("head", ["linear", "mlp head"])
@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
@pytest.mark.parametrize("encoder", LINEAR_ENDED)
def test_equals_a_backward_pass_per_task(encoder, norm, head, training, make_model, make_batch):
    model = make_model(encoder, head, norm).train(training)
    batch = make_batch(model.encoder.num_hops)
    tap, losses = forward(model, batch, pos_weight=torch.tensor([1.0, 3.0, 2.5, 1.0, 0.5]).double())
    found = tap.gramian(losses, tasks=TASKS)
    expected = by_autograd(losses, model.encoder.final_parameters())
    assert found.tasks == TASKS
    assert found.valid.tolist() == [True, True, False, True]
    assert not found.broken.any()
    assert found.gramian.dtype == torch.float64
    close(found.gramian, expected, 1e-10)


def test_takes_some_columns_and_weighted_losses(make_model, make_batch):
    model, batch = make_model().train(), make_batch()
    with tapped(model) as tap:
        losses = masked_bce(model(batch), batch.y, batch.observed)
    weighted = losses[[4, 1]] * torch.tensor([3.0, 0.5]).double()
    found = tap.gramian(weighted, [4, 1], tasks=[4, 1])
    close(found.gramian, by_autograd(weighted, model.encoder.final_parameters()), 1e-10)


def test_adapters_and_small_memory(make_model, make_batch):
    model, batch = make_model().train(), make_batch()
    model = LabelModel(model.encoder, Adapters(groups=((0, 2), (1, 3, 4)), rank=3).build(8, 5))
    for adapter in model.heads.adapters:
        nn.init.normal_(adapter.up)
    model = model.double()
    tap, losses = forward(model, batch)
    expected = by_autograd(losses, model.encoder.final_parameters())
    for memory_bytes in (1, 3000, 1 << 20):
        found = tap.gramian(losses, tasks=TASKS, memory_bytes=memory_bytes)
        close(found.gramian, expected, 1e-10)


@pytest.mark.parametrize("head", ["linear", "mlp head"])
@pytest.mark.parametrize("memory_bytes", [1, 3000, 1 << 20])
def test_rows_of_several_processes_add_up(head, memory_bytes, make_model, make_batch, monkeypatch):
    model = make_model("sage", head).train()
    first, second = make_batch(seeds=np.arange(20)), make_batch(seeds=np.arange(20, 40))
    chunks = []
    tap, mine = forward(model, first)
    tap.gramian(
        mine, tasks=TASKS, memory_bytes=memory_bytes, reduce=lambda r: chunks.append(r) or r
    )
    assert (len(chunks) == 2) == (memory_bytes > 3000)  # the last one counts nodes
    tap, theirs = forward(model, second)
    if head == "linear":  # the other process cannot use the closed form: same chunks all the same
        monkeypatch.setattr(_tapped, "between_of", lambda *_: None)
    found = tap.gramian(
        theirs, tasks=TASKS, memory_bytes=memory_bytes, reduce=lambda r: r + chunks.pop(0)
    )
    assert not chunks
    seen = first.observed[:, TASKS].sum(dim=0) + second.observed[:, TASKS].sum(dim=0)
    assert found.masses[0].tolist() == seen.tolist()
    close(found.gramian, by_autograd(mine + theirs, model.encoder.final_parameters()), 1e-10)


def test_needs_no_rows_where_every_unit_is_on(make_model, make_batch, monkeypatch):
    model, batch = make_model("gcn", norm="none").train(), make_batch()
    model.encoder.dropout.p = 0.0
    with torch.no_grad():
        model.encoder.convs[-1].lin.bias += 100
    monkeypatch.setattr(_layer_end, "_unit_rows", None)
    tap, losses = forward(model, batch)
    found = tap.gramian(losses, tasks=TASKS)
    close(found.gramian, by_autograd(losses, model.encoder.final_parameters()), 1e-10)


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_single_precision(norm):
    graph = planted(400, 3000, 9, 3, num_features=12, seed=0)
    batch = NeighborLoader(graph, "train", num_neighbors=[4, 4], batch_size=150).batch(0, 0)
    torch.manual_seed(0)
    model = LabelModel(SAGEEncoder(12, 32, 2, norm=norm, dropout=0.3), LinearHeads(32, 9))
    tap, losses = forward(model, batch, range(9))
    found = tap.gramian(losses * 10.0 ** -torch.arange(9), tasks=range(9))
    expected = by_autograd(losses, model.encoder.final_parameters())
    scale = 10.0 ** -torch.arange(9).double()
    close(found.gramian, expected * torch.outer(scale, scale), 1e-5)


def test_half_precision_is_that_of_the_pass():
    graph = planted(400, 3000, 9, 3, num_features=12, seed=0)
    batch = NeighborLoader(graph, "train", num_neighbors=[4, 4], batch_size=150).batch(0, 0)
    torch.manual_seed(0)
    model = LabelModel(SAGEEncoder(12, 32, 2, dropout=0.3), LinearHeads(32, 9))
    with tapped(model) as tap, torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(batch)
    assert logits.dtype == torch.bfloat16
    losses = masked_bce(logits.float(), batch.y, batch.observed)
    found = tap.gramian(losses, tasks=range(9))
    close(found.gramian, by_autograd(losses, model.encoder.final_parameters()), 2e-2)


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
@pytest.mark.parametrize("frozen", [["lin_l.weight"], ["lin_l.bias"], ["lin_r.weight"]])
def test_frozen_parameters_have_no_columns(norm, frozen, make_model, make_batch):
    model, batch = make_model("sage", norm=norm).train(), make_batch()
    for name in frozen:
        model.encoder.convs[-1].get_parameter(name).requires_grad_(False)
    parameters = [p for p in model.encoder.final_parameters() if p.requires_grad]
    tap, losses = forward(model, batch)
    close(tap.gramian(losses, tasks=TASKS).gramian, by_autograd(losses, parameters), 1e-10)


def test_batch_norm_in_evaluation_mode_within_training(make_model, make_batch):
    model, batch = make_model().train(), make_batch()
    model.encoder.norms.eval()
    tap, losses = forward(model, batch)
    expected = by_autograd(losses, model.encoder.final_parameters())
    close(tap.gramian(losses, tasks=TASKS).gramian, expected, 1e-10)


def test_one_node(make_model, make_batch):
    model, batch = make_model().train(), make_batch(seeds=np.arange(1))
    tap, losses = forward(model, batch)
    expected = by_autograd(losses, model.encoder.final_parameters())
    close(tap.gramian(losses, tasks=TASKS).gramian, expected, 1e-10)


class Late(MLPEncoder):
    """A batch norm that does not read the maps' sum itself."""

    def encode(self, x):
        x = torch.relu(self.norms[0](self.linears[0](x)))
        return torch.relu(self.norms[1](torch.tanh(self.linears[1](x))))


class Twice(MLPEncoder):
    """Two batch norms."""

    def encode(self, x):
        x = torch.relu(self.linears[0](x))
        return self.norms[1](torch.relu(self.norms[0](self.linears[1](x))))


@pytest.mark.parametrize("encoder", [Late, Twice])
def test_other_ways_to_use_a_batch_norm(encoder, make_batch):
    model = LabelModel(encoder(6, 8), LinearHeads(8, 5)).double()
    tap, losses = forward(model, make_batch(0))
    expected = by_autograd(losses, model.encoder.final_parameters())
    close(tap.gramian(losses, tasks=TASKS).gramian, expected, 1e-10)


def test_agrees_with_the_probe_where_nothing_is_random(make_model, make_batch):
    model, batch = make_model().eval(), make_batch()
    tap, losses = forward(model, batch)
    expected = task_gramian(model, batch, tasks=TASKS)
    found = tap.gramian(losses, tasks=TASKS)
    torch.testing.assert_close(found.gramian, expected.gramian, equal_nan=True)
    assert found.masses.tolist() == expected.masses.tolist()
    assert found.label_gradients == expected.label_gradients


@pytest.mark.parametrize("measure", ["tap", "probe"])
@pytest.mark.parametrize("head", ["linear", "mlp head"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_broken_task_spoils_no_other(value, head, measure, make_model, make_batch):
    model, batch = make_model("sage", head).eval(), make_batch()

    def measured():
        if measure == "probe":
            return task_gramian(model, batch, tasks=TASKS)
        tap, losses = forward(model, batch)
        return tap.gramian(losses, tasks=TASKS)

    clean = measured().gramian
    weight = model.heads.weight if head == "linear" else model.heads.weight_out
    with torch.no_grad():
        weight[0, 1] = value
    found = measured()
    assert found.broken.tolist() == [False, True, False, False]
    assert found.valid.tolist() == [True, False, False, True]
    rest = [0, 3]
    torch.testing.assert_close(found.gramian[rest][:, rest], clean[rest][:, rest])
    assert found.gramian[1].isnan().all()


def test_the_step_is_the_same_to_the_bit(make_model, make_batch):
    batch = make_batch()
    start = make_model()
    states, draws = [], []
    for measured in (False, True):
        model = copy.deepcopy(start).train()
        torch.manual_seed(3)
        with tapped(model) as tap:
            losses = masked_bce(model(batch), batch.y, batch.observed)
        if measured:
            tap.gramian(losses, tasks=range(5))
        losses.sum().backward()
        states.append([p.grad for p in model.parameters()] + list(model.buffers()))
        draws.append(torch.rand(3))
        train_step(model, batch, range(5), Optimizers(model, Train()))
        states[-1] += list(model.parameters())
    assert torch.equal(*draws)
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def test_nothing_to_tap(make_model):
    with tapped(make_model("gatv2")) as tap:
        assert tap is None
    model = make_model("mlp")
    model.encoder.linears[-1].requires_grad_(False)
    with tapped(model) as tap:
        assert tap is None


def test_keeps_the_first_pass_and_takes_its_hooks_away(make_model, make_batch):
    model, batch = make_model().train(), make_batch()
    with tapped(model) as tap:
        first = masked_bce(model(batch), batch.y, batch.observed)
        second = masked_bce(model(batch), batch.y, batch.observed)
    masked_bce(model(batch), batch.y, batch.observed)
    found = tap.gramian(first, tasks=range(5))
    close(found.gramian, by_autograd(first, model.encoder.final_parameters()), 1e-10)
    with pytest.raises(UsageError, match="first forward pass"):
        tap.gramian(second, tasks=range(5))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_wrong_use(make_model, make_batch):
    model, batch = make_model().train(), make_batch()
    with tapped(model) as tap:
        pass
    with pytest.raises(UsageError, match="run the model"):
        tap.gramian(torch.zeros(1), tasks=[0])
    tap, losses = forward(model, batch)
    with pytest.raises(UsageError, match="another graph"):
        tap.gramian(losses.detach(), tasks=TASKS)
    with pytest.raises(ShapeError, match="of the same tasks"):
        tap.gramian(losses, tasks=TASKS[:2])
    with pytest.raises(ShapeError, match="at least one"):
        tap.gramian(losses[:0], tasks=[])
    for columns in ([0, 0, 1, 2], [0, 1, 2, 4], [-1, 0, 1, 2]):
        with pytest.raises(UsageError, match="different columns"):
            tap.gramian(losses, columns, tasks=TASKS)
