"""Super-tasks: where colours are too many, alike tasks are merged and the merged ones coloured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from gnn_mtl._core.errors import UsageError
from gnn_mtl.grouping._greedy_coloring import Groups
from gnn_mtl.tasks import Affinity


def supertasks(affinity: Affinity, num_supertasks: int, /) -> Groups:
    """Merge tasks into at most ``num_supertasks`` by average linkage of their affinities.

    Args:
        affinity: A symmetric affinity, positive = helps; unknown pairs count as indifferent (0).
        num_supertasks: How many are wanted.

    Returns:
        Sorted groups, by their smallest task.

    Raises:
        UsageError: If ``num_supertasks`` is below 1.

    Complexity:
        O(T^2 log T).
    """
    if num_supertasks < 1:
        raise UsageError(f"`num_supertasks` should be at least 1. Found {num_supertasks}.")
    if affinity.num_tasks == 1:
        return [(0,)]
    values = np.nan_to_num(affinity.values, nan=0.0)
    distance = values.max() - (values + values.T) / 2
    np.fill_diagonal(distance, 0.0)
    tree = linkage(squareform(distance, checks=False), method="average")
    numbers = fcluster(tree, num_supertasks, criterion="maxclust")
    groups = [tuple(np.flatnonzero(numbers == number).tolist()) for number in np.unique(numbers)]
    return sorted(groups)


def merged_affinity(affinity: Affinity, groups: Groups, /) -> Affinity:
    r"""Return the cosines between the sums of the groups' normalised gradients.

    With :math:`S` the memberships and :math:`C` the cosines that is :math:`S C S^\top`, scaled to
    a diagonal of 1: exact where all cosines are known and finite; unknown ones count as 0, and a
    group none of whose tasks is known, or whose sum vanishes, is unknown.

    Args:
        affinity: Cosines of the tasks.
        groups: The super-tasks.
    """
    members = np.zeros((len(groups), affinity.num_tasks))
    for row, group in enumerate(groups):
        members[row, list(group)] = 1.0
    gramian = members @ np.nan_to_num(affinity.values, nan=0.0) @ members.T
    norms = np.sqrt(np.maximum(gramian.diagonal(), 0.0))
    norms[norms <= 1e-9] = np.nan
    cosine = np.clip(gramian / norms[:, None] / norms, -1.0, 1.0)
    np.fill_diagonal(cosine, np.where(np.isnan(norms), np.nan, 1.0))
    return replace(affinity, values=cosine, counts=None, stderr=None, label_names=None, details={})


def coarse_coloring(
    affinity: Affinity,
    max_colors: int,
    color: Callable[[Affinity], Groups],
    /,
) -> tuple[Groups, int]:
    """Colour super-tasks instead of tasks, merging until ``max_colors`` classes are enough.

    A binary search finds the largest number of super-tasks tried whose conflict graph needs no more
    colours. The price: tasks merged into one super-task, and tasks of two super-tasks that do not
    conflict as wholes, may conflict one by one and are active together all the same.

    Args:
        affinity: Cosines of the tasks.
        max_colors: Largest number of classes.
        color: From the cosines of the super-tasks to their classes.

    Returns:
        Classes of tasks, and the number of super-tasks behind them.

    Raises:
        UsageError: If ``max_colors`` is below 1.
    """
    if max_colors < 1:
        raise UsageError(f"`max_colors` should be at least 1. Found {max_colors}.")
    low, high = min(max_colors, affinity.num_tasks), affinity.num_tasks
    best, best_number = _expand(affinity, low, color)
    while low < high:
        middle = (low + high + 1) // 2
        classes, number = _expand(affinity, middle, color)
        if len(classes) <= max_colors:
            best, best_number, low = classes, number, middle
        else:
            high = middle - 1
    return best, best_number


def _expand(
    affinity: Affinity, number: int, color: Callable[[Affinity], Groups]
) -> tuple[Groups, int]:
    """Merge into ``number`` super-tasks, colour those, and return the tasks of each class."""
    merged = supertasks(affinity, number)
    classes = color(merged_affinity(affinity, merged))
    return [tuple(sorted(t for index in group for t in merged[index])) for group in classes], len(
        merged
    )
