"""Features by forward mode against backward passes and finite differences, without a trace."""

import numpy as np
import pytest
import torch
from torch import nn

from gnn_mtl._core.cost import CostMeter
from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.gradients import _per_sample_features, displaced, displacements, output_features
from gnn_mtl.gradients._directions import chosen_parameters, sign_tangents
from gnn_mtl.gradients._per_sample_features import per_sample_features, per_sample_gradients
from gnn_mtl.graph import NeighborLoader
from gnn_mtl.nn import GATv2, LabelModel, LinearHeads, PyGEncoder

KINDS = ["sage", "gcn", "gin", "gatv2", "sign", "mlp"]
CLOSE = {"rtol": 1e-9, "atol": 1e-12}
SOME = np.arange(8)


def by_hand(model, batch, dim, seed, parameters):
    """P as a matrix, and every logit's gradient one by one."""
    chosen = chosen_parameters(model, parameters)
    signs = sign_tangents(chosen, seed, range(dim))
    matrix = torch.cat([s.flatten(1) for s in signs], dim=1).T / dim**0.5
    model.eval()
    logits = model(batch)
    rows = []
    for value in logits.flatten():
        grads = torch.autograd.grad(value, list(chosen.values()), retain_graph=True)
        rows.append(torch.cat([g.flatten() for g in grads]))
    return (torch.stack(rows) @ matrix).view(*logits.shape, dim), logits.detach()


@pytest.mark.parametrize("parameters", ["shared", "all"])
@pytest.mark.parametrize("head", ["linear", "mlp head"])
@pytest.mark.parametrize("encoder", KINDS)
def test_a_feature_is_the_projected_gradient_of_a_logit(
    encoder, head, parameters, make_model, make_batch
):
    model = make_model(encoder, head)
    batch = make_batch(model.encoder.num_hops, seeds=SOME)
    found = output_features(model, batch, 6, seed=3, parameters=parameters, chunk_size=4)
    phi, logits = by_hand(model, batch, 6, 3, parameters)
    torch.testing.assert_close(found.phi, phi, **CLOSE)
    torch.testing.assert_close(found.logits, logits, **CLOSE)
    backward = per_sample_features(model, batch, 6, seed=3, parameters=parameters)
    torch.testing.assert_close(backward.phi, phi, **CLOSE)


def test_in_float32_it_is_within_a_ten_thousandth(make_model, make_batch):
    model, batch = make_model("sage"), make_batch(seeds=SOME)
    exact = per_sample_features(model, batch, 8).phi
    model, narrow = model.float(), batch.__class__(**{**vars(batch), "x": batch.x.float()})
    found = output_features(model, narrow, 8).phi
    assert found.dtype == torch.float32
    assert float((found - exact).norm() / exact.norm()) < 1e-5
    torch.testing.assert_close(found, exact.float(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("encoder", KINDS)
def test_bfloat16_is_close(encoder, make_model, make_batch):
    model = make_model(encoder)
    batch = make_batch(model.encoder.num_hops)
    exact = output_features(model, batch, 8)
    found = output_features(model, batch, 8, dtype=torch.bfloat16)
    assert found.phi.dtype == torch.float32
    assert torch.equal(found.logits, exact.logits)
    assert 0 < float((found.phi - exact.phi).norm() / exact.phi.norm()) < 0.1


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_edge_features_follow_the_arithmetic(dtype, make_graph):
    loader = NeighborLoader(
        make_graph(40, edge_channels=3), num_neighbors=[3, 3], batch_size=12, shuffle=False
    )
    encoder = GATv2(hidden_channels=8, heads=2, norm="none").build(6, 3)
    model, batch = LabelModel(encoder, LinearHeads(8, 5)), loader.batch(0, 0)
    edges = batch.blocks[0].edge_attr
    found = output_features(model, batch, 4, dtype=dtype).phi
    assert batch.blocks[0].edge_attr is edges
    exact = per_sample_features(model, batch, 4).phi
    error = float((found - exact).norm() / exact.norm())
    assert error < (1e-5 if dtype is None else 0.1)


@pytest.mark.parametrize("parameters", ["shared", "all"])
@pytest.mark.parametrize("encoder", ["sage", "sign"])
def test_moving_along_the_directions_changes_the_logits_as_features_say(
    encoder, parameters, make_model, make_batch
):
    """A central difference of the displaced model: projection and update use the same filter."""
    model = make_model(encoder)
    batch = make_batch(model.encoder.num_hops)
    found = output_features(model, batch, 5, seed=1, parameters=parameters)
    u = torch.tensor([0.3, -1.0, 0.5, 2.0, -0.2], dtype=torch.float64)
    ends = []
    for step in (1e-6, -1e-6):
        with displaced(model.eval(), step * u, seed=1, parameters=parameters), torch.no_grad():
            ends.append(model(batch))
    slope = (ends[0] - ends[1]) / 2e-6
    torch.testing.assert_close(found.phi @ u, slope, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found.at(1e-6 * u), ends[0], rtol=1e-7, atol=1e-9)


def test_batches_and_chunks_do_not_matter(make_model, make_batch, tiny):
    model, whole = make_model("mlp"), make_batch(0)
    exact = output_features(model, whole, 7, chunk_size=1)
    for chunk_size in (3, 7, 64):
        again = output_features(model, whole, 7, chunk_size=chunk_size)
        torch.testing.assert_close(again.phi, exact.phi, **CLOSE)
    seeds = whole.seeds.numpy()
    parts = [
        output_features(model, make_batch(0, seeds=part), 7) for part in (seeds[:5], seeds[5:])
    ]
    torch.testing.assert_close(torch.cat([p.phi for p in parts]), exact.phi, **CLOSE)


def test_a_column_of_directions_depends_on_its_number_alone(make_model, make_batch):
    model, batch = make_model("sign"), make_batch(0)
    few = output_features(model, batch, 3, seed=2).phi * 3**0.5
    many = output_features(model, batch, 9, seed=2).phi * 9**0.5
    torch.testing.assert_close(few, many[:, :, :3], **CLOSE)
    other = output_features(model, batch, 3, seed=4).phi * 3**0.5
    assert not torch.allclose(few, other)


def test_directions_are_independent_signs(make_model):
    chosen = chosen_parameters(make_model("gin"))
    drawn = torch.cat([s.flatten(1) for s in sign_tangents(chosen, 0, range(64))], dim=1)
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    off = drawn @ drawn.T / drawn.shape[1] - torch.eye(64)
    assert float(off.abs().max()) < 5 / drawn.shape[1] ** 0.5
    assert float(drawn.mean(dim=0).abs().max()) < 6 / 64**0.5


@pytest.mark.parametrize("call", [output_features, per_sample_features])
def test_no_trace(call, make_model, make_batch, snapshot, assert_equal_snapshots):
    model, batch = make_model("sage").train(), make_batch()
    model(batch).sum().backward()
    before = snapshot(model)
    call(model, batch, 4)
    assert_equal_snapshots(before, snapshot(model))


def test_a_displaced_model_comes_back_bit_for_bit(make_model, snapshot, assert_equal_snapshots):
    model = make_model("gcn").train()
    before = snapshot(model)
    with displaced(model, torch.ones(3)) as moved:
        assert moved is model
        assert not torch.equal(
            model.encoder.convs[0].lin.weight, before["state"]["encoder.convs.0.lin.weight"]
        )
        assert torch.equal(model.heads.weight, before["state"]["heads.weight"])
    assert_equal_snapshots(before, snapshot(model))
    with pytest.raises(KeyError), displaced(model, torch.ones(3), parameters="all"):
        raise KeyError
    assert_equal_snapshots(before, snapshot(model))


def test_many_displacements_are_one_by_one(make_model):
    model = make_model("mlp")
    columns = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    together = displacements(model, columns)
    alone = torch.stack([displacements(model, u) for u in columns.T])
    torch.testing.assert_close(together, alone, **CLOSE)
    size = together.shape[1]
    matrix = torch.cat(
        [s.flatten(1) for s in sign_tangents(chosen_parameters(model), 0, range(20))], dim=1
    )
    torch.testing.assert_close(together, columns.T @ matrix / 20**0.5, **CLOSE)
    assert size == sum(p.numel() for p in model.shared_parameters())


def test_a_predicate_chooses_by_name_and_frozen_parameters_never(make_model, make_batch):
    model, batch = make_model("sage"), make_batch(seeds=SOME)
    last = output_features(model, batch, 5, parameters=lambda name: "convs.1" in name)
    phi, _ = by_hand(model, batch, 5, 0, lambda name: "convs.1" in name)
    torch.testing.assert_close(last.phi, phi, **CLOSE)
    for parameter in model.encoder.convs[0].parameters():
        parameter.requires_grad_(False)
    assert not any("convs.0" in name for name in chosen_parameters(model, "all"))


def test_the_work_is_counted(make_model, make_batch, monkeypatch):
    model, batch = make_model("sage"), make_batch(seeds=SOME)
    meter = CostMeter()
    output_features(model, batch, 9, meter=meter)
    assert (meter.jvps, meter.forwards, meter.backwards) == (9, 1, 0)
    per_sample_features(model, batch, 2, meter=meter)
    assert meter.backwards == batch.batch_size * model.num_tasks
    assert meter.forwards == 1 + 1 + 1  # the first line's, the logits', and that of 40 gradients
    monkeypatch.setattr(_per_sample_features, "GRADIENTS_AT_ONCE", 9)
    passes, few = [], CostMeter()
    model.encoder.register_forward_hook(lambda *_: passes.append(0))
    per_sample_features(model, batch, 2, meter=few)
    assert few.forwards == len(passes) == 1 + 5


def test_between_two_gradients_the_model_is_the_callers(make_model, make_batch):
    model, batch = make_model("sage").train(), make_batch(seeds=SOME)
    found = per_sample_gradients(model, batch, torch.tensor([[0, 1], [2, 3]]))
    with torch.no_grad():
        first = next(found)
        assert model.training
        assert not torch.is_grad_enabled()
    second = next(found)
    assert model.training
    assert torch.is_grad_enabled()
    assert not first.requires_grad
    model.eval()
    parameters = list(model.shared_parameters())
    for row, (node, task) in zip((first, second), ((0, 1), (2, 3)), strict=True):
        exact = torch.autograd.grad(model(batch)[node, task], parameters)
        torch.testing.assert_close(row, torch.cat([g.flatten() for g in exact]), **CLOSE)


class Mean(nn.Module):
    """A user's module of stock layers."""

    def __init__(self):
        super().__init__()
        from torch_geometric.nn import SAGEConv

        self.layers = nn.ModuleList([SAGEConv(6, 8), SAGEConv(8, 8)])

    def forward(self, x, edge_index):
        for layer in self.layers:
            x = layer(x, edge_index).relu()
        return x


class NoForwardMode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad


class Opaque(Mean):
    def forward(self, x, edge_index):
        return NoForwardMode.apply(super().forward(x, edge_index))


def test_a_wrapped_module_and_one_without_forward_mode(make_batch):
    batch = make_batch(seeds=SOME)
    model = LabelModel(PyGEncoder(Mean(), 8, 2), LinearHeads(8, 5)).double()
    phi, _ = by_hand(model, batch, 4, 0, "shared")
    torch.testing.assert_close(output_features(model, batch, 4).phi, phi, **CLOSE)
    opaque = LabelModel(PyGEncoder(Opaque(), 8, 2), LinearHeads(8, 5)).double()
    with pytest.raises(UsageError, match=r"forward-mode derivative.*per_sample_features"):
        output_features(opaque, batch, 4)
    phi, _ = by_hand(opaque, batch, 4, 0, "shared")
    torch.testing.assert_close(per_sample_features(opaque, batch, 4).phi, phi, **CLOSE)


def test_other_errors_of_the_network_are_its_own(make_batch, monkeypatch):
    model, batch = LabelModel(PyGEncoder(Mean(), 8, 2), LinearHeads(8, 5)).double(), make_batch()
    calls = []

    def fails_later(self, x, edge_index):
        calls.append(0)
        if len(calls) > 1:
            raise RuntimeError("out of memory")
        return torch.zeros(len(x), 8, dtype=x.dtype)

    monkeypatch.setattr(Mean, "forward", fails_later)
    with pytest.raises(RuntimeError, match="out of memory"):
        output_features(model, batch, 4)


def test_bad_arguments(make_model, make_batch):
    model, batch = make_model("mlp"), make_batch(0)
    for options in ({"dim": 0}, {"dim": 4, "chunk_size": 0}):
        with pytest.raises(UsageError, match="at least 1"):
            output_features(model, batch, **options)
    with pytest.raises(UsageError, match="at least 1"):
        per_sample_features(model, batch, 0)
    with pytest.raises(UsageError, match=r"'shared', 'all' or a predicate.*'head'"):
        output_features(model, batch, 4, parameters="head")
    with pytest.raises(UsageError, match="at least one trainable parameter"):
        output_features(model, batch, 4, parameters=lambda name: False)
    for u in (torch.ones(2, 2), torch.ones(())):
        with pytest.raises(ShapeError, match=r"one vector \[d\]"), displaced(model, u):
            pass
    with pytest.raises(ShapeError, match=r"\[d\] or \[d, m\]"):
        displacements(model, torch.ones(0))
