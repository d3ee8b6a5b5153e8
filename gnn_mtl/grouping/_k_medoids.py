"""k-medoids: every group around its most representative task."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import UsageError
from gnn_mtl.grouping._choose_number import number_by_eigengap
from gnn_mtl.grouping._pair_values import check_num_groups, pair_values
from gnn_mtl.grouping._sdp_bound import to_complement
from gnn_mtl.tasks import Affinity, Grouping


def k_medoids_groups(
    affinity: Affinity, *, num_groups: int | None = None, max_swaps: int = 1000
) -> Grouping:
    """Group tasks around k of them by PAM (Kaufman & Rousseeuw 1990) on max(A) - A.

    Deterministic: medoids are built greedily, then the swap of a medoid and another task that
    lowers the summed distance most is made until none does.

    Args:
        affinity: Symmetric or directed (the mean of both directions); unknown pairs count as the
            median of the known ones.
        num_groups: Groups k, at least 2 by default: one more than the eigenvalues on vectors of
            sum 0 before they fall most.
        max_swaps: Swaps at most.

    Raises:
        UsageError: If an option is out of range.

    Complexity:
        O(k T^2) a swap.
    """
    if max_swaps < 0:
        raise UsageError(f"`max_swaps` should not be negative. Found {max_swaps}.")
    pairs = pair_values(affinity)
    if num_groups is None:
        roots = np.linalg.eigvalsh(to_complement(pairs.values))
        num_groups = min(1 + number_by_eigengap(roots), affinity.num_tasks)
    check_num_groups(num_groups, affinity.num_tasks)
    apart = ~np.eye(affinity.num_tasks, dtype=np.bool_)
    distances = pairs.values.max(where=apart, initial=-np.inf) - pairs.values
    np.fill_diagonal(distances, 0.0)
    medoids = _swapped(distances, _built(distances, num_groups), max_swaps)
    nearest = distances[:, medoids].argmin(axis=1)
    nearest[medoids] = np.arange(num_groups)
    said = f"k_medoids(num_groups={num_groups}, medoids={medoids}, imputed={pairs.num_imputed})"
    return Grouping.from_assignments(nearest.tolist(), said)


def _built(distances: NDArray[np.float64], number: int) -> list[int]:
    """Each medoid lowers the summed distance most."""
    medoids = [int(distances.sum(axis=0).argmin())]
    nearest = distances[:, medoids[0]].copy()
    while len(medoids) < number:
        totals = np.minimum(nearest[:, None], distances).sum(axis=0)
        totals[medoids] = np.inf
        medoids.append(int(totals.argmin()))
        nearest = np.minimum(nearest, distances[:, medoids[-1]])
    return sorted(medoids)


def _swapped(distances: NDArray[np.float64], medoids: list[int], max_swaps: int) -> list[int]:
    """Exchange medoids while that lowers the sum."""
    current = float(distances[:, medoids].min(axis=1).sum())
    for _ in range(max_swaps):
        best, out, into = current - 1e-12 * max(abs(current), 1e-300), -1, -1
        for place in range(len(medoids)):
            rest = medoids[:place] + medoids[place + 1 :]
            nearest = distances[:, rest].min(axis=1, initial=np.inf)
            totals = np.minimum(nearest[:, None], distances).sum(axis=0)
            totals[medoids] = np.inf
            pick = int(totals.argmin())
            if totals[pick] < best:
                best, out, into = float(totals[pick]), place, pick
        if out < 0:
            break
        medoids, current = sorted([*medoids[:out], into, *medoids[out + 1 :]]), best
    return medoids
