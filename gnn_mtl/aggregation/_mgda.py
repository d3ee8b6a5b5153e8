"""MGDA: the shortest convex combination of the gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from gnn_mtl._core.errors import UsageError
from gnn_mtl.aggregation._base import Promise, Weighting
from gnn_mtl.aggregation._gramian_method import GradientOptions
from gnn_mtl.linalg import min_norm_weights

Normalize = Literal["none", "l2", "loss", "loss_l2"]

PROMISES: frozenset[Promise] = frozenset(
    {"permutation", "scaling", "nonnegative", "non_conflicting", "stationary", "balanced"}
)


def mgda_weights(gramian: Tensor, scale: Tensor | None = None) -> Tensor:
    r"""Return the shortest convex combination of the gradients divided by s.

    .. math:: w_i = \alpha_i / s_i, \qquad
              \alpha = \arg\min_{\alpha \ge 0,\, 1^\top \alpha = 1}
                       \bigl\| \sum_i \alpha_i g_i / s_i \bigr\|^2

    Args:
        gramian: Inner products ``[S, S]``.
        scale: s ``[S]``, positive; default 1.
    """
    if scale is None:
        return min_norm_weights(gramian)
    return min_norm_weights(gramian / scale[:, None] / scale) / scale


class MGDAWeighting(Weighting):
    """:class:`MGDA` as a weighting: the losses may set the scale. It has no state.

    Args:
        config: The options.
        num_tasks: Number of tasks T.
        seed: Not used.
    """

    kind: ClassVar[str] = "mgda"
    promises = PROMISES

    def __init__(self, config: MGDA, num_tasks: int, *, seed: int = 0) -> None:
        super().__init__(num_tasks, norm=config.norm, seed=seed)
        self.normalize = config.normalize

    def _weights(self, tasks: Tensor, losses: Tensor, gramian: Tensor | None) -> Tensor:  # noqa: ARG002
        assert gramian is not None  # noqa: S101
        if self.normalize == "none":
            return mgda_weights(gramian)
        scale = torch.ones_like(losses)
        if self.normalize in ("loss", "loss_l2"):
            if not bool((losses > 0).all()):
                raise UsageError(
                    f"MGDA with normalize={self.normalize!r} divides by the losses, which should "
                    f"be positive. Found {float(losses.min()):g}; use normalize='l2'."
                )
            scale = losses
        if self.normalize in ("l2", "loss_l2"):
            scale = scale * gramian.diagonal().sqrt()
        return mgda_weights(gramian, scale)


@dataclass(frozen=True, kw_only=True)
class MGDA(GradientOptions):
    r"""Takes the shortest convex combination of the gradients: all tasks improve equally.

    Désidéri, "Multiple-gradient descent algorithm (MGDA) for multiobjective optimization", C. R.
    Acad. Sci. Paris, 2012; Sener and Koltun, "Multi-Task Learning as Multi-Objective Optimization",
    NeurIPS 2018, arXiv 1810.04650, eq. 3:

    .. math:: d = \sum_i \alpha_i g_i, \qquad
              \alpha = \arg\min_{\alpha \ge 0,\, 1^\top \alpha = 1} \|\sum_i \alpha_i g_i\|^2 .

    :math:`g_i \cdot d \ge \|d\|^2`, with equality for every task of positive weight; d is 0 exactly
    where the point is Pareto stationary. The shortest gradients therefore rule, and a task close to
    its optimum stops all others: ``normalize`` softens that.

    Differs from the authors' code: solved exactly, by an active set, where 20 to 250 steps of
    Frank-Wolfe are far from the solution for many tasks; and the direction is the shortest
    combination of the *normalized* gradients, where theirs applies the weights found for those to
    the gradients as they are, which may conflict.

    Cost: a few O(S^3) factorisations.
    """

    kind: ClassVar[str] = "mgda"

    normalize: Normalize = "none"
    """What each gradient is divided by first: its length (l2), its task's loss (loss), both
    (loss_l2) or nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.normalize not in get_args(Normalize):
            raise UsageError(
                f"`normalize` should be one of {', '.join(get_args(Normalize))}. "
                f"Found {self.normalize!r}."
            )

    def build(self, num_tasks: int, seed: int = 0) -> MGDAWeighting:
        """Build the aggregator; it has no randomness."""
        return MGDAWeighting(self, num_tasks, seed=seed)
