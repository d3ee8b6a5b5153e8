"""Groups by the clustering SDP: solve, round, improve, and say how far from the best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gnn_mtl._core.errors import UsageError
from gnn_mtl.grouping._choose_number import number_by_penalty, penalty_sweep
from gnn_mtl.grouping._cluster_sdp import SDPClusters, cluster_sdp
from gnn_mtl.grouping._local_search import local_search
from gnn_mtl.grouping._rounding import (
    RoundingName,
    leading_vectors,
    round_embedding,
    threshold_groups,
)
from gnn_mtl.grouping._sdp_bound import relative_gap
from gnn_mtl.tasks import Affinity, Grouping


@dataclass(frozen=True)
class RoundedClusters:
    """A partition beside the bound of the SDP it came from.

    Attributes:
        grouping: The groups.
        density: Sum of their densities.
        upper_bound: No partition into as many groups has more density. With a penalty: none, of
            any number of groups, is worth more than this less the price of these groups.
        gap: ``(upper_bound - density) / |upper_bound|``; the distance to the best partition is at
            most this.
    """

    grouping: Grouping
    density: float
    upper_bound: float
    gap: float


def round_clusters(
    clusters: SDPClusters,
    *,
    rounding: RoundingName = "kmeans",
    restarts: int = 10,
    improve: bool = True,
    seed: int = 0,
) -> RoundedClusters:
    """Round the SDP's matrix to groups.

    Args:
        clusters: From :func:`cluster_sdp`.
        rounding: ``"kmeans"`` on the leading eigenvectors of X, and of the affinity itself, keeping
            the densest; or ``"threshold"``, the released rule of Grad-TAG
            (:func:`threshold_groups`), whose number of groups is whatever comes out.
        restarts: Starts of k-means on each of the two.
        improve: Follow each start by a local search at the same number of groups.
        seed: Seed of the starts; the result depends on nothing else.

    Raises:
        UsageError: If ``restarts`` is below 1 or there is no rounding of that name.
    """
    if restarts < 1:
        raise UsageError(f"`restarts` should be at least 1. Found {restarts}.")
    goal, number = clusters.goal, len(clusters.X)
    if rounding == "threshold":
        groups = threshold_groups(clusters.X)
        groups = local_search(goal, groups) if improve else groups
    elif rounding == "kmeans":
        wanted = clusters.num_groups or min(max(round(clusters.trace), 1), number)
        found = [
            round_embedding(points, goal, wanted, restarts=restarts, improve=improve, seed=seed)
            for points in (
                leading_vectors(clusters.X, wanted),
                leading_vectors(goal.values, wanted),
            )
        ]
        if len(clusters.groups) == wanted and improve:
            found.append(list(clusters.groups))
        groups = max(found, key=goal.of)
    else:
        raise UsageError(f"`rounding` should be 'kmeans' or 'threshold'. Found {rounding!r}.")
    density = goal.of(groups)
    if clusters.penalty is None:
        same = len(groups) == clusters.num_groups
        upper = clusters.upper_bound if same else clusters.certificate.bound(len(groups))
    else:
        upper = clusters.upper_bound + clusters.penalty * len(groups)
    gap = relative_gap(upper, density, float(np.abs(goal.values).max()) * number)
    by = f"num_groups={len(groups)}"
    if clusters.penalty is not None:
        by = f"penalty={clusters.penalty:g}, {by}"
    said = (
        f"sdp({by}, density={density:.6g}, upper_bound={upper:.6g}, gap={gap:.2g}, "
        f"imputed={goal.num_imputed})"
    )
    return RoundedClusters(Grouping.of(groups, number, said), density, upper, gap)


def sdp_groups(
    affinity: Affinity,
    *,
    num_groups: int | None = None,
    penalty: float | None = None,
    rounding: RoundingName = "kmeans",
    restarts: int = 10,
    improve: bool = True,
    tolerance: float = 1e-3,
    max_iterations: int = 2000,
    keep_diagonal: bool = False,
    seed: int = 0,
) -> Grouping:
    """Group tasks by the clustering SDP (Grad-TAG, arXiv 2409.06091), rounded and improved.

    ``Grouping.method`` says the density reached, the proven bound on that of any partition into as
    many groups, the gap and the pairs imputed; :func:`cluster_sdp` and :func:`round_clusters` give
    them as numbers.

    Args:
        affinity: Symmetric or directed (only the mean of both directions matters); unknown pairs
            count as the median of the known ones.
        num_groups: Groups k; default the number that holds over the longest stretch of penalties
            (:func:`penalty_sweep`), unless a penalty is given.
        penalty: Price of a group, instead of ``num_groups``.
        rounding: ``"kmeans"``, or ``"threshold"`` as in the released code.
        restarts: Starts of k-means.
        improve: Follow each start by moves and swaps.
        tolerance: Relative gap of the SDP at which to stop.
        max_iterations: Steps after which to stop anyway.
        keep_diagonal: Let self-affinities count.
        seed: Seed of the rounding.

    Raises:
        UsageError: If an option is out of range or both numbers are given.
    """
    if num_groups is None and penalty is None:
        num_groups = number_by_penalty(
            penalty_sweep(affinity, keep_diagonal=keep_diagonal, seed=seed)
        )
    clusters = cluster_sdp(
        affinity, num_groups, penalty, tolerance=tolerance, max_iterations=max_iterations,
        keep_diagonal=keep_diagonal, seed=seed,
    )  # fmt: skip
    return round_clusters(
        clusters, rounding=rounding, restarts=restarts, improve=improve, seed=seed
    ).grouping
