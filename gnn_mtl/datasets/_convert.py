"""Datasets read from slow formats: converted to memory-mapped folders once, then only opened."""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from gnn_mtl._core.errors import DataError
from gnn_mtl.datasets._build import warn_unlearnable
from gnn_mtl.datasets._data_dir import data_dir, locked, scratch_folder
from gnn_mtl.datasets._folder import load_folder, save_folder
from gnn_mtl.datasets._task_graph import TaskGraph

logger = logging.getLogger("gnn_mtl")

KEY_DIGITS = 16


def find_converted(stem: str) -> Path | None:
    """Return the newest conversion of a set with these options, from whichever source files."""
    ready = _converted().glob(f"{stem}-{'[0-9a-f]' * KEY_DIGITS}/meta.json")
    newest = max(ready, key=lambda file: file.stat().st_mtime_ns, default=None)
    if newest is None:
        return None
    logger.info("its files are not here; opening what was converted from them: %s", newest.parent)
    return newest.parent


def source_key(files: Iterable[tuple[str, Path]]) -> str:
    """Return a digest of the names, sizes and times of the files a set is read from."""
    facts = [(name, path.stat().st_size, path.stat().st_mtime_ns) for name, path in files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:KEY_DIGITS]


def load_converted(
    stem: str,
    files: Iterable[tuple[str, Path]],
    make: Callable[[Path], TaskGraph],
    *,
    keep_direction: bool = False,
) -> TaskGraph:
    """Open the memory-mapped form of a set, making it first if there is none or it is damaged.

    Args:
        stem: What the set, the reader's version and the options are called together.
        files: The files it is read from, each under a name that stays.
        make: Reads them; it is given a scratch folder for large arrays that the graph may hold.
        keep_direction: Pass messages along directed edges from source to target only.

    Raises:
        StorageError: If there is no room.
    """
    target = _converted() / f"{stem.replace('/', '_')}-{source_key(files)}"
    if (target / "meta.json").is_file():
        try:
            return open_converted(target, keep_direction=keep_direction)
        except DataError as error:
            logger.warning("%s is damaged and is made again: %s", target, error)
    with locked(target):
        try:  # another process may have made it meanwhile
            return open_converted(target, keep_direction=keep_direction)
        except (DataError, FileNotFoundError):
            shutil.rmtree(target, ignore_errors=True)
        _remove_leftovers(target)
        logger.info("converting to %s, once", target)
        with scratch_folder(target) as scratch:
            graph = make(scratch)
            save_folder(graph, target)
            del graph
        return open_converted(target, keep_direction=keep_direction)


def _remove_leftovers(target: Path) -> None:
    """Remove the scratch folders of processes that were killed; the lock on ``target`` is held."""
    for path in target.parent.glob(f".{glob.escape(target.name)}.*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def open_converted(target: Path, *, keep_direction: bool = False) -> TaskGraph:
    """Open a conversion, warning of labels that cannot be learned."""
    graph = load_folder(target, keep_direction=keep_direction)
    warn_unlearnable(graph)
    return graph


def _converted() -> Path:
    return data_dir() / "converted"
