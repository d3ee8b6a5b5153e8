"""JSON lines that survive a kill: whole lines appended, a cut last line ignored."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from gnn_mtl._core.errors import FileFormatError, StorageError
from gnn_mtl._core.files import finite


class LineLog:
    """Appends one JSON object a line; each line reaches the system before ``append`` returns.

    A kill leaves at most one cut last line, which :func:`read_lines` ignores and which opening the
    file for more removes. If the system refuses to write, what was written of the line is removed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise self._refused(error) from error
        self._drop_cut_line()

    def append(self, row: dict[str, Any]) -> None:
        """Write ``row``; NaN and infinity become null."""
        line = to_line(row).encode()
        before = os.fstat(self._file).st_size
        try:
            while line:
                line = line[os.write(self._file, line) :]
        except OSError as error:
            os.ftruncate(self._file, before)
            raise self._refused(error) from error

    def close(self) -> None:
        """Flush to disk and close; closing again does nothing."""
        if self._file < 0:
            return
        file, self._file = self._file, -1
        try:
            os.fsync(file)
        except OSError as error:
            raise self._refused(error) from error
        finally:
            os.close(file)

    def _drop_cut_line(self) -> None:
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.ftruncate(self._file, whole)

    def _refused(self, error: OSError) -> StorageError:
        return StorageError(
            f"Expected to append to {self.path}, but the system answered: "
            f"{error.strerror or error}. Free space and resume the run; the lines before are whole."
        )


def plain(value: Any) -> Any:  # noqa: ANN401
    """Return ``value`` as plain JSON values: NumPy's become Python's, NaN and infinity null."""
    return json.loads(json.dumps(finite(value), default=_from_numpy, allow_nan=False))


def to_line(row: dict[str, Any]) -> str:
    """Return ``row`` as one line of JSON, with its line end."""
    return json.dumps(plain(row), separators=(",", ":")) + "\n"


def read_lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Return ``(line number, object)`` for every whole line; a missing file has none.

    Raises:
        FileFormatError: If a whole line is not a JSON object, naming file and line.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise FileFormatError(f"{path} should be readable. Found: {error.strerror}.") from error
    *whole, _cut = content.split(b"\n")
    return [(number, _parse(line, path, number)) for number, line in enumerate(whole, start=1)]


def _from_numpy(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, np.generic | np.ndarray):
        return finite(value.tolist())
    raise TypeError(f"JSON has no {type(value).__name__}")


def _parse(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(
            f"{path}:{number} should be one JSON object. Found: {error}. "
            "The file was damaged after it was written; restore it or leave this run out."
        ) from error
    if not isinstance(row, dict):
        raise FileFormatError(
            f"{path}:{number} should be one JSON object. Found {type(row).__name__}."
        )
    return row
