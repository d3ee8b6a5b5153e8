"""``SLAW``: losses weighted by how much they vary, a free stand-in for the norm of a gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gnn_mtl._core.errors import UsageError
from gnn_mtl.aggregation._base import AggregatorConfig
from gnn_mtl.aggregation._loss_balance import LossBalance, check_positive, put


def slaw_weights(spread: Tensor, eps: float = 1e-5) -> Tensor:
    """Return weights ``[S]`` that sum to S, inversely proportional to the spread.

    Args:
        spread: Standard deviation of every task's recent losses ``[S]``; NaN: not known yet, which
            gives weight 1 and leaves the rest to the others.
        eps: Smallest standard deviation.
    """
    known = ~spread.isnan()
    inverse = 1 / spread[known].clamp(min=eps)
    weights = torch.ones_like(spread)
    weights[known] = inverse * (int(known.sum()) / inverse.sum())
    return weights


class SLAWWeighting(LossBalance):
    """Keeps a moving mean and variance of every task's loss; see :class:`SLAW`.

    Args:
        config: The options.
        num_tasks: Number of tasks T.
        seed: Not used.
    """

    kind: ClassVar[str] = "slaw"

    def __init__(self, config: SLAW, num_tasks: int, *, seed: int = 0) -> None:
        super().__init__(num_tasks, seed=seed)
        self.config = config
        self.state = {
            "mean": torch.zeros(num_tasks, dtype=torch.float64),
            "variance": torch.zeros(num_tasks, dtype=torch.float64),
            "visits": torch.zeros(num_tasks, dtype=torch.int64),
        }

    def _weights(self, tasks: Tensor, losses: Tensor, gramian: Tensor | None) -> Tensor:  # noqa: ARG002
        visits = self.state["visits"][tasks] + 1
        share = (1 / visits.double()).clamp(min=1 - self.config.beta)
        away = losses - self.state["mean"][tasks]
        mean = self.state["mean"][tasks] + share * away
        variance = (1 - share) * (self.state["variance"][tasks] + share * away**2)
        put(self.state, "mean", tasks, mean)
        put(self.state, "variance", tasks, variance)
        put(self.state, "visits", tasks, visits)
        spread = torch.where(visits > 1, variance.sqrt(), torch.nan)
        return slaw_weights(spread, self.config.eps)


@dataclass(frozen=True, kw_only=True)
class SLAW(AggregatorConfig):
    r"""Scaled loss approximate weighting: losses that vary much get less weight.

    Crawshaw and Košecká, "SLAW: Scaled Loss Approximate Weighting for Efficient Multi-Task
    Learning", 2021, arXiv 2109.08218. With moving averages of the losses and of their squares,

    .. math:: w_t = S \frac{1 / s_t}{\sum_u 1 / s_u}, \qquad
              s_t = \sqrt{\mathrm{EMA}(L_t^2) - \mathrm{EMA}(L_t)^2} ,

    where :math:`s_t` estimates the norm of the task's gradient without computing it: a step of
    random direction changes a loss in proportion to that norm.

    As in the authors' code, the averages are plain means up to :math:`1 / (1 - \beta)` visits, and
    beta and the smallest deviation are its. What differs: visits are counted by task, the variance
    is updated without cancellation, and a task on its first visit has weight 1. On sampled batches
    most of :math:`s_t` is sampling noise. Free; meant for hundreds of tasks.
    """

    kind: ClassVar[str] = "slaw"

    beta: float = 0.99
    """Decay of the moving averages per visit of a task."""

    eps: float = 1e-5
    """Smallest standard deviation, in units of a loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.beta < 1:
            raise UsageError(f"`beta` should lie in [0, 1). Found {self.beta}.")
        check_positive(eps=self.eps)

    def build(self, num_tasks: int, seed: int = 0) -> SLAWWeighting:
        """Build the aggregator; it has no randomness."""
        return SLAWWeighting(self, num_tasks, seed=seed)
