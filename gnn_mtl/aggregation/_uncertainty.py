"""``Uncertainty``: every loss is divided by a learned variance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from gnn_mtl._core.errors import UsageError
from gnn_mtl.aggregation._base import AggregatorConfig
from gnn_mtl.aggregation._loss_balance import LossBalance, TaskAdam, check_positive, put

Likelihood = Literal["classification", "regression"]


def uncertainty_weights(log_variance: Tensor, likelihood: Likelihood = "classification") -> Tensor:
    """Return the losses' factors ``[S]``: exp(-s), halved for regression.

    Args:
        log_variance: s, ``[S]``.
        likelihood: Which of the paper's two total losses.
    """
    return torch.exp(-log_variance) * (1.0 if likelihood == "classification" else 0.5)


class UncertaintyWeighting(LossBalance):
    """Learns one log variance a task; see :class:`Uncertainty`.

    Args:
        config: The options.
        num_tasks: Number of tasks T.
        seed: Not used.
    """

    kind: ClassVar[str] = "uncertainty"

    def __init__(self, config: Uncertainty, num_tasks: int, *, seed: int = 0) -> None:
        super().__init__(num_tasks, seed=seed)
        self.config = config
        self._adam = TaskAdam(self.state, "log_variance", num_tasks, lr=config.lr)

    def _weights(self, tasks: Tensor, losses: Tensor, gramian: Tensor | None) -> Tensor:  # noqa: ARG002
        found = uncertainty_weights(self.state["log_variance"][tasks], self.config.likelihood)
        moved = self._adam.step(tasks, 0.5 - found * losses)
        put(self.state, "log_variance", tasks, moved.clamp(-self.config.bound, self.config.bound))
        return found


@dataclass(frozen=True, kw_only=True)
class Uncertainty(AggregatorConfig):
    r"""Uncertainty weighting (UW): learns how noisy each task is and trusts noisy ones less.

    Kendall, Gal and Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene
    Geometry and Semantics", CVPR 2018, arXiv 1705.07115, equations 7 and 10 with
    :math:`s_t = \log \sigma_t^2`. Classification and regression minimise, over s too,

    .. math:: \sum_t e^{-s_t} L_t + \tfrac12 s_t
              \qquad\text{and}\qquad \sum_t \tfrac12 e^{-s_t} L_t + \tfrac12 s_t .

    The factors are :math:`e^{-s_t}` and half of that; for a constant loss s settles at
    :math:`\log 2 L_t` and :math:`\log L_t`, where every weighted loss is 1/2. s starts at 0.

    What differs: s has its own Adam (without weight decay), with moments and counts by task, and is
    used before it is updated; it is kept in [-bound, bound], because the loss of a rare label
    goes towards 0 and its weight would go to infinity. The learning rate is ours: the paper's
    code shares the network's. Free.
    """

    kind: ClassVar[str] = "uncertainty"

    likelihood: Likelihood = "classification"
    """Which of the paper's total losses: labels are classes."""

    lr: float = 0.01
    """Learning rate of the log variances."""

    bound: float = 6.0
    """Largest size of a log variance: weights stay within exp(-bound) and exp(bound)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.likelihood not in get_args(Likelihood):
            raise UsageError(
                f"`likelihood` should be one of {', '.join(get_args(Likelihood))}. "
                f"Found {self.likelihood!r}."
            )
        check_positive(lr=self.lr, bound=self.bound)

    def build(self, num_tasks: int, seed: int = 0) -> UncertaintyWeighting:
        """Build the aggregator; it has no randomness."""
        return UncertaintyWeighting(self, num_tasks, seed=seed)
