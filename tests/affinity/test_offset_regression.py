"""Fits of task subsets in the linearised network, against scipy and scikit-learn one by one."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from gnn_mtl._core.errors import GnnMtlWarning, ShapeError, UsageError
from gnn_mtl.affinity import (
    draw_subsets,
    feature_cells,
    fit_subsets,
    linearised_losses,
    newton_step,
    quadratic_losses,
)
from gnn_mtl.gradients import FeatureStatistics, OutputFeatures

MASKS = np.array([[1, 1, 0, 0, 0], [0, 1, 1, 1, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]], dtype=bool)
MASKS.setflags(write=False)  # as those of a table


def arrays(num_tasks=5, nodes=80, dim=6, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    phi, logits = scale * draw(nodes, num_tasks, dim), draw(nodes, num_tasks) - 1
    y = (draw(nodes, num_tasks) > 0.5).double()
    weights = (draw(nodes, num_tasks) > -0.5) * draw(nodes, num_tasks).abs()
    return phi, logits, y, weights


def objective(data, members, lam, weighting):
    """The training loss of one subset and its gradient, by loops."""
    phi, logits, y, weights = (each.numpy() for each in data)

    def value(u):
        total, mass, slope = 0.0, 0.0, np.zeros(len(u))
        for t in np.flatnonzero(members):
            share = 1 / weights[:, t].sum() if weighting == "tasks" else 1.0
            z = logits[:, t] + phi[:, t] @ u
            loss = np.logaddexp(0, z) - y[:, t] * z
            total += share * (weights[:, t] * loss).sum()
            slope += share * phi[:, t].T @ (weights[:, t] * (1 / (1 + np.exp(-z)) - y[:, t]))
            mass += share * weights[:, t].sum()
        return total / mass + lam / 2 * u @ u, slope / mass + lam * u

    return value


@pytest.mark.parametrize("weighting", ["tasks", "pairs"])
@pytest.mark.parametrize("lam", [1e-3, 0.1])
def test_equals_scipy_subset_by_subset(weighting, lam):
    data = arrays()
    u = fit_subsets(feature_cells(*data), MASKS, lam, weighting=weighting, tolerance=1e-18)
    assert u.dtype == torch.float64
    for column, members in enumerate(MASKS):
        value = objective(data, members, lam, weighting)
        expected = minimize(value, np.zeros(6), jac=True, method="BFGS", options={"gtol": 1e-9}).x
        np.testing.assert_allclose(u[:, column].numpy(), expected, atol=1e-6)
        assert np.abs(value(u[:, column].numpy())[1]).max() < 1e-8


def test_equals_sklearn_without_intercept():
    """The offset enters as one more column whose coefficient a huge scale leaves unpenalised."""
    phi, logits, y, _ = arrays(num_tasks=1, nodes=300, dim=4)
    lam = 0.05
    u = fit_subsets(
        feature_cells(phi, torch.zeros_like(logits), y, torch.ones_like(y)),
        np.ones((1, 1), dtype=bool), lam, tolerance=1e-18,
    )  # fmt: skip
    model = LogisticRegression(C=1 / (lam * 300), fit_intercept=False, tol=1e-12, max_iter=5000)
    model.fit(phi[:, 0].numpy(), y[:, 0].numpy())
    np.testing.assert_allclose(u[:, 0].numpy(), model.coef_[0], atol=1e-6)


def test_the_offset_is_the_base_model():
    """Where the offset explains the labels already, nothing moves; without it, much would."""
    phi, logits, _, _ = arrays(num_tasks=1, nodes=4000, dim=3, seed=2)
    chance = torch.sigmoid(logits)
    two = [torch.cat([each, each]) for each in (phi, logits)]
    y = torch.cat([torch.ones_like(chance), torch.zeros_like(chance)])
    weights = torch.cat([chance, 1 - chance])  # labels exactly as likely as the base model says
    one = np.ones((1, 1), dtype=bool)
    with_offset = fit_subsets(feature_cells(*two, y, weights), one, 1e-6)
    without = fit_subsets(feature_cells(two[0] + 1.0, 0 * two[1], y, weights), one, 1e-6)
    assert with_offset.norm() < 1e-6
    assert without.norm() > 0.1


@pytest.mark.parametrize("weighting", ["tasks", "pairs"])
def test_one_newton_step_is_the_minimiser_of_the_quadratic_model(weighting):
    data, lam = arrays(), 0.3
    statistics = feature_cells(*data).statistics()
    u = newton_step(statistics, MASKS, lam, weighting=weighting)
    for column, members in enumerate(MASKS):
        value = objective(data, members, lam, weighting)
        slope = value(np.zeros(6))[1]
        step = 1e-6
        hessian = np.array(
            [(value(step * e)[1] - value(-step * e)[1]) / (2 * step) for e in np.eye(6)]
        )
        np.testing.assert_allclose(u[:, column], -np.linalg.solve(hessian, slope), atol=1e-6)


def test_small_features_make_the_step_and_the_fit_agree():
    data = arrays(scale=0.02)
    cells = feature_cells(*data)
    fit, step = (
        fit_subsets(cells, MASKS, 0.1, tolerance=1e-18),
        newton_step(cells.statistics(), MASKS),
    )
    assert (fit - step).norm() < 1e-3 * fit.norm()
    linear = linearised_losses(cells, fit, MASKS)
    quadratic = quadratic_losses(cells.statistics(), fit, MASKS)
    np.testing.assert_allclose(linear, quadratic, atol=1e-6)


def test_losses_are_mean_losses_of_the_moved_logits():
    phi, logits, y, weights = data = arrays()
    cells, u = feature_cells(*data), torch.randn(6, 4, dtype=torch.float64)
    found = linearised_losses(cells, u, MASKS)
    assert (torch.isnan(found).numpy() == ~MASKS).all()
    for k, t in np.argwhere(MASKS):
        z = logits[:, t] + phi[:, t] @ u[:, k]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(z, y[:, t], reduction="none")
        expected = (weights[:, t] * loss).sum() / weights[:, t].sum()
        assert found[k, t].item() == pytest.approx(expected.item())
    small = 1e-3 * u
    np.testing.assert_allclose(
        quadratic_losses(cells.statistics(), small, MASKS), linearised_losses(cells, small, MASKS),
        atol=1e-7,
    )  # fmt: skip


def test_a_trained_base_model_stays_where_it_is_on_all_tasks():
    """At the minimum of all tasks together their subset moves nothing; single tasks still do."""
    phi, logits, y, weights = arrays()
    everyone = np.ones((1, 5), dtype=bool)
    start = fit_subsets(feature_cells(phi, logits, y, weights), everyone, 1e-8, tolerance=1e-20)
    trained = logits + phi @ start[:, 0]
    cells = feature_cells(phi, trained, y, weights)
    for u in (
        fit_subsets(cells, np.concatenate([everyone, MASKS]), 1e-3, tolerance=1e-20),
        newton_step(cells.statistics(), np.concatenate([everyone, MASKS]), 1e-3),
    ):
        lengths = u.norm(dim=0)
        assert lengths[0] < 1e-5
        assert lengths[1] > 0.1


def test_task_ids_do_not_matter():
    data, order = arrays(), [3, 0, 4, 2, 1]
    moved = [each[:, order] for each in data]
    one = fit_subsets(feature_cells(*data), MASKS, tolerance=1e-18)
    other = fit_subsets(feature_cells(*moved), MASKS[:, order], tolerance=1e-18)
    np.testing.assert_allclose(other, one, atol=1e-8)
    step = newton_step(feature_cells(*data).statistics(), MASKS)
    again = newton_step(feature_cells(*moved).statistics(), MASKS[:, order])
    np.testing.assert_allclose(again, step, atol=1e-10)


def test_the_order_and_company_of_subsets_do_not_matter():
    """Subsets are fitted together, yet each as if alone."""
    cells = feature_cells(*arrays())
    together = fit_subsets(cells, MASKS, 1e-3, tolerance=1e-18)
    for column in range(len(MASKS)):
        alone = fit_subsets(cells, MASKS[column : column + 1], 1e-3, tolerance=1e-18)
        np.testing.assert_allclose(alone[:, 0], together[:, column], atol=1e-7)
    back = fit_subsets(cells, MASKS[::-1].copy(), 1e-3, tolerance=1e-18)
    np.testing.assert_allclose(back.flip(1), together, atol=1e-7)


def test_the_order_of_nodes_does_not_matter_and_no_task_is_left_out():
    """A fit to the first rows in task order would never see the last tasks."""
    data = arrays()
    order = torch.randperm(80, generator=torch.Generator().manual_seed(0))
    one = fit_subsets(feature_cells(*data), MASKS, tolerance=1e-18)
    other = fit_subsets(feature_cells(*[d[order] for d in data]), MASKS, tolerance=1e-18)
    np.testing.assert_allclose(other, one, atol=1e-8)
    for task in range(5):
        phi, logits, y, weights = (each.clone() for each in data)
        y[:, task] = 1 - y[:, task]
        changed = fit_subsets(feature_cells(phi, logits, y, weights), MASKS, tolerance=1e-18)
        moved = (changed - one).norm(dim=0) > 1e-3
        assert moved.tolist() == MASKS[:, task].tolist()


def test_weights_stand_for_copies():
    phi, logits, y, _ = arrays()
    weights = torch.randint(0, 4, y.shape, generator=torch.Generator().manual_seed(1)).double()
    rows = torch.repeat_interleave(torch.arange(80), 4)
    repeated = (torch.arange(4).repeat(80)[:, None] < weights[rows]).double()
    one = fit_subsets(feature_cells(phi, logits, y, weights), MASKS, tolerance=1e-18)
    copies = feature_cells(phi[rows], logits[rows], y[rows], repeated)
    np.testing.assert_allclose(fit_subsets(copies, MASKS, tolerance=1e-18), one, atol=1e-8)


def test_listed_cells_equal_blocks_and_statistics_equal_sums():
    phi, logits, y, weights = arrays()
    node, task = weights.nonzero(as_tuple=True)
    order = torch.randperm(len(node), generator=torch.Generator().manual_seed(0))
    node, task = node[order], task[order]
    picked = [each[node, task] for each in (phi, logits, y, weights)]
    listed = feature_cells(*picked, task, num_tasks=5)
    np.testing.assert_allclose(
        fit_subsets(listed, MASKS, tolerance=1e-18),
        fit_subsets(feature_cells(phi, logits, y, weights), MASKS, tolerance=1e-18), atol=1e-8,
    )  # fmt: skip
    sums = FeatureStatistics.zeros(5, 6, dtype=torch.float64)
    sums.add(OutputFeatures(phi, logits), y, weights > 0, weights)
    np.testing.assert_allclose(
        newton_step(sums, MASKS), newton_step(listed.statistics(), MASKS), atol=1e-10
    )


def test_half_precision_features_come_close():
    data = arrays()
    half = feature_cells(data[0].half(), *(each.float() for each in data[1:]))
    found = fit_subsets(half, MASKS)
    np.testing.assert_allclose(found, fit_subsets(feature_cells(*data), MASKS), atol=2e-3)


def test_tasks_without_a_cell_move_nothing_and_have_no_loss():
    phi, logits, y, weights = arrays()
    weights[:, 4] = 0
    cells = feature_cells(phi, logits, y, weights)
    masks = np.concatenate([MASKS, MASKS[:1] | (np.arange(5) == 4)])
    for u in (fit_subsets(cells, masks), newton_step(cells.statistics(), masks)):
        assert u[:, 3].norm() == 0
        np.testing.assert_allclose(u[:, 4], u[:, 0], atol=1e-5)
        assert torch.isnan(linearised_losses(cells, u, masks)[:, 4]).all()
        assert torch.isnan(quadratic_losses(cells.statistics(), u, masks)[:, 4]).all()


def test_a_task_in_no_subset_may_be_broken():
    statistics = feature_cells(*arrays()).statistics()
    whole = newton_step(statistics, MASKS[:2])
    for sums in (statistics.gradient, statistics.hessian):
        sums[4] = torch.nan
    assert torch.equal(newton_step(statistics, MASKS[:2]), whole)
    with pytest.raises(UsageError, match="finite"):
        newton_step(statistics, MASKS)


def test_sums_of_half_precision_cells_are_single():
    phi, logits, y, weights = arrays(nodes=4000)
    halves = feature_cells(phi.half(), logits.half(), y, weights.half()).statistics()
    exact = feature_cells(phi, logits, y, weights).statistics()
    assert halves.hessian.dtype == torch.float32
    torch.testing.assert_close(halves.hessian.double(), exact.hessian, rtol=2e-3, atol=0.2)


def test_separable_labels_still_have_a_minimiser():
    phi = torch.linspace(-1, 1, 40, dtype=torch.float64)[:, None, None] * 30
    y = (phi[:, 0] > 0).double()
    cells = feature_cells(phi, torch.zeros(40, 1, dtype=torch.float64), y, torch.ones(40, 1))
    u = fit_subsets(cells, np.ones((1, 1), dtype=bool), 1e-6, tolerance=1e-14)
    value = objective((phi, 0 * y, y, torch.ones(40, 1).double()), [True], 1e-6, "tasks")
    assert abs(value(u[:, 0].numpy())[1]).max() < 1e-6


def test_fits_cut_short_are_said_so():
    cells = feature_cells(*arrays(scale=20.0))
    with pytest.warns(GnnMtlWarning, match="4 of 4 are not"):
        fit_subsets(cells, MASKS, 1e-5, max_iterations=1)


@pytest.mark.slow
def test_two_thousand_subsets_of_five_hundred_tasks_take_seconds():
    import time

    root = 0.05 * torch.randn(500, 200, 200)
    sums = FeatureStatistics(
        torch.randn(500, 200),
        root @ root.mT,
        torch.rand(500).double(),
        torch.full((500,), 99.0).double(),
    )
    masks = draw_subsets(500, 20, 2000, min_pairs=0)
    started = time.process_time()
    quadratic_losses(sums, newton_step(sums, masks), masks)
    assert time.process_time() - started < 60


def test_wrong_arguments():
    data = arrays()
    cells = feature_cells(*data)
    for call in (
        lambda **o: fit_subsets(cells, MASKS, **o),
        lambda **o: newton_step(cells.statistics(), MASKS, **o),
    ):
        with pytest.raises(UsageError, match="`lam` should be positive"):
            call(lam=0.0)
        with pytest.raises(UsageError, match="`weighting`"):
            call(weighting="nodes")
    with pytest.raises(ShapeError, match=r"shape \[m, 5\]"):
        fit_subsets(cells, MASKS[:, :4])
    with pytest.raises(ShapeError, match="without d"):
        feature_cells(data[0], data[1][:, :3], *data[2:])
    with pytest.raises(ShapeError, match="num_tasks"):
        feature_cells(data[0][:, 0], *(each[:, 0] for each in data[1:]))
    with pytest.raises(UsageError, match="negative"):
        feature_cells(*data[:3], -data[3])
    with pytest.raises(UsageError, match="other ids"):
        feature_cells(
            data[0][:, 0], *(each[:, 0] for each in data[1:]),
            torch.full((80,), 7), num_tasks=5,
        )  # fmt: skip
    wrong = feature_cells(data[0] * torch.nan, *data[1:])
    with pytest.raises(UsageError, match="finite"):
        newton_step(wrong.statistics(), MASKS)
