"""The one door to OGB's node-property sets: find, fetch, read, convert once, open.

OGB's own loaders are not used (they prompt, unpickle, write into the dataset's folder and fail on
current torch). A set is looked for as OGB lays it out, ``ROOT/ogbn_proteins``; the first time it is
read it is converted to memory-mapped files in :func:`gnn_mtl.datasets._data_dir.data_dir`.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Literal

from gnn_mtl._core.errors import DatasetNotFoundError, FileFormatError, UsageError
from gnn_mtl._core.files import write_json
from gnn_mtl.datasets._archive import extract_zip
from gnn_mtl.datasets._convert import find_converted, load_converted, open_converted
from gnn_mtl.datasets._data_dir import (
    FOLDER_VARIABLE,
    OFFLINE_VARIABLE,
    data_dir,
    is_offline,
    locked,
)
from gnn_mtl.datasets._download import download as fetch_file
from gnn_mtl.datasets._ogb_graph import OGBOptions, make_graph
from gnn_mtl.datasets._ogb_raw import read_raw
from gnn_mtl.datasets._ogb_sets import META, SETS, OGBInfo, find_info, is_ogb_folder
from gnn_mtl.datasets._task_graph import TaskGraph

READER_VERSION = 1
UNASKED_BYTES = 2_000_000_000
UNPACKED_RATIO = 4


def load_ogb(
    name: str,
    root: str | os.PathLike[str] | None = None,
    *,
    incident: Literal["sum", "mean", "none"] = "sum",
    species: bool = False,
    keep_direction: bool = False,
    download: bool = True,
) -> TaskGraph:
    """Return one of OGB's node-property sets.

    ``ogbn-proteins`` has 112 tasks; the others have classes, each of which becomes a task. Of
    ``ogbn-mag`` the papers and their citations are kept. Looked at are ``root/ogbn_proteins`` (and
    ``ogbn_proteins_pyg``, OGB's older name), the same in the data folder, and what an earlier call
    converted; otherwise the set is fetched, unless it is over 2 GB (then :func:`fetch_ogb` it).

    Args:
        name: ``"ogbn-proteins"``, ``"ogbn-arxiv"``, ``"ogbn-products"``, ``"ogbn-mag"`` or
            ``"ogbn-papers100M"``.
        root: Folder OGB's loaders call ``root``; may be read-only.
        incident: Node features of a set that has none (proteins): ``"sum"`` or ``"mean"`` of the
            features of incident edges, or ``"none"``. OGB's example averages, most entries of its
            leaderboard sum.
        species: Append ``node_species`` to the features, one column a species.
        keep_direction: Pass messages along directed edges from source to target only.
        download: Fetch the set if it is not here; ``GNN_MTL_NO_DOWNLOAD=1`` forbids it too.

    Returns:
        The graph, its arrays memory-mapped. Edge features are kept once an undirected edge and
        addressed by ``csc.edge_ids``. ``extras`` hold the extra tables (``node_species``,
        ``node_year``) and, as ``"ogb"``, what OGB says of the set.

    Raises:
        UsageError: If there is no such set, or an option does not fit it.
        DatasetNotFoundError: If the set is not here and cannot be fetched; the message holds the
            address, the place, the size and what to do.
        DataError: If the files are damaged.
        StorageError: If there is no room to convert it.

    Note:
        The first call reads about 100 MB of text a second; memory is that of the result, plus the
        edge features once more while they are checked. The converted files take about the room of
        the arrays.
    """
    info = _known(name)
    options = OGBOptions(incident=incident, species=species, keep_direction=keep_direction)
    folder = _find(info, root)
    if folder is None:
        ready = find_converted(_stem(info.folder, options))
        if ready is not None:
            return open_converted(ready, keep_direction=options.keep_direction)
        folder = fetch_ogb(name, root, download=download, max_bytes=UNASKED_BYTES)
    return _load_converted(folder, info, options)


def import_ogb(
    path: str | os.PathLike[str],
    *,
    incident: Literal["sum", "mean", "none"] = "sum",
    species: bool = False,
    keep_direction: bool = False,
) -> TaskGraph:
    """Return the set in a folder of OGB's form: a copy of OGB's own, or one of ``DatasetSaver``.

    Args:
        path: The folder that holds ``raw`` and ``split``, or the one above it with
            ``meta_dict.pt``. Nothing is written to it.
        incident: See :func:`load_ogb`.
        species: See :func:`load_ogb`.
        keep_direction: See :func:`load_ogb`.

    Raises:
        DataError: If files are missing, damaged or do not fit together.
        StorageError: If there is no room to convert it.
    """
    options = OGBOptions(incident=incident, species=species, keep_direction=keep_direction)
    folder, info = find_info(Path(path).expanduser())
    return _load_converted(folder, info, options)


def fetch_ogb(
    name: str,
    root: str | os.PathLike[str] | None = None,
    *,
    download: bool = True,
    max_bytes: int | None = None,
) -> Path:
    """Make sure that a set is in ``root`` and return its folder.

    An archive that lies in ``root`` already, copied there by hand, is unpacked and left. One that
    was fetched is removed afterwards; its address and SHA-256 stay in ``download.json`` (OGB
    publishes no checksums to compare with).

    Args:
        name: Name of the set.
        root: Folder of datasets; by default the data folder.
        download: Fetch it if it is not here.
        max_bytes: Refuse to fetch more; by default a tenth more than OGB's archive has.

    Raises:
        UsageError: If there is no such set.
        DatasetNotFoundError: If it is not here and cannot be fetched.
        FileFormatError: If the archive is damaged or hostile.
        StorageError: If there is no room.
    """
    info = _known(name)
    base = data_dir() if root is None else Path(root).expanduser()
    folder, archive = base / info.folder, base / f"{info.download_name}.zip"
    if is_ogb_folder(folder):
        return folder
    if not archive.is_file():
        expected = info.download_bytes * 11 // 10
        if not download or is_offline():
            raise DatasetNotFoundError(_how_to_get(info, base, "Downloads are switched off."))
        if max_bytes is not None and info.download_bytes > max_bytes:
            raise DatasetNotFoundError(_how_to_get(info, base, "That is much to fetch unasked."))
        with locked(folder):
            if is_ogb_folder(folder):
                return folder
            try:
                digest = fetch_file(info.url, archive, max_bytes=expected)
            except DatasetNotFoundError as error:
                raise DatasetNotFoundError(_how_to_get(info, base, str(error))) from error
            try:
                _unpack(info, archive, folder)
            except FileFormatError:
                archive.unlink()
                raise
            write_json(folder / "download.json", {"url": info.url, "sha256": digest})
            archive.unlink()
            return folder
    with locked(folder):
        if not is_ogb_folder(folder):
            _unpack(info, archive, folder)
    return folder


def _known(name: str) -> OGBInfo:
    if name not in SETS:
        raise UsageError(f"OGB's node-property sets are {', '.join(SETS)}. Found {name!r}.")
    return SETS[name]


def _find(info: OGBInfo, root: str | os.PathLike[str] | None) -> Path | None:
    bases = ([] if root is None else [Path(root).expanduser()]) + [data_dir()]
    places = (base / f"{info.folder}{end}" for base in bases for end in ("", "_pyg"))
    return next((place for place in places if is_ogb_folder(place)), None)


def _unpack(info: OGBInfo, archive: Path, folder: Path) -> None:
    if folder.is_dir() and not any(path.is_file() for path in folder.rglob("*")):
        shutil.rmtree(folder)  # OGB's loader leaves an empty raw/ behind when it fails
    extract_zip(
        archive, folder, max_bytes=max(info.download_bytes, archive.stat().st_size) * UNPACKED_RATIO
    )


def _how_to_get(info: OGBInfo, base: Path, reason: str) -> str:
    archive = base / f"{info.download_name}.zip"
    return (
        f"Expected {info.name} at {base / info.folder} (OGB's raw/ and split/) or in "
        f"{data_dir()}. Found neither. {reason} It is {info.url}, about {_size(info)}. On a "
        f"machine with a network: curl -fL -C - -o {archive.name} {info.url} ; copy the file to "
        f"{archive} and call again: it is unpacked there. ({FOLDER_VARIABLE} names another place; "
        f"{OFFLINE_VARIABLE} is {'set' if is_offline() else 'not set'}.)"
    )


def _size(info: OGBInfo) -> str:
    return f"{info.download_bytes / 1e9:.2f} GB"


def _stem(name: str, options: OGBOptions) -> str:
    return f"{name}-v{READER_VERSION}-{options.tag()}"


def _load_converted(folder: Path, info: OGBInfo, options: OGBOptions) -> TaskGraph:
    """Open the memory-mapped form of a raw folder, making it first if there is none."""
    return load_converted(
        _stem(info.name.replace("-", "_"), options),
        _source_files(folder),
        lambda scratch: make_graph(read_raw(folder, info, scratch), info, options),
        keep_direction=options.keep_direction,
    )


def _source_files(folder: Path) -> list[tuple[str, Path]]:
    """Return the files a set is read from."""
    files = [
        (str(path.relative_to(folder)), path)
        for part in ("raw", "split", "mapping")
        for path in sorted((folder / part).rglob("*"))
        if path.is_file()
    ]
    places = (folder / META, folder.parent / META)
    return files + [(META, path) for path in places if path.is_file()]
