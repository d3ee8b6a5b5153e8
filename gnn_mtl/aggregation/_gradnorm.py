"""``GradNorm``: weights under which every task trains at the same rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from gnn_mtl._core.errors import UsageError
from gnn_mtl.aggregation._base import AggregatorConfig
from gnn_mtl.aggregation._loss_balance import (
    TINY,
    LossBalance,
    TaskAdam,
    check_nonnegative,
    check_positive,
    checked_losses,
    put,
)

InitialLoss = Literal["first", "log2"]
LOG2 = 0.6931471805599453
"""Cross entropy of a model that says one half to everything."""
SMALLEST = 1e-3
"""Weights are kept above this after every step."""
TIE = 1e-9
"""A norm this close to its target, relatively, has reached it: rounding is no reason to move."""


def gradnorm_gradient(
    weights: Tensor, norms: Tensor, progress: Tensor, alpha: float = 1.5
) -> Tensor:
    """Return the gradient of GradNorm's loss by the weights, ``[S]``.

    Args:
        weights: Weights of the losses ``[S]``, positive.
        norms: Norms of the gradients of the unweighted losses ``[S]``.
        progress: Losses over initial losses ``[S]``: large where a task trains slowly.
        alpha: How strongly slow tasks are to be pulled along.
    """
    weighted = weights * norms
    target = weighted.mean() * (progress / progress.mean()) ** alpha
    above = weighted - target
    sign = torch.where(above.abs() > TIE * (weighted + target), above.sign(), 0.0)
    return sign * norms


class GradNormWeighting(LossBalance):
    """Learns one weight a task; see :class:`GradNorm`.

    Args:
        config: The options.
        num_tasks: Number of tasks T.
        seed: Not used.
    """

    kind: ClassVar[str] = "gradnorm"
    needs = "gramian"

    def __init__(self, config: GradNorm, num_tasks: int, *, seed: int = 0) -> None:
        super().__init__(num_tasks, seed=seed)
        self.config = config
        self._adam = TaskAdam(self.state, "weights", num_tasks, lr=config.lr, start=1.0)
        start = torch.nan if config.initial_loss == "first" else LOG2
        self.state["initial"] = torch.full((num_tasks,), start, dtype=torch.float64)

    def _weights(self, tasks: Tensor, losses: Tensor, gramian: Tensor | None) -> Tensor:
        assert gramian is not None  # noqa: S101
        losses = checked_losses(self.kind, losses) + TINY
        found = self.state["weights"][tasks]
        initial = self.state["initial"][tasks]
        initial = torch.where(initial.isnan(), losses, initial)
        put(self.state, "initial", tasks, initial)
        norms = gramian.diagonal().sqrt()
        gradient = gradnorm_gradient(
            found, norms / norms.mean(), losses / initial, self.config.alpha
        )
        moved = self._adam.step(tasks, gradient).clamp(min=SMALLEST)
        put(self.state, "weights", tasks, moved * (found.sum() / moved.sum()))
        return found


@dataclass(frozen=True, kw_only=True)
class GradNorm(AggregatorConfig):
    r"""GradNorm: learns loss weights under which the tasks' gradients push alike.

    Chen, Badrinarayanan, Lee and Rabinovich, "GradNorm: Gradient Normalization for Adaptive Loss
    Balancing in Deep Multitask Networks", ICML 2018, arXiv 1711.02257, eq. 2. With the norm of a
    task's weighted gradient :math:`n_t = w_t \lVert \nabla L_t \rVert` and its inverse training
    rate :math:`r_t = \frac{L_t / L_t(0)}{\mathrm{mean}_u\, L_u / L_u(0)}`, Adam moves w down

    .. math:: \sum_t \big| n_t - \bar n\, r_t^{\alpha} \big| ,

    whose target is a constant, so that the gradient is
    :math:`\mathrm{sign}(n_t - \bar n r_t^\alpha) \lVert \nabla L_t \rVert`: only the diagonal of
    the Gramian is used, and no second derivatives. Then w is rescaled to its old sum. At alpha 0
    all weighted norms become the same. The defaults are the paper's (alpha 0.12 there where tasks
    are alike).

    The weights of all T tasks sum to T. What differs: only tasks that take part are compared,
    moved and rescaled, to their own old sum; the norms are divided by their mean, so that no unit
    matters; moments and counts are by task; weights stay positive; a norm at its target up to
    rounding does not move. The norms are those of the given Gramian: the paper's is that of the
    last shared layer. Losses have to be 0 or more. Costs no more than the diagonal.
    """

    kind: ClassVar[str] = "gradnorm"

    alpha: float = 1.5
    """How strongly slow tasks are pulled along; 0: same norms for all."""

    lr: float = 0.025
    """Learning rate of the weights."""

    initial_loss: InitialLoss = "first"
    """What progress is measured from: a task's first loss, or log 2, that of a model which says one
    half to everything (the paper's advice where the first loss depends on the initialization)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.initial_loss not in get_args(InitialLoss):
            raise UsageError(
                f"`initial_loss` should be one of {', '.join(get_args(InitialLoss))}. "
                f"Found {self.initial_loss!r}."
            )
        check_nonnegative(alpha=self.alpha)
        check_positive(lr=self.lr)

    def build(self, num_tasks: int, seed: int = 0) -> GradNormWeighting:
        """Build the aggregator; it has no randomness."""
        return GradNormWeighting(self, num_tasks, seed=seed)
