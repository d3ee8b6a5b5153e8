"""Rank-one directions: the exact product with their own P, unbiased, and never a trace."""

import pytest
import torch
from torch import nn

from gnn_mtl._core.cost import CostMeter
from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.gradients import _kronecker_features as module
from gnn_mtl.gradients import kronecker_displaced, kronecker_features
from gnn_mtl.nn import LabelModel, LinearHeads

CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def maps_of(model):
    return {n: m for n, m in model.encoder.named_modules() if isinstance(m, nn.Linear)}


def by_hand(model, batch, dim, seed):
    """Full gradients of weights and biases, times the outer products of the factors."""
    maps = {f"encoder.{n}": m for n, m in maps_of(model).items()}
    columns = []
    for name, linear in maps.items():
        known = module._factors(linear, name, dim, seed)
        weight = torch.einsum("ok,ik->oik", known.out, known.inner)
        columns += [weight.flatten(0, 1), known.out * known.bias]
    matrix = torch.cat(columns) / dim**0.5
    model.eval()
    logits = model(batch)
    parameters = [p for m in maps.values() for p in (m.weight, m.bias)]
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(z, parameters, retain_graph=True)])
        for z in logits.flatten()
    ]
    return (torch.stack(rows) @ matrix).view(*logits.shape, dim), torch.stack(rows)


@pytest.mark.parametrize("head", ["linear", "mlp head"])
@pytest.mark.parametrize("encoder", ["sign", "mlp"])
@pytest.mark.parametrize("at_once", [2, 100])
def test_features_are_the_product_with_outer_products(
    encoder, head, at_once, make_model, make_batch, monkeypatch
):
    monkeypatch.setattr(module, "OUTPUTS_AT_ONCE", at_once)
    model, batch = make_model(encoder, head), make_batch(0)
    found = kronecker_features(model, batch, 6, seed=1)
    torch.testing.assert_close(found.phi, by_hand(model, batch, 6, 1)[0], **CLOSE)


def test_more_tasks_than_units_go_through_the_units(make_model, make_batch):
    model, batch = make_model("sign"), make_batch(0)
    wide = LabelModel(model.encoder, LinearHeads(8, 20).double())
    meter = CostMeter()
    found = kronecker_features(wide, batch, 4, meter=meter)
    torch.testing.assert_close(found.phi, by_hand(wide, batch, 4, 0)[0], **CLOSE)
    assert meter.backwards == 8


def test_inner_products_are_unbiased(make_model, make_batch):
    model, batch = make_model("mlp"), make_batch(0)
    _, rows = by_hand(model, batch, 1, 0)
    exact = (rows @ rows.T)[:30, :30]
    grams = []
    for seed in range(60):
        phi = kronecker_features(model, batch, 8, seed=seed).phi.flatten(0, 1)[:30]
        grams.append(phi @ phi.T)
    grams = torch.stack(grams)
    error = (grams.mean(dim=0) - exact).abs()
    assert (error <= 5 * grams.std(dim=0) / len(grams) ** 0.5 + 1e-12).all()


def test_moving_along_them_and_back(make_model, make_batch, snapshot, assert_equal_snapshots):
    model, batch = make_model("sign").train(), make_batch(0)
    before = snapshot(model)
    found = kronecker_features(model, batch, 5, seed=2)
    assert_equal_snapshots(before, snapshot(model))
    u = torch.tensor([0.3, -1.0, 0.5, 2.0, -0.2], dtype=torch.float64)
    ends = []
    for step in (1e-6, -1e-6):
        with kronecker_displaced(model, step * u, seed=2), torch.no_grad():
            model.eval()
            ends.append(model(batch))
            model.train()
    torch.testing.assert_close(found.phi @ u, (ends[0] - ends[1]) / 2e-6, rtol=1e-5, atol=1e-7)
    assert_equal_snapshots(before, snapshot(model))


class Twice(nn.Module):
    num_hops = 0
    out_channels = 6

    def __init__(self):
        super().__init__()
        self.map = nn.Linear(6, 6)

    def forward(self, batch):
        return self.map(self.map(batch.x))


def test_bad_arguments(make_model, make_batch):
    with pytest.raises(UsageError, match=r"reads no neighbour.*SAGEEncoder"):
        kronecker_features(make_model("sage"), make_batch(), 3)
    batch = make_batch(0)
    with pytest.raises(UsageError, match="at least 1"):
        kronecker_features(make_model("mlp"), batch, 0)
    with pytest.raises(UsageError, match="applied once"):
        kronecker_features(LabelModel(Twice(), LinearHeads(6, 5)).double(), batch, 3)
    with (
        pytest.raises(ShapeError, match=r"\[d\]"),
        kronecker_displaced(make_model("mlp"), torch.ones(2, 2)),
    ):
        pass
