"""``STCH``: a smooth maximum of the losses in place of their sum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gnn_mtl._core.errors import UsageError
from gnn_mtl.aggregation._base import AggregatorConfig, Promise
from gnn_mtl.aggregation._loss_balance import LOSS_PROMISES, LossBalance, check_positive
from gnn_mtl.aggregation._preference import by_task, check_preference


def stch_weights(
    losses: Tensor,
    *,
    mu: float = 0.1,
    preference: Tensor | None = None,
    ideal: Tensor | None = None,
) -> Tensor:
    """Return the derivatives of the smooth maximum by the losses, ``[S]``.

    Args:
        losses: ``[S]``.
        mu: Smoothness, in units of a loss.
        preference: Importance of the tasks ``[S]``; default 1.
        ideal: Losses that cannot be improved on ``[S]``; default 0.
    """
    preference = torch.ones_like(losses) if preference is None else preference
    above = losses if ideal is None else losses - ideal
    return preference * torch.softmax(preference * above / mu, dim=0)


class STCHWeighting(LossBalance):
    """Remembers nothing; see :class:`STCH`.

    Args:
        config: The options.
        num_tasks: Number of tasks T.
        seed: Not used.
    """

    kind: ClassVar[str] = "stch"

    def __init__(self, config: STCH, num_tasks: int, *, seed: int = 0) -> None:
        super().__init__(num_tasks, seed=seed)
        self.config = config
        self._preference = by_task("preference", config.preference, num_tasks)
        self._ideal = by_task("ideal", config.ideal, num_tasks, 0.0)
        if config.preference:
            self.promises: frozenset[Promise] = LOSS_PROMISES - {"permutation"}  # type: ignore[misc]

    def _weights(self, tasks: Tensor, losses: Tensor, gramian: Tensor | None) -> Tensor:  # noqa: ARG002
        preference = self._preference[tasks]
        return stch_weights(
            losses,
            mu=self.config.mu,
            preference=preference / preference.mean(),
            ideal=self._ideal[tasks],
        )


@dataclass(frozen=True, kw_only=True)
class STCH(AggregatorConfig):
    r"""Smooth Tchebycheff scalarization: works on the worst losses, smoothly.

    Lin, Zhang, Yang, Liu, Wang and Zhang, "Smooth Tchebycheff Scalarization for Multi-Objective
    Optimization", ICML 2024, arXiv 2402.19078:

    .. math:: L = \mu \log \sum_t \exp\big(\lambda_t (L_t - z_t) / \mu\big), \qquad
              w_t = \lambda_t\, \mathrm{softmax}_t\big(\lambda (L - z) / \mu\big).

    With preferences :math:`\lambda` and ideal losses z it reaches every Pareto point, also where
    the front is not convex; :math:`\mu \to 0` is the maximum, a large one the mean.

    What differs: :math:`\lambda` has mean 1 over the tasks that take part, not sum 1, so that
    :math:`\mu` means the same for 5 tasks and for 500, and weights sum to 1 if all matter alike.
    Losses are compared as they are, while the authors' multi-task code compares the logarithms of
    losses over their means after four epochs of warm-up, with mu 1. A rare label's cross entropy is
    small whatever the model, so state ``ideal`` or ``preference`` if such labels matter. Free.
    """

    kind: ClassVar[str] = "stch"

    mu: float = 0.1
    """Smoothness, in units of a loss: tasks further than this below the largest are neglected."""

    preference: tuple[float, ...] = ()
    """Importance of every label of the graph, positive; none: all the same."""

    ideal: tuple[float, ...] = ()
    """Loss of every label of the graph that counts as perfect; none: 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(mu=self.mu)
        check_preference(self.preference)
        if not all(math.isfinite(value) for value in self.ideal):
            raise UsageError(f"`ideal` should hold finite numbers. Found {self.ideal[:8]}.")

    def build(self, num_tasks: int, seed: int = 0) -> STCHWeighting:
        """Build the aggregator; it has no randomness."""
        return STCHWeighting(self, num_tasks, seed=seed)
