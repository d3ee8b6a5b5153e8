"""``describe``: what a dataset looks like, in numbers."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from gnn_mtl.datasets._bits import BitMatrix, row_slices
from gnn_mtl.datasets._fingerprint import array_sha256
from gnn_mtl.datasets._splits import SPLITS
from gnn_mtl.datasets._targets import positive_lists
from gnn_mtl.datasets._task_graph import TaskGraph


def describe(graph: TaskGraph) -> dict[str, Any]:
    """Return statistics of a graph as plain JSON values.

    Counts of labels are over observed cells of all splits, so this needs an open graph.

    Returns:
        A flat mapping. ``edges`` are undirected pairs, or directed edges where messages have a
        direction; ``cells_observed`` is the share of all (node, task) cells; ``positives_*`` are
        per task; ``labels_per_node`` is a mean over labelled nodes, ``nodes_with_two`` the share
        of them with two labels or more; ``duplicate_labels`` counts columns equal to an earlier
        one; ``homophily`` is the mean Jaccard similarity of label sets over edges whose ends both
        have a label, None without such edges (Zhao et al., TMLR 2023).

    Raises:
        SealedLabelsError: If the graph is sealed.
    """
    graph._refuse_sealed("describe its labels")
    csc = graph.csc
    degrees = csc.degrees
    loops = int((csc.indices == np.repeat(np.arange(csc.num_nodes), degrees)).sum())
    symmetric = csc.is_symmetric()
    indptr, tasks = positive_lists(graph._labels)
    positives = np.bincount(tasks, minlength=graph.num_tasks)
    observed, columns = _column_facts(graph, indptr, tasks)
    labelled = graph.labelled()
    per_node = np.diff(indptr)[labelled]
    training = graph.positives("train")
    neighbours = np.zeros(csc.num_nodes, dtype=np.int64)
    _count_others(csc.indptr, csc.indices, neighbours)
    return {
        "name": graph.name,
        "nodes": graph.num_nodes,
        "edges": (csc.num_edges + loops) // 2 if symmetric else csc.num_edges,
        "directed": graph.directed,
        "messages": "symmetric" if symmetric else "directed",
        "self_loops": loops,
        "isolated": int((neighbours == 0).sum()),
        "degree_mean": round(float(degrees.mean()), 3) if len(degrees) else 0.0,
        "degree_median": float(np.median(degrees)) if len(degrees) else 0.0,
        "degree_max": int(degrees.max(initial=0)),
        "features": graph.num_features,
        "features_kind": _features_kind(graph.x),
        "edge_features": 0 if graph.edge_attr is None else int(graph.edge_attr.shape[1]),
        "tasks": graph.num_tasks,
        "labelled_nodes": int(labelled.sum()),
        "cells_observed": round(float(observed.sum()) / (graph.num_nodes * graph.num_tasks), 4),
        "positives_min": int(positives.min()),
        "positives_median": float(np.median(positives)),
        "positives_max": int(positives.max()),
        "labels_per_node": round(float(per_node.mean()), 3),
        "nodes_with_two": round(float((per_node >= 2).mean()), 4),
        "duplicate_labels": graph.num_tasks - len(set(columns)),
        "one_class_labels": int(((positives == 0) | (positives == observed)).sum()),
        "homophily": _homophily(graph, indptr, tasks),
        "split": graph.split_kind,
        "split_sizes": {name: len(graph.split_idx[name]) for name in SPLITS},
        "no_positive_in_training": int((training == 0).sum()),
    }


def _column_facts(
    graph: TaskGraph, indptr: NDArray[np.int64], tasks: NDArray[np.int32]
) -> tuple[NDArray[np.int64], list[str]]:
    """Return observed cells of each task, and a digest of each label column."""
    shape = (graph.num_nodes, graph.num_tasks)
    columns = sp.csr_matrix(
        (np.ones(len(tasks), dtype=np.bool_), tasks, indptr), shape=shape
    ).tocsc()
    observed = np.zeros(graph.num_tasks, dtype=np.int64)
    cells = graph._labels.observed
    if isinstance(cells, BitMatrix):
        for rows in row_slices(*shape):
            observed += cells.gather(rows).sum(axis=0)
    else:
        observed += int(cells.sum())
    digests = [
        array_sha256(columns.indices[columns.indptr[t] : columns.indptr[t + 1]].astype(np.int64))
        for t in range(graph.num_tasks)
    ]
    return observed, digests


def _features_kind(x: Any) -> str:  # noqa: ANN401
    if x is None:
        return "none"
    if sp.issparse(x):
        return "sparse"
    return "memory map" if isinstance(x, np.memmap) else "dense"


def _homophily(
    graph: TaskGraph, indptr: NDArray[np.int64], tasks: NDArray[np.int32]
) -> float | None:
    total, edges = _jaccard(graph.csc.indptr, graph.csc.indices, indptr, tasks)
    return round(total / edges, 4) if edges else None


@numba.njit(cache=True, nogil=True)
def _count_others(indptr, indices, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Count the edges of each node, in or out, that lead to another node."""
    for v in range(len(indptr) - 1):
        for e in range(indptr[v], indptr[v + 1]):
            if indices[e] != v:
                out[v] += 1
                out[indices[e]] += 1


@numba.njit(cache=True, nogil=True)
def _jaccard(indptr, indices, y_indptr, tasks):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Sum the Jaccard similarity of sorted label lists over edges between two labelled nodes."""
    total = 0.0
    edges = 0
    for v in range(len(indptr) - 1):
        if y_indptr[v] == y_indptr[v + 1]:
            continue
        for e in range(indptr[v], indptr[v + 1]):
            u = indices[e]
            if u == v or y_indptr[u] == y_indptr[u + 1]:
                continue
            i, j = y_indptr[v], y_indptr[u]
            shared = 0
            while i < y_indptr[v + 1] and j < y_indptr[u + 1]:
                if tasks[i] == tasks[j]:
                    shared += 1
                    i += 1
                    j += 1
                elif tasks[i] < tasks[j]:
                    i += 1
                else:
                    j += 1
            union = y_indptr[v + 1] - y_indptr[v] + y_indptr[u + 1] - y_indptr[u] - shared
            total += shared / union
            edges += 1
    return total, edges
