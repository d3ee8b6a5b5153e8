"""Repair a colouring where the graph has changed, moving as few tasks as possible."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gnn_mtl.grouping._greedy_coloring import (
    Groups,
    check_adjacency,
    class_of_each,
    classes_of,
)


def recolor(adjacency: NDArray[np.bool_], previous: Sequence[Sequence[int]], /) -> Groups:
    """Return the previous classes with only those tasks moved that now conflict in theirs.

    In each class the task with the most conflicts inside it leaves until none is left (a greedy
    vertex cover). The tasks that left, those with the fewest classes to go to first, join the first
    class without a neighbour, or open a new one. A colouring that is still proper comes back as it
    was.

    Args:
        adjacency: Symmetric boolean matrix ``[T, T]`` with a False diagonal.
        previous: Classes of an earlier colouring of the same tasks.

    Returns:
        Colour classes: the previous ones in their order (those left empty dropped), then new ones.

    Raises:
        ShapeError: If ``adjacency`` is not such a matrix.
        UsageError: If ``previous`` does not hold every task once.

    Example:
        >>> path = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=bool)
        >>> recolor(path, [(0, 1), (2,)])
        [(1,), (0, 2)]
    """
    check_adjacency(adjacency)
    colors = class_of_each(previous, len(adjacency))
    inside = adjacency & (colors[:, None] == colors)
    left: list[int] = []
    while inside.any():
        task = int(inside.sum(axis=1).argmax())
        inside[task] = inside[:, task] = False
        left.append(task)
    num_colors = len(previous)
    used = np.zeros((len(adjacency) + num_colors, len(adjacency)), dtype=np.bool_)
    staying = np.setdiff1d(np.arange(len(adjacency)), left)
    used[colors[staying], staying] = True
    blocked = (used.astype(np.float32) @ adjacency.astype(np.float32)) > 0  # [color, task]
    waiting = set(left)
    while waiting:
        open_to = (~blocked[:num_colors]).sum(axis=0)
        task = min(waiting, key=lambda v: (open_to[v], v))
        waiting.remove(task)
        color = int(blocked[: num_colors + 1, task].argmin())
        num_colors = max(num_colors, color + 1)
        colors[task] = color
        blocked[color] |= adjacency[task]
    return [group for group in classes_of(colors) if group]
