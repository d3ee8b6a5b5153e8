r"""Standard errors of the cosines of running averages, in T x T numbers.

The infinitesimal jackknife (Jaeckel, 1972; Efron, 1982): to first order an observation that
deviates by :math:`d_i` from the mean :math:`m_i` turns the cosine of i and j by its weight times

.. math:: q_{ij} = \frac{\langle d_i, m_j\rangle}{|m_i||m_j|}
                 - c_{ij} \frac{\langle d_i, m_i\rangle}{|m_i|^2},

so that with independent observations of weights w the variance of :math:`c_{ij}` is
:math:`\sum w_i^2 E q_{ij}^2 + \sum w_j^2 E q_{ji}^2 + 2 \sum w_i w_j E q_{ij} q_{ji}`, the last
sum over the observations of both. Each deviation is taken from the mean *before* it, which it
exceeds by the mean's own error; that is divided out.

What it is not: the shrinkage of cosines by noise that is left in the averages, which moves their
centre and not their spread. And movement of the gradients themselves counts as spread, which errs
on the large side, as linearising at a noisy mean does: by up to two where an average remembers
three observations, or is nothing but noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gnn_mtl.affinity._cell_mean import load_square

Floats = NDArray[np.float64]

DECAY = 0.9
"""Share of the old mean square kept: it rests on about the last 19 observations."""


class MeanSquares:
    """Running mean of products ``[T, T]``, each cell with its own history.

    Args:
        num_tasks: Number of tasks T.
    """

    def __init__(self, num_tasks: int) -> None:
        self.counts: NDArray[np.int64] = np.zeros((num_tasks, num_tasks), dtype=np.int64)
        self._total = np.zeros((num_tasks, num_tasks))

    def add(self, products: Floats) -> None:
        """Take in one product a cell; cells that are not finite are left as they were."""
        known = np.isfinite(products)
        fresh = DECAY * self._total + (1.0 - DECAY) * np.where(known, products, 0.0)
        self._total = np.where(known, fresh, self._total)
        self.counts += known

    def mean(self) -> Floats:
        """Return the means; NaN where there is none."""
        weight = 1.0 - DECAY ** self.counts.astype(np.float64)
        unknown = np.full_like(weight, np.nan)
        return np.divide(self._total, weight, out=unknown, where=self.counts > 0)

    def state_dict(self) -> dict[str, Any]:
        """Return everything :meth:`load_state_dict` needs, as tensors."""
        return {
            "counts": torch.from_numpy(self.counts.copy()),
            "total": torch.from_numpy(self._total.copy()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`.

        Raises:
            UsageError: If the state is incomplete or of another number of tasks.
        """
        found = load_square(state, ("counts", "total"), len(self.counts))
        self.counts, self._total = found["counts"].astype(np.int64), found["total"]


class EMAErrors:
    """Errors of the cosines of averages whose tasks are observed together or one by one.

    Args:
        num_tasks: Number of tasks T.
        beta: Share of the old average kept at each observation.
    """

    def __init__(self, num_tasks: int, beta: float) -> None:
        self.beta = beta
        self._own, self._joint = MeanSquares(num_tasks), MeanSquares(num_tasks)
        self._overlap = np.zeros((num_tasks, num_tasks))  # sum of w_i w_j, not bias corrected

    def update(
        self, tasks: NDArray[np.int64], products: Floats, cosine: Floats, counts: NDArray[np.int64]
    ) -> None:
        r"""Take in one observation of some tasks.

        Args:
            tasks: The S tasks observed.
            products: :math:`\langle d_i, m_j\rangle / (|m_i| |m_j|)`, ``[S, T]``; NaN or infinite
                where there is no mean yet.
            cosine: Cosines of the means before it ``[T, T]``.
            counts: Observations of each task before it ``[T]``.
        """
        number = len(counts)
        error = np.diagonal(self._overlap)[tasks] / self._weight(counts)[tasks] ** 2
        turn = products - cosine[tasks] * products[np.arange(len(tasks)), tasks][:, None]
        turn /= np.sqrt(1.0 + error)[:, None]
        rows = np.full((number, number), np.nan)
        rows[tasks] = turn
        np.fill_diagonal(rows, np.nan)
        with np.errstate(over="ignore", invalid="ignore"):
            self._own.add(rows**2)
            self._joint.add(rows * rows.T)
        kept = np.ones(number)
        kept[tasks] = self.beta
        self._overlap *= np.outer(kept, kept)
        self._overlap[np.ix_(tasks, tasks)] += (1.0 - self.beta) ** 2

    def standard_errors(self, counts: NDArray[np.int64]) -> Floats | None:
        """Return the errors ``[T, T]``, NaN where unknown; None if all are.

        Args:
            counts: Observations of each task so far ``[T]``.
        """
        weight = self._weight(counts)
        weights = self._overlap / np.outer(weight, weight)
        own = np.diagonal(weights)[:, None] * self._own.mean()
        joint = np.where(self._joint.counts > 0, self._joint.mean(), 0.0)
        errors = np.sqrt(np.maximum(own + own.T + 2.0 * weights * joint, 0.0))
        if not np.isfinite(errors).any():
            return None
        np.fill_diagonal(errors, np.where(counts > 0, 0.0, np.nan))
        return errors

    def state_dict(self) -> dict[str, Any]:
        """Return everything :meth:`load_state_dict` needs, as tensors."""
        return {
            "own": self._own.state_dict(),
            "joint": self._joint.state_dict(),
            "overlap": torch.from_numpy(self._overlap.copy()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`.

        Raises:
            UsageError: If the state is incomplete or of another number of tasks.
        """
        overlap = load_square(state, ("overlap",), len(self._overlap))["overlap"]
        self._own.load_state_dict(state["own"])
        self._joint.load_state_dict(state["joint"])
        self._overlap = overlap

    def _weight(self, counts: NDArray[np.int64]) -> Floats:
        """Return the sum of the weights of each task; 1 before its first observation."""
        return np.where(counts > 0, 1.0 - self.beta ** counts.astype(np.float64), 1.0)
