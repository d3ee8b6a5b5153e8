"""Multi-label graphs as their authors publish them: found by name, fetched, read from a path."""

from __future__ import annotations

import os
import shutil
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gnn_mtl._core.errors import (
    DatasetNotFoundError,
    FileFormatError,
    StorageError,
    UsageError,
)
from gnn_mtl.datasets._archive import BLOCK
from gnn_mtl.datasets._data_dir import (
    FOLDER_VARIABLE,
    OFFLINE_VARIABLE,
    data_dir,
    is_offline,
    locked,
    scratch_folder,
    writing,
)
from gnn_mtl.datasets._download import download as fetch_file
from gnn_mtl.datasets._mat import import_mat
from gnn_mtl.datasets._mlgnc import import_mlgnc, is_mlgnc_folder
from gnn_mtl.datasets._published_sets import PUBLISHED, Published, Source
from gnn_mtl.datasets._pyg_ppi import import_ppi, is_ppi_folder
from gnn_mtl.datasets._pyg_saint import import_saint, is_saint_folder
from gnn_mtl.datasets._task_graph import TaskGraph

MOST_BYTES = 64_000_000
UNPACKED_BYTES = 1_000_000_000


@dataclass(frozen=True)
class PublishedOptions:
    """What may follow a set's name: ``blogcatalog:split=split1,seed=3``.

    Attributes:
        split: See :func:`import_mat`.
        seed: Seed of a drawn split.
    """

    split: str = "auto"
    seed: int = 0


def import_published(
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    split: str = "auto",
    keep_direction: bool = False,
    seed: int = 0,
) -> TaskGraph:
    """Read a ``.mat`` file, or a folder in MLGNC's or PyG's raw layout, by what is in it.

    Args:
        path: The file or folder.
        name: Name of the dataset; by default that of the file or folder.
        split: See :func:`import_mat`; the splits of PyG's sets are fixed.
        keep_direction: Pass messages along directed edges from source to target only.
        seed: Seed of a drawn split.

    Raises:
        DatasetNotFoundError: If it is none of them.
        UsageError: If the split of a PyG set is to be another.
        DataError: If files are missing, damaged or do not fit together.
    """
    place = Path(path).expanduser()
    kind = kind_of(place)
    if kind is None:
        raise DatasetNotFoundError(
            "Expected a .mat file, a folder of MLGNC, or a raw folder of PyG's Yelp, "
            f"AmazonProducts or PPI. Found none of them at {place}."
        )
    if kind == "mat":
        return import_mat(place, name=name, split=split, keep_direction=keep_direction, seed=seed)
    if kind == "mlgnc":
        return import_mlgnc(place, name=name, split=split, seed=seed)
    if split != "auto":
        raise UsageError(
            f"The split of {place} is fixed; `split` should be auto. Found {split!r}. Take another "
            "one with graph.with_split."
        )
    if kind == "ppi":
        return import_ppi(place, name=name)
    return import_saint(place, name=name, keep_direction=keep_direction)


def kind_of(place: Path) -> str | None:
    """Return which reader a file or folder is for: ``mat``, ``mlgnc``, ``saint``, ``ppi``, none."""
    if place.is_file():
        return "mat" if place.suffix == ".mat" else None
    if not place.is_dir() or (place / "meta.json").is_file():
        return None
    tests: dict[str, Callable[[Path], bool]] = {
        "saint": is_saint_folder, "ppi": is_ppi_folder, "mlgnc": is_mlgnc_folder,
    }  # fmt: skip
    return next((kind for kind, test in tests.items() if test(place)), None)


def load_published(
    name: str,
    root: str | os.PathLike[str] | None = None,
    *,
    split: str = "auto",
    seed: int = 0,
    keep_direction: bool = False,
    download: bool = True,
) -> TaskGraph:
    """Return one of the sets of :data:`PUBLISHED`, fetching it if it is small and not here.

    Args:
        name: Such as ``"blogcatalog"`` or ``"yelp"``.
        root: Folder of datasets, looked at before the data folder; may be read-only.
        split: See :func:`import_mat`.
        seed: Seed of a drawn split.
        keep_direction: Pass messages along directed edges from source to target only.
        download: Fetch it if it is not here; ``GNN_MTL_NO_DOWNLOAD=1`` forbids it too.

    Raises:
        UsageError: If there is no such set.
        DatasetNotFoundError: If it is not here and cannot be fetched; the message says what to put
            where.
        DataError: If the files are damaged.
    """
    place = find_published(name, root) or fetch_published(name, root, download=download)
    return import_published(place, name=name, split=split, keep_direction=keep_direction, seed=seed)


def find_published(name: str, root: str | os.PathLike[str] | None = None) -> Path | None:
    """Return where a set lies in ``root`` or the data folder, if it does."""
    bases = ([] if root is None else [Path(root).expanduser()]) + [data_dir()]
    found = (_find(_known(name), base) for base in bases)
    return next((place for place in found if place is not None), None)


def fetch_published(
    name: str,
    root: str | os.PathLike[str] | None = None,
    *,
    download: bool = True,
    max_bytes: int | None = None,
) -> Path:
    """Make sure that a set is in ``root`` (by default the data folder) and return its place.

    Args:
        name: Name of the set.
        root: Folder of datasets.
        download: Fetch it if it is not here.
        max_bytes: Refuse a file that is larger; by default 64 MB, more than any of them has.

    Raises:
        UsageError: If there is no such set.
        DatasetNotFoundError: If it is not here and cannot be fetched; the message says what to put
            where.
        FileFormatError: If a file is not what its checksum says, too large, or a damaged archive.
        StorageError: If there is no room.
    """
    known = _known(name)
    base = data_dir() if root is None else Path(root).expanduser()
    if (found := _find(known, base)) is not None:
        return found
    if not known.sources or not download or is_offline():
        reason = "Downloads are switched off." if known.sources else "It cannot be fetched here."
        raise DatasetNotFoundError(_how_to_get(name, base, reason))
    staging = base / f".{name}.fetching"
    with locked(staging):
        if (found := _find(known, base)) is not None:
            return found
        limit = MOST_BYTES if max_bytes is None else max_bytes
        for source in known.sources:
            try:
                _fetch(source, staging / source.path, limit)
            except DatasetNotFoundError as error:
                raise DatasetNotFoundError(_how_to_get(name, base, str(error))) from error
        with writing(base):
            _settle(staging, base)
    return base / known.places[0]


def _known(name: str) -> Published:
    if name not in PUBLISHED:
        raise UsageError(f"Published sets are {', '.join(PUBLISHED)}. Found {name!r}.")
    return PUBLISHED[name]


def _find(known: Published, base: Path) -> Path | None:
    places = (base / place for place in known.places)
    return next((place for place in places if kind_of(place) is not None), None)


def _fetch(source: Source, target: Path, max_bytes: int) -> None:
    if source.members and (target.parent / "raw").is_dir():
        return
    fetch_file(source.url, target, max_bytes=max_bytes, sha256=source.sha256)
    if source.members:
        _unpack(target, source.members, target.parent / "raw")
        target.unlink()


def _settle(staging: Path, base: Path) -> None:
    """Move fetched files to where they belong; what is there already stays as it is."""
    for path in sorted(staging.rglob("*")):
        target = base / path.relative_to(staging)
        if path.is_file() and path.suffix != ".lock" and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
    shutil.rmtree(staging)


def _unpack(archive: Path, members: tuple[str, ...], folder: Path) -> None:
    """Take named files out of a zip, whichever folder in it they are in, all or none."""
    try:
        with zipfile.ZipFile(archive) as opened, scratch_folder(folder) as scratch:
            infos = {info.filename.rpartition("/")[2]: info for info in opened.infolist()}
            if missing := [member for member in members if member not in infos]:
                raise zipfile.BadZipFile(f"no {', '.join(missing)}")
            if sum(infos[member].file_size for member in members) > UNPACKED_BYTES:
                raise zipfile.BadZipFile(f"more than {UNPACKED_BYTES} bytes unpacked")
            inner = scratch / "content"
            inner.mkdir()
            for member in members:
                with opened.open(infos[member]) as source, (inner / member).open("xb") as file:
                    shutil.copyfileobj(source, file, BLOCK)
            inner.replace(folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        if isinstance(error, StorageError):
            raise
        raise FileFormatError(
            f"{archive} should be a whole zip archive with {len(members)} files of the dataset. "
            f"Found: {error}. Remove it and fetch it again."
        ) from error


def _how_to_get(name: str, base: Path, reason: str) -> str:
    known = PUBLISHED[name]
    steps = [known.by_hand.format(base=base)] if known.by_hand else []
    for source in known.sources:
        target = base / source.path
        steps.append(f"curl -fL --create-dirs -o {target} {source.url}")
        steps += [f"unzip {target} -d {target.parent / 'raw'}"] if source.members else []
    places = [base / place for place in known.places]
    size = f" No file has more than {MOST_BYTES / 1e6:.0f} MB." if known.sources else ""
    return (
        f"Expected {name} at {' or '.join(map(str, places))}, or under that name in {data_dir()}. "
        f"Found neither. {reason}{size} ({FOLDER_VARIABLE} names another place; "
        f"{OFFLINE_VARIABLE} is {'set' if is_offline() else 'not set'}.) By hand:\n  "
        + "\n  ".join(steps)
    )
