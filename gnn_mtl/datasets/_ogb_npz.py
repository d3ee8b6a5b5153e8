"""Streams the arrays of OGB's ``.npz`` files to disk: no pickled objects, bounded memory."""

from __future__ import annotations

import math
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import FileFormatError, StorageError
from gnn_mtl._core.progress import Progress
from gnn_mtl.datasets._ogb_csv import map_file, reading

BYTES_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class Member:
    """An array in an ``.npz``, not read yet.

    Attributes:
        path: The ``.npz`` file.
        name: Name of the array.
        shape: Its shape.
        dtype: Its type, numbers only.
        is_fortran: Whether columns are stored first.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_fortran: bool

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    def read(self) -> NDArray[Any]:
        """Return the array in memory."""
        flat = np.frombuffer(b"".join(self._blocks()), self.dtype)
        return flat.reshape(self.shape, order="F" if self.is_fortran else "C")

    def stream(self, out: Path) -> NDArray[Any]:
        """Write the values to ``out`` and return them as a read-only map.

        Raises:
            FileFormatError: If the file is damaged.
            StorageError: If there is no room.
        """
        needed, free = self.size * self.dtype.itemsize, shutil.disk_usage(out.parent).free
        if needed > free:
            raise StorageError(
                f"Unpacking {self.name} of {self.path} needs {needed / 1e9:.2f} GB in "
                f"{out.parent}. Found {free / 1e9:.2f} GB free. Free space, or set GNN_MTL_DATA "
                "to another disk."
            )
        with out.open("wb") as file, Progress(f"reading {self.name} (MB)", needed >> 20) as bar:
            for block in self._blocks():
                file.write(block)
                bar.advance(len(block) >> 20)
        return map_file(out, self.dtype, self.shape, "F" if self.is_fortran else "C")

    def _blocks(self) -> Iterator[bytes]:
        """Yield the values as stored; the checksum of the zip is checked at the end."""
        with (
            reading(self.path),
            zipfile.ZipFile(self.path) as archive,
            archive.open(f"{self.name}.npy") as stream,
        ):
            _read_header(stream)
            while block := stream.read(BYTES_AT_ONCE):
                yield block


def npz_members(path: Path) -> dict[str, Member]:
    """Return the arrays of an ``.npz`` by name; only headers are read.

    Raises:
        FileFormatError: If the file is missing or damaged, holds something other than numbers, or
            an array is not as large as its header says.
    """
    with reading(path), zipfile.ZipFile(path) as archive:
        return {
            info.filename.removesuffix(".npy"): open_member(path, archive, info)
            for info in archive.infolist()
        }


def open_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    """Describe one array of an archive without reading it; ValueError if it is not numbers."""
    name = info.filename.removesuffix(".npy")
    with archive.open(info) as stream:
        shape, is_fortran, dtype = _read_header(stream)
        size = info.file_size - stream.tell()
    if dtype.kind not in "biuf":
        raise ValueError(f"{name} of type {dtype}, not numbers")
    if size != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{size} bytes for {name}, which should have shape {shape} of {dtype}")
    return Member(path, name, shape, dtype, is_fortran)


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(stream)
    raise ValueError(f"an array in the .npy format {version}")


def need(members: dict[str, Member], name: str, path: Path) -> Member:
    """Return an array by name, or raise a FileFormatError that says which are there."""
    if name not in members:
        raise FileFormatError(
            f"{path} should hold {name}. Found {', '.join(sorted(members)) or 'nothing'}."
        )
    return members[name]
