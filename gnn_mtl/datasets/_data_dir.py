"""Where downloaded and converted datasets are kept, and who may write there when.

``GNN_MTL_DATA`` names the folder; without it, it is the cache folder of the platform.
``GNN_MTL_NO_DOWNLOAD=1`` forbids downloads.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from gnn_mtl._core.errors import StorageError

logger = logging.getLogger("gnn_mtl")

FOLDER_VARIABLE = "GNN_MTL_DATA"
OFFLINE_VARIABLE = "GNN_MTL_NO_DOWNLOAD"


def data_dir() -> Path:
    """Return the folder of downloaded and converted datasets (it need not exist yet)."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named).expanduser()
    return Path(platformdirs.user_cache_dir("gnn-mtl", appauthor=False))


def is_offline() -> bool:
    """Return whether the environment forbids downloads."""
    return os.environ.get(OFFLINE_VARIABLE, "") not in ("", "0")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock beside ``path`` (``.NAME.lock``), waiting for other processes.

    Raises:
        StorageError: If the lock cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.parent / f".{path.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.info("waiting for another process that works on %s", path)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def scratch_folder(beside: Path) -> Iterator[Path]:
    """Yield an empty folder on the disk of ``beside``; it is removed afterwards.

    Raises:
        StorageError: If it cannot be made, or the disk fills up.
    """
    with writing(beside):
        beside.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{beside.name}.", dir=beside.parent))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the operating system answers to writing into a StorageError."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise  # our own errors derive from OSError too, without a number
        raise StorageError(
            f"Expected to write {path}, but the system answered: {error.strerror or error}. "
            f"Free space, or set {FOLDER_VARIABLE} to another place; nothing half-written was left "
            "behind."
        ) from error
