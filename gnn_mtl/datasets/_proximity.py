"""Logarithms of node proximities, dense or truncated to sparse rows, and their factorisation.

NetMF and VERSE embed nodes by factorising log max(M, 1) for a proximity M. Up to
:data:`DENSE_NODES` nodes M is a dense matrix; beyond, only its largest entries are found, row by
row, by pushing probability along edges from one source. Rows are independent of each other, so the
result does not depend on the number of threads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from gnn_mtl._core.progress import Progress
from gnn_mtl.graph import CSCGraph

DENSE_NODES = 12_000
ROWS_AT_ONCE = 512
MAX_THREADS = 8
POWER_ITERATIONS = 5
STORED_ENTRIES = 1 << 26
ENTRIES_A_ROW = 1024

RowKernel = Callable[..., int]


def normalised_adjacency(csc: CSCGraph) -> sp.csr_matrix:
    """Return D^-1/2 A D^-1/2, float32 CSR; rows of isolated nodes are zero."""
    scale = 1.0 / np.sqrt(np.maximum(csc.degrees, 1))
    target = np.repeat(np.arange(csc.num_nodes, dtype=np.int32), csc.degrees)
    values = (scale[csc.indices] * scale[target]).astype(np.float32)
    return sp.csr_matrix((values, csc.indices, csc.indptr), shape=(csc.num_nodes, csc.num_nodes))


def factorise(
    matrix: NDArray[np.float32] | sp.csr_matrix, dim: int, seed: int
) -> NDArray[np.float32]:
    """Return ``U sqrt(S)`` of the leading singular triplets, float32 ``[N, dim]``.

    Randomised subspace iteration (Halko, Martinsson, Tropp, SIAM Review 2011).
    """
    from sklearn.utils.extmath import randomized_svd  # seconds to import, and seldom needed

    left, values, _ = randomized_svd(
        matrix, dim, n_iter=POWER_ITERATIONS, random_state=np.random.RandomState(seed)
    )
    return (left * np.sqrt(values)).astype(np.float32)


def log_in_place(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """Replace a dense matrix by log max(M, 1) and return it."""
    np.maximum(matrix, 1, out=matrix)
    return np.log(matrix, out=matrix)


def log_rows(
    csc: CSCGraph,
    kernel: RowKernel,
    arguments: tuple[float, ...],
    left: NDArray[np.float64],
    right: NDArray[np.float64],
    *,
    what: str,
    top_k: int | None = None,
) -> sp.csr_matrix:
    """Return the largest entries of log max(left_i p_ij right_j, 1), row by row.

    Args:
        csc: A symmetric graph.
        kernel: Writes the probabilities p_i. of one source; see :func:`window_row`.
        arguments: What the kernel takes after the workspaces.
        left: Row factors ``[N]``.
        right: Column factors ``[N]``.
        what: Name for the progress bar.
        top_k: Entries kept a row; default 1,024, or what keeps the whole below 2**26 entries.

    Returns:
        CSR float32 ``[N, N]``: 8 bytes an entry; besides, 36 bytes a node and thread.
    """
    nodes = csc.num_nodes
    if top_k is None:
        top_k = max(16, min(ENTRIES_A_ROW, STORED_ENTRIES // max(nodes, 1), nodes))
    local = threading.local()

    def rows(start: int) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
        if not hasattr(local, "work"):
            local.work = np.zeros((3, nodes)), np.zeros((3, nodes), dtype=np.int32)
        work, lists = local.work
        stop = min(start + ROWS_AT_ONCE, nodes)
        counts = np.zeros(stop - start, dtype=np.int64)
        columns = np.empty((stop - start) * top_k, dtype=np.int32)
        values = np.empty((stop - start) * top_k, dtype=np.float32)
        end = 0
        for row in range(start, stop):
            found = kernel(csc.indptr, csc.indices, row, work, lists, *arguments)
            count = _keep_largest(
                work[2], lists[2, :found], left[row], right, top_k, columns[end:], values[end:]
            )
            counts[row - start] = count
            end += count
        return counts, columns[:end].copy(), values[:end].copy()

    threads = min(os.cpu_count() or 1, MAX_THREADS)
    parts = []
    with ThreadPoolExecutor(threads) as pool, Progress(what, nodes) as progress:
        for part in pool.map(rows, range(0, nodes, ROWS_AT_ONCE)):
            parts.append(part)
            progress.advance(len(part[0]))
    indptr = np.concatenate([[0], np.cumsum(np.concatenate([part[0] for part in parts]))])
    indices = np.concatenate([part[1] for part in parts])
    values = np.concatenate([part[2] for part in parts])
    return sp.csr_matrix((values, indices, indptr), shape=(nodes, nodes))


@numba.njit(cache=True, nogil=True)
def window_row(indptr, indices, source, values, lists, window, epsilon):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Write the mean distribution of the first ``window`` steps of a walk; return its support.

    Probability of a node is passed on while it is at least ``epsilon`` for each of its edges, so
    that a step visits at most 1 / epsilon edges; what is not passed on misses in later steps.

    Args:
        indptr: Of a symmetric graph.
        indices: Of a symmetric graph.
        source: Where the walk starts.
        values: Zeros, float64 ``[3, N]``; the last row takes the result.
        lists: int32 ``[3, N]``; the last row takes the nodes of the result.
        window: Number of steps.
        epsilon: Smallest probability passed on along an edge.
    """
    now, following, total = values[0], values[1], values[2]
    now_list, following_list, touched = lists[0], lists[1], lists[2]
    now[source] = 1.0
    now_list[0] = source
    active, found = 1, 0
    for _ in range(window):
        reached = 0
        for k in range(active):
            v = now_list[k]
            share = now[v] / max(indptr[v + 1] - indptr[v], 1)
            now[v] = 0.0
            if share < epsilon:
                continue
            for e in range(indptr[v], indptr[v + 1]):
                u = indices[e]
                if following[u] == 0.0:
                    following_list[reached] = u
                    reached += 1
                following[u] += share
        for k in range(reached):
            u = following_list[k]
            if total[u] == 0.0:
                touched[found] = u
                found += 1
            total[u] += following[u] / window
        now, following = following, now
        now_list, following_list = following_list, now_list
        active = reached
    for k in range(active):
        now[now_list[k]] = 0.0
    return found


@numba.njit(cache=True, nogil=True)
def pagerank_row(indptr, indices, source, values, lists, alpha, epsilon):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Write personalised PageRank of one source by forward push; return its support.

    A walk goes on with probability ``alpha``. Pushes until every residual is below ``epsilon`` for
    each edge of its node (Andersen, Chung, Lang, FOCS 2006), after at most
    1 / ((1 - alpha) epsilon) edge visits. What then stays where it is of each residual is counted,
    so every entry is too small by less than ``epsilon`` times the degree.

    Args:
        indptr: Of a symmetric graph.
        indices: Of a symmetric graph.
        source: Where the walk starts.
        values: Zeros, float64 ``[3, N]``; the last row takes the result.
        lists: int32 ``[3, N]``; the last row takes the nodes of the result.
        alpha: Probability that the walk goes on.
        epsilon: Largest residual left for each edge of a node.
    """
    residual, waiting, total = values[0], values[1], values[2]
    queue, touched = lists[0], lists[2]
    residual[source] = 1.0
    waiting[source] = 1.0
    queue[0] = source
    touched[0] = source
    head, length, found = 0, 1, 1
    while length > 0:
        v = queue[head]
        head = (head + 1) % len(queue)
        length -= 1
        waiting[v] = 0.0
        mass = residual[v]
        residual[v] = 0.0
        total[v] += (1.0 - alpha) * mass
        share = alpha * mass / max(indptr[v + 1] - indptr[v], 1)
        for e in range(indptr[v], indptr[v + 1]):
            u = indices[e]
            if residual[u] == 0.0 and total[u] == 0.0:
                touched[found] = u
                found += 1
            residual[u] += share
            if waiting[u] == 0.0 and residual[u] >= epsilon * (indptr[u + 1] - indptr[u]):
                queue[(head + length) % len(queue)] = u
                length += 1
                waiting[u] = 1.0
    for k in range(found):
        v = touched[k]
        total[v] += (1.0 - alpha) * residual[v]
        residual[v] = 0.0
    return found


@numba.njit(cache=True, nogil=True)
def _keep_largest(total, touched, left, right, top_k, columns, values):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Write the ``top_k`` largest positive logarithms, clear the row, return how many."""
    scores = np.empty(len(touched), dtype=np.float32)
    positive = 0
    for k in range(len(touched)):
        u = touched[k]
        scores[k] = np.log(max(left * total[u] * right[u], 1.0))
        total[u] = 0.0
        positive += scores[k] > 0
    least = np.float32(0.0)
    if positive > top_k:
        least = np.partition(scores, len(scores) - top_k)[len(scores) - top_k]
    count = 0
    for k in range(len(touched)):
        if scores[k] > 0 and scores[k] >= least and count < top_k:
            columns[count] = touched[k]
            values[count] = scores[k]
            count += 1
    return count
