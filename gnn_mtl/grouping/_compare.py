"""How alike two groupings are, and how much conflict a grouping leaves inside its groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from gnn_mtl._core.errors import UsageError


def pair_jaccard(groups: Sequence[Sequence[int]], others: Sequence[Sequence[int]], /) -> float:
    """Return the Jaccard index of the pairs of tasks that share a group in each of two groupings.

    1 = the same pairs, 0 = no common pair. Two groupings without any pair (all singletons) are the
    same, hence 1. Groups may overlap; a pair that meets twice counts once.

    Example:
        >>> pair_jaccard([(0, 1), (2,)], [(0, 1, 2)])
        0.3333333333333333
    """
    num_tasks = 1 + max((task for group in [*groups, *others] for task in group), default=0)
    pairs, other_pairs = _pairs(groups, num_tasks), _pairs(others, num_tasks)
    union = int((pairs | other_pairs).sum())
    return int((pairs & other_pairs).sum()) / union if union else 1.0


def moved_tasks(groups: Sequence[Sequence[int]], others: Sequence[Sequence[int]], /) -> int:
    """Return how many tasks change their group from one partition to another.

    Groups are matched one to one so that the fewest do; names and order of groups do not matter.

    Raises:
        UsageError: If the two are not partitions of the same tasks.

    Example:
        >>> moved_tasks([(0, 1), (2, 3)], [(2, 3, 1), (0,)])
        1
    """
    tasks = sorted(task for group in groups for task in group)
    if tasks != sorted(set(tasks)) or tasks != sorted(task for group in others for task in group):
        raise UsageError(
            "Tasks that move are counted between two partitions of the same tasks. "
            "Found tasks missing or repeated."
        )
    overlap = np.array([[len(set(a) & set(b)) for b in others] for a in groups])
    rows, columns = linear_sum_assignment(overlap, maximize=True)
    return len(tasks) - int(overlap[rows, columns].sum())


def in_group_conflict(groups: Sequence[Sequence[int]], adjacency: NDArray[np.bool_], /) -> float:
    """Return the share of same-group pairs that are edges of a conflict graph (0 without pairs).

    Args:
        groups: Any grouping; a pair that meets in several groups counts once.
        adjacency: Symmetric boolean matrix ``[T, T]``, e.g. an exact graph that the grouping did
            not see, or the graph of all negative cosines.

    Raises:
        UsageError: If a task id is not a row of ``adjacency``.
    """
    tasks = {task for group in groups for task in group}
    if tasks and not 0 <= min(tasks) <= max(tasks) < len(adjacency):
        raise UsageError(
            f"Task ids should lie in [0, {len(adjacency)}), the rows of `adjacency`. "
            f"Found {min(tasks)} to {max(tasks)}."
        )
    pairs = _pairs(groups, len(adjacency))
    return float(adjacency[pairs].mean()) if pairs.any() else 0.0


def _pairs(groups: Sequence[Sequence[int]], num_tasks: int) -> NDArray[np.bool_]:
    """Return the upper triangle ``[T, T]`` of the pairs that share a group."""
    together = np.zeros((num_tasks, num_tasks), dtype=np.bool_)
    for group in groups:
        together[np.ix_(list(group), list(group))] = True
    return np.triu(together, k=1)
