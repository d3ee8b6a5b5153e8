"""Weighted PCGrad: who is spared, how often, and what it remembers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gnn_mtl._core.errors import UsageError
from gnn_mtl.aggregation import WPCGrad
from gnn_mtl.aggregation._wpcgrad import SMALLEST, log_losses, wpcgrad_weights

PAIR = torch.tensor([[2.0, 0.0], [-1.0, 3.0]]).double()
# 0 spared: (2,0) + (-1,3) + 1/2 (2,0): weights 3/2, 1. 1 spared: 1, 1 + 1/5.
ZERO_STAYS, ONE_STAYS = [1.5, 1.0], [1.0, 1.2]


def random_rows(size: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(
        size, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def explicit(jacobian: Tensor, order: list[int]) -> Tensor:
    """Every gradient off the originals of those before it in the order, the first one last."""
    total = torch.zeros_like(jacobian[0])
    for place, i in enumerate(order):
        projected = jacobian[i].clone()
        for j in reversed(order[:place]):
            product = min(float(projected @ jacobian[j]), 0.0)
            projected = projected - product / (jacobian[j] @ jacobian[j]) * jacobian[j]
        total = total + projected
    return total


@pytest.mark.parametrize("size", [1, 2, 5, 20])
def test_lock_step_is_the_algorithm_on_vectors(size: int) -> None:
    jacobian = random_rows(size, 10, seed=size)
    order = np.random.default_rng(size).permutation(size).tolist()
    certain = torch.empty(size, dtype=torch.float64)
    certain[order] = -1e6 * torch.arange(size).double()  # far more than any Gumbel number
    weights = wpcgrad_weights(jacobian @ jacobian.T, certain, np.random.default_rng(0))
    assert torch.allclose(weights @ jacobian, explicit(jacobian, order), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("variant", ["order", "pairwise"])
def test_no_conflict_is_the_sum(variant: str) -> None:
    jacobian = random_rows(8, 20).abs()
    aggregator = WPCGrad(variant=variant, norm="native").build(8)  # type: ignore[arg-type]
    for _ in range(3):
        weights = aggregator.weights(jacobian @ jacobian.T, losses=torch.rand(8))
        assert weights.tolist() == [1.0] * 8


@pytest.mark.parametrize("variant", ["order", "pairwise"])
def test_a_certain_task_stays_whole(variant: str) -> None:
    for seed in range(10):
        jacobian = random_rows(6, 5, seed=seed)
        log_odds = torch.full((6,), -torch.inf, dtype=torch.float64)
        log_odds[2] = 0
        draw = np.random.default_rng(seed)
        weights = wpcgrad_weights(jacobian @ jacobian.T, log_odds, draw, variant=variant)  # type: ignore[arg-type]
        assert bool(weights.isfinite().all())
        if variant == "order":
            direction = weights @ jacobian
            square = float(jacobian[2] @ jacobian[2])
            assert float(direction @ jacobian[2]) >= square * (1 - 1e-12)


@pytest.mark.parametrize("variant", ["order", "pairwise"])
def test_a_pair_is_projected_as_often_as_the_losses_say(variant: str) -> None:
    gramian = PAIR @ PAIR.T
    losses = torch.tensor([0.9, 0.3])
    for gamma, wanted in ((0.0, 0.5), (1.0, 0.75), (2.0, 0.9), (-1.0, 0.25)):
        method = WPCGrad(gamma=gamma, variant=variant, norm="native")  # type: ignore[arg-type]
        aggregator = method.build(2, seed=1)
        aggregator.weights(gramian, losses=losses)
        stays = 0
        for _ in range(250):
            weights = aggregator.weights(gramian, losses=losses).tolist()
            zero = weights == pytest.approx(ZERO_STAYS)
            assert zero or weights == pytest.approx(ONE_STAYS)
            stays += zero
        # Five standard deviations.
        assert abs(stays / 250 - wanted) < 5 * math.sqrt(wanted * (1 - wanted) / 250)


def test_orders_are_drawn_without_replacement_in_proportion() -> None:
    gramian = torch.tensor([[1.0, -0.3, -0.2], [-0.3, 1.0, -0.4], [-0.2, -0.4, 1.0]]).double()
    jacobian = torch.linalg.cholesky(gramian)
    odds = [0.6, 0.3, 0.1]
    log_odds = torch.tensor(odds, dtype=torch.float64).log()
    draw = np.random.default_rng(0)
    drawn = [wpcgrad_weights(gramian, log_odds, draw) for _ in range(600)]
    found = 0
    for a, b, c in itertools.permutations(range(3)):
        weights = torch.linalg.solve(jacobian.T, explicit(jacobian, [a, b, c]))
        share = odds[a] * odds[b] / (1 - odds[a])
        times = sum(torch.allclose(weights, other) for other in drawn)
        assert abs(times / 600 - share) < 5 * math.sqrt(share * (1 - share) / 600)
        found += times
    assert found == 600


def test_uniform_odds_treat_the_tasks_alike() -> None:
    angles = torch.deg2rad(torch.tensor([0.0, 120.0, 240.0], dtype=torch.float64))
    jacobian = torch.stack([angles.cos(), angles.sin()], dim=1)
    for variant in ("order", "pairwise"):
        draw, total = np.random.default_rng(0), torch.zeros(3, dtype=torch.float64)
        for _ in range(500):
            total += wpcgrad_weights(
                jacobian @ jacobian.T,
                torch.zeros(3, dtype=torch.float64),
                draw,
                variant=variant,  # type: ignore[arg-type]
            )
        mean = total / 500
        assert float((mean - mean.mean()).abs().max()) < 0.15


def test_losses_are_remembered_by_task_id() -> None:
    aggregator = WPCGrad(decay=0.75).build(5)
    gramian = torch.eye(2).double()
    aggregator.weights(gramian, tasks=[3, 1], losses=torch.tensor([4.0, 2.0]))
    aggregator.weights(gramian, tasks=[1, 4], losses=torch.tensor([1.0, 5.0]))
    losses = aggregator.state["losses"]
    # 1: 0.75 * 2 + 0.25 * 1.
    assert losses[[1, 3, 4]].tolist() == [1.75, 4.0, 5.0]
    assert bool(losses[[0, 2]].isnan().all())
    last = WPCGrad(decay=0.0).build(2)
    for value in (3.0, 7.0):
        last.weights(gramian, losses=torch.tensor([value, 1.0]))
    assert last.state["losses"].tolist() == [7.0, 1.0]


def test_only_previous_losses_count() -> None:
    gramian = PAIR @ PAIR.T
    one, other = (WPCGrad(gamma=50.0, norm="native").build(2, seed=5) for _ in range(2))
    first = one.weights(gramian, losses=torch.tensor([1.0, 9.0]))
    assert torch.equal(first, other.weights(gramian, losses=torch.tensor([9.0, 1.0])))
    even = torch.ones(2)
    assert one.weights(gramian, losses=even).tolist() == pytest.approx(ONE_STAYS)
    assert other.weights(gramian, losses=even).tolist() == pytest.approx(ZERO_STAYS)


def test_unknown_and_vanishing_losses_have_odds() -> None:
    nan = torch.nan
    unknown = log_losses(torch.tensor([nan, nan]).double())
    assert unknown.tolist() == [0, 0]
    mixed = log_losses(torch.tensor([1.0, nan, 3.0]).double())
    assert mixed.tolist() == pytest.approx([0, math.log(2), math.log(3)])
    small = log_losses(torch.tensor([0.0, -1.0, 2.0]).double())
    assert small.tolist() == pytest.approx([math.log(2 * SMALLEST)] * 2 + [math.log(2)])
    assert log_losses(torch.tensor([0.0, -1.0]).double()).tolist() == [0, 0]


def test_resume_draws_the_same_orders() -> None:
    jacobian = random_rows(7, 6)
    gramian = jacobian @ jacobian.T
    for variant in ("order", "pairwise"):
        method = WPCGrad(variant=variant)  # type: ignore[arg-type]
        aggregator = method.build(10, seed=2)
        tasks = [9, 0, 4, 5, 1, 7, 3]
        for step in range(3):
            aggregator.weights(gramian, tasks=tasks, losses=torch.arange(7.0) + step)
        resumed = method.build(10, seed=2)
        resumed.load_state_dict(aggregator.state_dict())
        subset = gramian[:4][:, :4]
        for _ in range(3):
            ours = aggregator.weights(subset, tasks=tasks[:4], losses=torch.ones(4))
            theirs = resumed.weights(subset, tasks=tasks[:4], losses=torch.ones(4))
            assert torch.equal(ours, theirs)


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(UsageError, match="gamma"):
        WPCGrad(gamma=float("inf"))
    with pytest.raises(UsageError, match="decay"):
        WPCGrad(decay=1.0)
    with pytest.raises(UsageError, match="order, pairwise"):
        WPCGrad(variant="both")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="norm"):
        WPCGrad(norm="long")  # type: ignore[arg-type]
