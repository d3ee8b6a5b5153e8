"""``load_dataset``: a name or a path in, a ``TaskGraph`` out."""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gnn_mtl._core.errors import DatasetNotFoundError, FileFormatError, UsageError
from gnn_mtl._core.files import sha256
from gnn_mtl.datasets._folder import load_folder
from gnn_mtl.datasets._npz import load_npz
from gnn_mtl.datasets._ogb import import_ogb, load_ogb, ogb_names
from gnn_mtl.datasets._ogb_graph import OGBOptions
from gnn_mtl.datasets._ogb_sets import SETS, is_ogb_folder
from gnn_mtl.datasets._planted import planted
from gnn_mtl.datasets._task_graph import TaskGraph

DESCRIPTIONS = {
    "debian-tags": "Debian packages, dependency links, 66 debtags; comes with gnn-mtl",
    "planted": "generated; arguments after a colon, e.g. planted:num_nodes=5000,seed=1",
    **ogb_names(),
}


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
            (``ogbn-proteins:incident=mean,species=1``); or the path of an ``.npz`` file, a folder
            in the project's layout or one in OGB's.
        root: Folder of datasets: ``root/NAME`` is looked at before what comes with the package.
        keep_direction: Pass messages along directed edges from source to target only.
        download: Fetch a dataset that is not here, up to 2 GB.

    Raises:
        DatasetNotFoundError: If there is neither such a name nor such a path (near names are
            given), or the dataset is not here and cannot be fetched (how to get it is said).
        FileFormatError: If a file is damaged or of another layout.
        UsageError: If an argument after the colon is unknown or malformed.
    """
    text = os.fspath(name_or_path)
    name, _, arguments = text.partition(":")
    if name == "planted":
        return planted(**_parse_arguments(arguments, planted, name))
    path = Path(text).expanduser()
    if root is not None and (Path(root).expanduser() / name).exists():
        path = Path(root).expanduser() / name
    elif name == "debian-tags":
        path = _embedded("debian-tags")
    elif name in SETS:
        options = {"keep_direction": keep_direction} | _parse_arguments(arguments, OGBOptions, name)
        return load_ogb(name, root, download=download, **options)
    if text and is_ogb_folder(path):
        return import_ogb(path, keep_direction=keep_direction)
    if text and path.is_dir():
        single = path / f"{path.name}.npz"
        if not single.is_file():
            return load_folder(path, keep_direction=keep_direction)
        path = single
    if path.is_file():
        check_sum(path)
        return load_npz(path, keep_direction=keep_direction)
    raise DatasetNotFoundError(_not_found(text))


def list_datasets() -> dict[str, str]:
    """Return the names :func:`load_dataset` knows, each with a line on what it is."""
    return dict(DESCRIPTIONS)


def _embedded(name: str) -> Path:
    """Return the folder of a dataset that comes with the package or lies in its repository."""
    package = Path(__file__).parents[1]
    for place in (package / "_data" / name, package.parent / "data" / name):
        if place.is_dir():
            return place
    raise DatasetNotFoundError(
        f"Expected {name} in {package / '_data'} or {package.parent / 'data'}. Found neither. "
        "Install gnn-mtl again, or pass the path of a copy."
    )


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
