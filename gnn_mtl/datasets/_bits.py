"""``BitMatrix``: a boolean matrix at one bit a cell (1M nodes x 500 labels are 63 MB, not 500)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from gnn_mtl._core.errors import ShapeError, UsageError

CELLS_AT_ONCE = 1 << 22


@dataclass(frozen=True, eq=False)
class BitMatrix:
    """A boolean matrix ``[N, T]`` packed along its rows, little bit order.

    Attributes:
        bits: uint8 ``[N, ceil(S / 8)]`` for the S stored columns; may be a memory map.
        num_stored: Number S of stored columns.
        columns: int64 ``[T]``: which stored columns are visible, in order; None means all.
    """

    bits: NDArray[np.uint8]
    num_stored: int
    columns: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        expected = (len(self.bits), packed_width(self.num_stored))
        if self.bits.dtype != np.uint8 or self.bits.shape != expected:
            raise ShapeError(
                f"`bits` should be uint8 with shape {expected} for {self.num_stored} columns. "
                f"Found {self.bits.dtype} with shape {self.bits.shape}."
            )

    @property
    def num_rows(self) -> int:
        """Number of rows N."""
        return len(self.bits)

    @property
    def num_columns(self) -> int:
        """Number of visible columns T."""
        return self.num_stored if self.columns is None else len(self.columns)

    @classmethod
    def zeros(cls, num_rows: int, num_columns: int) -> BitMatrix:
        """Return an all-False matrix."""
        return cls(np.zeros((num_rows, packed_width(num_columns)), dtype=np.uint8), num_columns)

    @classmethod
    def from_dense(cls, values: ArrayLike) -> BitMatrix:
        """Pack a boolean matrix ``[N, T]``."""
        dense = np.asarray(values, dtype=np.bool_)
        if dense.ndim != 2:
            raise ShapeError(f"A bit matrix is made from [N, T] values. Found shape {dense.shape}.")
        return cls(np.packbits(dense, axis=1, bitorder="little"), dense.shape[1])

    @classmethod
    def from_csr(cls, values: sp.csr_matrix) -> BitMatrix:
        """Pack the stored cells of a sparse matrix ``[N, T]``."""
        packed = cls.zeros(*values.shape)
        for rows in packed.row_slices():
            packed.set_rows(rows, values[rows].toarray() != 0)
        return packed

    def gather(self, rows: NDArray[np.integer] | slice) -> NDArray[np.bool_]:
        """Return the named rows unpacked, bool ``[B, T]``."""
        packed = np.asarray(self.bits[rows])
        if self.columns is None:
            dense = np.unpackbits(packed, axis=1, count=self.num_stored, bitorder="little")
            return dense.view(np.bool_)
        shift = (self.columns & 7).astype(np.uint8)
        cells = (packed[:, self.columns >> 3] >> shift) & np.uint8(1)
        return cells.view(np.bool_)

    def set_rows(self, rows: NDArray[np.integer] | slice, values: NDArray[np.bool_]) -> None:
        """Overwrite whole rows with bool ``[B, T]``; only for a matrix with all columns visible."""
        if self.columns is not None:
            raise UsageError("Only a matrix with all its columns visible can be written.")
        self.bits[rows] = np.packbits(values, axis=1, bitorder="little")

    def set_column(self, rows: NDArray[np.integer], column: int) -> None:
        """Set the cells (rows, column) to True; ``rows`` hold no row twice."""
        self.bits[rows, column >> 3] |= np.uint8(1 << (column & 7))

    def select(self, columns: NDArray[np.int64]) -> BitMatrix:
        """Return a view of some columns (no copy of the bits)."""
        stored = columns if self.columns is None else self.columns[columns]
        return BitMatrix(self.bits, self.num_stored, stored)

    def any_in_row(self) -> NDArray[np.bool_]:
        """Return bool ``[N]``: rows with at least one True."""
        if self.columns is None:
            return np.asarray(self.bits.any(axis=1))
        parts = [self.gather(rows).any(axis=1) for rows in self.row_slices()]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.bool_)

    def packed(self, rows: NDArray[np.integer] | slice) -> NDArray[np.uint8]:
        """Return the named rows packed over the visible columns only."""
        if self.columns is None:
            return np.asarray(self.bits[rows])
        return np.packbits(self.gather(rows), axis=1, bitorder="little")

    def row_slices(self) -> Iterator[slice]:
        """Yield slices that cover all rows, each small enough to unpack."""
        return row_slices(self.num_rows, self.num_columns)


def packed_width(num_columns: int) -> int:
    """Return the bytes a row of ``num_columns`` bits takes."""
    return (num_columns + 7) // 8


def row_slices(num_rows: int, num_columns: int) -> Iterator[slice]:
    """Yield slices over ``num_rows`` rows of at most ``CELLS_AT_ONCE`` cells each."""
    step = max(1, CELLS_AT_ONCE // max(num_columns, 1))
    for start in range(0, num_rows, step):
        yield slice(start, min(start + step, num_rows))
