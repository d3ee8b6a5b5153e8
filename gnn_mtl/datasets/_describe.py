"""``describe`` and ``distributions``: what a dataset looks like, in numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from gnn_mtl._core.progress import Progress
from gnn_mtl.datasets._bits import BitMatrix, row_slices
from gnn_mtl.datasets._fingerprint import array_sha256
from gnn_mtl.datasets._homophily import homophily, homophily_by_chance
from gnn_mtl.datasets._label_correlation import correlation_facts
from gnn_mtl.datasets._overlap import SampleOverlap, sample_overlap
from gnn_mtl.datasets._splits import SPLITS
from gnn_mtl.datasets._targets import positive_lists
from gnn_mtl.datasets._task_graph import TaskGraph

STEPS = 6


def describe(graph: TaskGraph, *, overlap: SampleOverlap | None = None) -> dict[str, Any]:
    """Return statistics of a graph as plain JSON values.

    Counts of labels are over observed cells of all splits, so this needs an open graph.

    Args:
        graph: The graph.
        overlap: What :func:`sample_overlap` said of it, if that is known already.

    Returns:
        A mapping. ``edges`` are undirected pairs, or directed edges where messages have a
        direction; ``cells_observed`` is the share of all (node, task) cells; ``positives_*`` are
        per task; ``labels_per_node`` is a mean over labelled nodes, ``nodes_with_two`` the share
        of them with two labels or more; ``homophily`` is the mean Jaccard similarity of label sets
        over edges whose ends both have a label, None without such edges (Zhao et al., TMLR 2023),
        ``homophily_random`` the same over random pairs of nodes; ``duplicates`` are pairs of names
        of labels with the same positives, the first occurrence first, and ``duplicate_labels``
        their number; ``closest_labels`` are ``[name, name, Jaccard]`` of training positives;
        ``overlap`` holds the range of :class:`SampleOverlap`'s measures over pairs of tasks and
        the share of pairs with each flag, None for a single task; ``label_correlation`` is of
        :func:`correlation_facts`.

    Raises:
        SealedLabelsError: If the graph is sealed.

    Note:
        Seconds for a million nodes; memory is that of the graph's reverse, the lists of positives
        and a few matrices ``[T, T]``.
    """
    graph._refuse_sealed("describe its labels")
    csc = graph.csc
    with Progress(f"describing {graph.name}", STEPS) as progress:
        degrees = csc.degrees
        neighbours = np.zeros(csc.num_nodes, dtype=np.int64)
        loops = int(_count_others(csc.indptr, csc.indices, neighbours))
        symmetric = csc.is_symmetric()
        progress.advance(note="labels")
        indptr, tasks = positive_lists(graph._labels)
        positives = np.bincount(tasks, minlength=graph.num_tasks)
        observed, digests = _column_facts(graph, indptr, tasks)
        copies = _copies(digests)
        progress.advance(note="homophily")
        along_edges = homophily(csc, indptr, tasks)
        by_chance = homophily_by_chance(indptr, tasks)
        progress.advance(note="splits")
        labelled = graph.labelled()
        per_node = np.diff(indptr)[labelled]
        training = graph.positives("train")
        progress.advance(note="overlap")
        shared = sample_overlap(graph) if overlap is None else overlap
        progress.advance(note="correlation of labels")
        correlation = correlation_facts(graph)
        progress.advance()
    names = graph.label_names
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
        "duplicate_labels": len(copies),
        "duplicates": [[names[first], names[copy]] for first, copy in copies],
        "one_class_labels": int(((positives == 0) | (positives == observed)).sum()),
        "homophily": along_edges,
        "homophily_random": by_chance,
        "split": graph.split_kind,
        "split_sizes": {name: len(graph.split_idx[name]) for name in SPLITS},
        "no_positive_in_training": int((training == 0).sum()),
        "overlap": _overlap_facts(shared),
        "closest_labels": [[names[i], names[j], round(share, 4)]
                           for i, j, share in shared.closest()],
        "label_correlation": correlation,
    }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Distributions:
    """Counts to draw a dataset from.

    Attributes:
        positives: Observed positives of each task in each split, int64 ``[T]``.
        labels_per_node: Labelled nodes with 0, 1, 2 ... positives.
        degrees: Nodes with 0, 1, 2 ... stored in-edges.
    """

    positives: dict[str, NDArray[np.int64]]
    labels_per_node: NDArray[np.int64]
    degrees: NDArray[np.int64]


def distributions(graph: TaskGraph) -> Distributions:
    """Count positives of labels, labels of nodes and degrees.

    Raises:
        SealedLabelsError: If the graph is sealed.
    """
    graph._refuse_sealed("describe its labels")
    indptr, _ = positive_lists(graph._labels)
    return Distributions(
        positives={name: graph.positives(name) for name in SPLITS},
        labels_per_node=np.bincount(np.diff(indptr)[graph.labelled()]),
        degrees=np.bincount(graph.csc.degrees),
    )


def _overlap_facts(overlap: SampleOverlap) -> dict[str, Any] | None:
    upper = np.triu_indices(len(overlap.observed), 1)
    if len(upper[0]) == 0:
        return None
    facts: dict[str, Any] = {}
    for name, matrix in (("jaccard", overlap.jaccard()), ("containment", overlap.containment())):
        shares = np.nan_to_num(matrix[upper])  # no sample at all is none shared
        low, middle, high = (round(float(x), 4) for x in np.quantile(shares, [0, 0.5, 1]))
        facts[name] = {"min": low, "median": middle, "max": high}
    return facts | {flag: round(share, 4) for flag, share in overlap.fractions().items()}


def _copies(digests: list[str]) -> list[tuple[int, int]]:
    """Return ``(first, copy)`` for every column whose digest came before."""
    first: dict[str, int] = {}
    return [
        (first[digest], task)
        for task, digest in enumerate(digests)
        if first.setdefault(digest, task) != task
    ]


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


@numba.njit(cache=True, nogil=True)
def _count_others(indptr, indices, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Count the edges of each node, in or out, that lead to another node; return the loops."""
    loops = 0
    for v in range(len(indptr) - 1):
        for e in range(indptr[v], indptr[v + 1]):
            if indices[e] == v:
                loops += 1
            else:
                out[v] += 1
                out[indices[e]] += 1
    return loops
