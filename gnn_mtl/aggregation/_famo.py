"""``FAMO``: all losses fall at the same rate, learned from the losses after each update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.aggregation._base import AggregatorConfig
from gnn_mtl.aggregation._loss_balance import (
    TINY,
    LossBalance,
    TaskAdam,
    check_nonnegative,
    check_positive,
    checked_losses,
)


def famo_weights(losses: Tensor, logits: Tensor) -> Tensor:
    """Return weights ``[S]`` that sum to 1: softmax(logits) / losses, normalised.

    Args:
        losses: ``[S]``, 0 or more.
        logits: ``[S]``.
    """
    return torch.softmax(torch.log_softmax(logits, dim=0) - (losses + TINY).log(), dim=0)


def famo_gradient(logits: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Return the gradient of the logits ``[S]``: who improved more gets a larger one.

    Args:
        logits: ``[S]``.
        before: Losses before the update ``[S]``.
        after: On the same batch after it ``[S]``.
    """
    improved = (before + TINY).log() - (after + TINY).log()
    shares = torch.softmax(logits, dim=0)
    return shares * (improved - shares @ improved)


class FAMOWeighting(LossBalance):
    """Learns one logit a task; see :class:`FAMO`.

    Args:
        config: The options.
        num_tasks: Number of tasks T.
        seed: Not used.
    """

    kind: ClassVar[str] = "famo"
    looks_after = True

    def __init__(self, config: FAMO, num_tasks: int, *, seed: int = 0) -> None:
        super().__init__(num_tasks, seed=seed)
        self.config = config
        self._adam = TaskAdam(
            self.state, "logits", num_tasks, lr=config.lr, weight_decay=config.weight_decay
        )
        self._before: tuple[Tensor, Tensor] | None = None

    def _weights(self, tasks: Tensor, losses: Tensor, gramian: Tensor | None) -> Tensor:  # noqa: ARG002
        found = famo_weights(checked_losses(self.kind, losses), self.state["logits"][tasks])
        self._before = (tasks, losses)
        return found

    def observe_after(self, losses: Tensor, *, tasks: Sequence[int]) -> None:
        """Move the logits by how much each loss fell.

        Args:
            losses: Losses ``[S]`` of the tasks of the last :meth:`weights`, computed again on the
                same batch with the same dropout masks; not finite: that task's logit stays.
            tasks: Their ids, in any order.

        Raises:
            ShapeError: If there is not one loss a task.
            UsageError: If it does not follow a call of :meth:`weights` with the same tasks.
        """
        ids = self._ids(tasks, len(tasks))
        if losses.shape != ids.shape:
            raise ShapeError(f"`losses` should have shape [{len(ids)}]. Found {[*losses.shape]}.")
        found = [] if self._before is None else self._before[0].tolist()
        if self._before is None or sorted(found) != sorted(ids.tolist()):
            raise UsageError(
                "`observe_after` takes the losses after the update whose weights were asked for "
                f"last, once. Expected those of tasks {found[:8]}. Found {ids.tolist()[:8]}; "
                "compute them on the same batch, for the same tasks."
            )
        (known, before), self._before = self._before, None
        position = {task: i for i, task in enumerate(ids.tolist())}
        after = losses.detach().to(before)[[position[task] for task in found]]
        finite = after.isfinite()
        known, before = known[finite], before[finite]
        if len(known):
            after = checked_losses(self.kind, after[finite])
            self._adam.step(known, famo_gradient(self.state["logits"][known], before, after))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`; a call of :meth:`weights` has to come first."""
        super().load_state_dict(state)
        self._before = None


@dataclass(frozen=True, kw_only=True)
class FAMO(AggregatorConfig):
    r"""Fast adaptive multitask optimization: all losses fall at about the same relative rate.

    Liu, Feng, Stone and Liu, "FAMO: Fast Adaptive Multitask Optimization", NeurIPS 2023, arXiv
    2306.03792, algorithm 1. With logits :math:`\xi` and :math:`z = \mathrm{softmax}(\xi)`, an
    update descends

    .. math:: c \sum_t z_t \log L_t, \qquad w_t = c\, z_t / L_t, \qquad
              c = \Big(\sum_t z_t / L_t\Big)^{-1},

    a convex combination of the losses that does not change when one of them is multiplied by a
    number. After the update the losses on the same batch say how much each fell,
    :math:`\delta_t = \log L_t - \log L_t'`, and Adam moves the logits along
    :math:`(\partial z / \partial \xi)^\top \delta`: who fell more gets less.

    The learning rate and weight decay are those of the authors' scripts (0.01 for Cityscapes and
    Meta-World), which also cut the shared gradient at length 1. What differs: the lower bound of a
    loss is 0, as for cross entropies; the softmax is over the tasks that take part, and
    logits, moments and counts of the others rest (the paper has all tasks in every step). Costs one
    forward pass a step for the losses after the update; no gradients of single tasks.
    """

    kind: ClassVar[str] = "famo"

    lr: float = 0.025
    """Learning rate of the logits."""

    weight_decay: float = 1e-3
    """How strongly the logits are pulled back to equal shares (gamma in the paper)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(lr=self.lr)
        check_nonnegative(weight_decay=self.weight_decay)

    def build(self, num_tasks: int, seed: int = 0) -> FAMOWeighting:
        """Build the aggregator; it has no randomness."""
        return FAMOWeighting(self, num_tasks, seed=seed)
