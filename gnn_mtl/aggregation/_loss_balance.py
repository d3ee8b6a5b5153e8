"""What the methods that weigh losses share: a base, Adam over one number a task, two checks."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from gnn_mtl._core.errors import UsageError
from gnn_mtl.aggregation._base import Promise, Weighting

LOSS_PROMISES: frozenset[Promise] = frozenset({"permutation", "scaling", "nonnegative"})
TINY = 1e-8
"""Added to losses before they divide or before their logarithm (FAMO's epsilon)."""


class LossBalance(Weighting):
    """Multiplies the losses, heads included; by factors from the losses alone unless it says so.

    The factors are constants: the sum of the losses times them has the same gradient by the
    network's parameters as the method's own total loss.
    """

    needs: ClassVar[Literal["losses", "gramian"]] = "losses"
    acts_on = "losses"
    promises = LOSS_PROMISES

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_tasks={self.num_tasks})"


class TaskAdam:
    """Adam (torch's, L2 weight decay included) over one number a task, each with its own count.

    Everything lives in ``state``, under ``name`` and names that start with it, so that it is saved
    and resumed with the aggregator. Only the tasks of a step move.

    Args:
        state: The aggregator's state.
        name: Name of the numbers.
        num_tasks: Number of tasks T.
        lr: Learning rate.
        weight_decay: L2 penalty.
        start: First value of every number.
    """

    BETAS = (0.9, 0.999)
    EPS = 1e-8

    def __init__(
        self,
        state: dict[str, Tensor],
        name: str,
        num_tasks: int,
        *,
        lr: float,
        weight_decay: float = 0.0,
        start: float = 0.0,
    ) -> None:
        self._state, self._name = state, name
        self._lr, self._weight_decay = lr, weight_decay
        state[name] = torch.full((num_tasks,), start, dtype=torch.float64)
        state[f"{name}_first"] = torch.zeros(num_tasks, dtype=torch.float64)
        state[f"{name}_second"] = torch.zeros(num_tasks, dtype=torch.float64)
        state[f"{name}_steps"] = torch.zeros(num_tasks, dtype=torch.int64)

    def step(self, tasks: Tensor, gradient: Tensor) -> Tensor:
        """Return the numbers of ``tasks`` after a step along ``gradient``, which are stored too."""
        state, name, (beta1, beta2) = self._state, self._name, self.BETAS
        value = state[name][tasks]
        gradient = gradient + self._weight_decay * value
        count = state[f"{name}_steps"][tasks] + 1
        first = beta1 * state[f"{name}_first"][tasks] + (1 - beta1) * gradient
        second = beta2 * state[f"{name}_second"][tasks] + (1 - beta2) * gradient**2
        spread = (second / debias(beta2, count)).sqrt() + self.EPS
        value = value - self._lr * first / debias(beta1, count) / spread
        for suffix, new in (("", value), ("_first", first), ("_second", second), ("_steps", count)):
            put(state, f"{name}{suffix}", tasks, new)
        return value


def debias(decay: float, count: Tensor) -> Tensor:
    """Return 1 - decay^count in float64: what a moving average of that many steps divides by."""
    return 1 - decay ** count.double()


def put(state: dict[str, Tensor], name: str, tasks: Tensor, values: Tensor) -> None:
    """Set ``state[name][tasks]``, in a new tensor: the old one may be in somebody's checkpoint."""
    state[name] = state[name].index_put((tasks,), values)


def check_positive(**options: float) -> None:
    """Raise UsageError for an option that is not a positive finite number."""
    for name, value in options.items():
        if not (math.isfinite(value) and value > 0):
            raise UsageError(f"`{name}` should be a positive number. Found {value}.")


def check_nonnegative(**options: float) -> None:
    """Raise UsageError for an option that is not a finite number from 0 up."""
    for name, value in options.items():
        if not (math.isfinite(value) and value >= 0):
            raise UsageError(f"`{name}` should be a number from 0 up. Found {value}.")


def checked_losses(kind: str, losses: Tensor) -> Tensor:
    """Return the losses; UsageError if one is negative, where the method divides by them."""
    if bool((losses < 0).any()):
        raise UsageError(
            f"{kind} needs losses from 0 up, such as cross entropies. Found {float(losses.min())}. "
            "Shift the loss, or take another aggregator."
        )
    return losses
