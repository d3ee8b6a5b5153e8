"""Projections on the dual cone: optimality conditions, SciPy's NNLS, and hard inputs."""

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from gnn_mtl._core.errors import ShapeError
from gnn_mtl.linalg import _nonnegative_qp as engine
from gnn_mtl.linalg import min_norm_weights, project_on_dual_cone


def vectors(tasks, width, seed, *, spread=0.0):
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(tasks, width, generator=draw, dtype=torch.float64)
    return rows * 10 ** (spread * (torch.rand(tasks, 1, generator=draw) - 0.5).double())


def each(tasks):
    return torch.eye(tasks, dtype=torch.float64)


def check(rows, targets, tolerance=1e-9):
    """v >= u, J d >= 0, and no constraint pushes where it does not touch."""
    found = project_on_dual_cone(rows @ rows.T, targets)
    norms = rows.norm(dim=1)
    size = (targets.abs() * norms).amax(dim=1, keepdim=True)
    gains = found @ rows @ rows.T / norms / size
    pushes = (found - targets) * norms / size
    assert float(pushes.min()) >= 0
    assert float(gains.min()) >= -tolerance
    assert float((gains * pushes).abs().max()) <= tolerance * float(pushes.max().clamp(min=1))
    return found


@pytest.mark.parametrize(
    ("tasks", "width"), [(1, 4), (2, 9), (7, 3), (30, 8), (50, 60), (112, 400)]
)
@pytest.mark.parametrize("spread", [0.0, 6.0])
def test_optimal_for_every_task_whatever_the_norms(tasks, width, spread):
    for seed in range(3):
        rows = vectors(tasks, width, seed, spread=spread)
        check(rows, each(tasks))
        check(rows, torch.ones(1, tasks, dtype=torch.float64))


def test_against_nonnegative_least_squares():
    # the projection of g is g + J'x with x = argmin |J'x + g| over x >= 0
    for seed in range(5):
        rows = vectors(12, 20, seed)
        found = project_on_dual_cone(rows @ rows.T, each(12))
        for task in range(12):
            expected = each(12)[task].numpy() + nnls(rows.T.numpy(), -rows[task].numpy())[0]
            assert found[task].numpy() == pytest.approx(expected, abs=1e-8)


def test_two_opposed_vectors_by_hand():
    # g1 = (1, 0), g2 = (-1, 1): g1 loses its part along g2, g1 + g2 / 2 = (1, 1) / 2
    rows = torch.tensor([[1.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)
    found = project_on_dual_cone(rows @ rows.T, each(2))
    assert found.tolist()[0] == pytest.approx([1, 0.5])
    assert found.tolist()[1] == pytest.approx([1, 1])  # g2 + g1 = (0, 1)


def test_nothing_moves_without_conflict_and_zero_vectors_constrain_nothing():
    rows = vectors(6, 10, 0).abs()
    rows[2] = 0
    targets = torch.rand(3, 6, generator=torch.Generator().manual_seed(0)).double()
    assert torch.equal(project_on_dual_cone(rows @ rows.T, targets), targets)


def test_dependent_copied_and_opposite_vectors():
    rows = vectors(40, 6, 1)
    rows[7], rows[8] = rows[3], -2 * rows[4]
    found = check(rows, each(40))
    assert bool(found.isfinite().all())
    pair = torch.tensor([[1.0, 2.0], [-3.0, -6.0]], dtype=torch.float64)  # only 0 harms neither
    assert float((project_on_dual_cone(pair @ pair.T, each(2)) @ pair).abs().max()) < 1e-9


def test_the_last_resort_and_large_faces_find_the_same(monkeypatch):
    rows = vectors(30, 40, 2)
    found = project_on_dual_cone(rows @ rows.T, each(30))
    monkeypatch.setattr(engine, "BATCHED_BELOW", 0)
    assert torch.allclose(project_on_dual_cone(rows @ rows.T, each(30)), found, atol=1e-10)
    monkeypatch.setattr(engine, "PIVOTS", 0)
    assert torch.allclose(project_on_dual_cone(rows @ rows.T, each(30)), found, atol=1e-8)


def test_few_dimensions_are_solved_through_a_factor_and_give_the_same(monkeypatch):
    check(vectors(500, 30, 6), each(500))
    rows = vectors(60, 9, 5)
    draw = np.random.default_rng(0)
    targets = torch.from_numpy(draw.random((10, 60)))
    found = check(rows, targets)
    monkeypatch.setattr(engine, "THIN", 1000)
    assert torch.allclose(found @ rows, check(rows, targets) @ rows, atol=1e-7)


def test_inner_products_with_the_errors_of_float32_are_good_enough():
    for width, seed in [(4, 0), (9, 1), (30, 2)]:
        rows = vectors(40, width, seed)
        draw = np.random.default_rng(seed)
        errors = torch.from_numpy(draw.standard_normal((40, 40))) * 1e-6
        gramian = rows @ rows.T * (1 + errors + errors.T)
        assert float(torch.linalg.eigvalsh(gramian)[0]) < 1e-7 or width == 30
        for found in (project_on_dual_cone(gramian, each(40)), min_norm_weights(gramian)):
            gains = found @ rows @ rows.T / rows.norm(dim=1)
            assert bool(found.isfinite().all())
            assert float(gains.min()) > -1e-3


def test_the_order_of_the_vectors_does_not_matter():
    rows = vectors(40, 6, 7)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    found = project_on_dual_cone(rows @ rows.T, torch.ones(1, 40))[0]
    moved = project_on_dual_cone(rows[order] @ rows[order].T, torch.ones(1, 40))[0]
    assert torch.allclose(moved, found[order], atol=1e-6)


def test_targets_of_any_sign_and_number():
    rows = vectors(9, 15, 4)
    draw = np.random.default_rng(0)
    check(rows, torch.from_numpy(draw.standard_normal((25, 9))))


def test_shapes_are_checked():
    with pytest.raises(ShapeError, match="`targets`"):
        project_on_dual_cone(torch.eye(3), torch.ones(3))
    with pytest.raises(ShapeError, match="square"):
        project_on_dual_cone(torch.ones(2, 3), torch.ones(1, 3))
