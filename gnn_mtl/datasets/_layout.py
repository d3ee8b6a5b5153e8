"""The arrays a stored ``TaskGraph`` consists of, apart from its edges; shared by both file forms.

==========================  =====================================================================
array                       meaning
==========================  =====================================================================
``y_indptr, y_indices``     positives as lists: those of node v are ``y_indices[y_indptr[v]:...]``
``y_shape``                 ``[N, T]``
``y_bits``                  or: positives at one bit a cell, ``[N, ceil(T / 8)]``, little bit order
``labelled``                labelled nodes, bool ``[N]``; the others are unlabelled, not negative
``observed_bits``           or: known cells at one bit a cell
``x``                       features ``[N, F]``, or as CSR ``x_indptr, x_indices, x_data, x_shape``
``edge_attr``               features ``[E, D]``, one row a stored edge
``label_names``             one name a task
``split_train`` ...         node ids of ``train``, ``valid``, ``test``
``cells_train`` ...         or: cells of a split per (node, task), one bit a cell
``extra_*``                 arrays of ``extras``
==========================  =====================================================================
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from gnn_mtl._core.errors import FileFormatError, SealedLabelsError, ShapeError, UsageError
from gnn_mtl.datasets._bits import BitMatrix
from gnn_mtl.datasets._splits import SPLITS, NodeSplit, Split, TaskNodeSplit
from gnn_mtl.datasets._targets import BitTargets, TargetStore, positive_lists, store_csr
from gnn_mtl.datasets._task_graph import TaskGraph
from gnn_mtl.graph import CSCGraph

FORMAT = "gnn-mtl/graph"
FORMAT_VERSION = 1

Arrays = dict[str, NDArray[Any]]


def pack_graph(graph: TaskGraph, *, label_bits: bool) -> tuple[dict[str, Any], Arrays]:
    """Return the header and all arrays of a graph but its edges and edge features.

    Args:
        graph: An open graph.
        label_bits: Store positives as bits where the graph holds them so, else always as lists.

    Raises:
        SealedLabelsError: If the graph is sealed.
        UsageError: If ``extras`` hold what is neither an array of numbers or text nor plain JSON.
    """
    if graph.is_sealed:
        raise SealedLabelsError(
            f"Expected an open graph to write, found {graph.name} sealed for training. "
            "Save the graph that was sealed."
        )
    plain, arrays = _pack_extras(graph.extras)
    header = {
        "format": FORMAT, "version": FORMAT_VERSION, "name": graph.name,
        "num_nodes": graph.num_nodes, "num_tasks": graph.num_tasks, "directed": graph.directed,
        "split": graph.split_kind, "extras": plain, "fingerprint": graph.fingerprint(),
    }  # fmt: skip
    arrays["label_names"] = np.array(graph.label_names, dtype=np.str_)
    _pack_labels(graph._labels, arrays, label_bits)
    for name in SPLITS:
        split = graph._split
        if isinstance(split, TaskNodeSplit):
            arrays[f"cells_{name}"] = split.cells(name).packed(slice(None))
        else:
            arrays[f"split_{name}"] = split.nodes(name).astype(np.int32)
    x: Any = graph.x
    if sp.issparse(x):
        arrays |= {
            "x_indptr": x.indptr.astype(np.int64), "x_indices": x.indices.astype(np.int32),
            "x_data": x.data, "x_shape": np.array(x.shape),
        }  # fmt: skip
    elif x is not None:
        arrays["x"] = x
    return header, arrays


def unpack_graph(
    header: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    csc: CSCGraph,
    *,
    check_finite: bool = True,
) -> TaskGraph:
    """Return the graph of a file whose edges are ready.

    Raises:
        FileFormatError: If an array is missing or does not fit the others.
    """
    nodes, tasks = int(header["num_nodes"]), int(header["num_tasks"])
    try:
        split = _unpack_split(header["split"], arrays, nodes, tasks)
        return TaskGraph(
            csc, _unpack_labels(arrays, nodes, tasks), split,
            x=unpack_features(arrays, nodes), edge_attr=arrays.get("edge_attr"),
            label_names=arrays["label_names"].tolist(), name=header["name"],
            directed=header["directed"], extras=_unpack_extras(header, arrays),
            check_finite=check_finite,
        )  # fmt: skip
    except (KeyError, ShapeError) as error:
        raise FileFormatError(
            f"The arrays of {header['name']} should fit together. Found: {error}. Build it again."
        ) from error


def unpack_features(arrays: Mapping[str, NDArray[Any]], num_nodes: int) -> Any:  # noqa: ANN401
    """Return ``x`` of a file: an array, a CSR matrix, or None."""
    if "x_indptr" not in arrays:
        return arrays.get("x")
    shape = tuple(int(size) for size in arrays["x_shape"])
    check_lists("x", arrays["x_indptr"], arrays["x_indices"], num_nodes, shape[1])
    return sp.csr_matrix(
        (arrays["x_data"], arrays["x_indices"], arrays["x_indptr"]), shape=shape, dtype=np.float32
    )


def check_lists(
    name: str, indptr: NDArray[Any], indices: NDArray[Any], num_rows: int, num_columns: int
) -> None:
    """Raise a FileFormatError unless (indptr, indices) are lists of column ids, one a row."""
    good = (
        indptr.shape == (num_rows + 1,)
        and indices.ndim == 1
        and int(indptr[0]) == 0
        and int(indptr[-1]) == len(indices)
        and bool((np.diff(indptr) >= 0).all())
        and (len(indices) == 0 or (int(indices.min()) >= 0 and int(indices.max()) < num_columns))
    )
    if not good:
        raise FileFormatError(
            f"`{name}_indptr` and `{name}_indices` should hold {num_rows} lists of ids in "
            f"[0, {num_columns}). Found shapes {indptr.shape} and {indices.shape} that do not fit."
        )


def check_header(header: Any, where: str) -> dict[str, Any]:  # noqa: ANN401
    """Return a header after checking format, version and keys.

    Raises:
        FileFormatError: If it is of another format or a newer version, or a key is missing.
    """
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise FileFormatError(
            f"{where} should hold a graph in the layout {FORMAT!r}. Found another header. "
            "Convert it with `gnn-mtl data import`."
        )
    if not isinstance(header.get("version"), int) or header["version"] > FORMAT_VERSION:
        raise FileFormatError(
            f"{where} should be of version {FORMAT_VERSION} or older. "
            f"Found {header.get('version')!r}. Update gnn-mtl."
        )
    needed = {"name", "num_nodes", "num_tasks", "directed", "edges", "split", "extras", "sha256"}
    if missing := sorted(needed - set(header)):
        raise FileFormatError(f"The header of {where} lacks {', '.join(missing)}.")
    if not isinstance(header["sha256"], dict) or not isinstance(header["extras"], dict):
        raise FileFormatError(f"`sha256` and `extras` in the header of {where} should be mappings.")
    return header


def _unpack_labels(
    arrays: Mapping[str, NDArray[Any]], num_nodes: int, num_tasks: int
) -> TargetStore:
    observed: NDArray[np.bool_] | BitMatrix
    if "observed_bits" in arrays:
        observed = BitMatrix(arrays["observed_bits"], num_tasks)
    else:
        observed = np.asarray(arrays["labelled"])
        if observed.dtype != np.bool_ or observed.shape != (num_nodes,):
            raise FileFormatError(
                f"`labelled` should be bool ({num_nodes},). Found {observed.shape}."
            )
    if "y_bits" in arrays:
        return BitTargets(BitMatrix(arrays["y_bits"], num_tasks), observed)
    indptr, indices = arrays["y_indptr"].astype(np.int64), arrays["y_indices"].astype(np.int32)
    check_lists("y", indptr, indices, num_nodes, num_tasks)
    ones = np.ones(len(indices), dtype=np.bool_)
    return store_csr(sp.csr_matrix((ones, indices, indptr), shape=(num_nodes, num_tasks)), observed)


def _unpack_split(
    kind: str, arrays: Mapping[str, NDArray[Any]], num_nodes: int, num_tasks: int
) -> Split:
    if kind == "task":
        return TaskNodeSplit(*(BitMatrix(arrays[f"cells_{name}"], num_tasks) for name in SPLITS))
    return NodeSplit(*(arrays[f"split_{name}"] for name in SPLITS), num_nodes=num_nodes)


def _unpack_extras(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    found = dict(header["extras"])
    return found | {name[6:]: arrays[name] for name in arrays if name.startswith("extra_")}


def _pack_labels(labels: TargetStore, arrays: Arrays, label_bits: bool) -> None:
    if label_bits and isinstance(labels, BitTargets):
        arrays["y_bits"] = labels.positive.packed(slice(None))
    else:
        indptr, tasks = positive_lists(labels)
        small = np.int16 if labels.num_tasks < 2**15 else np.int32
        arrays |= {"y_indptr": indptr, "y_indices": tasks.astype(small)}
        arrays["y_shape"] = np.array([labels.num_nodes, labels.num_tasks], dtype=np.int64)
    if isinstance(labels.observed, BitMatrix):
        arrays["observed_bits"] = labels.observed.packed(slice(None))
    else:
        arrays["labelled"] = labels.observed


def _pack_extras(extras: Mapping[str, Any]) -> tuple[dict[str, Any], Arrays]:
    plain: dict[str, Any] = {}
    arrays: Arrays = {}
    for name, value in extras.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufU":
            arrays[f"extra_{name}"] = value
            continue
        try:
            plain[name] = json.loads(json.dumps(value))
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"`extras` should hold arrays of numbers or text, or plain JSON values. "
                f"Found {type(value).__name__} under {name!r}. Convert or drop it."
            ) from error
    return plain, arrays
