"""Better groups by moving, swapping, splitting off and merging, while the goal rises."""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np

from gnn_mtl.grouping._density import Objective
from gnn_mtl.grouping._greedy_coloring import Groups, class_of_each, classes_of

MAX_SWEEPS = 1000


def local_search(
    goal: Objective, groups: Sequence[Sequence[int]], *, fixed_number: bool = True
) -> Groups:
    """Improve disjoint groups until no single change helps.

    A task moves to the group in which the goal is largest; where no move helps, two tasks of
    different groups swap; with the number of groups free, a task may also open a group, the last of
    a group may leave it, and groups may merge. Every step raises the goal, so that the result is
    never worse than its start.

    Args:
        goal: What to raise, from :func:`objective`.
        groups: Disjoint groups of all tasks.
        fixed_number: Keep the number of groups.

    Returns:
        Groups with sorted members.

    Complexity:
        O(T k) a sweep of moves, O(T^2) one of swaps.
    """
    labels = class_of_each(groups, len(goal.values))
    capacity = len(groups) if fixed_number else len(goal.values)
    _climb(goal.values, goal.weights, goal.shift, labels, capacity, fixed_number, MAX_SWEEPS)
    return sorted(group for group in classes_of(labels) if group)


@numba.njit(cache=True, nogil=True, inline="always")
def worth(inside, weight, shift):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Value of a group by the sum of its pairs and of its weights."""
    scale = weight - shift
    if scale <= 1e-12:
        return 0.0
    return inside / scale


@numba.njit(cache=True, nogil=True)
def _climb(values, weights, shift, labels, capacity, fixed_number, max_sweeps):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Change ``labels`` in place while the sum of worths rises."""
    num_tasks = len(labels)
    to_group = np.zeros((num_tasks, capacity))  # affinity of each task with each group
    weight = np.zeros(capacity)
    inside = np.zeros(capacity)
    size = np.zeros(capacity, dtype=np.int64)
    for task in range(num_tasks):
        for other in range(num_tasks):
            to_group[task, labels[other]] += values[task, other]
        weight[labels[task]] += weights[task]
        size[labels[task]] += 1
    largest = 0.0
    for task in range(num_tasks):
        inside[labels[task]] += to_group[task, labels[task]]
        for other in range(num_tasks):
            largest = max(largest, abs(values[task, other]))
    tolerance = 1e-10 * largest
    for _ in range(max_sweeps):
        changed = False
        for task in range(num_tasks):
            old = labels[task]
            if fixed_number and size[old] == 1:
                continue
            own = values[task, task]
            left_inside = inside[old] - 2 * to_group[task, old] + own
            left_weight = weight[old] - weights[task]
            if size[old] == 1:
                left_inside, left_weight = 0.0, 0.0
            loss = worth(inside[old], weight[old], shift) - worth(left_inside, left_weight, shift)
            best, where, opened = tolerance, -1, False
            for group in range(capacity):
                if group == old or (size[group] == 0 and (opened or size[old] == 1)):
                    continue
                opened = opened or size[group] == 0
                joined = inside[group] + 2 * to_group[task, group] + own
                gain = worth(joined, weight[group] + weights[task], shift) - worth(
                    inside[group], weight[group], shift
                )
                if gain - loss > best:
                    best, where = gain - loss, group
            if where >= 0:
                changed = True
                _move(values, weights, labels, to_group, weight, inside, size, task, where)
        if changed:
            continue
        for one in range(num_tasks):
            for two in range(one + 1, num_tasks):
                a, b = labels[one], labels[two]
                if a == b:
                    continue
                pair = values[one, two]
                inside_a = inside[a] + 2 * (to_group[two, a] - pair - to_group[one, a])
                inside_a += values[one, one] + values[two, two]
                inside_b = inside[b] + 2 * (to_group[one, b] - pair - to_group[two, b])
                inside_b += values[one, one] + values[two, two]
                weight_a = weight[a] - weights[one] + weights[two]
                weight_b = weight[b] - weights[two] + weights[one]
                after = worth(inside_a, weight_a, shift) + worth(inside_b, weight_b, shift)
                before = worth(inside[a], weight[a], shift) + worth(inside[b], weight[b], shift)
                if after - before > tolerance:
                    changed = True
                    _move(values, weights, labels, to_group, weight, inside, size, one, b)
                    _move(values, weights, labels, to_group, weight, inside, size, two, a)
        if changed:
            continue
        if not fixed_number:
            changed = _merge(
                values, weights, labels, to_group, weight, inside, size, shift, tolerance
            )
        if not changed:
            return


@numba.njit(cache=True, nogil=True)
def _move(values, weights, labels, to_group, weight, inside, size, task, group):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Move one task and keep every sum right."""
    old = labels[task]
    inside[old] += values[task, task] - 2 * to_group[task, old]
    inside[group] += values[task, task] + 2 * to_group[task, group]
    weight[old] -= weights[task]
    weight[group] += weights[task]
    size[old] -= 1
    size[group] += 1
    labels[task] = group
    for other in range(len(labels)):
        to_group[other, old] -= values[other, task]
        to_group[other, group] += values[other, task]
    if size[old] == 0:  # without what rounding left
        inside[old] = 0.0
        weight[old] = 0.0
        to_group[:, old] = 0.0


@numba.njit(cache=True, nogil=True)
def _merge(values, weights, labels, to_group, weight, inside, size, shift, tolerance):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Merge the two groups that gain most by it; whether any do."""
    capacity = len(size)
    best, first, second = tolerance, -1, -1
    between = np.zeros((capacity, capacity))
    for task in range(len(labels)):
        for group in range(capacity):
            between[labels[task], group] += to_group[task, group]
    for a in range(capacity):
        for b in range(a + 1, capacity):
            if size[a] == 0 or size[b] == 0:
                continue
            joined = worth(inside[a] + inside[b] + 2 * between[a, b], weight[a] + weight[b], shift)
            apart = worth(inside[a], weight[a], shift) + worth(inside[b], weight[b], shift)
            if joined - apart > best:
                best, first, second = joined - apart, a, b
    if first < 0:
        return False
    for task in range(len(labels)):
        if labels[task] == second:
            _move(values, weights, labels, to_group, weight, inside, size, task, first)
    return True
