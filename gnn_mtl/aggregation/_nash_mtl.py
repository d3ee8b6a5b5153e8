"""Nash-MTL: the tasks bargain for the direction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gnn_mtl._core.errors import UsageError
from gnn_mtl._core.seeding import derive_seed
from gnn_mtl.aggregation._base import Promise, Weighting
from gnn_mtl.aggregation._fair_newton import fair_weights
from gnn_mtl.aggregation._gramian_method import GradientOptions


def nash_weights(gramian: Tensor) -> Tensor:
    """Return the positive w with ``G w = 1 / w``, float64 ``[S]``; see :class:`NashMTL`."""
    return fair_weights(gramian, 1.0)


@dataclass(frozen=True, kw_only=True)
class NashMTL(GradientOptions):
    r"""Maximises the product of the tasks' first-order gains: the Nash bargaining solution.

    Navon et al., "Multi-Task Learning as a Bargaining Game", ICML 2022, arXiv 2202.01017: the
    direction maximises :math:`\sum_i \log g_i^\top d` in a ball, and is :math:`J^\top w` with

    .. math:: G w = 1 / w , \qquad w > 0 .

    Every task gains, as :math:`g_i^\top d = 1 / w_i`; the direction does not change when a task's
    loss is multiplied by a number; :math:`\lVert d\rVert^2 = S` with S the tasks in the update.
    Where gradients cancel, weights are stopped at about 1e5 of what the task alone would get.

    The paper solves a sequence of convex programs, here it is one strictly convex function and
    Newton's method (:func:`~gnn_mtl.aggregation._fair_newton.fair_weights`): 0.1 s at 500 tasks.
    Unequal bargaining power is ``FairGrad(alpha=1, preference=...)``.
    """

    kind: ClassVar[str] = "nash_mtl"
    promises: ClassVar[frozenset[Promise]] = frozenset(
        {"permutation", "scaling", "task_scaling", "nonnegative", "non_conflicting"}
    )

    max_norm: float = 0.0
    """Longest direction; 0: any. The authors' code has 1. Only seen with ``norm`` native."""

    every: int = 1
    """Updates of the same set of tasks for which weights are kept before they are solved again."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.max_norm) and self.max_norm >= 0):
            raise UsageError(f"`max_norm` should be a length, or 0. Found {self.max_norm}.")
        if self.every < 1:
            raise UsageError(f"`every` should be at least 1 update. Found {self.every}.")

    def build(self, num_tasks: int, seed: int = 0) -> NashWeighting:
        """Build the aggregator; it has no randomness."""
        return NashWeighting(self, num_tasks, seed=seed)


class NashWeighting(Weighting):
    """Nash-MTL with weights that are kept for some updates.

    The state says for every task the weight it got last, with whom (a hash of the task ids) and
    how often it was used since. A set of tasks keeps its weights until one of them is solved for
    in another company, so that disjoint groups do not disturb each other.

    Args:
        method: The options.
        num_tasks: Number of tasks T.
        seed: Unused.
    """

    kind: ClassVar[str] = "nash_mtl"
    promises = NashMTL.promises

    def __init__(self, method: NashMTL, num_tasks: int, *, seed: int = 0) -> None:
        super().__init__(num_tasks, norm=method.norm, seed=seed)
        self.method = method
        self.state = {
            "weights": torch.ones(num_tasks, dtype=torch.float64),
            "company": torch.full((num_tasks,), -1),
            "uses": torch.zeros(num_tasks, dtype=torch.int64),
        }

    def _weights(self, tasks: Tensor, losses: Tensor, gramian: Tensor | None) -> Tensor:  # noqa: ARG002
        assert gramian is not None  # noqa: S101
        company = derive_seed(0, *sorted(tasks.tolist()))
        kept = bool((self.state["company"][tasks] == company).all())
        if not kept or int(self.state["uses"][tasks[0]]) >= self.method.every:
            self.state["weights"][tasks] = nash_weights(gramian)
            self.state["company"][tasks] = company
            self.state["uses"][tasks] = 0
        self.state["uses"][tasks] += 1
        weights = self.state["weights"][tasks]
        length = math.sqrt(max(0.0, float(weights @ gramian @ weights)))
        return weights * min(1.0, (self.method.max_norm or math.inf) / max(length, 1e-300))

    def __repr__(self) -> str:
        return f"{self.method!r}.build({self.num_tasks})"
