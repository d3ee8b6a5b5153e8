"""Fuzzy k-means of task vectors: soft memberships, as STG-MTL draws from its data maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.grouping._k_means import k_means, squared_distances
from gnn_mtl.grouping._pair_values import check_num_groups
from gnn_mtl.tasks import Grouping


@dataclass(frozen=True, eq=False)
class FuzzyClusters:
    """Soft groups of points.

    Attributes:
        memberships: ``[T, k]``, not negative, rows that sum to 1.
        centers: ``[k, d]``.
        inertia: Sum of the memberships to the power m times squared distances: what was lowered.
    """

    memberships: NDArray[np.float64]
    centers: NDArray[np.float64]
    inertia: float

    def grouping(self) -> Grouping:
        """Return every task in the group in which it is most."""
        number = self.memberships.shape[1]
        said = f"fuzzy_k_means(num_groups={number}, inertia={self.inertia:.6g})"
        return Grouping.from_assignments(self.memberships.argmax(axis=1).tolist(), said)


def fuzzy_k_means(
    points: ArrayLike,
    num_groups: int,
    *,
    fuzziness: float = 1.07,
    restarts: int = 10,
    max_rounds: int = 200,
    tolerance: float = 1e-8,
    seed: int = 0,
) -> FuzzyClusters:
    r"""Cluster points softly (Bezdek 1981), as STG-MTL does tasks' data maps (arXiv 2307.03374).

    Memberships :math:`u_{tg} \propto d_{tg}^{-2/(m-1)}` and centres, the means by :math:`u^m`, take
    turns. At m = 1.07 the exponent is 29: distances are compared by their logarithms.

    Args:
        points: ``[T, d]``, one vector a task, e.g. mean and spread over the epochs of the
            probability a model gave to the true class of each sample.
        num_groups: Groups k <= T.
        fuzziness: m > 1; towards 1 the memberships become hard.
        restarts: Starts, each a k-means of another seed.
        max_rounds: Rounds of a start, at most.
        tolerance: Change of the memberships at which a start ends.
        seed: Seed of the starts.

    Raises:
        ShapeError: If ``points`` is not a finite matrix.
        UsageError: If an option is out of range.
    """
    vectors = np.asarray(points, dtype=np.float64)
    if vectors.ndim != 2 or 0 in vectors.shape or not np.isfinite(vectors).all():
        raise ShapeError(
            "`points` should be a finite matrix [T, d] with T, d >= 1. Found shape "
            f"{vectors.shape}{' with NaN or infinities' if vectors.ndim == 2 else ''}."
        )
    check_num_groups(num_groups, len(vectors))
    if not 1 < fuzziness < np.inf or restarts < 1 or max_rounds < 1:
        raise UsageError(
            "`fuzziness` should exceed 1, and `restarts` and `max_rounds` be at least 1. "
            f"Found {fuzziness}, {restarts} and {max_rounds}."
        )
    vectors = vectors - vectors.mean(axis=0)  # distances keep more digits near 0
    best: FuzzyClusters | None = None
    for start in range(restarts):
        hard = k_means(vectors, num_groups, restarts=1, seed=seed + start)
        found = _alternate(vectors, np.eye(num_groups)[hard], fuzziness, max_rounds, tolerance)
        if best is None or found.inertia < best.inertia * (1 - 1e-12):
            best = found
    assert best is not None  # noqa: S101 - at least one start
    centers = best.centers + np.asarray(points, dtype=np.float64).mean(axis=0)
    return FuzzyClusters(best.memberships, centers, best.inertia)


def _alternate(
    points: NDArray[np.float64],
    memberships: NDArray[np.float64],
    fuzziness: float,
    max_rounds: int,
    tolerance: float,
) -> FuzzyClusters:
    floor = max(1e-24 * float((points**2).sum()), 1e-290)
    for _ in range(max_rounds):
        powers = memberships**fuzziness
        centers = (powers.T @ points) / np.maximum(powers.sum(axis=0), 1e-300)[:, None]
        distances = squared_distances(points, centers)
        logs = np.log(np.maximum(distances, floor)) / (1.0 - fuzziness)
        logs -= logs.max(axis=1, keepdims=True)
        before, memberships = memberships, np.exp(logs)
        memberships /= memberships.sum(axis=1, keepdims=True)
        if np.abs(memberships - before).max() <= tolerance:
            break
    inertia = float((memberships**fuzziness * distances).sum())
    return FuzzyClusters(memberships, centers, inertia)
