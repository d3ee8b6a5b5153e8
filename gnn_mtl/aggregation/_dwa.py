"""``DWA``: losses that fall slowly weigh more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gnn_mtl._core.errors import UsageError
from gnn_mtl.aggregation._base import AggregatorConfig
from gnn_mtl.aggregation._loss_balance import (
    TINY,
    LossBalance,
    check_positive,
    checked_losses,
    put,
)


def dwa_weights(newer: Tensor, older: Tensor, temperature: float = 2.0) -> Tensor:
    r"""Return weights ``[S]`` that sum to S.

    Args:
        newer: Mean losses of the last window ``[S]``; NaN: not known yet.
        older: Of the window before; a task for which one of them is unknown has rate 1.
        temperature: Larger: closer to equal.
    """
    rates = ((newer + TINY) / (older + TINY)).nan_to_num(nan=1.0)
    return len(rates) * torch.softmax(rates / temperature, dim=0)


class DWAWeighting(LossBalance):
    """Keeps the mean losses of every task's last two windows; see :class:`DWA`.

    Args:
        config: The options.
        num_tasks: Number of tasks T.
        seed: Not used.
    """

    kind: ClassVar[str] = "dwa"

    def __init__(self, config: DWA, num_tasks: int, *, seed: int = 0) -> None:
        super().__init__(num_tasks, seed=seed)
        self.config = config
        unknown = torch.full((num_tasks,), torch.nan, dtype=torch.float64)
        self.state = {
            "newer": unknown,
            "older": unknown.clone(),
            "sums": torch.zeros(num_tasks, dtype=torch.float64),
            "visits": torch.zeros(num_tasks, dtype=torch.int64),
        }

    def _weights(self, tasks: Tensor, losses: Tensor, gramian: Tensor | None) -> Tensor:  # noqa: ARG002
        losses = checked_losses(self.kind, losses)
        newer, older = self.state["newer"][tasks], self.state["older"][tasks]
        found = dwa_weights(newer, older, self.config.temperature)
        sums = self.state["sums"][tasks] + losses
        visits = self.state["visits"][tasks] + 1
        full = visits == self.config.window
        put(self.state, "older", tasks, torch.where(full, newer, older))
        put(self.state, "newer", tasks, torch.where(full, sums / visits, newer))
        put(self.state, "sums", tasks, torch.where(full, 0.0, sums))
        put(self.state, "visits", tasks, torch.where(full, 0, visits))
        return found


@dataclass(frozen=True, kw_only=True)
class DWA(AggregatorConfig):
    r"""Dynamic weight average: a task whose loss falls more slowly than the others' weighs more.

    Liu, Johns and Davison, "End-to-End Multi-Task Learning with Attention", CVPR 2019, arXiv
    1803.10704, equation 7, with :math:`\bar L_t(e)` the mean loss of task t in epoch e:

    .. math:: w_t = S\, \mathrm{softmax}_t(r_t / \theta), \qquad
              r_t = \bar L_t(e - 1) / \bar L_t(e - 2),

    and :math:`r_t = 1` in the first two epochs. The weights sum to S, the tasks that take part.

    What differs: an epoch is a window of a task's own visits, since a schedule visits tasks
    unevenly; every task turns its windows over by itself, and the softmax is over the tasks that
    take part. The temperature is the paper's; the window is as long as in the Nash-MTL authors'
    code, where it slides. Losses have to be 0 or more. Free.
    """

    kind: ClassVar[str] = "dwa"

    temperature: float = 2.0
    """Larger: weights closer to equal."""

    window: int = 25
    """Visits of a task over which its loss is averaged."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(temperature=self.temperature)
        if self.window < 1:
            raise UsageError(f"`window` should be 1 or more visits. Found {self.window}.")

    def build(self, num_tasks: int, seed: int = 0) -> DWAWeighting:
        """Build the aggregator; it has no randomness."""
        return DWAWeighting(self, num_tasks, seed=seed)
