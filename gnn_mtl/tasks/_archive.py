"""What the shared types have in common: names and ids of tasks, and their ``.npz`` files."""

from __future__ import annotations

import json
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import FileFormatError, ShapeError, UsageError
from gnn_mtl._core.files import atomic_path

DAMAGED = (
    AttributeError, EOFError, IndexError, KeyError, MemoryError, OSError, OverflowError,
    RuntimeError, TypeError, ValueError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What reading a damaged or foreign archive raises, according to where the damage is."""


def checked_names(names: Sequence[object], num_tasks: int) -> tuple[str, ...]:
    """Return one name per task as strings, or raise ShapeError."""
    found = tuple(str(name) for name in names)
    if len(found) != num_tasks:
        raise ShapeError(f"`label_names` should hold {num_tasks} names. Found {len(found)}.")
    return found


def checked_ids(tasks: Sequence[int], num_tasks: int) -> list[int]:
    """Return distinct task ids in ``[0, T)``, at least one, or raise UsageError."""
    ids = [int(task) for task in tasks]
    inside = all(0 <= task < num_tasks for task in ids)
    if not ids or not inside or len(set(ids)) < len(ids):
        raise UsageError(f"`tasks` should be distinct ids in [0, {num_tasks}). Found {ids[:8]}.")
    return ids


def save_archive(
    path: str | os.PathLike[str],
    header: Mapping[str, object],
    arrays: Mapping[str, NDArray[Any] | None],
    label_names: Sequence[str] | None,
) -> None:
    """Write a JSON header and the arrays that are not None to an ``.npz``, atomically."""
    kept = {"header": np.array(json.dumps(header))}
    kept |= {name: array for name, array in arrays.items() if array is not None}
    if label_names is not None:
        kept["label_names"] = np.array(label_names, dtype=np.str_)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **kept)  # type: ignore[arg-type]


@contextmanager
def loaded_archive(
    path: str | os.PathLike[str], kind: str, version: int, expected: str, remedy: str
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Read header and arrays of a file of :func:`save_archive`; names come back as a tuple.

    Whatever damage the block meets in them is a FileFormatError too.

    Raises:
        FileNotFoundError: If there is no such file.
        FileFormatError: If the file is no archive of that kind and of a known version.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays: dict[str, Any] = {name: archive[name] for name in archive.files}
        header = json.loads(str(arrays.pop("header")))
        if header["format"] != kind or header["version"] > version:
            raise ValueError(f"{header['format']}, version {header['version']}")
        if "label_names" in arrays:
            arrays["label_names"] = tuple(arrays["label_names"].tolist())
        yield header, arrays
    except FileNotFoundError:
        raise
    except DAMAGED as error:
        raise FileFormatError(
            f"{path} should be {expected} (version <= {version}). "
            f"Found: {found_instead(error)}. {remedy}"
        ) from error


def found_instead(error: BaseException) -> str:
    """Say what was found in place of one of our files, without a full stop."""
    if isinstance(error, KeyError):  # says the name only
        return f"a file without {error}"
    if "pickle" in str(error):  # what numpy makes of any other file
        return "a file that is no archive of plain arrays"
    return str(error).rstrip(".")
