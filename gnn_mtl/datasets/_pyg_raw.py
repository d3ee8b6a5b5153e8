"""What the readers of PyG's raw folders share: where files are, and large ``.npy`` arrays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import DataError, FileFormatError
from gnn_mtl.datasets._ogb_csv import map_file

VALUES_AT_ONCE = 1 << 22


def raw_folder(folder: Path) -> Path:
    """Return ``folder/raw`` if there is one, as PyG lays datasets out, else the folder."""
    return folder / "raw" if (folder / "raw").is_dir() else folder


def locate(
    folder: str | os.PathLike[str], name: str | None, files: tuple[str, ...]
) -> tuple[Path, str]:
    """Return where the files are and what the dataset is called.

    Raises:
        FileFormatError: If a file is missing.
    """
    path = Path(folder).expanduser().resolve()
    raw = raw_folder(path)
    if missing := [file for file in files if not (raw / file).is_file()]:
        raise FileFormatError(
            f"{raw} should hold {', '.join(files)}. Missing: {', '.join(missing)}. "
            "Fetch or copy the dataset again."
        )
    above = path.parent if path.name == "raw" else path
    return raw, name or above.name


def open_array(path: Path) -> NDArray[Any]:
    """Open a ``.npy`` file of numbers as a memory map.

    Raises:
        FileFormatError: If it is damaged or holds something else.
    """
    try:
        values: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        if values.dtype.kind not in "biuf":
            raise ValueError(f"values of type {values.dtype}")
    except Exception as error:  # numpy lets through whatever damaged bytes do to its parsers
        raise FileFormatError(
            f"{path} should be a whole .npy file of numbers. Found: {error}. Fetch or copy it "
            "again."
        ) from error
    return values


def open_rows(path: Path, nodes: int, error: type[DataError]) -> NDArray[Any]:
    """Open a ``.npy`` file with one row a node; raise ``error`` if it has other sides."""
    values = open_array(path)
    if values.ndim != 2 or len(values) != nodes:
        raise error(f"{path} should have shape [{nodes}, ...]. Found {values.shape}.")
    return values


def as_float32(values: NDArray[Any], out: Path) -> NDArray[np.float32]:
    """Return a matrix as float32: itself if it is that already, else a map of the file ``out``."""
    if values.dtype == np.float32 and values.flags.c_contiguous:
        return values
    step = max(1, VALUES_AT_ONCE // max(values.shape[1], 1))
    with out.open("wb") as file, np.errstate(over="ignore"):
        for start in range(0, len(values), step):
            np.asarray(values[start : start + step], np.float32, order="C").tofile(file)
    return map_file(out, np.float32, values.shape)
