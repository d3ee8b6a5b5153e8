"""Matrices of the clustering SDP: of a partition, made feasible, and with clipped eigenvalues."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gnn_mtl.grouping._density import Members


def partition_matrix(groups: Members, num_tasks: int) -> NDArray[np.float64]:
    r"""Return :math:`\sum_G v_G v_G^\top / |G|`, the X of a partition."""
    matrix = np.zeros((num_tasks, num_tasks))
    for group in map(list, groups):
        matrix[np.ix_(group, group)] = 1.0 / len(group)
    return matrix


def feasible_matrix(matrix: NDArray[np.float64], trace: float | None = None) -> NDArray[np.float64]:
    """Return a feasible matrix near one that is right but for small negative entries.

    What is negative is lifted to 0 and its row's share added to the diagonal, which keeps the
    matrix positive semidefinite; symmetric scaling makes the rows sum to 1 again, and mixing in a
    little of the uniform matrix, or of the identity, sets the trace.

    Args:
        matrix: Positive semidefinite, rows that sum to about 1, ``[T, T]``.
        trace: Wanted trace, in [1, T]; default whatever comes out.

    Complexity:
        O(T^2) a round of scaling, some 40 rounds.
    """
    number = len(matrix)
    lifted = np.maximum(matrix, 0.0)
    lifted[np.diag_indices(number)] += np.maximum(-matrix, 0.0).sum(axis=1)
    scale = np.ones(number)
    for _ in range(100):
        rows = scale * (lifted @ scale)
        if np.abs(rows - 1.0).max() < 1e-15:
            break
        scale /= np.sqrt(rows)
    lifted *= scale[:, None] * scale
    found = float(np.trace(lifted))
    if trace is not None and found > trace:
        share = (found - trace) / (found - 1.0)
        lifted = (1.0 - share) * lifted + share / number
    elif trace is not None and found < trace:
        share = (trace - found) / (number - found)
        lifted *= 1.0 - share
        lifted[np.diag_indices(number)] += share
    return lifted


def capped_simplex(values: NDArray[np.float64], total: float) -> NDArray[np.float64]:
    """Return the nearest point with entries in [0, 1] and sum ``total``.

    Args:
        values: ``[n]``.
        total: In [0, n].

    Complexity:
        O(n log n): the sum as a function of the shift is linear between 2 n sorted kinks.
    """
    if total <= 0 or total >= len(values):
        return np.full(len(values), 1.0 if total > 0 else 0.0)
    kinks = np.sort(np.concatenate([values, values - 1.0]))
    low, high = 0, len(kinks) - 1
    while high - low > 1:  # the sum falls from n to 0 along the kinks
        middle = (low + high) // 2
        if np.clip(values - kinks[middle], 0.0, 1.0).sum() > total:
            low = middle
        else:
            high = middle
    above = np.clip(values - kinks[low], 0.0, 1.0).sum()
    under = np.clip(values - kinks[high], 0.0, 1.0).sum()
    part = (above - total) / (above - under) if above > under else 0.0
    return np.clip(values - kinks[low] - part * (kinks[high] - kinks[low]), 0.0, 1.0)
