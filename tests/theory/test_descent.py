"""One step on a compatible group lowers that group's loss (SON-GOKU §5.1, Eq. 12), and no more.

If every pair of the group S has cosine at least -tau, then
``|sum g|^2 >= (1 - tau (|S| - 1)) sum |g|^2``: the group's own loss falls to first order. Nothing
is claimed, or true, of each task's loss, nor of the sum over all tasks.
"""

import numpy as np
import pytest
import torch

from gnn_mtl.affinity import gradient_cosine
from gnn_mtl.grouping import cap_sizes, welsh_powell
from gnn_mtl.linalg import cosine_of_rows
from gnn_mtl.tasks import Affinity, conflict_graph


def _gradients(rng, tasks, dim):
    """Random directions with log-normal norms."""
    rows = rng.standard_normal((tasks, dim))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows * np.exp(rng.standard_normal((tasks, 1)))


def _sides(rows, tau):
    """Both sides of the inequality."""
    bound = (1 - tau * (len(rows) - 1)) * (rows**2).sum()
    return (rows.sum(axis=0) ** 2).sum(), bound


def _classes(rows, tau):
    graph = conflict_graph(gradient_cosine(torch.from_numpy(rows)), tau)
    return welsh_powell(graph), graph


def test_the_inequality_holds_for_every_class_of_the_conflict_graph():
    rng = np.random.default_rng(0)
    useful = 0
    for trial in range(90):
        rows = _gradients(rng, 12, int(rng.integers(2, 20)))
        tau = (0.1, 0.25, 0.5)[trial % 3]
        for group in _classes(rows, tau)[0]:
            left, right = _sides(rows[list(group)], tau)
            assert left >= right - 1e-9 * (rows**2).sum()
            useful += len(group) > 1 and right > 0
    assert useful > 60


def test_the_inequality_holds_with_the_largest_conflict_measured():
    rng = np.random.default_rng(1)
    for _ in range(400):
        rows = _gradients(rng, int(rng.integers(2, 8)), int(rng.integers(2, 30)))
        cosine = cosine_of_rows(torch.from_numpy(rows)).numpy()
        left, right = _sides(rows, max(0.0, -cosine.min()))
        assert left >= right - 1e-9 * (rows**2).sum()


@pytest.mark.parametrize("tasks", [2, 3, 5, 9])
def test_the_regular_simplex_meets_it_with_equality(tasks):
    rows = np.eye(tasks) - 1 / tasks
    left, right = _sides(rows, 1 / (tasks - 1))
    assert left == pytest.approx(0.0, abs=1e-12)
    assert right == pytest.approx(0.0, abs=1e-12)


def test_at_a_quarter_five_tasks_can_stand_still_and_a_size_cap_prevents_it():
    """The bound says nothing from 1 + 1 / tau tasks on; 1 + (1 - c) / tau keep the share c."""
    simplex = np.eye(5) - 1 / 5
    tau = 0.25 + 1e-9
    classes, graph = _classes(simplex, tau)
    assert classes == [(0, 1, 2, 3, 4)]
    assert np.linalg.norm(simplex.sum(axis=0)) < 1e-12
    for group in cap_sizes(classes, graph, 3):  # c = 1/2
        left, _ = _sides(simplex[list(group)], tau)
        assert left >= (0.5 - 1e-8) * (simplex[list(group)] ** 2).sum()


def test_a_step_on_a_smooth_loss_of_the_group_falls_by_what_the_bound_says():
    """F_S(x - eta G) <= F_S - eta (1 - eta L / 2) (1 - tau (|S| - 1)) sum |g|^2, eta <= 2 / L."""
    rng = np.random.default_rng(2)
    for _ in range(100):
        roots = rng.standard_normal((4, 6, 3))
        hessians = roots @ roots.transpose(0, 2, 1)
        optima, point = rng.standard_normal((4, 6)), rng.standard_normal(6)
        rows = np.einsum("kij,kj->ki", hessians, point - optima)
        tau = max(0.0, -cosine_of_rows(torch.from_numpy(rows)).numpy().min())
        smooth = np.linalg.eigvalsh(hessians.sum(axis=0)).max()
        rate = rng.uniform(0, 2) / smooth

        def loss(at, hessians=hessians, optima=optima):
            away = at - optima
            return 0.5 * np.einsum("ki,kij,kj->", away, hessians, away)

        fall = rate * (1 - rate * smooth / 2) * _sides(rows, tau)[1]
        after = loss(point - rate * rows.sum(axis=0))
        assert after <= loss(point) - fall + 1e-9 * loss(point)


def test_a_graph_of_averages_needs_the_error_of_its_cosines_added_to_tau():
    """Classes come from estimates off by at most eps: the bound holds with tau + eps only."""
    rng = np.random.default_rng(3)
    broken = 0
    for _ in range(150):
        rows = _gradients(rng, 6, 3)
        true = cosine_of_rows(torch.from_numpy(rows)).numpy()
        noise = np.triu(rng.uniform(-0.3, 0.3, true.shape), 1)
        seen = (true + noise + noise.T).clip(-1, 1)
        for group in welsh_powell(conflict_graph(Affinity(seen, "cosine"), 0.25)):
            left, right = _sides(rows[list(group)], 0.25)
            broken += left < right - 1e-9
            assert left >= _sides(rows[list(group)], 0.25 + 0.3)[1] - 1e-9
    assert broken > 0


def test_single_tasks_may_still_ascend_inside_a_compatible_group():
    rng = np.random.default_rng(4)
    ascends = []
    while len(ascends) < 200:
        rows = _gradients(rng, 4, 50)
        if _classes(rows, 0.25)[0] == [(0, 1, 2, 3)]:
            ascends.append((rows @ rows.sum(axis=0) < 0).any())
    assert 0.1 < np.mean(ascends) < 0.4


def test_the_loss_of_all_tasks_may_ascend_on_the_step_of_one_group():
    rng = np.random.default_rng(5)
    ascends = []
    for _ in range(400):
        rows = rng.standard_normal((6, 20))
        total = rows.sum(axis=0)
        groups = _classes(rows, 0.25)[0]
        ascends += [rows[list(group)].sum(axis=0) @ total < 0 for group in groups]
    assert 0.0 < np.mean(ascends) < 0.05
