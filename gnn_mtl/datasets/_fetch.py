"""``fetch_dataset``: get any named dataset that can be fetched, whoever publishes it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from gnn_mtl._core.errors import UsageError
from gnn_mtl.datasets._catalog import CatalogEntry, catalog_entry
from gnn_mtl.datasets._data_dir import data_dir
from gnn_mtl.datasets._ogb import fetch_ogb
from gnn_mtl.datasets._published import fetch_published
from gnn_mtl.datasets._published_sets import PUBLISHED
from gnn_mtl.datasets._registry import embedded_folder
from gnn_mtl.datasets._snap import fetch_snap

FETCHERS: dict[str, Callable[..., Path]] = {
    "ogb": fetch_ogb,
    "snap": fetch_snap,
    "published": fetch_published,
}
"""For each family of the catalog what gets its sets: ``(name, root, *, download, max_bytes)``."""


def fetch_dataset(
    name: str,
    root: str | os.PathLike[str] | None = None,
    *,
    download: bool = True,
    max_bytes: int | None = None,
) -> Path:
    """Make sure that a dataset is on this machine and return where.

    Args:
        name: A name of the catalog.
        root: Folder of datasets; by default the data folder.
        download: Fetch it if it is not here.
        max_bytes: Refuse to fetch more; by default somewhat more than there should be.

    Raises:
        UsageError: If there is no such name, or nothing to fetch.
        DatasetNotFoundError: If it is not here and cannot be fetched; how to get it is said.
        FileFormatError: If what came is damaged.
        StorageError: If there is no room.
    """
    entry = catalog_entry(name)
    if entry.family == "generated":
        raise UsageError(f"{name} is generated, not fetched: {how_to_get(entry, root)}.")
    if entry.family == "embedded":
        return embedded_folder(name)
    return FETCHERS[entry.family](name, root, download=download, max_bytes=max_bytes)


def how_to_get(entry: CatalogEntry, root: str | os.PathLike[str] | None = None) -> str:
    """Return in a sentence or two how to come by a dataset."""
    name = entry.name
    if entry.family == "generated":
        return f"gnn-mtl data make {name} --out FOLDER, or --dataset {name}:num_nodes=5000,seed=1"
    if entry.family == "embedded":
        return "It comes with gnn-mtl; install the package again if it is missing."
    if entry.family == "published" and PUBLISHED[name].by_hand:
        base = data_dir() if root is None else Path(root).expanduser()
        return PUBLISHED[name].by_hand.format(base=base)
    where = "" if root is None else f" --root {os.fspath(root)}"
    return f"gnn-mtl data fetch {name}{where}"
