"""First-fit colouring in a given order, and in Welsh and Powell's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import ShapeError, UsageError

Groups = list[tuple[int, ...]]
"""Sorted tuples of task ids, in the order the groups were created."""


def welsh_powell(
    adjacency: NDArray[np.bool_], /, *, previous: Sequence[Sequence[int]] | None = None
) -> Groups:
    r"""Colour a conflict graph, largest degree first (Welsh & Powell 1967; SON-GOKU §4.3).

    Vertices are taken by degree, largest first, equal degrees by index; each goes into the first
    class without a neighbour of it. At most :math:`\max_i \min(d_i + 1, i) \le \Delta + 1` classes
    (degrees :math:`d_1 \ge d_2 \ge \dots`).

    Args:
        adjacency: Symmetric boolean matrix ``[T, T]`` with a False diagonal.
        previous: Classes of an earlier colouring of the same tasks. They are then filled again in
            that order, degrees deciding inside each, which keeps a partition where it still fits;
            the bound :math:`\Delta + 1` holds for any order, the sharper one does not.

    Returns:
        Colour classes in creation order.

    Raises:
        ShapeError: If ``adjacency`` is not such a matrix.
        UsageError: If ``previous`` does not hold every task once.

    Complexity:
        O(T m) vector operations for m colours; a few milliseconds at T = 500.

    Example:
        >>> welsh_powell(np.array([[0, 0, 1], [0, 0, 1], [1, 1, 0]], dtype=bool))
        [(2,), (0, 1)]
    """
    check_adjacency(adjacency)
    keys = [np.arange(len(adjacency)), -adjacency.sum(axis=1)]
    if previous is not None:
        keys.append(class_of_each(previous, len(adjacency)))
    return first_fit(adjacency, np.lexsort(keys).tolist())


def first_fit(adjacency: NDArray[np.bool_], order: Sequence[int], /) -> Groups:
    """Put each vertex of ``order`` into the first class that holds no neighbour of it.

    Args:
        adjacency: Symmetric boolean matrix ``[T, T]`` with a False diagonal.
        order: Every vertex once.

    Returns:
        Colour classes in creation order, at most one more than the largest degree.

    Raises:
        ShapeError: If ``adjacency`` is not such a matrix.
        UsageError: If ``order`` is not a permutation of the vertices.
    """
    check_adjacency(adjacency)
    num_tasks = len(adjacency)
    if sorted(order) != list(range(num_tasks)):
        raise UsageError(f"`order` should hold each of the {num_tasks} vertices once.")
    colors = np.empty(num_tasks, dtype=np.int64)
    blocked = np.zeros((num_tasks + 1, num_tasks), dtype=np.bool_)  # [color, vertex]
    num_colors = 0
    for vertex in order:
        color = int(blocked[: num_colors + 1, vertex].argmin())
        num_colors = max(num_colors, color + 1)
        colors[vertex] = color
        blocked[color] |= adjacency[vertex]
    return classes_of(colors)


def classes_of(colors: NDArray[np.int64], /) -> Groups:
    """Return the classes of a colouring given as one colour (0, 1, ...) a vertex."""
    return [
        tuple(np.flatnonzero(colors == color).tolist()) for color in range(int(colors.max()) + 1)
    ]


def check_adjacency(adjacency: NDArray[np.bool_], /) -> None:
    """Raise ShapeError unless ``adjacency`` is boolean, square, symmetric and hollow, T >= 1."""
    square = adjacency.ndim == 2 and adjacency.shape[0] == adjacency.shape[1] > 0
    if not square or adjacency.dtype != np.bool_:
        raise ShapeError(
            "`adjacency` should be a square boolean matrix [T, T] with T >= 1. "
            f"Found {adjacency.dtype} with shape {adjacency.shape}."
        )
    if adjacency.diagonal().any() or not np.array_equal(adjacency, adjacency.T):
        raise ShapeError(
            "`adjacency` should be symmetric with a False diagonal (an undirected graph without "
            "loops). Found a directed edge or a loop; conflict_graph() makes a right one."
        )


def class_of_each(classes: Sequence[Sequence[int]], num_tasks: int) -> NDArray[np.int64]:
    """Return the class number of every task; the classes must be a partition."""
    members = [int(task) for group in classes for task in group]
    if sorted(members) != list(range(num_tasks)):
        raise UsageError(
            f"`previous` should hold each of the {num_tasks} tasks in one class. "
            "Found tasks missing, repeated or unknown; pass the classes before coverage is added."
        )
    numbers = np.empty(num_tasks, dtype=np.int64)
    for number, group in enumerate(classes):
        numbers[list(group)] = number
    return numbers
