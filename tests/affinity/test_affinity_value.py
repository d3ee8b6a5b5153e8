"""What the matrix itself carries along: counts and errors of both directions, parts of it."""

import numpy as np
import pytest

from gnn_mtl._core.errors import UsageError
from gnn_mtl.tasks import Affinity

NAN = float("nan")


def example():
    return Affinity(
        np.array([[1.0, 0.4, NAN], [0.2, 1.0, 0.5], [NAN, NAN, 1.0]]), "m", "nats", symmetric=False,
        counts=np.array([[5, 2, 0], [4, 5, 1], [0, 0, 5]]),
        stderr=np.array([[0.1, 0.3, NAN], [0.4, 0.1, 0.2], [NAN, NAN, 0.1]]),
        label_names=("a", "b", "c"), details={"lr": 0.1},
    )  # fmt: skip


def test_both_directions_are_averaged_with_their_errors():
    found = example().symmetrized()
    np.testing.assert_allclose(found.values, [[1, 0.3, NAN], [0.3, 1, 0.5], [NAN, 0.5, 1]])
    assert found.counts.tolist() == [[5, 6, 0], [6, 5, 1], [0, 1, 5]]
    np.testing.assert_allclose(
        found.stderr, [[0.1, 0.25, NAN], [0.25, 0.1, 0.2], [NAN, 0.2, 0.1]]
    )  # .5 sqrt(.3^2 + .4^2)
    assert found.details == {"lr": 0.1, "symmetrized": True}
    assert found.label_names == ("a", "b", "c")
    assert found.symmetrized() is found


def test_some_tasks_in_their_order():
    affinity = example()
    found = affinity.select_tasks([2, 1])
    np.testing.assert_array_equal(found.values, [[1.0, NAN], [0.5, 1.0]])
    assert found.counts.tolist() == [[5, 0], [1, 5]]
    assert found.stderr[1, 0] == 0.2
    assert found.label_names == ("c", "b")
    assert (found.unit, found.method, found.symmetric) == ("nats", "m", False)
    assert affinity.select_tasks(range(3)).details == affinity.details
    for tasks in ([], [0, 0], [3], [-1]):
        with pytest.raises(UsageError, match="distinct ids"):
            affinity.select_tasks(tasks)
