"""Task Tensioner: against explicit vectors and angles, and its windows by task id."""

import math

import numpy as np
import pytest
import torch

from gnn_mtl._core.errors import UsageError
from gnn_mtl.aggregation import TaskTensioner
from gnn_mtl.aggregation._task_tensioner import central_weights, tension, tensioned_weights


def draw(tasks, width, seed):
    return np.random.default_rng(seed).standard_normal((tasks, width))


def square(rows):
    rows = torch.as_tensor(rows, dtype=torch.float64)
    return rows @ rows.T


class Explicit:
    """The paper's method with vectors and angles, for tasks that are always all there.

    The centre of two tasks is known: equal weights of the unit gradients.
    """

    def __init__(self, alpha, window):
        self.alpha, self.window, self.history = alpha, window, []

    def __call__(self, rows, losses, centre):
        norms = np.linalg.norm(rows, axis=1)
        self.history.append(norms)
        direction = centre @ rows
        if len(self.history) <= self.window:
            return direction
        now = np.sum(self.history[-self.window :], axis=0)
        before = np.sum(self.history[-self.window - 1 : -1], axis=0)
        pulled = direction.copy()
        for i, row in enumerate(rows):
            relative = now[i] / before[i] + np.log10(losses[i])
            k = self.alpha / (1 + np.exp(math.e - math.e * relative)) + 1 - self.alpha
            pulled += max(0, k) * (row - direction) / np.linalg.norm(row - direction)
        for row in rows:
            if self.angle(row, pulled) > math.pi / 2:
                unit = row / np.linalg.norm(row)
                across = pulled - (pulled @ unit) * unit
                tangent = math.tan(math.pi - self.angle(row, pulled - row))
                pulled = tangent * np.linalg.norm(row) * across / np.linalg.norm(across)
        return pulled

    @staticmethod
    def angle(a, b):
        return math.acos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_tension_by_hand():
    # r = 1: sigmoid(0) = 1/2, k = alpha / 2 + 1 - alpha; r large: 1; r very negative: 1 - alpha
    found = tension(torch.tensor([1.0, 50.0, -50.0]), 0.3)
    assert found.tolist() == pytest.approx([0.85, 1.0, 0.7])
    assert tension(torch.tensor([-3.0, 0.0, 9.0]), 0.0).tolist() == [1.0, 1.0, 1.0]


def test_the_centre_by_hand():
    # (1, 0) and (0, 2): unit weights 1/2, 1/2; over the norms 1/2, 1/4; sum 1: 2/3, 1/3
    assert central_weights(square([[1.0, 0.0], [0.0, 2.0]])).tolist() == pytest.approx(
        [2 / 3, 1 / 3]
    )


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_two_tasks_equal_the_explicit_form(seed, alpha):
    aggregator = TaskTensioner(norm="native", alpha=alpha, window=3).build(2)
    explicit = Explicit(alpha, 3)
    turned = 0
    for step in range(8):
        rows = draw(2, 4, 100 * seed + step) * [[1.0], [3.0]]
        losses = np.random.default_rng(step).uniform(0.1, 3, 2)
        norms = np.linalg.norm(rows, axis=1)
        centre = (1 / norms) / (1 / norms).sum()
        wanted = explicit(rows, losses, centre)
        weights = aggregator.weights(square(rows), losses=torch.as_tensor(losses))
        assert np.allclose(weights.numpy() @ rows, wanted)
        assert float((rows @ wanted).min()) > -1e-9
        turned += not np.allclose(wanted, centre @ rows)
    # from the fourth of eight steps on; equal tensions on both ends of a line cancel
    assert turned == (5 if alpha else 0)


@pytest.mark.parametrize("seed", range(10))
def test_many_tasks_equal_the_explicit_form(seed):
    rows = draw(7, 9, seed)
    centre = central_weights(square(rows))
    explicit = Explicit(0.0, 1)
    explicit(rows, np.ones(7), centre.numpy())
    wanted = explicit(rows, np.ones(7), centre.numpy())
    found = tensioned_weights(square(rows), centre, torch.ones(7, dtype=torch.float64))
    assert np.allclose(found.numpy() @ rows, wanted)
    assert float(wanted @ rows[-1]) > -1e-9  # the last conflict removed stays removed


def test_a_task_whose_loss_is_large_or_whose_gradient_grows_pulls_more():
    def share(grow, loss):
        aggregator = TaskTensioner(norm="native", alpha=1.0, window=2).build(2)
        rows = np.eye(2)
        for step in range(4):
            weights = aggregator.weights(
                square(rows * [[grow**step], [1.0]]), losses=torch.tensor([loss, 1.0])
            )
        return float(weights[0]) * grow**3

    assert share(1.0, 3.0) > share(1.0, 1.0) > share(1.0, 0.3)
    assert share(1.5, 1.0) > share(1.0, 1.0)


def test_windows_are_per_task():
    # task 2 joins late: it must not pull, and the windows of absent tasks must not move
    aggregator = TaskTensioner(norm="native", window=2).build(4)
    rows = draw(3, 6, 1)
    for _ in range(3):
        aggregator.weights(square(rows[:2]), tasks=[0, 3])
    before = aggregator.state["norms"].clone()
    found = aggregator.weights(square(rows), tasks=[0, 3, 2])
    k = tension(torch.ones(3, dtype=torch.float64), 0.3)
    k[2] = 0
    assert torch.allclose(found, tensioned_weights(square(rows), central_weights(square(rows)), k))
    assert torch.equal(aggregator.state["norms"][1], before[1])
    assert aggregator.state["seen"].tolist() == [4, 0, 1, 4]


def test_it_resumes():
    method = TaskTensioner(window=2)
    one, other = method.build(3), method.build(3)
    for step in range(3):
        one.weights(square(draw(3, 5, step)), losses=torch.tensor([0.5, 1.0, 2.0]))
    other.load_state_dict(one.state_dict())
    for step in range(3, 6):
        gramian = square(draw(3, 5, step))
        assert torch.equal(one.weights(gramian), other.weights(gramian))


@pytest.mark.parametrize(
    "rows",
    [[[1.0, 2.0]], [[1.0, 0.0], [-1.0, 0.0]], [[1.0, 2.0], [1.0, 2.0]], [[1e-6, 0.0], [1.0, 1e6]]],
    ids=["one", "antiparallel", "twins", "unequal"],
)
def test_hard_cases_are_finite(rows):
    aggregator = TaskTensioner(norm="native", window=1).build(len(rows))
    for loss in (1.0, 0.0, 5.0):
        found = aggregator.weights(square(rows), losses=torch.full((len(rows),), loss))
        assert bool(found.isfinite().all())
    if len(rows) == 1:
        assert found.tolist() == [1.0]


@pytest.mark.parametrize("options", [{"alpha": -0.1}, {"alpha": 1.1}, {"window": 0}])
def test_options_are_checked(options):
    with pytest.raises(UsageError, match="Found"):
        TaskTensioner(**options)
