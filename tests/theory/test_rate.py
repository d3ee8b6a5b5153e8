"""What one class a step costs in the rate of convergence (SON-GOKU §5.2, Eq. 13).

The paper states ``min |grad F|^2 <= 2 (F0 - F*) (1 + tau) / (c sqrt(T)) + ...`` for steps of rate
``c / sqrt(T)``. With F the sum of all losses and one class a step at an unchanged rate that
constant is too small; the slope is right, and the constant grows with the number of classes m.
"""

import numpy as np
import pytest
import torch

from gnn_mtl.gradients import TaskGradients
from gnn_mtl.schedulers import ColoringScheduler, JointScheduler, StaticScheduler
from gnn_mtl.tasks import Grouping

CLASSES = Grouping.of([(0, 1), (2, 3), (4, 5)], 6)
STEPS = (300, 1000, 3000, 10_000)


def _quadratics():
    rng = np.random.default_rng(0)
    roots = rng.standard_normal((6, 5, 5))
    hessians = roots @ roots.transpose(0, 2, 1) / 5 + 0.1 * np.eye(5)
    return hessians, rng.standard_normal((6, 5))


def _curve(schedule, scale):
    """The mean square gradient after each number of steps at the rate scale / sqrt(steps)."""
    return np.array([_mean_square_gradient(schedule(), n, scale / np.sqrt(n)) for n in STEPS])


def _mean_square_gradient(schedule, steps, rate):
    """Mean over the steps of |grad F|^2, F the sum of six noiseless quadratics."""
    hessians, optima = _quadratics()
    active = [list(schedule.active_tasks()) for _ in range(3)]  # one cycle; then it repeats
    point, total = np.zeros(5), 0.0
    pushes = np.einsum("kij,kj->ki", hessians, optima)
    full = (hessians.sum(axis=0), pushes.sum(axis=0))
    cycle = [(hessians[tasks].sum(axis=0), pushes[tasks].sum(axis=0)) for tasks in active]
    for step in range(steps):
        gradient = full[0] @ point - full[1]
        total += gradient @ gradient
        matrix, push = cycle[step % 3]
        point = point - rate * (matrix @ point - push)
    return total / steps


@pytest.fixture(scope="module")
def measured():
    return {
        "joint": _curve(lambda: JointScheduler(6), 0.1),
        "classes": _curve(lambda: StaticScheduler(6, CLASSES), 0.1),
        "classes, rate times m": _curve(lambda: StaticScheduler(6, CLASSES), 0.3),
    }


@pytest.mark.parametrize("name", ["joint", "classes", "classes, rate times m"])
def test_the_mean_square_gradient_falls_with_the_root_of_the_steps(measured, name):
    slope = np.polyfit(np.log(STEPS), np.log(measured[name]), 1)[0]
    assert -0.65 <= slope <= -0.4


def test_at_an_equal_rate_the_constant_is_that_of_joint_steps_times_the_classes(measured):
    ratio = measured["classes"] / measured["joint"]
    assert ((ratio >= 0.8 * 3) & (ratio <= 1.2 * 3)).all()


def test_a_small_rate_times_the_classes_makes_up_for_it_in_steps(measured):
    """And each of those steps costs a third of the label gradients of a joint one."""
    ratio = measured["classes, rate times m"] / measured["joint"]
    assert (ratio <= 1.3).all()


def test_at_larger_rates_it_does_not():
    """What the classes undo of each other's steps grows with the square of the rate."""
    joint = _mean_square_gradient(JointScheduler(6), 300, 0.3 / np.sqrt(300))
    classes = _mean_square_gradient(StaticScheduler(6, CLASSES), 300, 0.9 / np.sqrt(300))
    assert classes > 3 * joint


def test_the_constant_of_the_paper_is_too_small_and_m_times_it_is_enough():
    """Four tasks with cosines -.3 conflict at .25, so each is a class.

    F = softplus(<sum a, x> + B). Each step undoes most of the others' work: a step of rate r takes
    r / 4 of |sum a|^2 = .4 off F.
    """
    steps = 10_000
    cosine = 1.3 * np.eye(4) - 0.3
    tasks = np.linalg.cholesky(cosine)
    total = tasks.sum(axis=0)
    rate = 1 / np.sqrt(steps)
    height = 0.1 * np.sqrt(steps) + 3.8  # not reached in so many steps
    schedule = ColoringScheduler(4, tau=0.25, refresh_period=steps)
    schedule.observe(
        TaskGradients((0, 1, 2, 3), torch.from_numpy(tasks), torch.ones(4, dtype=torch.bool))
    )
    cycle = [schedule.active_tasks() for _ in range(4)]
    assert sorted(cycle) == [(0,), (1,), (2,), (3,)]
    point, smallest = np.zeros(4), np.inf
    for step in range(steps):
        share = 1 / (1 + np.exp(-(total @ point + height)))  # of F's slope still there
        smallest = min(smallest, share**2 * (total @ total))
        (task,) = cycle[step % 4]
        point = point - rate * (tasks[task] + (share - 1) / 4 * total)
    claimed = 2 * np.log1p(np.exp(height)) * (1 + 0.25) / np.sqrt(steps)
    assert smallest > 1.1 * claimed
    assert smallest <= 4 * claimed
