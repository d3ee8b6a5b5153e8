"""``Affinity``: a task-by-task matrix that knows its orientation, unit and unknown cells."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import ShapeError
from gnn_mtl.tasks._archive import checked_ids, checked_names, loaded_archive, save_archive

FORMAT = "gnn-mtl/affinity"
FORMAT_VERSION = 1


@dataclass(frozen=True, eq=False)
class Affinity:
    """How training on one task affects another.

    ``values[giver, recipient]`` is positive where training on the giver helps the recipient. A
    cell that was never measured is NaN, never 0.

    Attributes:
        values: Float matrix ``[T, T]``, row = giver, column = recipient.
        method: Name of the estimator, e.g. ``"gradient_cosine"``.
        unit: What a value counts, e.g. ``"cosine"`` (in [-1, 1]) or ``"nats"``.
        symmetric: Whether ``values`` equals its transpose by construction.
        counts: Observations behind each cell, ``[T, T]``; None if not counted.
        stderr: Standard error of each cell, ``[T, T]``; None if not estimated.
        label_names: One name per task; None if the tasks are unnamed.
        details: How it was estimated (plain JSON values: probe size, step, parameters used...).
    """

    values: NDArray[np.float64]
    method: str
    unit: str = "cosine"
    symmetric: bool = True
    counts: NDArray[np.int64] | None = None
    stderr: NDArray[np.float64] | None = None
    label_names: tuple[str, ...] | None = None
    details: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        values = np.array(self.values, dtype=np.float64)
        if values.ndim != 2 or values.shape[0] != values.shape[1] or values.shape[0] == 0:
            raise ShapeError(
                "`values` should be a square matrix [T, T] with T >= 1. "
                f"Found shape {values.shape}."
            )
        if np.isinf(values).any():
            raise ShapeError("`values` should be finite, or NaN where unknown. Found infinities.")
        same = np.allclose(values, values.T, rtol=1e-6, atol=1e-9, equal_nan=True)
        if self.symmetric and not same:
            raise ShapeError(
                "`values` is said to be symmetric but differs from its transpose; "
                "pass symmetric=False or symmetrise it."
            )
        if self.symmetric:
            values = (values + values.T) / 2  # bit for bit, so that no edge is directed
        values.setflags(write=False)
        object.__setattr__(self, "values", values)
        for name, kind in (("counts", np.int64), ("stderr", np.float64)):
            extra = getattr(self, name)
            if extra is None:
                continue
            extra = np.array(extra, dtype=kind)
            if extra.shape != values.shape:
                raise ShapeError(f"`{name}` should have shape {values.shape}. Found {extra.shape}.")
            extra.setflags(write=False)
            object.__setattr__(self, name, extra)
        if self.label_names is not None:
            names = checked_names(self.label_names, len(values))
            object.__setattr__(self, "label_names", names)

    @property
    def num_tasks(self) -> int:
        """Number of tasks T."""
        return int(self.values.shape[0])

    @property
    def known(self) -> NDArray[np.bool_]:
        """Boolean matrix ``[T, T]``: True where a value was measured."""
        return ~np.isnan(self.values)

    def symmetrized(self) -> Affinity:
        """Return the mean of both directions; a cell known one way only takes that value.

        Counts add up; standard errors are those of a mean of independent
        measurements.
        """
        if self.symmetric:
            return self
        known = np.stack([self.known, self.known.T])
        number = known.sum(axis=0)
        diagonal = np.eye(self.num_tasks, dtype=np.bool_)

        def mean(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
            total = np.where(known, np.stack([matrix, matrix.T]), 0.0).sum(axis=0)
            unknown = np.full(total.shape, np.nan)
            return np.divide(total, number, out=unknown, where=number > 0)

        counts = stderr = None
        if self.counts is not None:
            counts = np.where(diagonal, self.counts, self.counts + self.counts.T)
        if self.stderr is not None:
            squares = mean(self.stderr**2)
            stderr = np.sqrt(squares / np.where(diagonal, 1, np.maximum(number, 1)))
        return Affinity(
            mean(self.values), self.method, self.unit, True, counts, stderr, self.label_names,
            {**self.details, "symmetrized": True},
        )  # fmt: skip

    def select_tasks(self, tasks: Sequence[int]) -> Affinity:
        """Return the affinity among some tasks, in their order.

        Args:
            tasks: Distinct ids in ``[0, T)``, at least one.

        Raises:
            UsageError: If they are not.
        """
        ids = checked_ids(tasks, self.num_tasks)
        cells = np.ix_(ids, ids)
        names = self.label_names
        return Affinity(
            self.values[cells], self.method, self.unit, self.symmetric,
            None if self.counts is None else self.counts[cells],
            None if self.stderr is None else self.stderr[cells],
            None if names is None else tuple(names[task] for task in ids), dict(self.details),
        )  # fmt: skip

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the matrix to an ``.npz`` file (no pickle), atomically."""
        header = {
            "format": FORMAT, "version": FORMAT_VERSION, "method": self.method, "unit": self.unit,
            "symmetric": self.symmetric, "orientation": "values[giver, recipient]",
            "details": self.details,
        }  # fmt: skip
        arrays = {"values": self.values, "counts": self.counts, "stderr": self.stderr}
        save_archive(path, header, arrays, self.label_names)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Affinity:
        """Read a matrix written by :meth:`save`.

        Raises:
            FileFormatError: If the file is not an affinity file of a known version.
        """
        expected = "an affinity file written by Affinity.save"
        with loaded_archive(path, FORMAT, FORMAT_VERSION, expected, "Estimate it again.") as found:
            header, arrays = found
            return cls(
                arrays["values"], header["method"], header["unit"], header["symmetric"],
                arrays.get("counts"), arrays.get("stderr"), arrays.get("label_names"),
                header["details"],
            )  # fmt: skip
