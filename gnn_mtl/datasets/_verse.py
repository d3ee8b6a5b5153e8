"""PageRank similarity embedding in the manner of VERSE (Tsitsulin et al., WWW 2018)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import spotrf, spotri

from gnn_mtl.datasets._proximity import (
    DENSE_NODES,
    factorise,
    log_in_place,
    log_rows,
    normalised_adjacency,
    pagerank_row,
)
from gnn_mtl.graph import CSCGraph

EPSILON = 1e-4


def verse(
    csc: CSCGraph,
    dim: int,
    *,
    alpha: float = 0.85,
    negative: float = 1.0,
    seed: int = 0,
) -> NDArray[np.float32]:
    r"""Return ``U sqrt(S)`` of log max(M, 1), float32 ``[N, dim]``.

    VERSE trains :math:`w_i \cdot w_j` by noise-contrastive estimation with ``b`` uniform negatives
    towards :math:`\log (\pi_{ij} N / b)` for personalised PageRank :math:`\pi`. The product is
    symmetric and :math:`\pi` is not; the mean of both directions is
    :math:`\log M` with :math:`M = (1 - \alpha) N / b \, (I - \alpha D^{-1/2} A D^{-1/2})^{-1}`,
    which is factorised here instead (as NetMF does for DeepWalk), without stochastic gradients.

    Up to 12,000 nodes M is the dense inverse, beyond that its largest entries by forward push.

    Args:
        csc: A symmetric graph.
        dim: Number of columns.
        alpha: Probability that a walk goes on.
        negative: b, negative samples.
        seed: Seed of the factorisation.
    """
    scale = csc.num_nodes / negative
    if csc.num_nodes > DENSE_NODES:
        root = np.sqrt(np.maximum(csc.degrees, 1).astype(np.float64))
        logs = log_rows(
            csc, pagerank_row, (alpha, EPSILON), scale * root, 1 / root, what="verse features"
        )
        return factorise(logs, dim, seed)
    matrix = normalised_adjacency(csc).toarray(order="F")
    matrix *= -alpha
    matrix[np.diag_indices_from(matrix)] += 1
    factor, _ = spotrf(matrix, lower=1, overwrite_a=1)
    inverse, _ = spotri(factor, lower=1, overwrite_c=1)
    inverse *= np.float32((1 - alpha) * scale)
    lower = np.tril(inverse)
    lower += np.tril(inverse, -1).T
    return factorise(log_in_place(lower), dim, seed)
