"""The best partition of few tasks, by dynamic programming over subsets."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat

import numba
import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import UsageError
from gnn_mtl.grouping import _density
from gnn_mtl.grouping._density import Objective, ObjectiveName
from gnn_mtl.grouping._greedy_coloring import Groups
from gnn_mtl.grouping._local_search import worth
from gnn_mtl.grouping._pair_values import check_num_groups
from gnn_mtl.tasks import Affinity, Grouping

MAX_TASKS = 16


def exact_groups(
    affinity: Affinity,
    *,
    num_groups: int | None = None,
    objective: ObjectiveName = "density",
    keep_diagonal: bool = False,
) -> Grouping:
    """Return the best partition of at most 16 tasks.

    Args:
        affinity: Symmetric or directed (only the mean of both directions matters); unknown pairs
            count as the median of the known ones.
        num_groups: Exactly this many groups; default as many as are best.
        objective: ``"density"``, ``"ptg"``, ``"tag"`` or ``"association"``.
        keep_diagonal: Let self-affinities count.

    Raises:
        UsageError: If there are more tasks, or an option is out of range.

    Complexity:
        O(k 3^T): a second or two a group at 16 tasks.
    """
    goal = _density.objective(affinity, objective, keep_diagonal=keep_diagonal)
    groups = exact_partition(goal, num_groups)
    said = (
        f"exact(objective={objective}, num_groups={len(groups)}, value={goal.of(groups):.6g}, "
        f"imputed={goal.num_imputed})"
    )
    return Grouping.of(groups, affinity.num_tasks, said)


def exact_partition(goal: Objective, num_groups: int | None = None) -> Groups:
    """Return the partition that a goal values most.

    ``best[q][S]`` is the largest over subsets U of S that hold S's lowest task of
    ``value(U) + best[q - 1][S without U]``.

    Args:
        goal: From :func:`objective`.
        num_groups: Exactly this many groups; default any number.

    Raises:
        UsageError: If there are more than 16 tasks or fewer than groups.
    """
    number = len(goal.values)
    if number > MAX_TASKS:
        raise UsageError(
            f"The exact partition goes up to {MAX_TASKS} tasks. Found {number}; use "
            "branch_and_bound, or sdp, which bounds how far it is from the best."
        )
    values = _subset_values(goal.values, goal.weights, goal.shift)
    if num_groups is None:
        layers: Iterator[NDArray[np.int64]] = repeat(_best_any(values, number))
    else:
        layers = iter(_best_of(values, number, check_num_groups(num_groups, number))[::-1])
    groups: Groups = []
    rest = (1 << number) - 1
    while rest:
        part = int(next(layers)[rest])
        groups.append(tuple(task for task in range(number) if part >> task & 1))
        rest ^= part
    return sorted(groups)


@numba.njit(cache=True, nogil=True)
def _subset_values(values, weights, shift):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Value of every subset, by its bits."""
    number = len(values)
    inside = np.zeros(1 << number)
    weight = np.zeros(1 << number)
    result = np.zeros(1 << number)
    for subset in range(1, 1 << number):
        low = 0
        while not subset >> low & 1:
            low += 1
        rest = subset ^ (1 << low)
        added = values[low, low]
        for task in range(low + 1, number):
            if rest >> task & 1:
                added += 2 * values[low, task]
        inside[subset] = inside[rest] + added
        weight[subset] = weight[rest] + weights[low]
        result[subset] = worth(inside[subset], weight[subset], shift)
    return result


@numba.njit(cache=True, nogil=True)
def _best_part(values, before, subset):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The part with the lowest task worth most together with the rest, and their worth."""
    low = subset & -subset
    others = subset ^ low
    most, chosen = -np.inf, 0
    more = others
    while True:
        part = more | low
        value = values[part] + before[subset ^ part]
        if value > most:
            most, chosen = value, part
        if more == 0:
            return chosen, most
        more = (more - 1) & others


@numba.njit(cache=True, nogil=True)
def _best_any(values, number):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """First part of the best partition of every subset into any number of groups."""
    best = np.zeros(1 << number)
    chosen = np.zeros(1 << number, dtype=np.int64)
    for subset in range(1, 1 << number):
        chosen[subset], best[subset] = _best_part(values, best, subset)
    return chosen


@numba.njit(cache=True, nogil=True)
def _best_of(values, number, num_groups):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The same, into exactly q + 1 groups in row q."""
    chosen = np.zeros((num_groups, 1 << number), dtype=np.int64)
    best = values.copy()
    best[0] = -np.inf
    for subset in range(1, 1 << number):
        chosen[0, subset] = subset
    for layer in range(1, num_groups):
        before = best
        best = np.full(1 << number, -np.inf)
        for subset in range(1, 1 << number):
            chosen[layer, subset], best[subset] = _best_part(values, before, subset)
    return chosen
