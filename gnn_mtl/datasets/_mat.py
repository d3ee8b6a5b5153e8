"""``import_mat``: MATLAB files of BlogCatalog, PPI, POS: ``network [N, N]`` and ``group [N, T]``.

Read here: ``blogcatalog.mat`` of phanein/deepwalk @6e6dff24, equal to that of Tianqi-py/MLGNC
@e7f609fb. ``Homo_sapiens.mat`` and ``POS.mat`` of node2vec have the same two variables, as known
from codes that read them; the weights of POS become edge features.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from gnn_mtl._core.errors import DataError, FileFormatError, GraphError, LabelError
from gnn_mtl.datasets._build import both_ways, build_graph
from gnn_mtl.datasets._mat5 import Matrix, read_matrices
from gnn_mtl.datasets._mlgnc import choose_split, find_splits
from gnn_mtl.datasets._targets import make_targets
from gnn_mtl.datasets._task_graph import TaskGraph
from gnn_mtl.graph import CSCGraph

VARIABLES = ("network", "group")


def import_mat(
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    split: str = "auto",
    zero_rows: Literal["unlabelled", "negative"] = "unlabelled",
    keep_direction: bool = False,
    seed: int = 0,
) -> TaskGraph:
    """Read a graph from a MATLAB file (version 5 to 7) with ``network`` and ``group``.

    Self-loops are dropped, as in published counts of these graphs. Entry ``[u, v]`` of the network
    is the edge from u to v; a symmetric network is undirected. Entries other than 1 are kept as
    edge features ``[E, 1]``. Isolated nodes stay.

    Args:
        path: The ``.mat`` file.
        name: Name of the dataset; the file's by default.
        split: ``"auto"``: the first of the published splits in ``NAME_0.6`` beside the file (as in
            the MLGNC repository), else a random one; ``"random"``; ``"task"`` for one per (node,
            task); or the name of a published one, such as ``"split1"``.
        zero_rows: Whether a node without any label is unlabelled or negative for every label.
        keep_direction: Pass messages along directed edges from source to target only.
        seed: Seed of a drawn split.

    Raises:
        FileNotFoundError: If there is no such file.
        FileFormatError: If it is damaged, of MATLAB's version 7.3, or holds other variables or
            numbers that are not finite.
        GraphError: If the network is not square.
        FeatureError: If a weight is too large for float32.
        LabelError: If labels are not 0 and 1 or do not fit the network.
        SplitError: If there is no published split of that name.

    Warns:
        LabelWarning: If tasks have no positive in training.
    """
    path = Path(path).expanduser()
    network, group = _read(path)
    known = np.diff(group.indptr) > 0
    if zero_rows == "negative":
        known[:] = True
    csc, weights, directed = _edges(network, keep_direction)
    return build_graph(
        csc, make_targets(group, observed=known),
        split=choose_split(split, find_splits(path.with_suffix(""))), edge_attr=weights,
        name=name or path.stem, directed=directed, seed=seed,
    )  # fmt: skip


def _read(path: Path) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Return ``network`` and ``group`` as sparse matrices without stored zeros."""
    try:
        found = read_matrices(path, VARIABLES)
        if missing := [name for name in VARIABLES if name not in found]:
            raise ValueError(f"no {' and no '.join(missing)}")
        network, group = (found[name] for name in VARIABLES)
        nodes = network.shape[0]
        if network.shape != (nodes, nodes):
            raise GraphError(f"`network` in {path} should be square. Found {network.shape}.")
        if group.shape[0] != nodes or group.shape[1] == 0:
            raise LabelError(
                f"`group` in {path} should have a row for each of the {nodes} nodes and a column a "
                f"label. Found {group.shape}."
            )
        return _as_csr(network, "network"), _as_csr(group, "group")
    except (FileNotFoundError, DataError):
        raise
    except (ValueError, IndexError, OverflowError, OSError, MemoryError, zlib.error) as error:
        raise FileFormatError(
            f"{path} should be a whole MATLAB file (version 5 to 7) with the matrices `network` "
            f"and `group`. Found: {error or type(error).__name__}. Fetch or copy it again."
        ) from error


def _as_csr(matrix: Matrix, name: str) -> sp.csr_matrix:
    rows = sp.csr_matrix(matrix)
    rows.sum_duplicates()
    rows.eliminate_zeros()
    if not np.isfinite(rows.data).all():
        raise ValueError(f"NaN or infinity in {name}")
    return rows


def _edges(
    network: sp.csr_matrix, keep_direction: bool
) -> tuple[CSCGraph, NDArray[np.float32] | None, bool]:
    """Return the graph, its weights if they are not all 1, and whether it has directions."""
    is_even = (network != network.T).nnz == 0
    entries = sp.coo_matrix(sp.triu(network, 1) if is_even else network)
    proper = entries.row != entries.col
    edges = np.stack([entries.row[proper], entries.col[proper]])
    weights = entries.data[proper]
    is_weighted = bool((weights != 1).any())
    csc = CSCGraph.from_edge_index(
        edges, network.shape[0], undirected=is_even, keep_edge_ids=is_weighted
    )
    is_directed = not csc.is_symmetric()
    if is_directed and not keep_direction:
        csc = both_ways(csc)
    with np.errstate(over="ignore"):
        features = weights[:, None].astype(np.float32) if is_weighted else None
    return csc, features, is_directed
