"""Nash-MTL: the tasks bargain for the direction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from gnn_mtl._core.errors import UsageError
from gnn_mtl.aggregation._base import Promise
from gnn_mtl.aggregation._fair_newton import fair_weights
from gnn_mtl.aggregation._gramian_method import GramianMethod


def nash_weights(gramian: Tensor, max_norm: float = 0.0) -> Tensor:
    """Return the positive w with ``G w = 1 / w``, float64 ``[S]``; see :class:`NashMTL`.

    Args:
        gramian: G, float64 ``[S, S]``, with a positive diagonal.
        max_norm: Longest direction; w is shortened to it. 0: any.
    """
    weights = fair_weights(gramian, 1.0)
    if max_norm == 0:
        return weights
    length = math.sqrt(max(0.0, float(weights @ gramian @ weights)))
    return weights * min(1.0, max_norm / max(length, 1e-300))


@dataclass(frozen=True, kw_only=True)
class NashMTL(GramianMethod):
    r"""Maximises the product of the tasks' first-order gains: the Nash bargaining solution.

    Navon et al., "Multi-Task Learning as a Bargaining Game", ICML 2022, arXiv 2202.01017: the
    direction maximises :math:`\sum_i \log g_i^\top d` in a ball, and is :math:`J^\top w` with

    .. math:: G w = 1 / w , \qquad w > 0 .

    Every task gains, as :math:`g_i^\top d = 1 / w_i`; the direction does not change when a task's
    loss is multiplied by a number; :math:`\lVert d\rVert^2 = S` with S the tasks in the update.
    Where gradients cancel, weights are stopped at about 1e5 of what the task alone would get.

    The authors' code solves a sequence of convex programs and applies the weights to the heads'
    losses too; here it is one strictly convex function, Newton's method
    (:func:`~gnn_mtl.aggregation._fair_newton.fair_weights`) and the shared parameters alone: 0.1 s
    at 500 tasks. Their ``update_weights_every``, the number of updates that share one solution, is
    ``--train.gramian-every``, for this and every other method. Unequal bargaining power is
    ``FairGrad(alpha=1, preference=...)``.
    """

    kind: ClassVar[str] = "nash_mtl"
    promises: ClassVar[frozenset[Promise]] = frozenset(
        {"permutation", "scaling", "task_scaling", "nonnegative", "non_conflicting", "balanced"}
    )

    max_norm: float = 0.0
    """Longest direction; 0: any. The authors' code has 1. Only seen with norm native."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.max_norm) and self.max_norm >= 0):
            raise UsageError(f"`max_norm` should be a length, or 0. Found {self.max_norm}.")

    def solve(self, gramian: Tensor, **_: object) -> Tensor:
        """Return the weights ``[S]``."""
        return nash_weights(gramian, self.max_norm)
