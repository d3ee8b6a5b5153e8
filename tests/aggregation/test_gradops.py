"""GradOPS against explicit projections on explicit vectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.aggregation import GradOPS, PCGrad, gradops_coefficients, gradops_rows
from gnn_mtl.aggregation._gradops import gradops_weights

KINDS = ["typical", "badly scaled", "duplicated", "more than dimensions", "shared part"]


def gradients(size: int, width: int, kind: str = "typical", seed: int = 0) -> Tensor:
    """Random gradients ``[S, P]`` of some awkwardness."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(size, width, generator=draw, dtype=torch.float64)
    if kind == "badly scaled":
        rows = rows * 10 ** (6 * torch.rand(size, 1, generator=draw, dtype=torch.float64) - 3)
    if kind == "duplicated":
        rows[-1] = 2 * rows[0]
    if kind == "more than dimensions":
        rows = rows[:, : max(1, size // 2)]
    if kind == "shared part":
        rows = rows + 2 * torch.randn(1, width, generator=draw, dtype=torch.float64)
    return rows


def projected_by_least_squares(jacobian: Tensor) -> Tensor:
    """Every row minus its least-squares fit by the others; the definition, row by row."""
    rows = jacobian.numpy()
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    left = np.zeros_like(rows)
    for i in range(len(rows)):
        others = np.delete(units, i, axis=0).T
        rest = units[i] - others @ np.linalg.lstsq(others, units[i], rcond=None)[0]
        rest -= others @ np.linalg.lstsq(others, rest, rcond=None)[0]
        if np.linalg.norm(rest) > 1e-10:
            left[i] = rest * np.linalg.norm(rows[i])
    return torch.from_numpy(left)


def turn_by_turn(jacobian: Tensor, sequence: list[int]) -> Tensor:
    """The sequential order with a new least-squares projection for every conflict."""
    rows = jacobian.numpy()
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    found = units.copy()
    for i in range(len(rows)):
        off: list[int] = []
        again = True
        while again:
            again = False
            for j in sequence:
                if j != i and j not in off and found[i] @ units[j] < -1e-12:
                    off.append(j)
                    basis = units[off].T
                    found[i] = units[i] - basis @ np.linalg.lstsq(basis, units[i], rcond=None)[0]
                    again = True
    return torch.from_numpy(found * np.linalg.norm(rows, axis=1, keepdims=True))


def relative(difference: Tensor, jacobian: Tensor) -> float:
    """Largest entry of a difference of rows, in lengths of those rows."""
    return float((difference / jacobian.norm(dim=1, keepdim=True)).abs().max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [2, 7, 30])
def test_both_forms_are_the_residuals_of_least_squares(size: int, kind: str) -> None:
    jacobian = gradients(size, 2 * size, kind, seed=size)
    wanted = projected_by_least_squares(jacobian)
    rows = gradops_rows(jacobian, gate=False)
    coefficients = gradops_coefficients(jacobian @ jacobian.T, gate=False)
    assert relative(rows - wanted, jacobian) < 1e-12
    assert relative(coefficients @ jacobian - wanted, jacobian) < 1e-10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sequential", [False, True])
def test_gramian_form_equals_exact_form(kind: str, sequential: bool) -> None:
    for size in (3, 12, 30):
        jacobian = gradients(size, size + 5, kind, seed=size)
        sequence = torch.randperm(size, generator=torch.Generator().manual_seed(1))
        given_order = sequence if sequential else None
        rows = gradops_rows(jacobian, sequence=given_order)
        coefficients = gradops_coefficients(jacobian @ jacobian.T, sequence=given_order)
        assert relative(coefficients @ jacobian - rows, jacobian) < 1e-10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ["orthogonal", "sequential"])
@pytest.mark.parametrize("alpha", [0.0, -3.0, 2.0])
def test_no_conflict_with_any_gradient_up_to_50_tasks(kind: str, order: str, alpha: float) -> None:
    for size in (1, 2, 3, 10, 50 if alpha == 0 else 20):
        jacobian = gradients(size, size + 10, kind, seed=size)
        units = jacobian / jacobian.norm(dim=1, keepdim=True)
        method = GradOPS(alpha=alpha, order=order, norm="native")  # type: ignore[arg-type]
        direction = method.build(size, seed=3)(jacobian)
        vanishes = float(direction.norm()) < 1e-12 * float(jacobian.norm())
        assert vanishes or float((units @ direction).min()) >= -1e-10 * float(direction.norm())
        assert not vanishes or kind == "more than dimensions"
        sequence = None if order == "orthogonal" else torch.arange(size).flip(0)
        rows = gradops_rows(jacobian, sequence=sequence)
        cosines = rows @ units.T / jacobian.norm(dim=1, keepdim=True)
        assert float(cosines.min()) >= -1e-12
        coefficients = gradops_coefficients(jacobian @ jacobian.T, sequence=sequence)
        products = (coefficients @ jacobian) @ units.T / jacobian.norm(dim=1, keepdim=True)
        assert float(products.min()) >= -1e-10


@given(seed=st.integers(0, 10_000), size=st.integers(1, 9), width=st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_small_integer_gradients_never_conflict(seed: int, size: int, width: int) -> None:
    """Small integers bring exact ties, zero rows, duplicates and opposites."""
    draw = np.random.default_rng(seed)
    jacobian = torch.from_numpy(draw.integers(-1, 2, size=(size, width))).double()
    for method in (
        GradOPS(norm="native"),
        GradOPS(norm="native", gate=False, alpha=-2),
        GradOPS(norm="native", order="sequential"),
    ):
        direction = method.build(size, seed=seed)(jacobian)
        assert bool(direction.isfinite().all())
        assert float((jacobian @ direction).min()) >= -1e-9


def test_gradients_that_do_not_conflict_stay_only_with_the_gate() -> None:
    jacobian = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 1.0]]).double()
    gramian = jacobian @ jacobian.T
    assert gradops_weights(gramian).tolist() == [1, 1, 1]
    assert gradops_weights(gramian, sequence=torch.arange(3)).tolist() == [1, 1, 1]
    # Off (1,1,0), (0,1,1): the normal (1,-1,1) / sqrt(3) gives (1,0,0) -> (1,-1,1) / 3.
    first = gradops_rows(jacobian, gate=False)[0]
    assert first.tolist() == pytest.approx([1 / 3, -1 / 3, 1 / 3])


def test_gate_leaves_one_task_and_projects_the_others() -> None:
    # 0 and 1 conflict; 2 conflicts with neither.
    jacobian = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 1.0, 1.0]]).double()
    rows = gradops_rows(jacobian)
    assert rows[2].tolist() == [0, 1, 1]
    # Row 0 off span{(-1,1,0), (0,1,1)}: normal (1,1,-1) / sqrt(3).
    assert rows[0].tolist() == pytest.approx([1 / 3, 1 / 3, -1 / 3])
    # Row 1 off span{(1,0,0), (0,1,1)}: normal (0,1,-1) / sqrt(2).
    assert rows[1].tolist() == pytest.approx([0, 0.5, -0.5])


def test_two_conflicting_tasks_are_pcgrad() -> None:
    jacobian = torch.tensor([[2.0, 0.0], [-1.0, 3.0]]).double()
    ours = GradOPS(norm="native").build(2)(jacobian)
    theirs = PCGrad(norm="native").build(2)(jacobian)
    assert torch.allclose(ours, theirs, atol=1e-13)
    # g_0' = (2,0) + 0.2 (-1,3) = (1.8, 0.6); g_1' = (-1,3) + 0.5 (2,0) = (0,3).
    assert ours.tolist() == pytest.approx([1.8, 3.6])


def test_orthogonal_gradients_are_summed() -> None:
    jacobian = torch.diag(torch.tensor([1.0, 20.0, 0.01, 3.0])).double()
    for gate in (True, False):
        weights = gradops_weights(jacobian @ jacobian.T, gate=gate)
        assert torch.allclose(weights, torch.ones(4, dtype=torch.float64), atol=1e-13)


def test_order_of_the_tasks_does_not_matter() -> None:
    jacobian = gradients(15, 40, "badly scaled")
    gramian = jacobian @ jacobian.T
    shuffle = torch.randperm(15, generator=torch.Generator().manual_seed(5))
    for alpha in (0.0, -3.0):
        weights = gradops_weights(gramian, alpha=alpha)
        moved = gradops_weights(gramian[shuffle][:, shuffle], alpha=alpha)
        scale = jacobian.norm(dim=1)
        assert torch.allclose(moved * scale[shuffle], (weights * scale)[shuffle], rtol=1e-8)


def test_a_duplicated_task_has_nothing_of_its_own() -> None:
    jacobian = gradients(4, 10)
    jacobian = torch.cat([jacobian, 3 * jacobian[:1]])
    coefficients = gradops_coefficients(jacobian @ jacobian.T, gate=False)
    assert coefficients[[0, 4]].abs().max() == 0
    # The others are as if it were there once.
    wanted = gradops_rows(jacobian[:4], gate=False)[1:]
    assert torch.allclose((coefficients @ jacobian)[1:4], wanted, atol=1e-12)


def test_null_space_decides_what_lies_in_the_span() -> None:
    # Rows 0, 1, 2 lie in a plane; row 3 has a part of length 1 outside and one inside it.
    jacobian = torch.tensor([[1, 0, 0], [0, 1, 0], [-1, -1, 0], [2, 3, 1]]).double()
    for gate in (True, False):
        rows = gradops_rows(jacobian, gate=gate)
        assert torch.allclose(rows[:3], torch.zeros(3, 3, dtype=torch.float64))
        assert rows[3].tolist() == pytest.approx([0, 0, 1])
        coefficients = gradops_coefficients(jacobian @ jacobian.T, gate=gate)
        assert torch.allclose(coefficients @ jacobian, rows, atol=1e-12)
    # Pseudo-inverse rows divided by their diagonal, without that test, leave something of row 0.
    inverse = torch.linalg.pinv(jacobian @ jacobian.T, hermitian=True)
    naive = (inverse / inverse.diagonal()[:, None]) @ jacobian
    assert float(naive[0].norm()) > 0.1


def test_falls_back_to_the_shortest_combination_when_nothing_is_left() -> None:
    # Three unit vectors in the plane at 0, 100 and 190 degrees: each in the span of the others.
    angles = torch.deg2rad(torch.tensor([0.0, 100.0, 170.0], dtype=torch.float64))
    jacobian = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert gradops_coefficients(jacobian @ jacobian.T).abs().max() == 0
    direction = GradOPS(norm="native").build(3)(jacobian)
    # The nearest point of the segment between 0 and 170 degrees lies at 85 degrees, with length
    # cos 85; times 3 tasks.
    wanted = 3 * torch.cos(torch.deg2rad(torch.tensor(85.0, dtype=torch.float64)))
    bisector = torch.deg2rad(torch.tensor(85.0, dtype=torch.float64))
    assert torch.allclose(
        direction, wanted * torch.stack([bisector.cos(), bisector.sin()]), atol=1e-9
    )
    # The sequential order leaves something there.
    sequential = gradops_coefficients(jacobian @ jacobian.T, sequence=torch.arange(3))
    assert float((sequential @ jacobian).norm()) > 0.1


def test_fallback_survives_gramians_of_lower_precision() -> None:
    rows = gradients(50, 10).float()
    weights = GradOPS().build(50).weights(rows @ rows.T)
    assert bool(weights.isfinite().all())
    # 50 of 10 dimensions: the hull holds the origin.
    assert float((weights @ rows.double()).norm()) < 1e-4 * float(weights.abs().max())


def test_opposite_gradients_have_nowhere_to_go() -> None:
    jacobian = torch.tensor([[1.0, 2.0], [-3.0, -6.0]]).double()
    for order in ("orthogonal", "sequential"):
        direction = GradOPS(order=order).build(2)(jacobian)  # type: ignore[arg-type]
        assert float(direction.norm()) < 1e-9


@pytest.mark.parametrize("kind", ["typical", "badly scaled"])
@pytest.mark.parametrize("size", [3, 9])
def test_sequential_order_against_explicit_projections(size: int, kind: str) -> None:
    jacobian = gradients(size, size + 2, kind, seed=size)
    orders = [torch.arange(size), torch.arange(size).flip(0)]
    found = [gradops_rows(jacobian, sequence=order) for order in orders]
    for rows, order in zip(found, orders, strict=True):
        assert relative(rows - turn_by_turn(jacobian, order.tolist()), jacobian) < 1e-11
    assert relative(found[0] - found[1], jacobian) > 1e-3 or size == 3


def test_sequential_order_leaves_more_than_the_full_projection() -> None:
    jacobian = gradients(20, 25)
    full = gradops_rows(jacobian).norm(dim=1)
    sequential = gradops_rows(jacobian, sequence=torch.arange(20)).norm(dim=1)
    assert bool((sequential >= full - 1e-12).all())
    assert float(sequential.mean()) > 1.2 * float(full.mean())


def test_sequences_are_random_by_seed_by_norm_or_as_given() -> None:
    jacobian = gradients(8, 9, "badly scaled", seed=4)
    gramian = jacobian @ jacobian.T
    by_norm = gramian.diagonal().argsort(descending=True)
    weights = GradOPS(order="sequential", sequence="norm", norm="native").build(8).weights(gramian)
    assert torch.allclose(weights, gradops_weights(gramian, sequence=by_norm), rtol=1e-9)
    weights = GradOPS(order="sequential", sequence="given", norm="native").build(8).weights(gramian)
    as_given = gradops_weights(gramian, sequence=torch.arange(8))
    assert torch.allclose(weights, as_given, rtol=1e-9)
    assert not torch.allclose(as_given, gradops_weights(gramian, sequence=by_norm), rtol=1e-3)
    random = GradOPS(order="sequential", norm="native")
    calls = [random.build(8, seed=seed) for seed in (0, 0, 1)]
    first, again, other = (aggregator.weights(gramian) for aggregator in calls)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    resumed = random.build(8, seed=0)
    resumed.load_state_dict(calls[0].state_dict())
    assert torch.equal(resumed.weights(gramian), calls[0].weights(gramian))


def test_trade_off_weights_are_the_formula() -> None:
    jacobian = gradients(6, 9, "badly scaled", seed=2)
    rows = gradops_rows(jacobian)
    progress = (jacobian @ rows.sum(0)) / jacobian.square().sum(1)
    for alpha in (-3.0, -1.0, 0.5, 2.0):
        share = progress / progress.mean()
        wanted = share**alpha / (share**alpha).mean()
        direction = gradops_weights(jacobian @ jacobian.T, alpha=alpha) @ jacobian
        assert torch.allclose(direction, wanted @ rows, rtol=1e-7, atol=1e-12)


def test_negative_alpha_moves_weight_to_tasks_with_little_progress() -> None:
    # The same angle, lengths 10 and 1: with g_0' + g_1' task 1 makes the larger relative progress.
    jacobian = torch.tensor([[10.0, 0.0], [-0.5, 0.75**0.5]]).double()
    gramian = jacobian @ jacobian.T
    coefficients = gradops_coefficients(gramian)
    shares = []
    for alpha in (2.0, 0.0, -2.0, -4.0):
        weights = gradops_weights(gramian, alpha=alpha)
        shares.append(float(torch.linalg.solve(coefficients.T, weights)[0]))
    progress = gramian @ coefficients.sum(0) / gramian.diagonal()
    better = int(progress.argmax())
    assert sorted(shares, reverse=better == 0) == shares
    assert len(set(shares)) == 4


def test_alpha_of_large_size_is_finite() -> None:
    jacobian = gradients(10, 12, "badly scaled")
    for alpha in (-300.0, 300.0):
        weights = GradOPS(alpha=alpha).build(10).weights(jacobian @ jacobian.T)
        assert bool(weights.isfinite().all())
        assert float(weights.abs().max()) > 0


def test_exact_form_takes_zero_rows_and_any_length() -> None:
    jacobian = gradients(4, 6)
    padded = torch.cat([jacobian, torch.zeros(1, 6, dtype=torch.float64)])
    assert torch.allclose(gradops_rows(padded)[:4], gradops_rows(jacobian), atol=1e-12)
    assert gradops_rows(padded)[4].abs().max() == 0
    assert gradops_rows(torch.zeros(2, 3)).abs().max() == 0
    lengths = torch.tensor([1e-200, 1e200, 1.0, 1e-3], dtype=torch.float64)[:, None]
    assert torch.allclose(
        gradops_rows(jacobian * lengths) / lengths, gradops_rows(jacobian), atol=1e-11
    )


def test_exact_form_resolves_what_a_gramian_cannot() -> None:
    # 0 and 1 differ from each other by 1e-9 in a direction of their own.
    jacobian = torch.tensor([[1.0, 0.0], [-1.0, 1e-9]]).double()
    rows = gradops_rows(jacobian)
    assert rows[1].tolist() == pytest.approx([0, 1e-9], rel=1e-6, abs=1e-18)
    assert gradops_coefficients(jacobian @ jacobian.T).abs().max() == 0


def test_promises_follow_the_options() -> None:
    assert GradOPS().promises == GradOPS.promises
    assert "sum_without_conflict" not in GradOPS(alpha=-1).promises
    assert "sum_without_conflict" not in GradOPS(gate=False).promises
    assert "permutation" not in GradOPS(order="sequential").promises
    assert "permutation" in GradOPS(order="sequential", sequence="norm").promises
    for method in (GradOPS(alpha=2, gate=False), GradOPS(order="sequential", alpha=-1)):
        assert "non_conflicting" in method.build(3).promises


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(UsageError, match="alpha"):
        GradOPS(alpha=float("nan"))
    with pytest.raises(UsageError, match="orthogonal, sequential"):
        GradOPS(order="reverse")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="random, norm, given"):
        GradOPS(sequence="reverse")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="gate"):
        GradOPS(order="sequential", gate=False)
    with pytest.raises(UsageError, match="norm"):
        GradOPS(norm="long")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="permutation"):
        gradops_coefficients(torch.eye(3).double(), sequence=torch.tensor([0, 1, 1]))
    with pytest.raises(UsageError, match="permutation"):
        gradops_rows(torch.eye(3), sequence=torch.tensor([0, 1]))
    with pytest.raises(UsageError, match="finite"):
        gradops_rows(torch.tensor([[torch.nan, 1.0]]))
    with pytest.raises(ShapeError, match="square"):
        gradops_coefficients(torch.ones(2, 3))
    with pytest.raises(ShapeError, match="matrix"):
        gradops_rows(torch.ones(3))
