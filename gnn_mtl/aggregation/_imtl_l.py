"""``IMTLL``: learned scales that bring all weighted losses to 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gnn_mtl.aggregation._base import AggregatorConfig
from gnn_mtl.aggregation._loss_balance import LossBalance, TaskAdam, check_positive, put


def imtl_l_weights(log_scale: Tensor) -> Tensor:
    """Return the losses' factors ``[S]``, exp(s), from the log scales s ``[S]``."""
    return torch.exp(log_scale)


class IMTLLWeighting(LossBalance):
    """Learns one log scale a task; see :class:`IMTLL`.

    Args:
        config: The options.
        num_tasks: Number of tasks T.
        seed: Not used.
    """

    kind: ClassVar[str] = "imtl_l"

    def __init__(self, config: IMTLL, num_tasks: int, *, seed: int = 0) -> None:
        super().__init__(num_tasks, seed=seed)
        self.config = config
        self._adam = TaskAdam(self.state, "log_scale", num_tasks, lr=config.lr)

    def _weights(self, tasks: Tensor, losses: Tensor, gramian: Tensor | None) -> Tensor:  # noqa: ARG002
        found = imtl_l_weights(self.state["log_scale"][tasks])
        moved = self._adam.step(tasks, found * losses - 1)
        put(self.state, "log_scale", tasks, moved.clamp(-self.config.bound, self.config.bound))
        return found


@dataclass(frozen=True, kw_only=True)
class IMTLL(AggregatorConfig):
    r"""IMTL-L, the loss balance of impartial multi-task learning: all scaled losses become alike.

    Liu, Li, Kuang, Xue, Chen, Yang, Liao and Zhang, "Towards Impartial Multi-task Learning", ICLR
    2021 (OpenReview IMPnRXEWpvr). Minimises, over s too,

    .. math:: \sum_t e^{s_t} L_t - s_t ,

    so the factors are :math:`e^{s_t}` and s settles at :math:`-\log L_t`. s starts at 0. It is
    twice uncertainty weighting for regression at -s: weights as there, times 2, at the optimum.

    What differs: as for :class:`Uncertainty`, s has its own Adam by task, whose learning rate is
    ours, is used before it is updated, and is kept in [-bound, bound]. Free.
    """

    kind: ClassVar[str] = "imtl_l"

    lr: float = 0.01
    """Learning rate of the log scales."""

    bound: float = 6.0
    """Largest size of a log scale: weights stay within exp(-bound) and exp(bound)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(lr=self.lr, bound=self.bound)

    def build(self, num_tasks: int, seed: int = 0) -> IMTLLWeighting:
        """Build the aggregator; it has no randomness."""
        return IMTLLWeighting(self, num_tasks, seed=seed)
