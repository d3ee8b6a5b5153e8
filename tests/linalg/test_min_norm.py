"""The minimum-norm point: optimality conditions, closed forms, SciPy, and hard inputs."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from gnn_mtl._core.errors import ShapeError
from gnn_mtl.linalg import _nonnegative_qp as engine
from gnn_mtl.linalg import min_norm_weights, nonnegative_qp


def vectors(tasks, width, seed, *, shared=0.3, spread=0.0):
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(tasks, width, generator=draw, dtype=torch.float64)
    rows = rows + shared * torch.randn(1, width, generator=draw, dtype=torch.float64)
    return rows * 10 ** (spread * (torch.rand(tasks, 1, generator=draw) - 0.5).double())


def check(rows, tolerance=1e-10):
    """All gains are at least the squared length, and exactly that where the weight is positive."""
    weights = min_norm_weights(rows @ rows.T)
    point = weights @ rows
    norms = rows.norm(dim=1)
    excess = (rows @ point - point @ point) / norms / norms.min()
    assert float(weights.min()) >= 0
    assert float(weights.sum()) == pytest.approx(1)
    assert float(excess.min()) >= -tolerance
    assert float((excess * weights).abs().max()) <= tolerance
    return weights


@pytest.mark.parametrize(
    ("tasks", "width"), [(1, 4), (2, 9), (7, 3), (30, 8), (50, 60), (112, 400)]
)
@pytest.mark.parametrize("spread", [0.0, 6.0])
def test_no_gain_is_below_the_squared_length_and_those_with_weight_are_equal(tasks, width, spread):
    for seed in range(6):
        check(vectors(tasks, width, seed, spread=spread))


def test_two_vectors_have_a_closed_form():
    for seed in range(20):
        first, second = vectors(2, 3, seed, shared=1.0, spread=1.0)
        gap = first - second
        share = float(((second - first) @ second / (gap @ gap)).clamp(0, 1))
        weights = min_norm_weights(torch.stack([first, second]) @ torch.stack([first, second]).T)
        assert weights.tolist() == pytest.approx([share, 1 - share], abs=1e-12)


def test_three_vectors_against_a_grid():
    steps = np.linspace(0, 1, 201)
    grid = np.array([(a, b, 1 - a - b) for a in steps for b in steps if a + b <= 1 + 1e-9])
    for seed in range(8):
        gramian = vectors(3, 4, seed, shared=1.0)
        gramian = gramian @ gramian.T
        values = np.einsum("ki,ij,kj->k", grid, gramian.numpy(), grid)
        found = min_norm_weights(gramian)
        assert float(found @ gramian @ found) <= values.min() + 1e-12
        assert abs(grid[values.argmin()] - found.numpy()).max() < 0.02


def test_scipy_finds_nothing_shorter():
    for seed in range(4):
        gramian = vectors(8, 12, seed)
        gramian = (gramian @ gramian.T).numpy()
        reference = minimize(
            lambda w, g=gramian: w @ g @ w,
            np.full(8, 1 / 8),
            jac=lambda w, g=gramian: 2 * g @ w,
            bounds=[(0, None)] * 8,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        found = min_norm_weights(torch.from_numpy(gramian)).numpy()
        assert found @ gramian @ found <= reference.fun * (1 + 1e-9)
        assert found == pytest.approx(reference.x, abs=1e-5)


def test_copies_share_their_weight_and_opposites_cancel():
    rows = vectors(5, 20, 0)
    rows[3] = rows[1]
    weights = check(rows)
    assert float(weights[3]) == pytest.approx(float(weights[1]), abs=1e-9)
    rows[4] = -3 * rows[0]  # 3/4 of the first and 1/4 of the last are 0
    weights = check(rows)
    assert weights.tolist() == pytest.approx([0.75, 0, 0, 0, 0.25], abs=1e-7)


def test_a_zero_vector_is_the_shortest_point():
    rows = vectors(4, 5, 0)
    rows[1] = rows[2] = 0
    assert min_norm_weights(rows @ rows.T).tolist() == [0, 0.5, 0.5, 0]


def test_the_same_for_any_scale_order_and_many_dependent_vectors():
    gramian = vectors(80, 8, 3)
    gramian = gramian @ gramian.T
    weights = min_norm_weights(gramian)
    for scale in (1e-20, 1e20):
        assert torch.allclose(min_norm_weights(gramian * scale), weights, atol=1e-6)
    order = torch.randperm(80, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(min_norm_weights(gramian[order][:, order]), weights[order], atol=1e-6)


def test_the_last_resort_finds_the_same(monkeypatch):
    gramian = vectors(20, 30, 1)
    gramian = gramian @ gramian.T
    pivoted = min_norm_weights(gramian)
    monkeypatch.setattr(engine, "PIVOTS", 0)
    assert torch.allclose(min_norm_weights(gramian), pivoted, atol=1e-10)


def test_shapes_are_checked():
    with pytest.raises(ShapeError, match="square"):
        min_norm_weights(torch.ones(2, 3))
    with pytest.raises(ShapeError, match="`hessian`"):
        nonnegative_qp(torch.eye(3), torch.ones(3))
