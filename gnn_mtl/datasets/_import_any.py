"""``import_any``: a graph from a file or folder of any layout that is known."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gnn_mtl._core.errors import UsageError
from gnn_mtl.datasets._import import import_npz
from gnn_mtl.datasets._ogb import import_ogb
from gnn_mtl.datasets._ogb_sets import is_ogb_folder
from gnn_mtl.datasets._published import import_published, kind_of
from gnn_mtl.datasets._registry import has_header, load_dataset
from gnn_mtl.datasets._snap import import_snap, is_snap
from gnn_mtl.datasets._task_graph import TaskGraph


def import_any(path: str | os.PathLike[str], **options: Any) -> TaskGraph:  # noqa: ANN401
    """Read a graph others published, or one of the project's own layouts.

    Args:
        path: A file or folder that :func:`load_dataset` recognises.
        **options: Those of the layout's reader: :func:`import_npz`, :func:`import_published`,
            :func:`import_snap` or :func:`import_ogb`; ``keep_direction`` for the project's own.

    Raises:
        UsageError: If the reader has no such option.
        DatasetNotFoundError: If there is nothing at ``path``.
        DataError: If the files are damaged.
    """
    reader = _reader(Path(path).expanduser())
    known = inspect.signature(reader).parameters
    unknown = [] if "options" in known else sorted(set(options) - set(known))
    if unknown:
        names = ", ".join(name for name, one in known.items() if one.kind is one.KEYWORD_ONLY)
        raise UsageError(
            f"Options for the layout of {os.fspath(path)} are {names}. Found {', '.join(unknown)}."
        )
    return reader(path, **options)


def _reader(path: Path) -> Callable[..., TaskGraph]:
    if not path.exists():
        return _load
    if is_snap(path):
        return import_snap
    if is_ogb_folder(path):
        return import_ogb
    if kind_of(path) is not None:
        return import_published
    return import_npz if path.suffix == ".npz" and not has_header(path) else _load


def _load(path: str | os.PathLike[str], *, keep_direction: bool = False) -> TaskGraph:
    return load_dataset(path, keep_direction=keep_direction, download=False)
