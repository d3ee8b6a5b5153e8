"""Weighted PCGrad: a distribution over tasks says which of two conflicting gradients gives way."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from gnn_mtl._core.errors import UsageError
from gnn_mtl.aggregation._base import Promise, Weighting
from gnn_mtl.aggregation._gramian_method import GradientOptions
from gnn_mtl.aggregation._pcgrad import projection_coefficients, random_orders

WPCGradVariant = Literal["order", "pairwise"]

SMALLEST = 1e-12
"""Losses below this share of the largest count as this share."""

PROMISES: frozenset[Promise] = frozenset({"scaling", "nonnegative", "sum_without_conflict"})


@dataclass(frozen=True, kw_only=True)
class WPCGrad(GradientOptions):
    r"""Weight the tasks through who is projected in a conflict: those with large losses stay.

    Bohn, Freeman, Tercan and Meisen, "Task Weighting through Gradient Projection for Multitask
    Learning", ICONIP 2024, arXiv 2409.01793. Where gradients do not conflict this is the plain sum;
    where they do, task i is spared with a probability that grows with

    .. math:: p_i \propto \ell_i^{\,\gamma}

    and its loss :math:`\ell_i` so far. That a distribution replaces the weights, that it acts in
    conflicts only, that one sampled task stays intact and the dynamic form of p come from the
    paper, whose algorithm can be read in more than one way and has no public code. Our reading is
    the order of the projections: the tasks are drawn without replacement from p, and every gradient
    is projected, as in PCGrad, off the original gradients of the tasks drawn before it, the first
    drawn last.

    Differs from the paper: the loss is a running mean by task, where the paper has that of the
    epoch before, since a schedule does not visit all tasks equally often; a task not seen before
    takes the mean of the others.

    Guarantees: the weights are nonnegative, and all 1 where nothing conflicts; with ``"order"`` the
    first task drawn, k, stays as it is and :math:`d \cdot g_k \ge \lVert g_k \rVert^2`.

    Cost: O(T^3) for T tasks at worst.
    """

    kind: ClassVar[str] = "wpcgrad"
    promises: ClassVar[frozenset[Promise]] = PROMISES

    gamma: float = 1.0
    """Exponent of the losses: 0 draws evenly, a negative one spares tasks with small losses."""

    decay: float = 0.9
    """Share of the old value in the running mean of a task's loss; 0 is the last visit's loss."""

    variant: WPCGradVariant = "order"
    """One order of all tasks a step, or (pairwise) one draw for every two tasks: of i and j, i
    stays with probability p_i / (p_i + p_j)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isfinite(self.gamma):
            raise UsageError(f"`gamma` should be finite. Found {self.gamma}.")
        if not 0 <= self.decay < 1:
            raise UsageError(f"`decay` should be at least 0 and below 1. Found {self.decay}.")
        if self.variant not in get_args(WPCGradVariant):
            raise UsageError(
                f"`variant` should be one of {', '.join(get_args(WPCGradVariant))}. "
                f"Found {self.variant!r}."
            )

    def build(self, num_tasks: int, seed: int = 0) -> WPCGradWeighting:
        """Build the aggregator."""
        return WPCGradWeighting(self, num_tasks, seed=seed)


class WPCGradWeighting(Weighting):
    """Weighted PCGrad with a running mean of every task's loss; see :class:`WPCGrad`.

    Args:
        config: The options.
        num_tasks: Number of tasks T.
        seed: Seed of the draws.
    """

    kind: ClassVar[str] = "wpcgrad"
    promises = PROMISES

    def __init__(self, config: WPCGrad, num_tasks: int, *, seed: int = 0) -> None:
        super().__init__(num_tasks, norm=config.norm, seed=seed)
        self.config = config
        self.state["losses"] = torch.full((num_tasks,), torch.nan, dtype=torch.float64)

    def _weights(self, tasks: Tensor, losses: Tensor, gramian: Tensor | None) -> Tensor:
        assert gramian is not None  # noqa: S101
        before = self.state["losses"][tasks]
        log_odds = self.config.gamma * log_losses(before)
        found = wpcgrad_weights(gramian, log_odds, self._draw(), variant=self.config.variant)
        decay = self.config.decay
        after = decay * before + (1 - decay) * losses
        after = torch.where(before.isnan(), losses, after)
        self.state["losses"] = self.state["losses"].index_put((tasks,), after)
        return found


def wpcgrad_weights(
    gramian: Tensor,
    log_odds: Tensor,
    draw: np.random.Generator,
    *,
    variant: WPCGradVariant = "order",
) -> Tensor:
    """Return the weights of one draw.

    Args:
        gramian: Inner products, float64 ``[S, S]``, with a positive diagonal.
        log_odds: Logarithm of p up to a constant ``[S]``; infinite means always or never spared.
        draw: Random stream.
        variant: One order of all tasks, or a draw for every two.

    Returns:
        ``[S]``, at least 1 each.
    """
    size = len(gramian)
    if variant == "order":
        order = (log_odds + torch.from_numpy(draw.gumbel(size=size))).argsort(descending=True)
        orders = order.flip(0).expand(size, size)  # the best protected last: nothing undoes it
        position = order.argsort()
        spared = position[None, :] < position[:, None]
    else:
        orders = random_orders(size, draw)
        noise = torch.from_numpy(draw.logistic(size=(size, size)))
        noise = noise.triu(1) - noise.triu(1).T
        margin = (log_odds[None, :] - log_odds[:, None]).nan_to_num(nan=0.0)
        spared = margin + noise > 0  # j stays in the conflict of i (row) and j
    return projection_coefficients(gramian, orders, spared).sum(dim=0)


def log_losses(losses: Tensor) -> Tensor:
    """Logarithms of losses, NaN (never seen) and those not positive replaced; 0 where none is."""
    known = losses[~losses.isnan()]
    top = float(known.max()) if len(known) else 0.0
    if top <= 0:
        return torch.zeros_like(losses)
    known = known.clamp(min=SMALLEST * top)
    return losses.nan_to_num(nan=float(known.mean())).clamp(min=SMALLEST * top).log()
