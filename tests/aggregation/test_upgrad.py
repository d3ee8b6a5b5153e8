"""UPGrad and DualProj: no conflict whatever the norms, optimality, scaling laws, TorchJD."""

import pytest
import torch

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.aggregation import DualProj, UPGrad
from gnn_mtl.aggregation._dualproj import dualproj_weights
from gnn_mtl.aggregation._upgrad import upgrad_weights


def gradients(tasks, width, seed, *, log_norms=0.0):
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(tasks, width, generator=draw, dtype=torch.float64)
    return rows * (log_norms * torch.randn(tasks, 1, generator=draw, dtype=torch.float64)).exp()


def worst_cosine(rows, weights):
    direction = weights @ rows
    return float((rows @ direction / rows.norm(dim=1) / direction.norm()).min())


@pytest.mark.parametrize("solve", [upgrad_weights, dualproj_weights])
@pytest.mark.parametrize("log_norms", [0.0, 1.5, 3.0])
def test_no_task_is_harmed(solve, log_norms):
    for tasks, width in [(2, 2), (5, 8), (20, 30), (50, 100)]:
        rows = gradients(tasks, width, tasks, log_norms=log_norms)
        assert worst_cosine(rows, solve(rows @ rows.T)) > -1e-8


def test_the_reference_leaves_conflicts_where_norms_differ():
    torchjd = pytest.importorskip("torchjd.aggregation")
    pytest.importorskip("quadprog")
    harmed = 0
    for seed in range(10):
        rows = gradients(20, 40, seed, log_norms=3.0)
        gramian = rows @ rows.T
        harmed += worst_cosine(rows, torchjd.DualProjWeighting()(gramian)) < -1e-6
        assert worst_cosine(rows, dualproj_weights(gramian)) > -1e-8
    assert harmed > 0


def test_by_hand():
    # g1 = (1, 0), g2 = (-1, 1): their projections are (1, 1) / 2 and (0, 1), of weights (1, 1/2)
    # and (1, 1); the mean (0, 1/2) harms no one and is its own projection
    rows = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
    gramian = rows @ rows.T
    assert UPGrad(norm="native").build(2).weights(gramian).tolist() == pytest.approx([1.0, 0.75])
    assert DualProj(norm="native").build(2).weights(gramian).tolist() == pytest.approx([0.5, 0.5])


def test_each_projection_is_optimal():
    rows = gradients(15, 20, 0)
    weights = dualproj_weights(rows @ rows.T)
    pushes, gains = weights - 1 / 15, rows @ (weights @ rows)
    assert float(pushes.min()) >= 0
    assert float((pushes * gains).abs().max()) < 1e-9
    # nothing nearer to the mean harms nobody: random feasible points are farther
    mean, found = rows.mean(dim=0), weights @ rows
    for seed in range(50):
        other = found + 0.1 * gradients(1, 20, seed)[0]
        if float((rows @ other).min()) >= 0:
            assert float((other - mean).norm()) > float((found - mean).norm())


@pytest.mark.parametrize("tasks", [2, 7, 20, 50])
def test_the_reference_agrees(tasks):
    torchjd = pytest.importorskip("torchjd.aggregation")
    linalg = pytest.importorskip("torchjd.linalg")
    pytest.importorskip("quadprog")
    rows = gradients(tasks, 2 * tasks, tasks)
    gramian = rows @ rows.T
    projector = linalg.QuadprogProjector(reg_eps=1e-12, norm_eps=1e-12)
    theirs = torchjd.UPGradWeighting(projector=projector)(gramian)
    assert torch.allclose(upgrad_weights(gramian), theirs, atol=1e-5)
    theirs = torchjd.DualProjWeighting(projector=projector)(gramian)
    assert torch.allclose(dualproj_weights(gramian), theirs, atol=1e-5)


def test_linear_under_scaling():
    # d(diag(c) J) is linear in c for UPGrad: the projections do not depend on the lengths
    rows = gradients(6, 9, 1)

    def direction(scales):
        scaled = rows * torch.tensor(scales, dtype=torch.float64)[:, None]
        return upgrad_weights(scaled @ scaled.T) @ scaled

    first, second = [1.0, 2, 3, 4, 5, 6], [7.0, 0.5, 1, 9, 0.1, 2]
    both = [a + b for a, b in zip(first, second, strict=True)]
    assert torch.allclose(direction(both), direction(first) + direction(second), atol=1e-8)


def test_without_conflict_the_mean():
    rows = gradients(8, 10, 2).abs()
    gramian = rows @ rows.T
    for config in (UPGrad(norm="native"), DualProj(norm="native")):
        assert config.build(8).weights(gramian).tolist() == pytest.approx([1 / 8] * 8)


def test_preferences_go_to_tasks_by_id_and_raise_their_gain():
    rows = gradients(4, 30, 3)
    gramian = rows @ rows.T
    config = UPGrad(norm="native", preference=(1.0, 1.0, 8.0, 1.0, 5.0))
    build = config.build(5)
    weights = build.weights(gramian, tasks=[4, 0, 1, 3])
    shares = torch.tensor([5.0, 1, 1, 1], dtype=torch.float64)
    assert torch.allclose(weights, upgrad_weights(gramian, shares / shares.mean()))
    gain = rows[0] @ (weights @ rows) / (weights @ rows).norm()
    even = upgrad_weights(gramian) @ rows
    assert float(gain) > float(rows[0] @ even / even.norm())
    with pytest.raises(ShapeError, match="`preference`"):
        config.build(4)
    with pytest.raises(UsageError, match="positive"):
        DualProj(preference=(1.0, 0.0))


def test_both_vanish_where_all_tasks_balance():
    rows = gradients(5, 12, 4)
    rows[4] = -(rows[:4] * torch.tensor([1.0, 2, 0.5, 3])[:, None]).sum(dim=0)
    for solve in (upgrad_weights, dualproj_weights):
        assert float((solve(rows @ rows.T) @ rows).norm()) < 1e-6 * float(rows.norm())


def test_a_task_outside_the_balance_still_moves():
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 3.0]])
    direction = UPGrad(norm="native").build(3)(rows)
    assert direction.tolist() == pytest.approx([0, 1], abs=1e-6)
