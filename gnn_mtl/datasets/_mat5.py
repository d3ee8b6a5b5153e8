"""``read_matrices``: matrices out of a MATLAB file of version 5 to 7, safe on damaged bytes.

The format is that of MathWorks' "MAT-File Format" (Level 5). ``scipy.io.loadmat`` reads it too, but
its compiled parser ends the process with a segmentation fault on some damaged files (seen with
scipy 1.17.1, one flipped byte).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from gnn_mtl._core.errors import FileFormatError

Matrix: TypeAlias = NDArray[Any] | sp.csc_matrix

HEADER_BYTES = 128
MOST_BYTES = 1 << 31
NAME_WITHIN = 1 << 10
MATRIX, COMPRESSED = 14, 15
NUMBERS = {
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8",
}  # fmt: skip
SPARSE, DOUBLE, UINT64 = 5, 6, 15
COMPLEX = 0x0800
HDF5 = b"\x89HDF"


@dataclass(frozen=True)
class _Element:
    """One data element: its type, and where in the buffer its content and the next element are."""

    kind: int
    start: int
    stop: int
    after: int


def read_matrices(path: Path, names: Sequence[str]) -> dict[str, Matrix]:
    """Return the named matrices, dense or CSC, without those that are not there.

    Args:
        path: The file.
        names: Variables to read; others are skipped.

    Raises:
        FileNotFoundError: If there is no such file.
        FileFormatError: If it is of MATLAB's version 7.3, which is HDF5.
        ValueError: If it is damaged, or a variable is no matrix of real numbers.
    """
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path.stat().st_size} bytes, more than {MOST_BYTES}")
    data = path.read_bytes()
    if data[512:516] == HDF5 or data[:4] == HDF5 or data[124:128] in (b"\0\2IM", b"\2\0MI"):
        raise FileFormatError(
            f"{path} should be of MATLAB's version 5 to 7. Found version 7.3, which is HDF5. Save "
            "it again in MATLAB with save(..., '-v7')."
        )
    orders: dict[bytes, Literal["<", ">"]] = {b"\0\1IM": "<", b"\1\0MI": ">"}
    if data[124:128] not in orders:
        raise ValueError("no header of that version")
    order = orders[data[124:128]]
    found: dict[str, Matrix] = {}
    at = HEADER_BYTES
    while at < len(data):
        element = _element(data, at, order)
        at = element.stop if element.kind == COMPRESSED else element.after
        content = data[element.start : element.stop]
        if element.kind == COMPRESSED:
            content = _inflated(content, names, order)
        elif element.kind != MATRIX:
            raise ValueError(f"an element of type {element.kind}")
        if (name := _name(content, order)) in names:
            if name in found:
                raise ValueError(f"{name} twice")
            found[name] = _matrix(content, name, order)
    return found


def _element(data: bytes, at: int, order: Literal["<", ">"]) -> _Element:
    endian: Literal["little", "big"] = "little" if order == "<" else "big"
    kind = int.from_bytes(data[at : at + 4], endian)
    if is_small := kind >> 16 > 0:
        kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
    else:
        size, start = int.from_bytes(data[at + 4 : at + 8], endian), at + 8
    stop = start + size
    after = at + 8 if is_small else stop + -size % 8
    if stop > len(data) or (is_small and size > 4) or at + 8 > len(data):
        raise ValueError(f"an element of {size} bytes where {max(len(data) - start, 0)} are left")
    return _Element(kind, start, stop, after)


def _inflated(packed: bytes, names: Sequence[str], order: Literal["<", ">"]) -> bytes:
    """Return the content of the matrix in a compressed element; only its begin if not wanted."""
    inflater = zlib.decompressobj()
    begin = inflater.decompress(packed, NAME_WITHIN)
    size = int.from_bytes(begin[4:8], "little" if order == "<" else "big")
    if int.from_bytes(begin[:4], "little" if order == "<" else "big") != MATRIX:
        raise ValueError("a compressed element that is no matrix")
    if _name(begin[8:], order) not in names:
        return begin[8:]
    if size > MOST_BYTES:
        raise ValueError(f"{size} bytes unpacked, more than {MOST_BYTES}")
    # one byte more than there should be, so that the checksum behind them is reached and compared
    rest = inflater.decompress(inflater.unconsumed_tail, max(size + 8 - len(begin), 0) + 1)
    if not inflater.eof:
        raise ValueError("compressed data that break off, or go on")
    content = (begin + rest)[8 : 8 + size]
    if len(content) != size:
        raise ValueError(f"{len(content)} of {size} bytes unpacked")
    return content


def _name(content: bytes, order: Literal["<", ">"]) -> str:
    """Return the name of a matrix, "" for one without; the third of its elements."""
    at = 0
    for _ in range(2):
        at = _element(content, at, order).after
    name = _element(content, at, order)
    return content[name.start : name.stop].decode("latin-1")


def _matrix(content: bytes, name: str, order: Literal["<", ">"]) -> Matrix:
    parts, at = [], 0
    while at < len(content):
        element = _element(content, at, order)
        parts.append(element)
        at = element.after
    flags = _whole(content, parts[0], order)
    rows, columns = shape = tuple(_whole(content, parts[1], order).tolist())
    kind = int(flags[0]) & 0xFF
    if not SPARSE <= kind <= UINT64 or int(flags[0]) & COMPLEX:
        raise ValueError(f"{name} of class {kind}, which is no matrix of real numbers")
    if min(shape) < 0 or len(parts) != (6 if kind == SPARSE else 4):
        raise ValueError(f"{len(parts)} elements in {name} of shape {shape}")
    entry = _numbers(content, parts[-1], order)
    if kind != SPARSE:
        if entry.size != math.prod(shape):
            raise ValueError(f"{entry.size} numbers in {name} of shape {shape}")
        return entry.reshape(shape, order="F")
    row, start = (_whole(content, part, order) for part in parts[3:5])
    if len(start) != columns + 1 or start[0] != 0 or (np.diff(start) < 0).any():
        raise ValueError(f"column starts of {name} that are none")
    count = int(start[-1])
    if count > len(row) or count > len(entry) or not _in_range(row[:count], rows):
        raise ValueError(f"row numbers of {name} that do not fit its shape {shape}")
    return sp.csc_matrix((entry[:count], row[:count], start), shape=shape)


def _in_range(ids: NDArray[np.int64], below: int) -> bool:
    return len(ids) == 0 or bool(ids.min() >= 0 and ids.max() < below)


def _whole(content: bytes, element: _Element, order: Literal["<", ">"]) -> NDArray[np.int64]:
    numbers = _numbers(content, element, order)
    if numbers.dtype.kind == "f":
        raise ValueError("fractions where whole numbers should be")
    return numbers.astype(np.int64)


def _numbers(content: bytes, element: _Element, order: Literal["<", ">"]) -> NDArray[Any]:
    if element.kind not in NUMBERS:
        raise ValueError(f"an element of type {element.kind} instead of numbers")
    dtype = np.dtype(f"{order}{NUMBERS[element.kind]}")
    part = content[element.start : element.stop]
    return np.frombuffer(part, dtype).astype(dtype.newbyteorder("="))
