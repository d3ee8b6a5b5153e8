"""One graph in one ``.npz``: numpy arrays, a JSON header with a SHA-256 for each, no pickle.

Beside the arrays of :mod:`gnn_mtl.datasets._layout` the file holds ``header`` (JSON text),
``num_nodes``, ``directed`` and ``edge_index`` int32 ``[2, E]``. The header says how edges are kept:
``"undirected"``, each once and passed both ways, or ``"directed"``, as they are.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import FileFormatError
from gnn_mtl._core.files import atomic_path
from gnn_mtl.datasets._build import both_ways, warn_unlearnable
from gnn_mtl.datasets._fingerprint import array_sha256
from gnn_mtl.datasets._layout import Arrays, check_header, pack_graph, unpack_graph
from gnn_mtl.datasets._task_graph import TaskGraph
from gnn_mtl.graph import CSCGraph


def save_npz(graph: TaskGraph, path: str | os.PathLike[str]) -> None:
    """Write a graph to one ``.npz`` file, atomically.

    The edges written are those messages pass on; a directed source that was made symmetric is
    written as undirected (load it with ``keep_direction=True`` to keep its directions).

    Raises:
        SealedLabelsError: If the graph is sealed.
        StorageError: If the disk is full or not writable; nothing half-written stays behind.
    """
    header, arrays = pack_graph(graph, label_bits=False)
    once = _each_edge_once(graph.csc)
    edges, ids = graph.csc.to_edge_index(), graph.csc.edge_ids
    if once is not None:
        edges = edges[:, once]
    header["edges"] = "directed" if once is None else "undirected"
    arrays["edge_index"] = edges.astype(np.int32)
    arrays["num_nodes"] = np.int64(graph.num_nodes)  # type: ignore[assignment]
    arrays["directed"] = np.bool_(once is None)  # type: ignore[assignment]
    if graph.edge_attr is not None and ids is not None:
        arrays["edge_attr"] = graph.edge_attr[ids if once is None else ids[once]]
    header["sha256"] = {name: array_sha256(np.asarray(arrays[name])) for name in sorted(arrays)}
    arrays["header"] = np.array(json.dumps(header))
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def load_npz(path: str | os.PathLike[str], *, keep_direction: bool = False) -> TaskGraph:
    """Read a graph written by :func:`save_npz`, checking every checksum.

    Args:
        path: The file.
        keep_direction: Pass messages along directed edges from source to target only.

    Raises:
        FileNotFoundError: If there is no such file.
        FileFormatError: If it is truncated, changed, of a newer version or another layout.

    Warns:
        LabelWarning: If tasks have no positive in training.
    """
    arrays = read_arrays(path)
    header = pop_header(arrays, path)
    found = {name: array_sha256(array) for name, array in arrays.items()}
    if changed := sorted(
        name for name in found | header["sha256"] if found.get(name) != header["sha256"].get(name)
    ):
        raise FileFormatError(
            f"{path} should hold the arrays its header has checksums for. Changed, missing or "
            f"added: {', '.join(changed)}. Fetch or build the file again."
        )
    csc = CSCGraph.from_edge_index(
        arrays["edge_index"], int(header["num_nodes"]), undirected=header["edges"] == "undirected",
        deduplicate=False, keep_edge_ids="edge_attr" in arrays,
    )  # fmt: skip
    if header["edges"] == "directed" and header["directed"] and not keep_direction:
        csc = both_ways(csc)
    graph = unpack_graph(header, arrays, csc)
    warn_unlearnable(graph)
    return graph


def read_arrays(path: str | os.PathLike[str], *names: str) -> Arrays:
    """Return the named arrays of an ``.npz`` file, or all.

    Raises:
        FileNotFoundError: If there is no such file.
        FileFormatError: If it is not one, is truncated, or holds pickled objects.
    """
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in names or archive.files}
    except FileNotFoundError:
        raise
    except Exception as error:  # numpy lets through whatever damaged bytes do to its parsers
        raise FileFormatError(
            f"{path} should be a whole .npz file without pickled objects. Found: {error}. "
            "Fetch or build it again."
        ) from error


def pop_header(arrays: Arrays, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Take the header out of the arrays of a file and check it.

    Raises:
        FileFormatError: If it is missing, no JSON, or of another layout.
    """
    if "header" not in arrays:
        raise FileFormatError(
            f"{path} should have a `header`. Found arrays {', '.join(sorted(arrays)[:8])}. "
            "Convert it with `gnn-mtl data import`."
        )
    try:
        header = json.loads(str(arrays.pop("header")))
    except ValueError as error:
        raise FileFormatError(f"The header of {path} should be JSON. Found: {error}.") from error
    return check_header(header, str(path))


def _each_edge_once(csc: CSCGraph) -> NDArray[np.bool_] | None:
    """Return which stored edges to write so that both directions come back; None if they differ."""
    if not csc.is_symmetric():
        return None
    source, target = csc.to_edge_index()
    once = source <= target
    if csc.edge_ids is not None:
        forward, backward = source < target, source > target
        first = csc.edge_ids[forward][np.lexsort((target[forward], source[forward]))]
        second = csc.edge_ids[backward][np.lexsort((source[backward], target[backward]))]
        if not np.array_equal(first, second):
            return None
    return once
