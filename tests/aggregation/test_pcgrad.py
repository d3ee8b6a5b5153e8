"""PCGrad against explicit vectors and TorchJD."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.aggregation import PCGrad, pcgrad_weights
from gnn_mtl.aggregation._pcgrad import random_orders


def explicit(jacobian: Tensor, orders: Tensor) -> Tensor:
    """Algorithm 1 of the paper on the vectors themselves."""
    total = torch.zeros_like(jacobian[0])
    for i, order in enumerate(orders.tolist()):
        projected = jacobian[i].clone()
        for j in order:
            product = projected @ jacobian[j]
            if j != i and product < 0:
                projected = projected - product / (jacobian[j] @ jacobian[j]) * jacobian[j]
        total = total + projected
    return total


def random_rows(size: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(
        size, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


@pytest.mark.parametrize("size", [1, 2, 3, 8, 25])
@pytest.mark.parametrize("spread", [1.0, 1e6])
def test_lock_step_is_the_algorithm_on_vectors(size: int, spread: float) -> None:
    jacobian = random_rows(size, 12, seed=size) * spread ** torch.rand(size, 1).double()
    orders = random_orders(size, np.random.default_rng(size))
    weights = pcgrad_weights(jacobian @ jacobian.T, orders)
    wanted = explicit(jacobian, orders)
    assert torch.allclose(weights @ jacobian, wanted, rtol=1e-9, atol=1e-11 * float(wanted.norm()))


def test_same_permutations_give_the_weights_of_torchjd(monkeypatch: pytest.MonkeyPatch) -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    jacobian = random_rows(20, 15)
    gramian = jacobian @ jacobian.T
    orders = random_orders(20, np.random.default_rng(7))
    queue = list(orders)
    monkeypatch.setattr(torch, "randperm", lambda *_, **__: queue.pop(0))
    theirs = aggregation.PCGradWeighting()(gramian)
    assert queue == []
    assert torch.allclose(pcgrad_weights(gramian, orders), theirs, rtol=1e-11)


def test_two_conflicting_tasks() -> None:
    # g = (2,0), (-1,3): (2,0) + 2/10 (-1,3), (-1,3) + 2/4 (2,0): weights 1 + 1/2 and 1 + 1/5.
    jacobian = torch.tensor([[2.0, 0.0], [-1.0, 3.0]]).double()
    weights = PCGrad(norm="native").build(2).weights(jacobian @ jacobian.T)
    assert weights.tolist() == pytest.approx([1.5, 1.2])


def test_only_original_gradients_are_projected_off() -> None:
    # g_0 = (1,0), g_1 = (-1,1), g_2 = (0,-1), orders 0: 1 2, 1: 0 2, 2: 0 1.
    # g_0' = (1,0) + 1/2 (-1,1) = (1/2,1/2); times (0,-1) = -1/2 -> + 1/2 (0,-1) = (1/2, 0).
    # g_1' = (-1,1) + (1,0) = (0,1); times (0,-1) = -1 -> + (0,-1) = (0,0).
    # g_2' = (0,-1); times (-1,1) = -1 -> + 1/2 (-1,1) = (-1/2,-1/2).
    # Off the already projected g_1' = 0 it would stay (0,-1).
    jacobian = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [0.0, -1.0]]).double()
    orders = torch.tensor([[1, 2], [0, 2], [0, 1]])
    weights = pcgrad_weights(jacobian @ jacobian.T, orders)
    # In original gradients: 0: (1, 1/2, 1/2); 1: (1, 1, 1); 2: (0, 1/2, 1).
    assert weights.tolist() == pytest.approx([2, 2, 2.5])
    assert (weights @ jacobian).tolist() == pytest.approx([0, -0.5])


def test_no_conflict_is_the_sum() -> None:
    jacobian = random_rows(9, 30).abs()
    weights = PCGrad(norm="native").build(9).weights(jacobian @ jacobian.T)
    assert weights.tolist() == [1.0] * 9


def test_orders_matter_and_three_tasks_may_still_conflict() -> None:
    found, conflicts = set(), 0
    for seed in range(30):
        jacobian = random_rows(6, 6, seed=seed)
        weights = PCGrad(norm="native").build(6, seed=seed).weights(jacobian @ jacobian.T)
        conflicts += bool((jacobian @ (weights @ jacobian) < -1e-9).any())
        found.add(float(weights.sum()))
        assert float(weights.min()) >= 1
    assert conflicts > 0
    assert "non_conflicting" not in PCGrad.promises


def test_permutations_come_from_the_seed_and_the_call() -> None:
    jacobian = random_rows(6, 6, seed=1)
    gramian = jacobian @ jacobian.T
    first, second = PCGrad().build(6, seed=3), PCGrad().build(6, seed=3)
    calls = [first.weights(gramian) for _ in range(4)]
    assert any(not torch.equal(calls[0], other) for other in calls[1:])
    second.weights(gramian)
    resumed = PCGrad().build(6, seed=3)
    resumed.load_state_dict(second.state_dict())
    assert torch.equal(resumed.weights(gramian), calls[1])
    orders = random_orders(7, np.random.default_rng(0))
    assert torch.equal(orders.sort(dim=1).values, torch.arange(7).expand(7, 7))


def test_opposite_gradients_cancel() -> None:
    jacobian = torch.tensor([[1.0, 2.0], [-3.0, -6.0]]).double()
    assert float(PCGrad().build(2)(jacobian).norm()) < 1e-12


def test_errors_say_what_is_wrong() -> None:
    gramian = torch.eye(3).double()
    with pytest.raises(ShapeError, match="one row a task, 3"):
        pcgrad_weights(gramian, torch.tensor([[0, 1, 2]]))
    with pytest.raises(UsageError, match="tasks 0 to 2"):
        pcgrad_weights(gramian, torch.tensor([[1, 2], [0, 3], [0, 1]]))
    with pytest.raises(UsageError, match="norm"):
        PCGrad(norm="long")  # type: ignore[arg-type]
