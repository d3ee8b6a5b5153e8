"""GradVac against explicit vectors, PCGrad and TorchJD."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gnn_mtl._core.errors import UsageError
from gnn_mtl.aggregation import GradVac, pcgrad_weights
from gnn_mtl.aggregation._gradvac import gradvac_weights
from gnn_mtl.aggregation._pcgrad import random_orders


def random_rows(size: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(
        size, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def explicit(
    jacobian: Tensor, targets: Tensor, orders: Tensor, beta: float
) -> tuple[Tensor, Tensor]:
    """Algorithm 1 of the paper on the vectors themselves."""
    total, targets = torch.zeros_like(jacobian[0]), targets.clone()
    for i, order in enumerate(orders.tolist()):
        vector = jacobian[i].clone()
        for j in order:
            if j == i:
                continue
            other, target = jacobian[j], float(targets[i, j])
            cosine = float(vector @ other / vector.norm() / other.norm())
            if cosine < target:
                low, high = math.sqrt(1 - target**2), math.sqrt(1 - cosine**2)
                vector = (
                    vector
                    + (vector.norm() * (target * high - cosine * low) / (other.norm() * low))
                    * other
                )
                reached = float(vector @ other / vector.norm() / other.norm())
                assert reached == pytest.approx(target, abs=1e-9)
            targets[i, j] = (1 - beta) * target + beta * cosine
        total = total + vector
    return total, targets


@pytest.mark.parametrize("size", [1, 2, 5, 16])
@pytest.mark.parametrize("beta", [0.5, 0.01])
def test_lock_step_is_the_algorithm_on_vectors(size: int, beta: float) -> None:
    targets = torch.zeros(size, size, dtype=torch.float64)
    wanted_targets = targets.clone()
    for step in range(4):
        jacobian = random_rows(size, 12, seed=step) * 10 ** torch.arange(size).double()[:, None]
        orders = random_orders(size, np.random.default_rng(step))
        weights, targets = gradvac_weights(jacobian @ jacobian.T, targets, orders, beta=beta)
        wanted, wanted_targets = explicit(jacobian, wanted_targets, orders, beta)
        assert torch.allclose(weights @ jacobian, wanted, rtol=1e-7, atol=1e-9)
        assert torch.allclose(targets, wanted_targets, atol=1e-10)
        assert float(weights.min()) >= 1 - 1e-12


def test_first_call_is_pcgrad() -> None:
    jacobian = random_rows(12, 10)
    gramian = jacobian @ jacobian.T
    orders = random_orders(12, np.random.default_rng(3))
    none = torch.zeros(12, 12, dtype=torch.float64)
    weights, targets = gradvac_weights(gramian, none, orders, beta=0.5)
    assert torch.allclose(weights, pcgrad_weights(gramian, orders), rtol=1e-9)
    assert float(targets.abs().max()) > 0.1
    assert float(none.abs().max()) == 0
    still, kept = gradvac_weights(gramian, none, orders, beta=0.0)
    assert torch.allclose(still, weights)
    assert float(kept.abs().max()) == 0


def test_a_turn_reaches_the_target() -> None:
    # Unit vectors at a right angle, target 0.6: a = 0.6 / 0.8, so (1,0) + 0.75 (0,1).
    gramian = torch.eye(2).double()
    targets = torch.tensor([[0.0, 0.6], [0.0, 0.0]]).double()
    orders = torch.tensor([[1], [0]])
    weights, new = gradvac_weights(gramian, targets, orders, beta=0.25)
    assert weights.tolist() == pytest.approx([1, 1.75])
    # 0.75 * 0.6 + 0.25 * 0; the diagonal and (1, 0) stay 0.
    assert new.flatten().tolist() == pytest.approx([0, 0.45, 0, 0])


def test_same_permutations_give_the_weights_of_torchjd(monkeypatch: pytest.MonkeyPatch) -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    theirs = aggregation.GradVacWeighting(beta=0.5, eps=0.0)
    size = 12
    targets = torch.zeros(size, size, dtype=torch.float64)
    for step in range(3):
        jacobian = random_rows(size, 9, seed=step)
        gramian = jacobian @ jacobian.T
        among_others = [torch.randperm(size - 1) for _ in range(size)]
        queue = list(among_others)
        with monkeypatch.context() as patch:
            patch.setattr(torch, "randperm", lambda *_, queue=queue, **__: queue.pop(0))
            wanted = theirs(gramian)
        assert queue == []
        orders = torch.stack([row + (row >= i) for i, row in enumerate(among_others)])
        weights, targets = gradvac_weights(gramian, targets, orders, beta=0.5)
        assert torch.allclose(weights, wanted, rtol=1e-8)


def test_targets_are_kept_by_task_id_and_move_for_active_pairs_only() -> None:
    aggregator = GradVac(beta=0.5).build(6, seed=0)
    gramian = torch.tensor([[1.0, 0.5], [0.5, 1.0]]).double()
    aggregator.weights(gramian, tasks=[4, 1])
    targets = aggregator.state["targets"].clone()
    # Cosine 0.5 is above the target 0: no turn, and both targets move half of the way.
    assert targets[4, 1] == targets[1, 4] == 0.25
    assert float(targets.abs().sum()) == 0.5
    aggregator.weights(torch.eye(3).double(), tasks=[0, 1, 2])
    assert torch.equal(aggregator.state["targets"], targets)
    native = GradVac(beta=0.5, norm="native").build(6, seed=0)
    native.load_state_dict(aggregator.state_dict())
    # The pair is at a right angle now: turned to cosine 1/4, a = 0.25 / sqrt(1 - 1/16).
    weights = native.weights(torch.eye(2).double(), tasks=[1, 4])
    assert weights.tolist() == pytest.approx([1 + 0.25 / math.sqrt(15 / 16)] * 2)


def test_resume_gives_the_same_weights() -> None:
    aggregator, resumed = GradVac().build(9, seed=4), GradVac().build(9, seed=4)
    for step in range(3):
        rows = random_rows(7, 6, seed=step)
        aggregator.weights(rows @ rows.T, tasks=[8, 2, 3, 0, 5, 6, 1])
    resumed.load_state_dict(aggregator.state_dict())
    for step in range(3):
        rows = random_rows(4, 6, seed=step)
        ours, theirs = (
            one.weights(rows @ rows.T, tasks=[7, 8, 0, 2]) for one in (aggregator, resumed)
        )
        assert torch.equal(ours, theirs)


def test_equal_and_opposite_gradients_stay_finite_for_long() -> None:
    jacobian = torch.tensor([[1.0, 0.0], [2.0, 0.0], [-1.0, 0.0], [0.0, 1e-5]]).double()
    aggregator = GradVac(beta=0.9).build(4)
    for _ in range(50):
        weights = aggregator.weights(jacobian @ jacobian.T)
        assert bool(weights.isfinite().all())
    targets = aggregator.state["targets"]
    assert bool(targets.isfinite().all())
    assert float(targets.abs().max()) <= 1
    # And where two that were always equal are opposite once.
    jacobian = torch.tensor([[1.0, 0.0], [-2.0, 0.0]]).double()
    weights = aggregator.weights(jacobian @ jacobian.T, tasks=[0, 1])
    assert bool(weights.isfinite().all())


def test_errors_say_what_is_wrong() -> None:
    for beta in (-0.1, 1.1, float("nan")):
        with pytest.raises(UsageError, match="beta"):
            GradVac(beta=beta)
    with pytest.raises(UsageError, match="norm"):
        GradVac(norm="long")  # type: ignore[arg-type]
