"""How many groups: by a sweep of the price of a group, by the eigengap, or by a caller's score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import UsageError
from gnn_mtl.grouping._cluster_sdp import SDPClusters, cluster_sdp
from gnn_mtl.grouping._pair_values import pair_values
from gnn_mtl.grouping._sdp_bound import to_complement
from gnn_mtl.tasks import Affinity, Grouping

NUM_PENALTIES = 12


@dataclass(frozen=True)
class PenaltyPoint:
    """What one price of a group gives.

    Attributes:
        penalty: The price.
        num_groups: Groups of the best partition met.
        trace: Groups that the SDP's X stands for.
        density: Sum of the densities, the price not taken off.
        upper_bound: Most that any partition is worth after paying for its groups.
    """

    penalty: float
    num_groups: int
    trace: float
    density: float
    upper_bound: float


def penalty_sweep(
    affinity: Affinity,
    penalties: Sequence[float] | None = None,
    *,
    tolerance: float = 1e-2,
    max_iterations: int = 40,
    keep_diagonal: bool = False,
    seed: int = 0,
) -> tuple[PenaltyPoint, ...]:
    """Solve the clustering SDP for rising prices of a group, each from the last one's solution.

    Args:
        affinity: See :func:`cluster_sdp`.
        penalties: Prices; default 12 evenly spaced ones up to the largest eigenvalue of the
            affinity on vectors of sum 0, above which no group is worth its price. (AutoBRANE's
            fixed 0.1 to 1.0 depend on the affinity's unit.)
        tolerance: Relative gap at which each stops.
        max_iterations: Steps of each, at most.
        keep_diagonal: Let self-affinities count.
        seed: Seed of the rounding.

    Raises:
        UsageError: If ``penalties`` is empty or not finite.
    """
    if penalties is None:
        values = pair_values(affinity, keep_diagonal=keep_diagonal).values
        roots = np.linalg.eigvalsh(to_complement(values))
        largest = float(roots.max(initial=0.0))
        tiny = 1e-9 * float(np.abs(values).max())
        steps = np.arange(1, NUM_PENALTIES + 1) / (NUM_PENALTIES + 1)
        penalties = (largest * steps).tolist() if largest > tiny else [0.0]
    if len(penalties) == 0 or not np.isfinite(penalties).all():
        raise UsageError(f"`penalties` should be some finite numbers. Found {list(penalties)}.")
    points = []
    found: SDPClusters | None = None
    for price in sorted(penalties):
        found = cluster_sdp(
            affinity, penalty=price, tolerance=tolerance, max_iterations=max_iterations,
            keep_diagonal=keep_diagonal, start=found, seed=seed,
        )  # fmt: skip
        density = found.goal.of(found.groups)
        points.append(
            PenaltyPoint(price, len(found.groups), found.trace, density, found.upper_bound)
        )
    return tuple(points)


def number_by_penalty(points: Sequence[PenaltyPoint]) -> int:
    """Return the number of groups that holds over the longest stretch of a sweep.

    Of stretches equally long the one with more groups counts; the first begins at the lowest price
    of the sweep and the last ends at the highest. With a validation score at hand
    :func:`number_by_score` is better: density alone cannot tell structure from noise.

    Args:
        points: From :func:`penalty_sweep`.

    Raises:
        UsageError: If ``points`` is empty.
    """
    if len(points) == 0:
        raise UsageError("`points` should be those of a sweep, at least one. Found none.")
    prices = np.array([point.penalty for point in points])
    edges = np.concatenate([prices[:1], (prices[1:] + prices[:-1]) / 2, prices[-1:]])
    lengths: dict[int, float] = {}
    for at, point in enumerate(points):
        width = float(edges[at + 1] - edges[at])
        lengths[point.num_groups] = lengths.get(point.num_groups, 0.0) + width
    grain = 1e-9 * float(edges[-1] - edges[0]) or 1.0  # rounding does not break ties
    return max(lengths, key=lambda number: (round(lengths[number] / grain), number))


def number_by_eigengap(eigenvalues: NDArray[np.floating], max_groups: int | None = None) -> int:
    """Return k where the fall from the k-th to the (k+1)-th largest eigenvalue is largest.

    Args:
        eigenvalues: Of a (normalised) affinity, ``[n]``, in any order.
        max_groups: Largest k; default n / 2.

    Example:
        >>> number_by_eigengap(np.array([1.0, 0.95, 0.9, 0.2, 0.1]), 4)
        3
    """
    falling = np.sort(eigenvalues)[::-1]
    limit = max(len(falling) // 2, 1) if max_groups is None else max_groups
    falls = falling[:-1] - falling[1:]
    falls = falls[:limit]
    return int(falls.argmax()) + 1 if falls.size else 1


@dataclass(frozen=True)
class ScoredNumber:
    """The number of groups that scored best.

    Attributes:
        num_groups: That number.
        grouping: Its groups.
        scores: Score of every candidate, by number of groups.
    """

    num_groups: int
    grouping: Grouping
    scores: dict[int, float]


def number_by_score(
    affinity: Affinity,
    group: Callable[..., Grouping],
    score: Callable[[Grouping], float],
    candidates: Sequence[int],
) -> ScoredNumber:
    """Group into every candidate number and keep what scores best; of equals the fewest groups.

    Args:
        affinity: What is grouped.
        group: A method that takes ``num_groups``, e.g. :func:`sdp_groups`.
        score: Larger is better, e.g. the validation score of models trained by these groups. NaN
            is worse than any number.
        candidates: Numbers to try.

    Raises:
        UsageError: If there is no candidate, or every score is NaN.
    """
    if len(candidates) == 0:
        raise UsageError("`candidates` should hold a number of groups to try. Found none.")
    tried = {number: group(affinity, num_groups=number) for number in sorted(set(candidates))}
    scores = {number: float(score(grouping)) for number, grouping in tried.items()}
    known = {number: value for number, value in scores.items() if not np.isnan(value)}
    if not known:
        raise UsageError("`score` should return a number for some grouping. Found only NaN.")
    best = max(known, key=lambda number: known[number])
    return ScoredNumber(best, tried[best], scores)
