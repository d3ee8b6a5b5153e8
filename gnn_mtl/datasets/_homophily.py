"""Homophily of label sets: along edges, and between random nodes for comparison."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.seeding import generator
from gnn_mtl.graph import CSCGraph

RANDOM_PAIRS = 100_000


def homophily(csc: CSCGraph, indptr: NDArray[np.int64], tasks: NDArray[np.int32]) -> float | None:
    """Return the mean Jaccard similarity of label sets over edges between nodes with labels.

    The definition of Zhao et al., TMLR 2023; self-loops do not count.

    Args:
        csc: The graph.
        indptr: Where the labels of each node begin, ``[N + 1]``.
        tasks: Positive tasks of every node, ascending within a node.

    Returns:
        The mean, None without such edges.
    """
    total, edges = _jaccard(csc.indptr, csc.indices, indptr, tasks)
    return round(total / edges, 4) if edges else None


def homophily_by_chance(indptr: NDArray[np.int64], tasks: NDArray[np.int32]) -> float | None:
    """Return the same mean over 100,000 random pairs of nodes with labels; None without two."""
    having = np.flatnonzero(np.diff(indptr))
    if len(having) < 2:
        return None
    rng = generator(0, "homophily")
    first = rng.integers(0, len(having), RANDOM_PAIRS)
    other = (first + rng.integers(1, len(having), RANDOM_PAIRS)) % len(having)
    total = _pair_jaccard(having[first], having[other], indptr, tasks)
    return round(total / RANDOM_PAIRS, 4)


@numba.njit(cache=True, nogil=True)
def _similarity(u, v, y_indptr, tasks):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return the Jaccard similarity of two sorted lists of labels, not both empty."""
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
    return shared / union


@numba.njit(cache=True, nogil=True)
def _jaccard(indptr, indices, y_indptr, tasks):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Sum the Jaccard similarity of label sets over edges between two nodes that have labels."""
    total = 0.0
    edges = 0
    for v in range(len(indptr) - 1):
        if y_indptr[v] == y_indptr[v + 1]:
            continue
        for e in range(indptr[v], indptr[v + 1]):
            u = indices[e]
            if u != v and y_indptr[u] != y_indptr[u + 1]:
                total += _similarity(u, v, y_indptr, tasks)
                edges += 1
    return total, edges


@numba.njit(cache=True, nogil=True)
def _pair_jaccard(first, other, y_indptr, tasks):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Sum the Jaccard similarity of label sets over pairs of nodes that have labels."""
    total = 0.0
    for k in range(len(first)):
        total += _similarity(first[k], other[k], y_indptr, tasks)
    return total
