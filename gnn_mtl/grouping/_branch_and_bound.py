"""The best partition by branch and bound within a budget of branches."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import UsageError
from gnn_mtl.grouping import _density
from gnn_mtl.grouping._agglomerative import merged_groups
from gnn_mtl.grouping._cluster_sdp import cluster_sdp
from gnn_mtl.grouping._density import Objective, ObjectiveName
from gnn_mtl.grouping._greedy_coloring import Groups, class_of_each, classes_of
from gnn_mtl.grouping._local_search import local_search, worth
from gnn_mtl.grouping._pair_values import check_num_groups
from gnn_mtl.tasks import Affinity, Grouping

MAX_TASKS = 150
"""Beyond, branches are not tried: the tables take T^3 numbers."""


@dataclass(frozen=True)
class PartitionChoice:
    """The best partition met.

    Attributes:
        grouping: The groups.
        value: What the goal says of them.
        upper_bound: No partition allowed is worth more.
        optimal: Whether every other was ruled out.
        nodes: Branches looked at.
    """

    grouping: Grouping
    value: float
    upper_bound: float
    optimal: bool
    nodes: int


def branch_and_bound(
    affinity: Affinity,
    *,
    num_groups: int | None = None,
    objective: ObjectiveName = "density",
    max_nodes: int = 1_000_000,
    keep_diagonal: bool = False,
) -> PartitionChoice:
    r"""Search all partitions depth-first, tasks one after the other, cutting what cannot win.

    A group G of a partial partition adds at most
    :math:`\max_j (W(G) + \sum_{t \in G} \text{top}_j(t)) / (|G| + j - s)` for its own members, with
    :math:`\text{top}_j` a task's j largest affinities to tasks not yet placed, and a task not yet
    placed its best over all sizes. The incumbent comes from :func:`merged_groups` and
    :func:`local_search`, for densities also from :func:`cluster_sdp`, whose bound is reported where
    the budget ends the search.

    Args:
        affinity: Symmetric or directed (only the mean of both directions matters); unknown pairs
            count as the median of the known ones.
        num_groups: Exactly this many groups; default any number.
        objective: ``"density"``, ``"ptg"`` or ``"tag"``.
        max_nodes: Branches after which the incumbent is returned unproven; above 150 tasks none is
            tried.
        keep_diagonal: Let self-affinities count.

    Raises:
        UsageError: If an option is out of range or the goal is the association.
    """
    if objective == "association":
        raise UsageError("Branch and bound has no bound for 'association'; use exact or greedy.")
    if max_nodes < 0:
        raise UsageError(f"`max_nodes` should not be negative. Found {max_nodes}.")
    goal = _density.objective(affinity, objective, keep_diagonal=keep_diagonal)
    number = affinity.num_tasks
    if num_groups is not None:
        check_num_groups(num_groups, number)
    fixed = num_groups is not None
    best = local_search(goal, merged_groups(goal, num_groups), fixed_number=fixed)
    limit = _largest_shares(goal, number if num_groups is None else number - num_groups + 1)
    upper = float(limit.sum())
    if goal.shift == 0:
        price = None if fixed else 0.0
        sdp = cluster_sdp(
            affinity, num_groups, price, max_iterations=200, keep_diagonal=keep_diagonal
        )
        upper = min(upper, sdp.upper_bound)
        if not fixed or len(sdp.groups) == num_groups:
            other = local_search(goal, sdp.groups, fixed_number=fixed)
            best = max(best, other, key=goal.of)
    nodes, optimal = 0, False
    if number <= MAX_TASKS:
        best, nodes, optimal = _search(goal, best, num_groups or 0, limit, max_nodes)
    value = goal.of(best)
    upper = value if optimal else max(upper, value)
    said = (
        f"branch_and_bound(objective={objective}, num_groups={len(best)}, value={value:.6g}, "
        f"upper_bound={upper:.6g}, optimal={str(optimal).lower()}, imputed={goal.num_imputed})"
    )
    return PartitionChoice(Grouping.of(best, number, said), value, upper, optimal, nodes)


def branch_and_bound_groups(
    affinity: Affinity,
    *,
    num_groups: int | None = None,
    objective: ObjectiveName = "density",
    max_nodes: int = 1_000_000,
    keep_diagonal: bool = False,
) -> Grouping:
    """Return the groups of :func:`branch_and_bound`; their ``method`` says whether they are best.

    Args:
        affinity: See :func:`branch_and_bound`.
        num_groups: Exactly this many groups; default any number.
        objective: ``"density"``, ``"ptg"`` or ``"tag"``.
        max_nodes: Branches after which the best so far is returned, with a bound.
        keep_diagonal: Let self-affinities count.

    Raises:
        UsageError: See :func:`branch_and_bound`.
    """
    return branch_and_bound(
        affinity, num_groups=num_groups, objective=objective, max_nodes=max_nodes,
        keep_diagonal=keep_diagonal,
    ).grouping  # fmt: skip


def _largest_shares(goal: Objective, largest: int) -> NDArray[np.float64]:
    """The most a task can add in any group of at most ``largest`` tasks."""
    number = len(goal.values)
    others = goal.values.copy()
    own = others.diagonal().copy()
    np.fill_diagonal(others, -np.inf)
    falling = -np.sort(-others, axis=1)[:, : number - 1]
    sums = own[:, None] + np.concatenate(
        [np.zeros((number, 1)), np.cumsum(falling, axis=1)], axis=1
    )
    sizes = np.arange(1, number + 1) - goal.shift
    shares = np.divide(sums, sizes, out=np.zeros_like(sums), where=sizes > 0)
    return shares[:, :largest].max(axis=1)


def _search(
    goal: Objective, best: Groups, wanted: int, limit: NDArray[np.float64], max_nodes: int
) -> tuple[Groups, int, bool]:
    number = len(goal.values)
    order = np.argsort(-limit, kind="stable")
    values = np.ascontiguousarray(goal.values[np.ix_(order, order)])
    tops = np.zeros((number + 1, number, number + 1))  # by tasks placed, task, how many more
    for placed in range(number):
        falling = -np.sort(-values[:, placed:], axis=1)
        tops[placed, :, 1 : number - placed + 1] = np.cumsum(falling, axis=1)
    labels = class_of_each(best, number)[order]
    rest = np.append(np.cumsum(limit[order][::-1])[::-1], 0.0)
    found, nodes, optimal = _depth_first(
        values, goal.shift, tops, rest, labels, goal.of(best), wanted, max_nodes
    )
    back = np.empty(number, dtype=np.int64)
    back[order] = found
    return sorted(group for group in classes_of(back) if group), int(nodes), bool(optimal)


@numba.njit(cache=True, nogil=True)
def _depth_first(values, shift, tops, rest, best_labels, best, wanted, max_nodes):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Try every group for every task in order; (best labels, branches, whether all were tried)."""
    number = len(values)
    best_labels = best_labels.copy()
    labels = np.full(number, -1, dtype=np.int64)
    used = np.zeros(number + 1, dtype=np.int64)  # groups open before each task
    inside = np.zeros(number)
    size = np.zeros(number, dtype=np.int64)
    most_inside = np.zeros((number, number + 1))  # of each open group, by how many more join
    nodes = 0
    depth = 0
    tolerance = 1e-11 * (np.abs(values).max() * number)
    while depth >= 0:
        old = labels[depth]
        if old >= 0:  # take the task out of where it was
            size[old] -= 1
            inside[old] -= values[depth, depth]
            for other in range(depth):
                if labels[other] == old:
                    inside[old] -= 2 * values[depth, other]
            if size[old] == 0:
                inside[old] = 0.0
        group = old + 1
        must_open = wanted > 0 and used[depth] + (number - depth) <= wanted
        if must_open and group < used[depth]:
            group = used[depth]
        if group > used[depth] or (wanted > 0 and group >= wanted):
            labels[depth] = -1
            depth -= 1
            continue
        if nodes >= max_nodes:
            return best_labels, nodes, False
        nodes += 1
        labels[depth] = group
        size[group] += 1
        inside[group] += values[depth, depth]
        for other in range(depth):
            if labels[other] == group:
                inside[group] += 2 * values[depth, other]
        used[depth + 1] = max(used[depth], group + 1)
        placed = depth + 1
        left = number - placed
        if wanted > 0:
            left -= wanted - used[placed]
        most_inside[: used[placed], 1 : left + 1] = inside[: used[placed], None]
        for task in range(placed):
            for more in range(1, left + 1):
                most_inside[labels[task], more] += tops[placed, task, more]
        bound = rest[placed]
        for each in range(used[placed]):
            most = worth(inside[each], float(size[each]), shift)
            for more in range(1, left + 1):
                most = max(most, most_inside[each, more] / (size[each] + more - shift))
            bound += most
        if bound <= best + tolerance:
            continue
        if placed < number:
            depth = placed
            labels[depth] = -1
            continue
        best = bound  # all placed: the bound is the value
        best_labels[:] = labels
    return best_labels, nodes, True
