"""How many training cells every pair of tasks shares, counted on bits.

Cells of a block of nodes are packed along the nodes, 64 to a word, and each pair of tasks is one
``popcount(a & b)`` over the words: T^2 N / 128 word operations, no matrix larger than ``[T, T]``.
Where positives are rare, pairs are counted from the list of every node instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.progress import Progress
from gnn_mtl.datasets._bits import row_slices
from gnn_mtl.datasets._task_graph import TaskGraph

WORD = 64


@dataclass(frozen=True, eq=False)
class PairCounts:
    """Counts over the observed training cells of every pair of tasks, int64 ``[T, T]`` each.

    Attributes:
        observed: Nodes observed for both tasks; the diagonal counts each task's own.
        positive: Nodes positive for both tasks.
        positive_where_observed: Row i, column j: positives of i among the nodes observed for j too;
            None unless asked for.
    """

    observed: NDArray[np.int64]
    positive: NDArray[np.int64]
    positive_where_observed: NDArray[np.int64] | None = None


def pair_counts(graph: TaskGraph, *, margins: bool = False) -> PairCounts:
    """Count the training cells each pair of tasks shares; test labels are not read.

    Args:
        graph: The graph; may be sealed.
        margins: Whether to count ``positive_where_observed`` too.

    Returns:
        The counts. Where a node is observed for all tasks or none and the split is per node,
        observed counts are equal for all pairs and cost nothing.

    Note:
        1M nodes x 500 tasks take seconds; memory is the result and one block of 4M cells.
    """
    tasks = graph.num_tasks
    observed, positive, given = (np.zeros((tasks, tasks), dtype=np.int64) for _ in range(3))
    whole = has_whole_rows(graph)
    nodes = graph.split_idx["train"]
    if whole:
        observed += int(graph.labelled()[nodes].sum())
        if margins:
            given += graph.positives("train")[:, None]
    blocks = list(row_slices(len(nodes), tasks))
    with Progress(f"overlap of labels of {graph.name}", len(blocks)) as progress:
        for rows in blocks:
            is_positive, is_observed = graph._cells(nodes[rows], "train")
            _count_positive(is_positive, positive)
            if not whole:
                known = _words(is_observed)
                _add_popcounts(known, known, True, observed)
                if margins:
                    _add_popcounts(_words(is_positive), known, False, given)
            progress.advance()
    for counts in (positive,) if whole else (observed, positive):
        counts += np.tril(counts, -1).T
    return PairCounts(observed, positive, given if margins else None)


def has_whole_rows(graph: TaskGraph) -> bool:
    """Return whether every training node is observed for all tasks or for none."""
    return isinstance(graph._labels.observed, np.ndarray) and graph.split_kind == "node"


def _count_positive(cells: NDArray[np.bool_], out: NDArray[np.int64]) -> None:
    """Add pairs of positives to the lower triangle of ``out``, by lists or by bits."""
    per_node = cells.sum(axis=1, dtype=np.int64)
    if int((per_node * (per_node + 1)).sum()) < cells.size * cells.shape[1] // WORD:
        indptr = np.concatenate([[0], np.cumsum(per_node)])
        _add_list_pairs(indptr, np.nonzero(cells)[1], out)
    else:
        words = _words(cells)
        _add_popcounts(words, words, True, out)


def _words(cells: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Pack bool ``[B, T]`` along the nodes: uint64 ``[T, ceil(B / 64)]``."""
    packed = np.packbits(np.ascontiguousarray(cells.T), axis=1)
    padded = np.zeros((len(packed), -(-packed.shape[1] // 8) * 8), dtype=np.uint8)
    padded[:, : packed.shape[1]] = packed
    return padded.view(np.uint64)


@numba.njit(cache=True, nogil=True)
def _add_popcounts(a, b, lower, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Add ``popcount(a[i] & b[j])`` to ``out[i, j]``; with ``lower`` for j up to i only."""
    ones, twos = np.uint64(0x5555555555555555), np.uint64(0x3333333333333333)
    fours, eights = np.uint64(0x0F0F0F0F0F0F0F0F), np.uint64(0x0101010101010101)
    for i in range(a.shape[0]):
        for j in range(i + 1 if lower else b.shape[0]):
            total = np.uint64(0)
            for w in range(a.shape[1]):
                x = a[i, w] & b[j, w]
                x = x - ((x >> np.uint64(1)) & ones)
                x = (x & twos) + ((x >> np.uint64(2)) & twos)
                x = (x + (x >> np.uint64(4))) & fours
                total += (x * eights) >> np.uint64(56)
            out[i, j] += np.int64(total)


@numba.njit(cache=True, nogil=True)
def _add_list_pairs(indptr, tasks, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Add one for each pair of entries of each row; rows ascend: the lower triangle is filled."""
    for v in range(len(indptr) - 1):
        for e in range(indptr[v], indptr[v + 1]):
            for f in range(indptr[v], e + 1):
                out[tasks[e], tasks[f]] += 1
