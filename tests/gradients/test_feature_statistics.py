"""Sums of features against loops over the cells, and what they are for."""

import pytest
import torch
from torch.nn import functional

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.gradients import (
    FeatureStatistics,
    OutputFeatures,
    feature_statistics,
    output_features,
)
from gnn_mtl.gradients import _feature_statistics as module

CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def block(seed=0, size=11, num_tasks=4, dim=3):
    rng = torch.Generator().manual_seed(seed)
    features = OutputFeatures(
        torch.randn(size, num_tasks, dim, generator=rng, dtype=torch.float64),
        torch.randn(size, num_tasks, generator=rng, dtype=torch.float64),
    )
    observed = torch.rand(size, num_tasks, generator=rng) < 0.7
    observed[:, 2] = False
    y = (torch.rand(size, num_tasks, generator=rng) < 0.4).double()
    weights = torch.rand(size, num_tasks, generator=rng, dtype=torch.float64)
    return features, torch.where(observed, y, torch.nan), observed, weights


def sums(total):
    return total.gradient, total.hessian, total.loss, total.weight


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("piece", [1, 1 << 20])
def test_sums_are_those_of_a_loop_over_cells(weighted, piece, monkeypatch):
    monkeypatch.setattr(module, "PIECE_BYTES", piece)
    features, y, observed, weights = block()
    total = FeatureStatistics.zeros(4, 3, dtype=torch.float64)
    total.add(features, y, observed, weights if weighted else None)
    expected = FeatureStatistics.zeros(4, 3, dtype=torch.float64)
    for row, task in observed.nonzero().tolist():
        w = weights[row, task] if weighted else 1.0
        phi, f, target = features.phi[row, task], features.logits[row, task], y[row, task]
        p = 1 / (1 + torch.exp(-f))
        expected.gradient[task] += w * (p - target) * phi
        expected.hessian[task] += w * p * (1 - p) * torch.outer(phi, phi)
        expected.loss[task] -= w * torch.log(p if target else 1 - p)
        expected.weight[task] += w
    for a, b in zip(sums(total), sums(expected), strict=True):
        torch.testing.assert_close(a, b, **CLOSE)
    assert not any(part[2].any() for part in sums(total))


def test_they_are_the_second_order_expansion_of_the_loss():
    """Automatic derivatives of the linear model's loss at u = 0."""
    features, y, observed, _ = block(1)
    total = FeatureStatistics.zeros(4, 3, dtype=torch.float64)
    total.add(features, y, observed)

    def loss(u):
        z = features.at(u)
        cells = functional.binary_cross_entropy_with_logits(
            z, torch.where(observed, y, 0.0), reduction="none"
        )
        return torch.where(observed, cells, 0.0).sum(dim=0)

    zero = torch.zeros(3, dtype=torch.float64)
    torch.testing.assert_close(total.loss, loss(zero), **CLOSE)
    torch.testing.assert_close(total.gradient, torch.func.jacfwd(loss)(zero), **CLOSE)
    second = torch.func.jacfwd(torch.func.jacfwd(loss))(zero)
    torch.testing.assert_close(total.hessian, second, **CLOSE)


def test_blocks_add_up_and_merge():
    features, y, observed, weights = block(2, size=12)
    whole = FeatureStatistics.zeros(4, 3, dtype=torch.float64)
    whole.add(features, y, observed, weights)
    halves = [FeatureStatistics.zeros(4, 3, dtype=torch.float64) for _ in range(2)]
    for half, rows in zip(halves, (slice(0, 5), slice(5, 12)), strict=True):
        part = OutputFeatures(features.phi[rows], features.logits[rows])
        half.add(part, y[rows], observed[rows], weights[rows])
    halves[0].merge(halves[1])
    for a, b in zip(sums(whole), sums(halves[0]), strict=True):
        torch.testing.assert_close(a, b, **CLOSE)
    with pytest.raises(ShapeError, match=r"T = 4 and d = 3\. Found 4 and 2"):
        whole.merge(FeatureStatistics.zeros(4, 2))


def test_from_a_model_in_blocks(make_model, make_batch):
    model, whole = make_model("sign"), make_batch(0)
    seeds = whole.seeds.numpy()
    batches = [make_batch(0, seeds=seeds[:7]), make_batch(0, seeds=seeds[7:])]
    found = feature_statistics(model, batches, 5, seed=3)
    expected = FeatureStatistics.zeros(5, 5, dtype=torch.float64)
    expected.add(output_features(model, whole, 5, seed=3), whole.y, whole.observed)
    for a, b in zip(sums(found), sums(expected), strict=True):
        torch.testing.assert_close(a, b, **CLOSE)
    assert found.weight.tolist() == whole.observed.sum(dim=0).tolist()
    with pytest.raises(UsageError, match="at least one batch"):
        feature_statistics(model, [], 5)


@pytest.mark.parametrize("wrong", ["y", "weights", "tasks", "dim"])
def test_shapes_are_checked(wrong):
    features, y, observed, weights = block()
    total = FeatureStatistics.zeros(3 if wrong == "tasks" else 4, 2 if wrong == "dim" else 3)
    y = y[:, :2] if wrong == "y" else y
    weights = weights[:2] if wrong == "weights" else weights
    with pytest.raises(ShapeError, match="Features should be"):
        total.add(features, y, observed, weights)
