"""From the SDP's matrix to groups."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gnn_mtl.grouping._density import Objective
from gnn_mtl.grouping._greedy_coloring import Groups, classes_of
from gnn_mtl.grouping._k_means import k_means
from gnn_mtl.grouping._local_search import local_search

RoundingName = Literal["kmeans", "threshold"]


def round_embedding(
    points: NDArray[np.float64],
    goal: Objective,
    num_groups: int,
    *,
    restarts: int = 10,
    improve: bool = True,
    seed: int = 0,
) -> Groups:
    """Cluster the tasks' points by k-means from several seeds and keep what the goal values most.

    Args:
        points: ``[T, d]``, e.g. the leading eigenvectors of X times the roots of their eigenvalues.
        goal: What decides among the starts.
        num_groups: Groups k.
        restarts: Seeds of k-means, each its own start.
        improve: Follow each start by :func:`local_search`.
        seed: Seed of the starts.
    """
    best, highest = [tuple(range(len(points)))], -np.inf
    for start in range(restarts):
        labels = k_means(points, num_groups, restarts=1, seed=seed + start)
        groups = [group for group in classes_of(labels) if group]
        if improve:
            groups = local_search(goal, groups)
        value = goal.of(groups)
        if value > highest + 1e-12 * abs(value):
            best, highest = groups, value
    return sorted(best)


def leading_vectors(matrix: NDArray[np.float64], number: int) -> NDArray[np.float64]:
    """Return the eigenvectors of the largest eigenvalues times their roots, ``[T, number]``."""
    values, vectors = np.linalg.eigh(matrix)
    return vectors[:, -number:] * np.sqrt(np.maximum(values[-number:], 0.0))


def threshold_groups(matrix: NDArray[np.float64], threshold: float | None = None) -> Groups:
    """Round as Grad-TAG's released code: tasks join the first row whose entry exceeds 1/T.

    For comparison: a row that is taken still opens a group for its leftovers, and the number of
    groups is whatever comes out.

    Args:
        matrix: X, ``[T, T]``.
        threshold: Default 1/T.
    """
    number = len(matrix)
    above = matrix > (1.0 / number if threshold is None else threshold)
    free = np.ones(number, dtype=np.bool_)
    groups: Groups = []
    for row in range(number):
        joining = free & above[row]
        joining[:row] = False
        if joining.any():
            groups.append(tuple(np.flatnonzero(joining).tolist()))
            free &= ~joining
    groups.extend((task,) for task in np.flatnonzero(free).tolist())
    return sorted(groups)
