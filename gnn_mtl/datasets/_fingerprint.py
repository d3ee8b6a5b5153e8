"""The content hash of a ``TaskGraph``, the same however its arrays are stored."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from gnn_mtl.datasets._bits import BitMatrix
from gnn_mtl.datasets._splits import SPLITS, TaskNodeSplit
from gnn_mtl.datasets._targets import per_node, positive_lists

if TYPE_CHECKING:
    from gnn_mtl.datasets._task_graph import TaskGraph

BYTES_AT_ONCE = 1 << 26


def fingerprint(graph: TaskGraph) -> str:
    """Return a SHA-256 over edges, features, observed labels, splits and names."""
    digest = hashlib.sha256(b"gnn-mtl/task-graph/1")
    parts: dict[str, Any] = {"indptr": graph.csc.indptr, "indices": graph.csc.indices}
    x: Any = graph.x
    if sp.issparse(x):
        parts |= {"x_indptr": x.indptr.astype(np.int64), "x_data": x.data}
        parts["x_indices"] = x.indices.astype(np.int64)
    else:
        parts["x"] = np.zeros(0) if x is None else x
    if graph.edge_attr is not None and graph.csc.edge_ids is not None:
        parts["edge_attr"] = _Rows(graph.edge_attr, graph.csc.edge_ids)
    parts["y_indptr"], parts["y_indices"] = positive_lists(graph._labels)
    observed = graph._labels.observed
    parts["observed"] = per_node(observed) if isinstance(observed, BitMatrix) else observed
    for name in SPLITS:
        split = graph._split
        parts[name] = split.cells(name) if isinstance(split, TaskNodeSplit) else split.nodes(name)
    parts["label_names"] = np.frombuffer("\n".join(graph.label_names).encode(), dtype=np.uint8)
    for name, value in parts.items():
        digest.update(f"{name}:{array_sha256(value)};".encode())
    return digest.hexdigest()


class _Rows:
    """Rows of an array in some order, gathered only as they are read."""

    def __init__(self, values: NDArray[np.generic], ids: NDArray[np.integer]) -> None:
        self._values, self._ids = values, ids
        self.dtype, self.ndim = values.dtype, values.ndim
        self.shape = (len(ids), *values.shape[1:])
        self.size = int(np.prod(self.shape))

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, rows: slice) -> NDArray[np.generic]:
        return self._values[self._ids[rows]]

    def tobytes(self) -> bytes:
        return self[:].tobytes()


def array_sha256(value: NDArray[np.generic] | BitMatrix | _Rows) -> str:
    """Return the SHA-256 of dtype, shape and values, read in blocks."""
    if isinstance(value, BitMatrix):
        digest = hashlib.sha256(f"bits{(value.num_rows, value.num_columns)}".encode())
        for rows in value.row_slices():
            digest.update(np.ascontiguousarray(value.packed(rows)).data)
        return digest.hexdigest()
    digest = hashlib.sha256(f"{value.dtype.str}{value.shape}".encode())
    if value.ndim == 0 or value.size == 0:
        digest.update(value.tobytes())
        return digest.hexdigest()
    step = max(1, BYTES_AT_ONCE // max(value[:1].nbytes, 1))
    for start in range(0, len(value), step):
        digest.update(np.ascontiguousarray(value[start : start + step]).view(np.uint8).data)
    return digest.hexdigest()
