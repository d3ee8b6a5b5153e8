"""A graph as a folder of ``.npy`` files, opened as memory maps: for graphs that fill the memory.

``meta.json`` is the header of :mod:`gnn_mtl.datasets._layout` with the SHA-256 of every file; edges
are ``indptr.npy`` (int64), ``indices.npy`` (int32) and, with edge features, ``edge_ids.npy``.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import FileFormatError, StorageError, UsageError
from gnn_mtl._core.files import sha256
from gnn_mtl.datasets._build import both_ways
from gnn_mtl.datasets._layout import check_header, pack_graph, unpack_graph
from gnn_mtl.datasets._task_graph import TaskGraph
from gnn_mtl.graph import CSCGraph

META = "meta.json"


def save_folder(graph: TaskGraph, path: str | os.PathLike[str]) -> None:
    """Write a graph to a new folder; it appears whole or not at all.

    Raises:
        UsageError: If ``path`` exists and is not an empty folder.
        SealedLabelsError: If the graph is sealed.
        StorageError: If the disk is full or not writable; nothing half-written stays behind.
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UsageError(f"Expected a new folder to write to. {path} exists; remove it first.")
    header, arrays = pack_graph(graph, label_bits=True)
    csc = graph.csc
    arrays |= {"indptr": csc.indptr, "indices": csc.indices}
    if graph.edge_attr is not None and csc.edge_ids is not None:
        arrays |= {"edge_ids": csc.edge_ids, "edge_attr": graph.edge_attr}
    header["edges"] = "undirected" if csc.is_symmetric() else "directed"
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        for name, array in arrays.items():
            np.save(temporary / f"{name}.npy", array, allow_pickle=False)
        header["sha256"] = {name: sha256(temporary / f"{name}.npy") for name in sorted(arrays)}
        (temporary / META).write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")
        temporary.chmod(0o755)
        if path.exists():
            path.rmdir()
        temporary.rename(path)
    except OSError as error:
        raise StorageError(
            f"Expected to write {path}, but the system answered: {error.strerror or error}. "
            "Free space or choose another place; nothing half-written was left behind."
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def load_folder(
    path: str | os.PathLike[str], *, mmap: bool = True, keep_direction: bool = False
) -> TaskGraph:
    """Open a folder written by :func:`save_folder`.

    Sizes and shapes are checked, contents are not read: :func:`gnn_mtl.datasets.verify` does that.

    Args:
        path: The folder.
        mmap: Leave arrays on disk and read what is used; False reads them all.
        keep_direction: Pass messages along directed edges from source to target only; without it
            directed edges are made symmetric in memory.

    Raises:
        FileNotFoundError: If there is no such folder.
        FileFormatError: If files are missing, truncated, of a newer version or another layout.
    """
    path = Path(path)
    header = read_meta(path)
    arrays = {name: _open(path / f"{name}.npy", mmap=mmap) for name in header["sha256"]}
    try:
        csc = CSCGraph(arrays["indptr"], arrays["indices"], arrays.get("edge_ids"))
    except KeyError as error:
        raise FileFormatError(
            f"{path} lacks the array {error}. Fetch or build it again."
        ) from error
    if header["edges"] == "directed" and header["directed"] and not keep_direction:
        csc = both_ways(csc)
    return unpack_graph(header, arrays, csc, check_finite=False)


def read_meta(path: Path) -> dict[str, Any]:
    """Return the header of a folder."""
    try:
        header = json.loads((path / META).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if not path.exists():
            raise
        raise FileFormatError(
            f"{path} should hold {META}. Found none: it is not a graph folder of this project. "
            "Convert what others published with `gnn-mtl data import`."
        ) from error
    except ValueError as error:
        raise FileFormatError(f"{path / META} should be JSON. Found: {error}.") from error
    return check_header(header, str(path / META))


def _open(path: Path, *, mmap: bool) -> NDArray[Any]:
    try:
        return np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    except Exception as error:  # numpy lets through whatever damaged bytes do to its parsers
        raise FileFormatError(
            f"{path} should be a whole .npy file. Found: {error}. Fetch or build it again."
        ) from error
