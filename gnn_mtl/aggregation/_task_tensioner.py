"""Task Tensioner: tasks that have not converged pull the common direction towards them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gnn_mtl._core.errors import UsageError
from gnn_mtl.aggregation._base import Weighting
from gnn_mtl.aggregation._gramian_method import GradientOptions
from gnn_mtl.linalg import min_norm_weights

SMALLEST_LOSS = 1e-12


def central_weights(gramian: Tensor) -> Tensor:
    r"""Return the weights of the central direction, which sum to 1.

    With a the shortest convex combination of the unit gradients (on its support, the direction at
    equal angles to them), :math:`c = \sum_i (a_i / n_i) g_i / \sum_i (a_i / n_i)`.
    """
    norms = gramian.diagonal().sqrt()
    weights = min_norm_weights(gramian / norms[:, None] / norms) / norms
    return weights / weights.sum()


def tension(progress: Tensor, alpha: float) -> Tensor:
    r"""Return :math:`\alpha / (1 + e^{e (1 - r)}) + 1 - \alpha` for every r in ``progress``."""
    return alpha * torch.sigmoid(math.e * (progress - 1)) + 1 - alpha


def tensioned_weights(gramian: Tensor, centre: Tensor, tensions: Tensor) -> Tensor:
    r"""Pull the direction towards the gradients, then remove what conflicts with one of them.

    .. math:: d = c + \sum_i k_i \frac{g_i - c}{\lVert g_i - c\rVert}

    Then, in the order of the tasks, a d with :math:`p = d^\top g_i / n_i < 0` is replaced by its
    part orthogonal to :math:`g_i`, times :math:`n_i / (n_i + |p|)`: the authors' tangent, without
    the angles.

    Args:
        gramian: ``[S, S]`` with a positive diagonal.
        centre: Weights of c ``[S]``.
        tensions: k ``[S]``, nonnegative.
    """
    squares = gramian.diagonal()
    towards = gramian @ centre
    length = centre @ towards
    apart = squares - 2 * towards + length
    pull = torch.where(
        apart > 1e-12 * (squares + length), tensions / apart.clamp(min=1e-300).sqrt(), 0.0
    )
    weights = (1 - pull.sum()) * centre + pull
    for i, square in enumerate(squares.tolist()):
        along = float(gramian[i] @ weights) / square  # p / n
        if along < 0:
            weights[i] -= along
            weights /= 1 - along
    return weights


@dataclass(frozen=True, kw_only=True)
class TaskTensioner(GradientOptions):
    r"""Starts from the direction at equal angles to the gradients and adds a pull from every task.

    Mizuno Nakamura, Grassi and Wolf, "Leveraging convergence behavior to balance conflicting tasks
    in multi-task learning", Neurocomputing 511, 2022, arXiv 2204.06698, after the authors' code.
    The centre c is the shortest convex combination of the unit gradients (found exactly; theirs
    takes up to 250 steps of Frank-Wolfe), rescaled. Task i pulls with

    .. math:: k_i = \frac{\alpha}{1 + \exp(e - e\, r_i)} + 1 - \alpha , \qquad
       r_i = \frac{\sum_{\text{window}} \lVert g_i\rVert}{\sum_{\text{window before}} \lVert
       g_i\rVert} + \log_{10} L_i ,

    so that tasks whose gradients grow, or whose loss is large, pull more:
    :math:`d = c + \sum_i k_i (g_i - c) / \lVert g_i - c\rVert`. Conflicts of d with the gradients
    are removed one after the other; only the last one is sure to be gone. The window moves by one
    update of the task. The centre has the length of gradients and a pull that of a number: how
    much tensions turn the direction depends on the gradients' scale, as in the paper.

    A task pulls from its (window + 1)th update on, counted for each task: the authors' code, where
    all tasks are always there, counts updates. Cost: one shortest convex combination, 0.05 s at 500
    tasks.
    """

    kind: ClassVar[str] = "task_tensioner"

    alpha: float = 0.3
    """How much tensions differ, from 0 (all 1) to 1; the authors' example has 0.3."""

    window: int = 10
    """Updates of a task over which its gradient norms are added up."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            raise UsageError(f"`alpha` should be between 0 and 1. Found {self.alpha}.")
        if self.window < 1:
            raise UsageError(f"`window` should be at least 1 update. Found {self.window}.")

    def build(self, num_tasks: int, seed: int = 0) -> TensionerWeighting:
        """Build the aggregator; it has no randomness."""
        return TensionerWeighting(self, num_tasks, seed=seed)


class TensionerWeighting(Weighting):
    """Task Tensioner with the last gradient norms of every task, by task id.

    Args:
        method: The options.
        num_tasks: Number of tasks T.
        seed: Unused.
    """

    kind: ClassVar[str] = "task_tensioner"

    def __init__(self, method: TaskTensioner, num_tasks: int, *, seed: int = 0) -> None:
        super().__init__(num_tasks, norm=method.norm, seed=seed)
        self.method = method
        self.state = {
            "norms": torch.zeros(num_tasks, method.window, dtype=torch.float64),
            "seen": torch.zeros(num_tasks, dtype=torch.int64),
        }

    def _weights(self, tasks: Tensor, losses: Tensor, gramian: Tensor | None) -> Tensor:
        assert gramian is not None  # noqa: S101
        growth = self._growth(tasks, gramian.diagonal().sqrt())
        progress = growth + losses.clamp(min=SMALLEST_LOSS).log10()
        tensions = torch.where(growth.isnan(), 0.0, tension(progress, self.method.alpha))
        return tensioned_weights(gramian, central_weights(gramian), tensions)

    def _growth(self, tasks: Tensor, norms: Tensor) -> Tensor:
        """Put the norms into the windows; return how much these grew, NaN where not yet full."""
        window, seen = self.state["norms"], self.state["seen"][tasks]
        before = window[tasks].sum(dim=1)
        window[tasks, seen % self.method.window] = norms
        self.state["seen"][tasks] += 1
        after = window[tasks].sum(dim=1)
        return torch.where(seen >= self.method.window, after / before, torch.nan)

    def __repr__(self) -> str:
        return f"{self.method!r}.build({self.num_tasks})"
