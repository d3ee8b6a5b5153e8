"""k-means of points, restarted and seeded: the last step of the spectral methods."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.seeding import generator

MAX_ROUNDS = 100


def k_means(
    points: NDArray[np.float64], num_groups: int, *, restarts: int = 10, seed: int = 0
) -> NDArray[np.int64]:
    """Return the cluster of every point: k-means++ starts, Lloyd's rounds, the best of several.

    Args:
        points: ``[n, d]``.
        num_groups: Clusters k <= n; none is empty, even where fewer points are distinct.
        restarts: Starts; the one with the smallest sum of squares is kept.
        seed: Seed of the starts.
    """
    best = starts = np.zeros(len(points), dtype=np.int64)
    lowest = np.inf
    for start in range(restarts):
        rng = generator(seed, "k_means", start)
        starts, inertia = _lloyd(points, _plus_plus(points, num_groups, rng))
        if inertia < lowest * (1.0 - 1e-12):
            best, lowest = starts, inertia
    return best


def squared_distances(
    points: NDArray[np.float64], centers: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return ``[n, k]`` squared Euclidean distances, never negative."""
    cross = points @ centers.T
    return np.maximum((points**2).sum(1)[:, None] - 2 * cross + (centers**2).sum(1), 0.0)


def _plus_plus(
    points: NDArray[np.float64], num_groups: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw centres, each by its squared distance to those before."""
    chosen = [int(rng.integers(len(points)))]
    nearest = squared_distances(points, points[chosen])[:, 0]
    for _ in range(num_groups - 1):
        nearest[chosen] = 0.0
        total = nearest.sum()
        if total > 0:
            draw = int(np.searchsorted(np.cumsum(nearest), rng.random() * total, side="right"))
            draw = min(draw, len(points) - 1)
        else:  # only copies are left
            draw = int(rng.choice(np.setdiff1d(np.arange(len(points)), chosen)))
        chosen.append(draw)
        nearest = np.minimum(nearest, squared_distances(points, points[[draw]])[:, 0])
    return points[chosen]


def _lloyd(
    points: NDArray[np.float64], centers: NDArray[np.float64]
) -> tuple[NDArray[np.int64], float]:
    """Assign and average until nothing moves; (clusters, sum of squares)."""
    number = len(centers)
    before = None
    for _ in range(MAX_ROUNDS):
        distances = squared_distances(points, centers)
        clusters = distances.argmin(axis=1)
        _fill(clusters, distances)
        if before is not None and np.array_equal(clusters, before):
            break
        before = clusters
        indicator = np.zeros((number, len(points)))
        indicator[clusters, np.arange(len(points))] = 1.0
        centers = (indicator @ points) / indicator.sum(axis=1, keepdims=True)
    return clusters, float(((points - centers[clusters]) ** 2).sum())


def _fill(clusters: NDArray[np.int64], distances: NDArray[np.float64]) -> None:
    """Give every empty cluster the farthest point of one that can spare it, in place."""
    sizes = np.bincount(clusters, minlength=distances.shape[1])
    own = distances[np.arange(len(clusters)), clusters]
    for empty in np.flatnonzero(sizes == 0).tolist():
        spare = np.flatnonzero(sizes[clusters] > 1)
        point = int(spare[own[spare].argmax()])
        sizes[clusters[point]] -= 1
        clusters[point], own[point], sizes[empty] = empty, -1.0, 1
