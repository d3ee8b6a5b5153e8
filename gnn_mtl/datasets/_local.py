"""``local_copies``: what of a named dataset lies on this machine, and how large it is."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gnn_mtl.datasets._catalog import CatalogEntry, catalog_entry
from gnn_mtl.datasets._data_dir import data_dir
from gnn_mtl.datasets._folder import META
from gnn_mtl.datasets._ogb_sets import SETS, is_ogb_folder
from gnn_mtl.datasets._published import kind_of
from gnn_mtl.datasets._published_sets import PUBLISHED
from gnn_mtl.datasets._registry import embedded_folder
from gnn_mtl.datasets._snap import local_files

Kind = Literal["embedded", "stored", "fetched", "converted"]
OWN_LAYOUT = ("embedded", "stored", "converted")


@dataclass(frozen=True)
class LocalCopy:
    """One copy of a dataset.

    Attributes:
        kind: ``"embedded"`` in the package, ``"stored"`` in the project's layout, ``"fetched"`` as
            its publisher packs it, ``"converted"`` to memory maps from that.
        path: The file or folder.
        num_bytes: Size of all its files.
    """

    kind: Kind
    path: Path
    num_bytes: int

    @property
    def is_own_layout(self) -> bool:
        """Whether checksums of the project's layout can be verified."""
        return self.kind in OWN_LAYOUT


def local_copies(name: str, root: str | os.PathLike[str] | None = None) -> list[LocalCopy]:
    """Return the copies of a dataset in ``root``, the data folder and the package.

    Only names and sizes are looked at, nothing is read or fetched.

    Args:
        name: A name of the catalog.
        root: Folder of datasets; looked at before the data folder.

    Raises:
        UsageError: If there is no such name.
    """
    entry = catalog_entry(name)
    bases = ([] if root is None else [Path(root).expanduser()]) + [data_dir()]
    found: list[LocalCopy] = []
    for base in dict.fromkeys(bases):
        own = base / name
        if (own / META).is_file():
            found.append(LocalCopy("stored", own, _size([own])))
        elif (file := own / f"{name}.npz").is_file():
            found.append(LocalCopy("stored", file, _size([file])))
        published = _published(entry, base)
        if published:
            found.append(LocalCopy("fetched", published[0], _size(published)))
    if entry.family == "embedded":
        file = embedded_folder(name) / f"{name}.npz"
        found.append(LocalCopy("embedded", file, _size([file])))
    metas = sorted((data_dir() / "converted").glob(f"[!.]*/{META}"))
    folders = [meta.parent for meta in metas if _name_in(meta) == name]
    return found + [LocalCopy("converted", folder, _size([folder])) for folder in folders]


def _published(entry: CatalogEntry, base: Path) -> list[Path]:
    """Return the files or folders in ``base`` that are as the publisher packs them."""
    if entry.family == "ogb":
        places = [base / f"{SETS[entry.name].folder}{end}" for end in ("", "_pyg")]
        return [place for place in places if is_ogb_folder(place)][:1]
    if entry.family == "snap":
        return local_files(entry.name, base)
    if entry.family == "published":
        places = [base / place for place in PUBLISHED[entry.name].places]
        return [place for place in places if kind_of(place) is not None][:1]
    return []


def _size(paths: list[Path]) -> int:
    """Return the bytes of files and of all files below folders."""
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*"))]
    return sum(file.stat().st_size for file in files if file.is_file())


def _name_in(meta: Path) -> str | None:
    try:
        found = json.loads(meta.read_text(encoding="utf-8")).get("name")
    except (OSError, ValueError, AttributeError):
        return None  # being written, or damaged: not a copy to count on
    return str(found)
