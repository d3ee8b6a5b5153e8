"""At most so many tasks a class: move the surplus where it fits, open new classes for the rest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from gnn_mtl._core.errors import UsageError
from gnn_mtl.grouping._greedy_coloring import Groups, check_adjacency, class_of_each


def cap_sizes(
    groups: Sequence[Sequence[int]], adjacency: NDArray[np.bool_], max_size: int
) -> Groups:
    r"""Return conflict-free classes of at most ``max_size`` tasks each.

    The largest class gives up its surplus first. As its members do not conflict with each other,
    which of them fit into classes with room is a bipartite matching; as many as possible go there,
    the rest opens new classes, which have room for the surplus of the next one. So a cap may force
    more classes than the colouring had, never fewer than T / max_size. It also bounds how much
    conflict the sum of a group can hide: at a tolerance :math:`\tau` a group of
    :math:`n \le 1 + (1 - c) / \tau` tasks keeps a share c of its gradients' squared length
    (SON-GOKU Eq. 12).

    Args:
        groups: Conflict-free classes that hold every task once.
        adjacency: The conflict graph they come from, boolean ``[T, T]``.
        max_size: Largest number of tasks of a class.

    Returns:
        The classes in the order given, new ones last; classes already small enough only grow.

    Raises:
        ShapeError: If ``adjacency`` is not symmetric, boolean and hollow.
        UsageError: If ``max_size`` is below 1 or ``groups`` does not hold every task once.
    """
    check_adjacency(adjacency)
    if max_size < 1:
        raise UsageError(f"`max_size` should be at least 1 task. Found {max_size}.")
    class_of_each(groups, len(adjacency))
    capped = [sorted(group) for group in groups]
    while True:
        largest = max(range(len(capped)), key=lambda number: (len(capped[number]), -number))
        surplus = len(capped[largest]) - max_size
        if surplus <= 0:
            return [tuple(sorted(group)) for group in capped]
        target = _places(capped, largest, adjacency, max_size)
        leaving = sorted(target, key=lambda task: -task)[:surplus]
        for task in leaving:
            capped[target[task]].append(task)
        staying = [task for task in capped[largest] if task not in leaving]
        capped[largest], rest = staying[:max_size], staying[max_size:]
        capped.extend(rest[start : start + max_size] for start in range(0, len(rest), max_size))


def _places(
    groups: list[list[int]], largest: int, adjacency: NDArray[np.bool_], max_size: int
) -> dict[int, int]:
    """Return another class with room for as many members of the largest one as can have one."""
    members = groups[largest]
    slots = [
        number
        for number, group in enumerate(groups)
        for _ in range(max_size - len(group))
        if number != largest
    ]
    if not slots:
        return {}
    fits = {number: ~adjacency[np.ix_(members, groups[number])].any(axis=1) for number in slots}
    allowed = csr_array(np.stack([fits[number] for number in slots], axis=1).astype(np.int8))
    matched = maximum_bipartite_matching(allowed, perm_type="column").tolist()
    return {task: slots[slot] for task, slot in zip(members, matched, strict=True) if slot >= 0}
