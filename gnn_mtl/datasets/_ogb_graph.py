"""From a raw OGB folder, as read, to a ``TaskGraph``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numba
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from gnn_mtl._core.errors import FileFormatError, LabelError, UsageError
from gnn_mtl.datasets._build import both_ways
from gnn_mtl.datasets._features import check_rows_finite
from gnn_mtl.datasets._ogb_sets import SETS, OGBInfo, RawGraph
from gnn_mtl.datasets._splits import make_split
from gnn_mtl.datasets._targets import TargetStore, make_targets, store_csr
from gnn_mtl.datasets._task_graph import TaskGraph
from gnn_mtl.graph import CSCGraph

EDGES_AT_ONCE = 1 << 21


@dataclass(frozen=True, kw_only=True)
class OGBOptions:
    """How to turn a set into a graph.

    Attributes:
        incident: Node features of a set that has none: sum or mean of the features of incident
            edges, or none.
        species: Whether to append ``node_species`` as one column a species.
        keep_direction: Whether messages pass from source to target only.
    """

    incident: Literal["sum", "mean", "none"] = "sum"
    species: bool = False
    keep_direction: bool = False

    def __post_init__(self) -> None:
        if self.incident not in ("sum", "mean", "none"):
            raise UsageError(f"`incident` should be sum, mean or none. Found {self.incident!r}.")

    def tag(self) -> str:
        """Return the options as part of a file name."""
        return "-".join(
            [
                self.incident,
                *(["species"] if self.species else []),
                *(["directed"] if self.keep_direction else []),
            ]
        )


def make_graph(raw: RawGraph, info: OGBInfo, options: OGBOptions) -> TaskGraph:
    """Return the graph of a raw folder; multi-class labels become one task a class.

    Raises:
        LabelError: If labels are not classes, or not 0, 1 and NaN.
        GraphError, SplitError, FeatureError: If edges, split or features do not fit.
        FileFormatError: If one of OGB's own sets lacks its features.
        UsageError: If species are asked for where there are none.
    """
    labels = _make_labels(raw, info)
    csc, directed = _make_csc(raw, info, options)
    extras: dict[str, Any] = dict(raw.extras)
    extras["ogb"] = {
        "name": info.name, "task_type": info.task_type, "eval_metric": info.eval_metric,
        "split": info.split, "options": options.tag(),
    }  # fmt: skip
    is_named = raw.label_names is not None and len(raw.label_names) == labels.num_tasks
    return TaskGraph(
        csc, labels, make_split(raw.split, raw.num_nodes, labels.num_tasks),
        x=_make_features(raw, info, options), edge_attr=raw.edge_feat,
        label_names=raw.label_names if is_named else None, name=info.name, directed=directed,
        extras=extras,
    )  # fmt: skip


def _make_labels(raw: RawGraph, info: OGBInfo) -> TargetStore:
    columns = raw.labels.shape[1]
    if info.num_tasks not in (0, columns):
        raise LabelError(
            f"{info.name} should have {info.num_tasks} label columns. Found {columns}."
        )
    if "classification" not in info.task_type:
        raise LabelError(
            f"Tasks are labels, 0 or 1, or classes. Found the task type {info.task_type!r} in "
            f"{info.name}. Turn its targets into classes."
        )
    if columns > 1 or info.num_classes == 2:
        return make_targets(raw.labels)
    y = np.asarray(raw.labels[:, 0], dtype=np.float64)
    known = ~np.isnan(y)
    classes = info.num_classes or int(np.nanmax(y, initial=0)) + 1
    if info.num_classes == 0 and classes <= 2:
        return make_targets(raw.labels)
    bad = known & ~((y >= 0) & (y < classes) & (y == np.floor(y)))
    if bad.any():
        node = int(np.flatnonzero(bad)[0])
        raise LabelError(
            f"Classes of {info.name} should be whole numbers in [0, {classes}), or NaN where "
            f"unknown. Found {y[node]} at node {node}."
        )
    nodes = np.flatnonzero(known)
    ones = np.ones(len(nodes), dtype=np.bool_)
    cells = (ones, (nodes, y[nodes].astype(np.int32)))
    return store_csr(sp.csr_matrix(cells, shape=(len(y), classes)), known)


def _make_csc(raw: RawGraph, info: OGBInfo, options: OGBOptions) -> tuple[CSCGraph, bool]:
    """Return the graph and whether the source was directed."""
    keep_ids = raw.edge_feat is not None

    def build(*, undirected: bool) -> CSCGraph:
        return CSCGraph.from_edge_chunks(
            lambda: ((pair[0], pair[1]) for pair, _ in _edge_chunks(raw)), raw.num_nodes,
            undirected=undirected, keep_edge_ids=keep_ids,
        )  # fmt: skip

    if info.add_inverse_edge:
        return build(undirected=True), False
    csc = build(undirected=False)
    if csc.is_symmetric():
        return csc, False
    if options.keep_direction:
        return csc, True
    return both_ways(csc) if keep_ids else build(undirected=True), True


def _edge_chunks(raw: RawGraph) -> Iterator[tuple[NDArray[np.int32], slice]]:
    """Yield (edges int32 ``[2, k]``, rows) over all stored edges."""
    for start in range(0, raw.edge_index.shape[1], EDGES_AT_ONCE):
        rows = slice(start, start + EDGES_AT_ONCE)
        yield np.array(raw.edge_index[:, rows], dtype=np.int32, order="C"), rows


def _make_features(raw: RawGraph, info: OGBInfo, options: OGBOptions) -> Any:  # noqa: ANN401
    x: Any = raw.node_feat
    if x is None and raw.edge_feat is None and info.name in SETS:
        raise FileFormatError(
            f"{info.name} should have features of nodes or edges. Found no node-feat and no "
            "edge-feat among its raw files. Fetch or copy the dataset again."
        )
    if x is None and raw.edge_feat is not None and options.incident != "none":
        x = incident_features(raw, info, mean=options.incident == "mean")
    if not options.species:
        return x
    species = raw.extras.get("node_species")
    if species is None:
        raise UsageError(
            f"species=True needs `node_species`. Found "
            f"{', '.join(sorted(raw.extras)) or 'no extra tables'} in {info.name}."
        )
    kinds = np.unique(species)
    one_hot = (np.asarray(species).reshape(-1, 1) == kinds).astype(np.float32)
    return one_hot if x is None else np.concatenate([np.asarray(x, np.float32), one_hot], axis=1)


def incident_features(raw: RawGraph, info: OGBInfo, *, mean: bool) -> NDArray[np.float32]:
    """Return the sum, or mean, of the features of each node's incoming edges, ``[N, D]``.

    Over OGB's edge list, in which an undirected edge comes in at both ends; summed in float64, 0
    for nodes without edges. OGB's example averages, most of the leaderboard sums.
    """
    features: Any = raw.edge_feat
    check_rows_finite(features, "edge")
    total = np.zeros((raw.num_nodes, features.shape[1]))
    count = np.zeros(raw.num_nodes, dtype=np.int64)
    add: Callable[..., None] = _add_rows
    for (source, target), rows in _edge_chunks(raw):
        values = np.array(features[rows], dtype=np.float32)
        add(target, values, total, count)
        if info.add_inverse_edge:
            add(source, values, total, count)
    if mean:
        total /= np.maximum(count, 1)[:, None]
    return total.astype(np.float32)


@numba.njit(cache=True, nogil=True)
def _add_rows(nodes, values, total, count):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for e in range(len(nodes)):
        count[nodes[e]] += 1
        for column in range(values.shape[1]):
            total[nodes[e], column] += values[e, column]
