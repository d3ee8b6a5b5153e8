"""``verify``: every checksum and every invariant of a stored graph."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from gnn_mtl._core.errors import DataError
from gnn_mtl._core.files import sha256
from gnn_mtl.datasets._features import check_rows_finite
from gnn_mtl.datasets._folder import load_folder, read_meta
from gnn_mtl.datasets._npz import load_npz, pop_header, read_arrays
from gnn_mtl.datasets._registry import check_sum
from gnn_mtl.datasets._task_graph import TaskGraph
from gnn_mtl.graph import CSCGraph

EDGES_AT_ONCE = 1 << 20


def verify(path: str | os.PathLike[str]) -> list[str]:
    """Return what is wrong with a stored graph, one sentence each; an empty list means nothing.

    Checked are the checksums of all arrays or files (and of ``SHA256SUMS`` beside an ``.npz``), the
    order and range of the edges, features, labels, splits, and the content fingerprint. Reads
    everything once.

    Args:
        path: An ``.npz`` file, or a folder.

    Raises:
        FileNotFoundError: If there is nothing at ``path``.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"Expected a graph file or folder. Found nothing at {path}.")
    findings: list[str] = []
    try:
        if path.is_dir():
            header = read_meta(path)
            findings += _changed_files(path, header["sha256"])
            graph = load_folder(path, keep_direction=True)
        else:
            check_sum(path)
            header = pop_header(read_arrays(path, "header"), path)
            graph = load_npz(path, keep_direction=True)
        return findings + _broken_invariants(graph, header)
    except DataError as error:
        return [*findings, str(error)]


def _changed_files(folder: Path, sums: dict[str, str]) -> list[str]:
    files = {name: folder / f"{name}.npy" for name in sums}
    return [
        f"{file.name} should have the SHA-256 of meta.json. Found another content. Remove the "
        "folder and fetch, convert or build it again."
        for name, file in files.items()
        if file.is_file() and sha256(file) != sums[name]
    ]


def _broken_invariants(graph: TaskGraph, header: dict[str, Any]) -> list[str]:
    findings = _broken_edges(graph.csc)
    if findings:
        return findings
    if header["edges"] == "undirected" and not graph.csc.is_symmetric():
        findings.append("Undirected edges should be stored both ways. Found one-way edges.")
    if graph.x is not None and not sp.issparse(graph.x):
        try:
            check_rows_finite(graph.x)
        except DataError as error:
            findings.append(str(error))
    if "fingerprint" in header and graph.fingerprint() != header["fingerprint"]:
        findings.append("The content should have the fingerprint of the header. Found another one.")
    return findings


def _broken_edges(csc: CSCGraph) -> list[str]:
    """Return a finding if some node's sources do not ascend."""
    starts = np.zeros(csc.num_edges + 1, dtype=np.bool_)
    starts[csc.indptr] = True
    for first in range(1, csc.num_edges, EDGES_AT_ONCE):
        part = csc.indices[first - 1 : first + EDGES_AT_ONCE]
        falls = part[1:] < part[:-1]
        if (falls & ~starts[first : first + len(falls)]).any():
            return ["`indices` should ascend within each node. Found them out of order."]
    return []
