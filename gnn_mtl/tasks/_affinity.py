"""``Affinity``: a task-by-task matrix that knows its orientation, unit and unknown cells."""

from __future__ import annotations

import json
import os
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import FileFormatError, ShapeError, UsageError
from gnn_mtl._core.files import atomic_path

FORMAT = "gnn-mtl/affinity"
FORMAT_VERSION = 1

DAMAGED = (
    AttributeError, EOFError, IndexError, KeyError, MemoryError, OSError, OverflowError,
    RuntimeError, TypeError, ValueError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What reading a damaged or foreign archive raises, according to where the damage is."""


def found_instead(error: BaseException) -> str:
    """What was found in place of one of our files, in words and without a full stop."""
    if isinstance(error, KeyError):  # says the name only
        return f"a file without {error}"
    if "pickle" in str(error):  # what numpy makes of any other file
        return "a file that is no archive of plain arrays"
    return str(error).rstrip(".")


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
            names = tuple(str(name) for name in self.label_names)
            if len(names) != len(values):
                raise ShapeError(
                    f"`label_names` should hold {len(values)} names. Found {len(names)}."
                )
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
        ids = [int(task) for task in tasks]
        inside = all(0 <= task < self.num_tasks for task in ids)
        if not ids or not inside or len(set(ids)) < len(ids):
            raise UsageError(
                f"`tasks` should be distinct ids in [0, {self.num_tasks}). Found {ids[:8]}."
            )
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
        arrays: dict[str, NDArray[np.generic]] = {
            "header": np.array(json.dumps(header)),
            "values": self.values,
        }
        if self.counts is not None:
            arrays["counts"] = self.counts
        if self.stderr is not None:
            arrays["stderr"] = self.stderr
        if self.label_names is not None:
            arrays["label_names"] = np.array(self.label_names, dtype=np.str_)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Affinity:
        """Read a matrix written by :meth:`save`.

        Raises:
            FileFormatError: If the file is not an affinity file of a known version.
        """
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            header = json.loads(str(arrays.pop("header")))
            if header["format"] != FORMAT or header["version"] > FORMAT_VERSION:
                raise ValueError(f"{header['format']}, version {header['version']}")
            names = arrays.get("label_names")
            return cls(
                arrays["values"], header["method"], header["unit"], header["symmetric"],
                arrays.get("counts"), arrays.get("stderr"),
                None if names is None else tuple(names.tolist()), header["details"],
            )  # fmt: skip
        except FileNotFoundError:
            raise
        except DAMAGED as error:
            raise FileFormatError(
                f"{path} should be an affinity file written by Affinity.save (version <= "
                f"{FORMAT_VERSION}). Found: {found_instead(error)}. "
                "Estimate it again."
            ) from error
