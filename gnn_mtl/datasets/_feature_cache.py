"""Structural features kept on disk, found again by the content of what they were made from."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import StorageError
from gnn_mtl._core.files import atomic_path, sha256, write_json
from gnn_mtl.datasets._data_dir import data_dir, locked
from gnn_mtl.datasets._fingerprint import array_sha256
from gnn_mtl.datasets._structural import Method, chosen_method, code_version, structural_features
from gnn_mtl.datasets._task_graph import TaskGraph
from gnn_mtl.graph import CSCGraph

logger = logging.getLogger("gnn_mtl")

FOLDER = "features"


def cached_features(
    graph: TaskGraph | CSCGraph,
    *,
    dim: int = 128,
    method: Method = "auto",
    degrees: bool = True,
    standardise: bool = True,
    seed: int = 0,
) -> NDArray[np.float32]:
    """Return :func:`structural_features` of the same arguments, computed once and kept on disk.

    The file is named by a SHA-256 over the edges, every argument and the version of the method's
    code, so labels, splits and own features do not matter, and a changed method finds nothing old.
    Files lie in ``data_dir()/features`` (``GNN_MTL_DATA`` moves it): ``KEY.npy`` and, beside it,
    ``KEY.json`` with what it is made from and its SHA-256. A file that does not fit its JSON is
    computed anew. Several processes may ask at once: one computes, the others wait. Where the
    folder cannot be written, a warning is logged and the features are returned from memory.

    Returns:
        float32 ``[N, dim + 1]`` (``dim`` without degrees), mapped from the file copy-on-write:
        processes share its pages, and writing to the array does not change the file.

    Raises:
        UsageError: As :func:`structural_features`.
        MissingExtraError: If the method needs a package that is not installed.

    Cost: one pass over edges and file to check them, about a second for each gigabyte.
    """
    csc = graph.csc if isinstance(graph, TaskGraph) else graph
    method = chosen_method(csc, method)
    options = {"dim": dim, "method": method, "degrees": degrees, "standardise": standardise,
               "seed": seed}  # fmt: skip
    edges = {"indptr": array_sha256(csc.indptr), "indices": array_sha256(csc.indices)}
    made_from = {**edges, **options, "code": code_version(method)}
    key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
    file = data_dir() / FOLDER / f"{key}.npy"
    found = _read(file)
    if found is not None:
        return found
    features: NDArray[np.float32] | None = None
    try:
        with locked(file):
            found = _read(file)
            if found is not None:
                return found
            features = structural_features(csc, **options)  # type: ignore[arg-type]
            _write(file, features, made_from)
    except StorageError as error:
        if features is None:
            features = structural_features(csc, **options)  # type: ignore[arg-type]
        logger.warning("structural features are not kept: %s", error)
        return features
    found = _read(file)
    return features if found is None else found


def _write(file: Path, features: NDArray[np.float32], made_from: dict[str, Any]) -> None:
    """Write the array, then the JSON that vouches for it."""
    file.with_suffix(".json").unlink(missing_ok=True)
    with atomic_path(file) as temporary:
        np.save(temporary, features, allow_pickle=False)
        digest = sha256(temporary)
    described = {"format": "gnn-mtl/features", "version": 1, **made_from}
    size = file.stat().st_size
    write_json(file.with_suffix(".json"), {**described, "bytes": size, "sha256": digest})


def _read(file: Path) -> NDArray[np.float32] | None:
    """The features as a memory map; None if there are none or they are not what was written."""
    try:
        described = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
        whole = file.stat().st_size == described["bytes"] and sha256(file) == described["sha256"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        logger.warning("%s is damaged; its features are computed anew", file)
        return None
    return np.load(file, mmap_mode="c", allow_pickle=False).view(np.ndarray)
