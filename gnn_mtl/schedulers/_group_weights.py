"""Weights that the tasks of a group share: GO4Align's risk indicators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import UsageError


class GroupWeights:
    r"""Weights that tasks of one group share, from how their losses fall (GO4Align, NeurIPS 2024).

    Risk indicators of Shen et al.: :math:`p_t \leftarrow p_t e^{-\eta L_t}`, normalised, and
    :math:`r_t = p_t \sum_s L_s / L_t`. A task weighs what its group does on average,
    the mean over the tasks being 1. The paper finds the groups by k-means of :math:`r`; here they
    are whatever the schedule says.

    Args:
        num_tasks: Number of tasks T.
        rate: :math:`\eta`.
    """

    FLOOR: ClassVar[float] = 0.01
    """Smallest loss, as a share of the mean: a loss near 0 would take all the weight."""

    def __init__(self, num_tasks: int, rate: float = 1e-4) -> None:
        self.rate = rate
        self.log_p = np.zeros(num_tasks)
        self.risk = np.ones(num_tasks)

    def observe(self, losses: NDArray[np.float64]) -> None:
        """Take in the losses ``[T]`` of a batch; tasks without one (NaN) keep their risk."""
        known = np.isfinite(losses)
        if not known.any():
            return
        self.log_p[known] -= self.rate * losses[known]
        self.log_p -= np.logaddexp.reduce(self.log_p)
        floored = np.maximum(losses[known], self.FLOOR * losses[known].mean())
        floored = np.maximum(floored, np.finfo(np.float64).tiny)
        total = floored.mean() * len(losses)
        self.risk[known] = np.exp(self.log_p[known]) * (total / floored)

    def of(self, groups: Sequence[Sequence[int]]) -> tuple[float, ...]:
        """Return the weight of every task; one in several groups has the mean of theirs."""
        total, count = np.zeros(len(self.risk)), np.zeros(len(self.risk))
        for group in groups:
            total[list(group)] += self.risk[list(group)].mean()
            count[list(group)] += 1
        weight = total / np.maximum(count, 1)
        return tuple((weight / weight.mean()).tolist())

    def state_dict(self) -> dict[str, list[float]]:
        """Return the risk indicators as plain numbers."""
        return {"log_p": self.log_p.tolist(), "risk": self.risk.tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            UsageError: If it is of another number of tasks.
        """
        if {len(state["log_p"]), len(state["risk"])} != {len(self.risk)}:
            raise UsageError(f"Group weights should hold {len(self.risk)} numbers each.")
        self.log_p, self.risk = np.array(state["log_p"]), np.array(state["risk"])
