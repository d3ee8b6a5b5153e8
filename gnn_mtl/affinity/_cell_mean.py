"""``CellMean``: the mean of many partly known matrices, cell by cell, with standard errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.tasks import Affinity


class CellMean:
    """Count-weighted mean of ``[T, T]`` measurements; a cell counts only where it was measured.

    Args:
        num_tasks: Number of tasks T.

    Attributes:
        counts: Measurements of each cell, int64 ``[T, T]``.

    Raises:
        UsageError: If ``num_tasks`` is below 1.
    """

    def __init__(self, num_tasks: int) -> None:
        if num_tasks < 1:
            raise UsageError(f"A mean needs at least one task. Found {num_tasks}.")
        shape = (num_tasks, num_tasks)
        self.counts: NDArray[np.int64] = np.zeros(shape, dtype=np.int64)
        self._mean = np.zeros(shape)
        self._squares = np.zeros(shape)  # summed squared deviations from the mean (Welford)

    @property
    def num_tasks(self) -> int:
        """Number of tasks T."""
        return len(self.counts)

    def update(self, values: ArrayLike) -> None:
        """Take in one matrix ``[T, T]``; cells that are NaN or infinite are left as they were.

        Raises:
            ShapeError: If the shape is another.
        """
        values = np.asarray(values, dtype=np.float64)
        if values.shape != self._mean.shape:
            raise ShapeError(
                f"`values` should have shape {self._mean.shape}. Found {values.shape}."
            )
        known = np.isfinite(values)
        self.counts += known
        change = np.where(known, values, 0.0) - np.where(known, self._mean, 0.0)
        self._mean += change / np.maximum(self.counts, 1)
        self._squares += change * np.where(known, values - self._mean, 0.0)

    def affinity(
        self,
        method: str,
        unit: str,
        *,
        symmetric: bool = False,
        min_count: int = 1,
        label_names: tuple[str, ...] | None = None,
        details: dict[str, object] | None = None,
    ) -> Affinity:
        """Return the means with their counts and standard errors.

        Args:
            method: Name of the estimator.
            unit: What a value counts.
            symmetric: Whether every matrix taken in was symmetric.
            min_count: Cells measured less often are unknown.
            label_names: One name a task.
            details: How it was estimated.

        Returns:
            The affinity; the error of a cell measured once is NaN.
        """
        known = self.counts >= max(1, min_count)
        spread = np.where(known & (self.counts > 1), self._squares, np.nan)
        divisor = np.maximum(self.counts * (self.counts - 1), 1)
        return Affinity(
            np.where(known, self._mean, np.nan), method, unit, symmetric, self.counts,
            np.sqrt(spread / divisor), label_names, details or {},
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Return everything :meth:`load_state_dict` needs, as tensors."""
        arrays = {"counts": self.counts, "mean": self._mean, "squares": self._squares}
        return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`.

        Raises:
            UsageError: If the state is incomplete or of another number of tasks.
        """
        arrays = load_square(state, ("counts", "mean", "squares"), self.num_tasks)
        self.counts = arrays["counts"].astype(np.int64)
        self._mean, self._squares = arrays["mean"], arrays["squares"]


def load_square(
    state: Mapping[str, Any], names: tuple[str, ...], num_tasks: int
) -> dict[str, NDArray[Any]]:
    """Return copies of the state's ``[T, T]`` arrays, or raise UsageError."""
    found = {}
    for name in names:
        array = np.asarray(state[name]).copy() if name in state else None
        if array is None or array.shape != (num_tasks, num_tasks):
            raise UsageError(
                f"The state should hold {name!r} with shape [{num_tasks}, {num_tasks}]. "
                f"Found {'nothing' if array is None else array.shape}."
            )
        found[name] = array
    return found
