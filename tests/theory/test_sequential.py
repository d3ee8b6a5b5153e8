"""Groups one after the other against all in one step (SON-GOKU §5.3): what differs, and its sign.

With frozen gradients nothing differs. With gradients taken anew, a cycle ends at a loss that
differs by ``eta^2 <sum G, sum_{p<j} H_j G_p> + O(eta^3)``, of either sign: that scheduling is never
worse is not true. What is true is a wider range of stable rates.
"""

import numpy as np
import pytest

from gnn_mtl.schedulers import StaticScheduler
from gnn_mtl.tasks import Grouping


def _psd(rng, groups, dim, rank):
    roots = rng.standard_normal((groups, dim, rank))
    return roots @ roots.transpose(0, 2, 1) / rank


class Quadratics:
    """One loss per group: half a quadratic form around an optimum."""

    def __init__(self, hessians, optima):
        self.hessians, self.optima = hessians, optima

    def gradient(self, group, point):
        return self.hessians[group] @ (point - self.optima[group])

    def loss(self, point):
        away = point - self.optima
        return 0.5 * np.einsum("ki,kij,kj->", away, self.hessians, away)

    def sequential(self, point, rate):
        """A cycle of a schedule of one group a step."""
        count = len(self.optima)
        schedule = StaticScheduler(count, Grouping.from_assignments(range(count)))
        for _ in range(count):
            (group,) = schedule.active_tasks()
            point = point - rate * self.gradient(group, point)
        return point

    def mixed(self, point, rate):
        return point - rate * sum(self.gradient(k, point) for k in range(len(self.optima)))


def test_with_frozen_gradients_both_end_at_the_same_point():
    rng = np.random.default_rng(0)
    gradients, point = rng.standard_normal((5, 30)), rng.standard_normal(30)
    stepwise = point.copy()
    for gradient in gradients:
        stepwise = stepwise - 0.1 * gradient
    np.testing.assert_allclose(stepwise, point - 0.1 * gradients.sum(axis=0), atol=1e-14)


def test_the_second_order_formula_of_the_difference():
    rng = np.random.default_rng(1)
    rate, errors, wins = 1e-3, [], 0
    for _ in range(200):
        losses = Quadratics(_psd(rng, 3, 8, 8), rng.standard_normal((3, 8)))
        point = rng.standard_normal(8)
        pushes = np.array([losses.gradient(k, point) for k in range(3)])
        before = np.cumsum(pushes, axis=0) - pushes
        expected = rate**2 * pushes.sum(axis=0) @ np.einsum("kij,kj->i", losses.hessians, before)
        found = losses.loss(losses.sequential(point, rate)) - losses.loss(losses.mixed(point, rate))
        errors.append(abs(found - expected) / abs(expected))
        wins += found < 0
    assert np.median(errors) < 0.03
    assert wins < 60  # no superiority: on random quadratics one step of all is mostly better


@pytest.mark.parametrize(
    ("cosine", "low", "high"), [(-0.95, 0.3, 0.6), (-0.5, 0.05, 0.3), (0.0, 0, 0), (0.5, 0, 0)]
)
def test_two_groups_with_equal_curvature_gain_where_the_first_opposes_the_sum(cosine, low, high):
    """Better exactly where <G1 + G2, G1> < 0: a stronger second gradient that opposes the first."""
    rng = np.random.default_rng(2)
    wins = []
    for _ in range(300):
        norms = np.exp(rng.standard_normal(2))
        pushes = np.array([[1.0, 0.0], [cosine, np.sqrt(1 - cosine**2)]]) * norms[:, None]
        losses = Quadratics(np.stack([np.eye(2)] * 2), -pushes)  # those gradients at 0
        rate, origin = 1e-4, np.zeros(2)
        gain = losses.loss(losses.mixed(origin, rate)) - losses.loss(
            losses.sequential(origin, rate)
        )
        slope = pushes.sum(axis=0) @ pushes[0]
        if abs(slope) > 0.01 * norms[0] * norms.sum():  # beyond the third order
            assert (gain > 0) == (slope < 0)
        wins.append(slope < 0)
    assert low <= np.mean(wins) <= high


def test_sequential_steps_stay_stable_at_rates_where_mixed_ones_diverge():
    """Below 2 / max eigenvalue of any one group; mixed steps need 2 / that of the sum."""
    rng = np.random.default_rng(3)
    for _ in range(50):
        hessians = _psd(rng, 4, 6, 2)
        losses = Quadratics(hessians, np.zeros((4, 6)))
        each = np.linalg.eigvalsh(hessians)[:, -1].max()
        together = np.linalg.eigvalsh(hessians.sum(axis=0))[-1]
        assert together > each
        rate = 2 / each * 0.5 + 2 / together * 0.5
        cycle = np.stack([losses.sequential(axis, rate) for axis in np.eye(6)], axis=1)
        step = np.stack([losses.mixed(axis, rate) for axis in np.eye(6)], axis=1)
        assert np.linalg.norm(cycle, 2) <= 1 + 1e-12
        assert np.abs(np.linalg.eigvals(cycle)).max() < 1
        assert np.abs(np.linalg.eigvals(step)).max() > 1
