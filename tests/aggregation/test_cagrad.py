"""CAGrad: the ball, the worst-off task, cvxpy and TorchJD."""

import numpy as np
import pytest
import torch

from gnn_mtl._core.errors import UsageError
from gnn_mtl.aggregation import CAGrad
from gnn_mtl.aggregation._cagrad import cagrad_weights


def gradients(tasks, width, seed, *, log_norms=0.0):
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(tasks, width, generator=draw, dtype=torch.float64)
    return rows * (log_norms * torch.randn(tasks, 1, generator=draw, dtype=torch.float64)).exp()


@pytest.mark.parametrize("c", [0.2, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("log_norms", [0.0, 2.0])
def test_on_the_edge_of_the_ball_and_no_worse_than_the_mean(c, log_norms):
    for tasks, width in [(2, 3), (6, 10), (40, 60), (112, 200)]:
        rows = gradients(tasks, width, tasks, log_norms=log_norms)
        mean = rows.mean(dim=0)
        direction = cagrad_weights(rows @ rows.T, c) @ rows
        assert float((direction - mean).norm() / mean.norm()) == pytest.approx(c, rel=1e-7)
        assert float((rows @ direction).min()) > float((rows @ mean).min())


def test_by_hand():
    # g = (3, 1), (-1, 1): g0 = (1, 1), c |g0| = sqrt(2) / 2. To help (-1, 1) alone is
    # g0 + (-1, 1) / 2 = (1/2, 3/2), where the gains are 3 and 1: the second is still the least.
    # 1/2 (3, 1) + 1 (-1, 1) gives it.
    rows = torch.tensor([[3.0, 1.0], [-1.0, 1.0]])
    weights = CAGrad(norm="native", c=0.5).build(2).weights(rows @ rows.T)
    assert weights.tolist() == pytest.approx([0.5, 1.0])


def test_convex_programming_finds_no_better_worst_gain():
    cvxpy = pytest.importorskip("cvxpy")
    for seed, c in enumerate([0.3, 0.5, 1.0, 2.0]):
        rows = gradients(12, 20, seed).numpy()
        mean = rows.mean(axis=0)
        direction, worst = cvxpy.Variable(20), cvxpy.Variable()
        ball = cvxpy.norm(direction - mean) <= c * np.linalg.norm(mean)
        problem = cvxpy.Problem(cvxpy.Maximize(worst), [rows @ direction >= worst, ball])
        problem.solve(solver="CLARABEL")
        found = cagrad_weights(torch.from_numpy(rows @ rows.T), c).numpy() @ rows
        assert (rows @ found).min() == pytest.approx(worst.value, abs=1e-6)
        assert found == pytest.approx(direction.value, abs=1e-4)


@pytest.mark.parametrize("tasks", [2, 5, 20, 50])
def test_the_reference_agrees(tasks):
    torchjd = pytest.importorskip("torchjd.aggregation")
    pytest.importorskip("clarabel")
    rows = gradients(tasks, 2 * tasks, tasks)
    theirs = torchjd.CAGradWeighting(c=0.4)(rows @ rows.T)
    assert torch.allclose(cagrad_weights(rows @ rows.T, 0.4), theirs.double(), atol=1e-4)


def test_a_ball_of_no_size_is_the_mean():
    rows = gradients(5, 7, 0)
    assert CAGrad(c=0.0, norm="native").build(5).weights(rows @ rows.T).tolist() == [0.2] * 5
    rows = torch.cat([rows, -rows])  # the mean is 0, and so is the ball
    assert cagrad_weights(rows @ rows.T).tolist() == [0.1] * 10


def test_rescaling_divides_the_direction():
    rows = gradients(5, 7, 0)
    plain, square, single = (
        CAGrad(c=0.4, rescale=rescale, norm="native").build(5).weights(rows @ rows.T)
        for rescale in (0, 1, 2)
    )
    assert torch.allclose(plain, square * 1.16)
    assert torch.allclose(plain, single * 1.4)


def test_where_nobody_can_gain_more_the_way_there_is_the_shortest():
    rows = gradients(4, 9, 1)
    rows[1] = -2 * rows[0]  # both gain 0 at best
    weights = cagrad_weights(rows @ rows.T, 2.0)
    gains = rows @ (weights @ rows)
    assert gains[:2].tolist() == pytest.approx([0, 0], abs=1e-6)
    assert float(gains.min()) > -1e-6
    assert float(weights.max()) < 10
    scaled = cagrad_weights(rows @ rows.T * 1e10, 2.0)
    assert torch.allclose(weights, scaled, atol=1e-6)


@pytest.mark.parametrize("options", [{"c": -0.1}, {"c": float("nan")}, {"rescale": 3}])
def test_options_are_checked(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        CAGrad(**options)
