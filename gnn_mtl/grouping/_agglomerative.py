"""Greedy groups: merge the pair that gains most, then move tasks."""

from __future__ import annotations

import numba
import numpy as np

from gnn_mtl.grouping import _density
from gnn_mtl.grouping._density import Objective, ObjectiveName
from gnn_mtl.grouping._greedy_coloring import Groups, classes_of
from gnn_mtl.grouping._local_search import local_search, worth
from gnn_mtl.grouping._pair_values import check_num_groups
from gnn_mtl.tasks import Affinity, Grouping


def greedy_groups(
    affinity: Affinity,
    *,
    num_groups: int | None = None,
    objective: ObjectiveName = "density",
    improve: bool = True,
    keep_diagonal: bool = False,
) -> Grouping:
    """Merge groups greedily, from single tasks on, then improve them by a local search.

    Args:
        affinity: Symmetric or directed (only the mean of both directions matters); unknown pairs
            count as the median of the known ones.
        num_groups: Exactly this many groups; default until no merge gains, and then the local
            search may open and merge groups.
        objective: ``"density"``, ``"ptg"``, ``"tag"`` or ``"association"``.
        improve: Follow the merges by :func:`local_search`.
        keep_diagonal: Let self-affinities count.

    Raises:
        UsageError: If an option is out of range.

    Complexity:
        O(T^3) for the merges.
    """
    goal = _density.objective(affinity, objective, keep_diagonal=keep_diagonal)
    groups = merged_groups(goal, num_groups)
    if improve:
        groups = local_search(goal, groups, fixed_number=num_groups is not None)
    said = (
        f"greedy(objective={objective}, num_groups={len(groups)}, value={goal.of(groups):.6g}, "
        f"imputed={goal.num_imputed})"
    )
    return Grouping.of(groups, affinity.num_tasks, said)


def merged_groups(goal: Objective, num_groups: int | None = None) -> Groups:
    """Return the groups left when single tasks have merged greedily.

    Args:
        goal: From :func:`objective`.
        num_groups: Groups to stop at; default when no merge gains.

    Raises:
        UsageError: If there are fewer tasks than groups.
    """
    number = len(goal.values)
    wanted = 0 if num_groups is None else check_num_groups(num_groups, number)
    labels = _merge_down(goal.values, goal.weights, goal.shift, wanted)
    return sorted(group for group in classes_of(labels) if group)


@numba.njit(cache=True, nogil=True)
def _merge_down(values, weights, shift, wanted):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Merge the best pair until ``wanted`` groups are left, or, where that is 0, while it gains."""
    number = len(values)
    labels = np.arange(number)
    between = values.copy()
    inside = np.diag(values).copy()
    weight = weights.copy()
    alive = np.ones(number, dtype=np.bool_)
    left = number
    while left > max(wanted, 1):
        best, first, second = -np.inf, -1, -1
        for a in range(number):
            if not alive[a]:
                continue
            own = worth(inside[a], weight[a], shift)
            for b in range(a + 1, number):
                if not alive[b]:
                    continue
                joined = inside[a] + inside[b] + 2 * between[a, b]
                gain = worth(joined, weight[a] + weight[b], shift) - own
                gain -= worth(inside[b], weight[b], shift)
                if gain > best:
                    best, first, second = gain, a, b
        if wanted == 0 and best <= 0.0:
            break
        inside[first] += inside[second] + 2 * between[first, second]
        weight[first] += weight[second]
        alive[second] = False
        left -= 1
        for other in range(number):
            between[first, other] += between[second, other]
            between[other, first] = between[first, other]
            if labels[other] == second:
                labels[other] = first
    return labels
