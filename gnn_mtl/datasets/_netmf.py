"""NetMF: the matrix DeepWalk factorises implicitly, factorised (Qiu et al., WSDM 2018)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import eigsh
from threadpoolctl import threadpool_limits

from gnn_mtl._core.seeding import generator
from gnn_mtl.datasets._proximity import (
    DENSE_NODES,
    factorise,
    log_in_place,
    log_rows,
    normalised_adjacency,
    window_row,
)
from gnn_mtl.graph import CSCGraph

EXACT_NODES = 4_000
RANK = 256
EPSILON = 1e-4


def netmf(
    csc: CSCGraph,
    dim: int,
    *,
    window: int = 10,
    negative: float = 1.0,
    seed: int = 0,
) -> NDArray[np.float32]:
    r"""Return ``U sqrt(S)`` of log max(M, 1), float32 ``[N, dim]``.

    .. math:: M = \frac{\mathrm{vol}(G)}{b T} \Big(\sum_{r=1}^{T} (D^{-1} A)^r\Big) D^{-1}

    Up to 4,000 nodes M is exact (algorithm 3 of the paper), up to 12,000 nodes it comes from the
    256 leading eigenvectors of the normalised adjacency (algorithm 4), and beyond from walks pushed
    along edges until less than :data:`EPSILON` an edge is left, keeping the largest entries of each
    row (the paper has no such form; NetSMF, Qiu et al., WWW 2019, samples paths instead).

    Args:
        csc: A symmetric graph.
        dim: Number of columns.
        window: T.
        negative: b, negative samples.
        seed: Seed of the factorisation.
    """
    degrees = np.maximum(csc.degrees, 1).astype(np.float64)
    scale = csc.num_edges / negative
    if csc.num_nodes > DENSE_NODES:
        logs = log_rows(
            csc, window_row, (window, EPSILON), np.full(csc.num_nodes, scale), 1 / degrees,
            what="netmf features",
        )  # fmt: skip
        return factorise(logs, dim, seed)
    sums = _exact(csc, window) if csc.num_nodes <= EXACT_NODES else _low_rank(csc, window, seed)
    root = np.sqrt(scale / (window * degrees)).astype(np.float32)
    sums *= root[:, None]
    sums *= root
    return factorise(log_in_place(sums), dim, seed)


def _exact(csc: CSCGraph, window: int) -> NDArray[np.float32]:
    """The sum of the first ``window`` powers of the normalised adjacency, by Horner's rule."""
    operator = normalised_adjacency(csc)
    total = operator.toarray()
    for _ in range(window - 1):
        total[np.diag_indices_from(total)] += 1
        total = operator @ total
    return total


def _low_rank(csc: CSCGraph, window: int, seed: int) -> NDArray[np.float32]:
    """That sum from the leading eigenvectors; negative values of the filter become 0."""
    start = generator(seed, "netmf").standard_normal(csc.num_nodes)
    with threadpool_limits(1, "blas"):
        values, vectors = eigsh(
            normalised_adjacency(csc).astype(np.float64), k=RANK, which="LA", v0=start, tol=1e-4
        )
    powers = np.maximum(sum(values**r for r in range(1, window + 1)), 0)
    half = (vectors * np.sqrt(powers)).astype(np.float32)
    return half @ half.T
