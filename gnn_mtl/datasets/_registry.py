"""``load_dataset``: a name or a path in, a ``TaskGraph`` out."""

from __future__ import annotations

import difflib
import inspect
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gnn_mtl._core.errors import DatasetNotFoundError, FileFormatError, UsageError
from gnn_mtl._core.files import sha256
from gnn_mtl.datasets._catalog import catalog
from gnn_mtl.datasets._communities import CommunityOptions
from gnn_mtl.datasets._folder import load_folder
from gnn_mtl.datasets._import import import_npz
from gnn_mtl.datasets._npz import load_npz
from gnn_mtl.datasets._ogb import import_ogb, load_ogb
from gnn_mtl.datasets._ogb_graph import OGBOptions
from gnn_mtl.datasets._ogb_sets import SETS, is_ogb_folder
from gnn_mtl.datasets._planted import planted
from gnn_mtl.datasets._published import (
    PublishedOptions,
    import_published,
    kind_of,
    load_published,
)
from gnn_mtl.datasets._published_sets import PUBLISHED
from gnn_mtl.datasets._snap import SNAP_SETS, import_snap, is_snap, load_snap
from gnn_mtl.datasets._task_graph import TaskGraph

DESCRIPTIONS = {name: entry.line() for name, entry in catalog().items()}


def load_dataset(
    name_or_path: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    *,
    keep_direction: bool = False,
    download: bool = True,
) -> TaskGraph:
    """Return a dataset by name, or a graph stored in a file or folder.

    Args:
        name_or_path: A name of :func:`list_datasets`; after a colon ``planted`` takes the arguments
            of :func:`planted`, and OGB's sets the options of :func:`load_ogb`
            (``ogbn-proteins:incident=mean,species=1``), SNAP's those of :func:`load_snap`
            (``snap-dblp:k=283,graph=full,min_members=20``), published sets a split and a seed
            (``blogcatalog:split=split1``); or a path: an ``.npz`` in the project's layout or of
            plain arrays (:func:`import_npz`), a ``.mat`` file, a folder in the project's layout,
            OGB's, SNAP's, MLGNC's, or of PyG's raw files (:func:`import_published`). What others
            published takes the same options behind its path (``data/com-mine:k=50``).
        root: Folder of datasets: ``root/NAME`` is looked at before what comes with the package.
        keep_direction: Pass messages along directed edges from source to target only.
        download: Fetch a dataset that is not here, up to 2 GB.

    Raises:
        DatasetNotFoundError: If there is neither such a name nor such a path (near names are
            given), or the dataset is not here and cannot be fetched (how to get it is said).
        FileFormatError: If a file is damaged or of another layout.
        UsageError: If an argument after the colon is unknown or malformed, or the dataset takes
            none.
    """
    text = os.fspath(name_or_path)
    name, _, arguments = text.partition(":")
    if name == "planted":
        return planted(**_parse_arguments(arguments, planted, name))
    stored = _locate(os.path.join(root, text)) if root is not None and name else None
    if stored is not None:
        path, arguments = stored
    elif name == "debian-tags":
        path = embedded_folder("debian-tags")
    elif name in SETS:
        options = {"keep_direction": keep_direction} | _parse_arguments(arguments, OGBOptions, name)
        return load_ogb(name, root, download=download, **options)
    elif name in SNAP_SETS:
        chosen = _parse_arguments(arguments, CommunityOptions, name)
        return load_snap(name, root, download=download, **chosen)
    elif name in PUBLISHED:
        chosen = _parse_arguments(arguments, PublishedOptions, name)
        return load_published(
            name, root, keep_direction=keep_direction, download=download, **chosen
        )
    else:
        path, arguments = _locate(text) or (Path(text).expanduser(), "")
    if text and is_snap(path):
        return import_snap(path, **_parse_arguments(arguments, CommunityOptions, str(path)))
    if text and is_ogb_folder(path):
        options = _parse_arguments(arguments, OGBOptions, str(path))
        return import_ogb(path, **{"keep_direction": keep_direction} | options)
    if text and kind_of(path) is not None:
        chosen = _parse_arguments(arguments, PublishedOptions, str(path))
        return import_published(path, keep_direction=keep_direction, **chosen)
    if arguments and path.exists():
        raise UsageError(
            f"{path} is read as it is, without arguments. Found {arguments!r} behind its name; "
            "leave that out."
        )
    if text and path.is_dir():
        single = path / f"{path.name}.npz"
        if not single.is_file():
            return load_folder(path, keep_direction=keep_direction)
        path = single
    if path.is_file():
        check_sum(path)
        read = load_npz if has_header(path) else import_npz
        return read(path, keep_direction=keep_direction)
    raise DatasetNotFoundError(_not_found(text))


def list_datasets() -> dict[str, str]:
    """Return the names :func:`load_dataset` knows, each with a line on what it is."""
    return dict(DESCRIPTIONS)


def embedded_folder(name: str) -> Path:
    """Return the folder of a dataset that comes with the package or lies in its repository."""
    package = Path(__file__).parents[1]
    for place in (package / "_data" / name, package.parent / "data" / name):
        if place.is_dir():
            return place
    raise DatasetNotFoundError(
        f"Expected {name} in {package / '_data'} or {package.parent / 'data'}. Found neither. "
        "Install gnn-mtl again, or pass the path of a copy."
    )


def has_header(path: Path) -> bool:
    """Return whether an ``.npz`` is in the project's layout; True if it cannot be looked into."""
    try:
        with zipfile.ZipFile(path) as archive:
            return "header.npy" in archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return True


def check_sum(path: Path) -> None:
    """Compare a file with the ``SHA256SUMS`` beside it, if there is one that names it."""
    sums = path.parent / "SHA256SUMS"
    if not sums.is_file():
        return
    for line in sums.read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        if name == path.name and digest != (found := sha256(path)):
            raise FileFormatError(
                f"{path} should have the SHA-256 {digest} of {sums}. Found {found}. "
                "Fetch or build the file again."
            )


def _locate(text: str) -> tuple[Path, str] | None:
    """Return what is there of PATH:ARGUMENTS; the path itself may hold colons."""
    head, _, arguments = text.rpartition(":")
    for place, rest in ((text, ""), (head, arguments)):
        if place and (path := Path(place).expanduser()).exists():
            return path, rest
    return None


def _not_found(text: str) -> str:
    near = difflib.get_close_matches(text, DESCRIPTIONS, n=2, cutoff=0.4)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return (
        f"Expected the name of a dataset ({', '.join(DESCRIPTIONS)}) or the path of an .npz file "
        f"or folder. Found {text!r}, which is neither.{hint}"
    )


def _parse_arguments(text: str, function: Callable[..., Any], whose: str) -> dict[str, Any]:
    """Read ``name=value,...`` as keyword arguments of a function; ``a/b`` is a pair of numbers."""
    known = inspect.signature(function).parameters
    parsed: dict[str, Any] = {}
    for item in filter(None, text.split(",")):
        name, equals, value = item.partition("=")
        if not equals or name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise UsageError(
                f"Arguments of {whose} are written name=value, names being {', '.join(known)}. "
                f"Found {item!r}.{hint}"
            )
        try:
            is_word = isinstance(known[name].default, str)
            parsed[name] = value if is_word else _parse_value(value)
        except ValueError as error:
            raise UsageError(f"`{name}` should be a number. Found {value!r}.") from error
    return parsed


def _parse_value(text: str) -> Any:  # noqa: ANN401
    if "/" in text:
        return tuple(float(part) for part in text.split("/"))
    value = float(text)
    return int(value) if value.is_integer() and "." not in text else value
