"""``GramianEMA``: cosines from a running mean of inner products, in T x T memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.affinity._cell_mean import load_square
from gnn_mtl.affinity._ema_errors import MeanSquares
from gnn_mtl.linalg import cosine_of_gramian
from gnn_mtl.tasks import Affinity


class GramianEMA:
    r"""Exponential moving average of task Gramians :math:`G = J J^\top` and the cosines it implies.

    Against :class:`GradientEMA` it needs T^2 numbers instead of T P, and drifts less when the
    parameters move; but the mean of :math:`\lVert g\rVert^2` keeps the noise that the mean of g
    averages away, so cosines are shrunk for ever, however long the history. Feed it Gramians whose
    diagonal is free of noise (inner products of gradients from two halves of the probe) and the
    shrinkage is gone; such diagonals may be negative at single steps and only their mean has to be
    positive. Sketched gradients are linear and go into :class:`GradientEMA` as they are.

    Args:
        num_tasks: Number of tasks T.
        beta: Share of the old average kept at each observation, in [0, 1).
        label_names: One name a task.

    Raises:
        UsageError: If ``num_tasks`` is below 1 or ``beta`` outside [0, 1).

    Attributes:
        counts: Observations of each pair, int64 ``[T, T]``.
    """

    def __init__(
        self, num_tasks: int, *, beta: float = 0.9, label_names: tuple[str, ...] | None = None
    ) -> None:
        if num_tasks < 1:
            raise UsageError(f"An average needs at least one task. Found {num_tasks}.")
        if not 0.0 <= beta < 1.0:
            raise UsageError(f"`beta` should lie in [0, 1). Found {beta}.")
        self.num_tasks, self.beta, self.label_names = num_tasks, beta, label_names
        self.counts = np.zeros((num_tasks, num_tasks), dtype=np.int64)
        self._average = np.zeros((num_tasks, num_tasks))  # float64, not bias corrected
        self._spread = MeanSquares(num_tasks)  # of what one observation does to a cosine

    def __repr__(self) -> str:
        names = "" if self.label_names is None else f", label_names={self.label_names!r}"
        return f"GramianEMA({self.num_tasks}, beta={self.beta!r}{names})"

    def update(
        self, gramian: Tensor, tasks: Sequence[int] | None = None, valid: Tensor | None = None
    ) -> tuple[int, ...]:
        """Average in the inner products of some tasks; return the tasks that were updated.

        Args:
            gramian: ``[S, S]`` of unweighted gradients; cells not finite are left as they were.
            tasks: Their ids; default all.
            valid: bool ``[S]``: False where a task had no usable gradient.

        Raises:
            ShapeError: If the shapes do not fit.
            UsageError: If a task is repeated or outside ``[0, T)``.
        """
        ids = tuple(range(self.num_tasks)) if tasks is None else tuple(int(task) for task in tasks)
        if gramian.shape != (len(ids), len(ids)) or (
            valid is not None and valid.shape != (len(ids),)
        ):
            raise ShapeError(
                f"`gramian` should have shape [{len(ids)}, {len(ids)}] and `valid` [{len(ids)}]. "
                f"Found {tuple(gramian.shape)}"
                + ("." if valid is None else f" and {tuple(valid.shape)}.")
            )
        if len(set(ids)) < len(ids) or not all(0 <= task < self.num_tasks for task in ids):
            raise UsageError(
                f"`tasks` should be distinct ids in [0, {self.num_tasks}). Found {ids}."
            )
        products = gramian.detach().double().cpu().numpy()
        use = np.isfinite(products.diagonal())
        if valid is not None:
            use &= valid.cpu().numpy()
        known = np.isfinite(products) & np.outer(use, use)
        cells = np.ix_(ids, ids)
        self._learn_spread(cells, np.where(known, products, np.nan))
        old = self._average[cells]
        fresh = self.beta * old + (1.0 - self.beta) * np.where(known, products, 0.0)
        self._average[cells] = np.where(known, fresh, old)
        self.counts[cells] += known
        return tuple(task for task, used in zip(ids, use.tolist(), strict=True) if used)

    def mean(self) -> Tensor:
        """Return the bias-corrected average, float64 ``[T, T]``; NaN where never observed."""
        weight = 1.0 - self.beta ** self.counts.astype(np.float64)
        seen = self.counts > 0
        return torch.from_numpy(
            np.divide(self._average, weight, out=np.full_like(weight, np.nan), where=seen)
        )

    def affinity(self) -> Affinity:
        """Return the cosines; pairs never observed, and tasks without a positive norm, are NaN.

        ``stderr``: see :meth:`GradientEMA.affinity`. It is of the spread only, too: the shrinkage
        by noise in the diagonal, which lasts, is no part of it.
        """
        return Affinity(
            cosine_of_gramian(self.mean()).numpy(), "gramian_ema", "cosine", counts=self.counts,
            stderr=self._standard_errors(), label_names=self.label_names,
            details={"ema_beta": self.beta},
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Return everything :meth:`load_state_dict` needs."""
        return {
            "num_tasks": self.num_tasks,
            "beta": self.beta,
            "counts": torch.from_numpy(self.counts.copy()),
            "average": torch.from_numpy(self._average.copy()),
            "spread": self._spread.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict` of an average of the same tasks and ``beta``.

        Raises:
            UsageError: If the state is incomplete or of another average; nothing is changed then.
        """
        found = (state.get("num_tasks"), state.get("beta"))
        if found != (self.num_tasks, self.beta):
            raise UsageError(
                f"Expected the state of {self!r}. Found one of {found[0]} tasks with beta "
                f"{found[1]}."
            )
        arrays = load_square(state, ("counts", "average"), self.num_tasks)
        spread = MeanSquares(self.num_tasks)
        spread.load_state_dict(state.get("spread", {}))
        self.counts, self._average = arrays["counts"].astype(np.int64), arrays["average"]
        self._spread = spread

    def _learn_spread(self, cells: tuple[Any, ...], products: NDArray[np.float64]) -> None:
        """Add how far this observation's products would turn each cosine of the averages."""
        mean = self.mean().numpy()[cells]
        own = mean.diagonal()
        norms = np.sqrt(np.where(own > 0, own, np.nan))
        cosine, step = mean / np.outer(norms, norms), products - mean
        relative = step.diagonal() / norms**2
        turn = step / np.outer(norms, norms) - cosine * np.add.outer(relative, relative) / 2.0
        every = np.full_like(self._average, np.nan)
        with np.errstate(over="ignore", invalid="ignore"):
            every[cells] = turn**2 / (1.0 + self._squared_weights()[cells])
        self._spread.add(every)

    def _squared_weights(self) -> NDArray[np.float64]:
        """Return the sum of the squared weights of each cell's observations; 1 before the first."""
        decayed = self.beta ** self.counts.astype(np.float64)
        weights = (1.0 - self.beta) * (1.0 + decayed) / (1.0 + self.beta)
        return np.divide(weights, 1.0 - decayed, out=np.ones_like(decayed), where=self.counts > 0)

    def _standard_errors(self) -> NDArray[np.float64] | None:
        errors = np.sqrt(self._spread.mean() * self._squared_weights())
        np.fill_diagonal(errors, np.nan)
        if not np.isfinite(errors).any():
            return None
        np.fill_diagonal(errors, np.where(self.counts.diagonal() > 0, 0.0, np.nan))
        return errors
