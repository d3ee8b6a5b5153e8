"""Streams OGB's ``*.csv.gz`` tables to disk, value for value what pandas' parser reads in them."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gnn_mtl._core.errors import DataError, FileFormatError, GraphError
from gnn_mtl._core.progress import Progress

VALUES_AT_ONCE = 1 << 22
LONGEST_LINE = 1 << 20
LARGEST_SMALL = 1 << 24
DAMAGE = (
    ValueError, OverflowError, EOFError, OSError, NotImplementedError, csv.Error, zlib.error,
    zipfile.BadZipFile,
)  # fmt: skip


class _Watched(io.RawIOBase):
    """A byte stream that counts commas and refuses lines no table of ours would have."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._line = 0
        self.commas = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401
        block = self._stream.read(len(buffer))
        buffer[: len(block)] = block
        self.commas += block.count(b",")
        newline = block.rfind(b"\n")
        self._line = self._line + len(block) if newline < 0 else len(block) - newline - 1
        if self._line > LONGEST_LINE:
            raise ValueError(f"a line of more than {LONGEST_LINE} bytes")
        return len(block)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what damaged files do to the readers into a FileFormatError that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileFormatError(
            f"Expected the file {path}. Found none. Fetch or copy the dataset again."
        ) from error
    except DataError:
        raise
    except DAMAGE as error:
        raise FileFormatError(
            f"{path} should be whole and hold a table of numbers, as many in each row. "
            f"Found: {str(error).strip() or type(error).__name__}. Fetch or copy it again."
        ) from error


def csv_chunks(path: Path) -> Iterator[NDArray[Any]]:
    """Yield the rows of a gzipped table without header, ``[rows, columns]``, in bounded memory.

    Numbers are parsed as OGB's loader does, by pandas; a chunk is int64 where all of it is whole.

    Raises:
        FileFormatError: If the file is missing, truncated or no table of numbers, or its rows have
            different lengths.
    """
    import pandas as pd

    rows = width = 0
    with reading(path), gzip.open(path) as packed:
        watched = _Watched(packed)  # type: ignore[arg-type]
        with io.TextIOWrapper(io.BufferedReader(watched, 1 << 18), "ascii", newline="\n") as text:
            try:
                table = pd.read_csv(
                    text, header=None, iterator=True, low_memory=False, quoting=csv.QUOTE_NONE
                )
            except pd.errors.EmptyDataError:
                return
            while True:
                try:
                    frame = table.get_chunk(max(1, VALUES_AT_ONCE // width) if width else 16)
                except StopIteration:
                    break
                values = frame.to_numpy()
                if values.dtype.kind not in "iuf":
                    raise FileFormatError(
                        f"{path} should hold numbers only. Found others within rows {rows} to "
                        f"{rows + len(values)}. Fetch or copy it again."
                    )
                rows, width = rows + len(values), values.shape[1]
                yield values
        if watched.commas != rows * max(width - 1, 0):
            raise FileFormatError(
                f"{path} should have {width} values in each row. Found shorter rows. "
                "Fetch or copy it again."
            )


def stream_table(
    path: Path, out: Path, rows: int, dtype: DTypeLike, *, below: int | None = None
) -> NDArray[Any]:
    """Write a table to ``out`` as raw numbers and return it as a read-only map ``[rows, columns]``.

    Args:
        path: A gzipped table.
        out: New file.
        rows: How many rows it should have.
        dtype: Type to store.
        below: If given, values should be whole and lie in ``[0, below)``.

    Raises:
        FileFormatError: If the table is damaged or has another number of rows.
        GraphError: If an id is out of range.
    """
    seen, width = 0, 0
    with out.open("wb") as file, Progress(f"reading {path.name}", rows) as progress:
        for values in csv_chunks(path):
            if seen + len(values) > rows:
                seen = rows + 1
                break
            if below is not None:
                check_ids(values, below, path, seen)
            with np.errstate(over="ignore"):
                values.astype(dtype, copy=False).tofile(file)
            seen, width = seen + len(values), values.shape[1]
            progress.advance(len(values))
        else:
            if seen == rows:
                file.flush()
                return map_file(out, dtype, (rows, width))
    raise _wrong_length(path, rows, seen)


def map_file(
    path: Path, dtype: DTypeLike, shape: tuple[int, ...], order: Literal["C", "F"] = "C"
) -> NDArray[Any]:
    """Return a file of raw numbers as a read-only map (an empty one as an empty array)."""
    if 0 in shape:
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype, "r", shape=shape, order=order)


def read_table(path: Path, rows: int | None = None) -> NDArray[Any]:
    """Return a small table ``[rows, columns]``, int64 where all is whole, else float32 (as OGB).

    Raises:
        FileFormatError: If it is damaged or has another number of rows.
    """
    parts: list[NDArray[Any]] = []
    seen = 0
    for values in csv_chunks(path):
        parts.append(values)
        seen += len(values)
        if rows is not None and seen > rows:
            break
    if rows is not None and seen != rows:
        raise _wrong_length(path, rows, seen)
    table = np.concatenate(parts) if parts else np.zeros((0, 1), dtype=np.int64)
    with np.errstate(over="ignore"):
        return table.astype(np.int64 if table.dtype.kind in "iu" else np.float32)


def _wrong_length(path: Path, rows: int, seen: int) -> FileFormatError:
    found = str(seen) if seen < rows else "more"
    return FileFormatError(
        f"{path} should have {rows} rows. Found {found}. Fetch or copy it again."
    )


def read_ids(path: Path) -> NDArray[np.int64]:
    """Return a table of one column of whole numbers."""
    table = read_table(path)
    if table.shape[1] != 1 or table.dtype != np.int64:
        raise FileFormatError(
            f"{path} should hold one whole number a line. Found {table.shape[1]} columns of "
            f"{table.dtype}. Fetch or copy it again."
        )
    return table[:, 0]


def read_text(path: Path) -> list[list[str]]:
    """Return the rows of a small gzipped table of text."""
    with reading(path), gzip.open(path) as file:
        content = file.read(LARGEST_SMALL + 1)
        if len(content) > LARGEST_SMALL:
            raise ValueError(f"more than {LARGEST_SMALL} bytes in a table that should be small")
        return [row for row in csv.reader(io.StringIO(content.decode("utf-8"))) if row]


def check_ids(values: NDArray[Any], below: int, path: Path, first_row: int) -> None:
    """Raise a GraphError unless all values are whole and lie in ``[0, below)``."""
    bad = ~((values >= 0) & (values < below))
    if values.dtype.kind == "f":
        bad |= values != np.floor(values)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise GraphError(
            f"{path} should hold node ids in [0, {below}). Found {values[row, column]} in row "
            f"{first_row + row}. Fetch or copy the dataset again."
        )
