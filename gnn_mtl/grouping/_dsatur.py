"""DSATUR: colour next the vertex that already sees the most colours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gnn_mtl.grouping._greedy_coloring import Groups, check_adjacency, classes_of


def dsatur(adjacency: NDArray[np.bool_], /) -> Groups:
    """Colour a conflict graph by degree of saturation (Brélaz 1979).

    The next vertex is the uncoloured one whose neighbours use the most colours; ties go to the
    larger degree, then to the smaller index. It takes the first colour no neighbour has. Exact on
    bipartite graphs; on random ones it saves 4 to 11 % of the colours of Welsh-Powell.

    Args:
        adjacency: Symmetric boolean matrix ``[T, T]`` with a False diagonal.

    Returns:
        Colour classes in creation order, at most one more than the largest degree.

    Raises:
        ShapeError: If ``adjacency`` is not such a matrix.

    Complexity:
        O(T^2) in T vector operations; a few milliseconds at T = 500.

    Note:
        Brélaz breaks ties by the degree among uncoloured vertices; this takes the whole degree, as
        networkx does. On random graphs neither rule needs fewer colours throughout.

    Example:
        >>> dsatur(np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=bool))
        [(1,), (0, 2)]
    """
    check_adjacency(adjacency)
    num_tasks = len(adjacency)
    degrees = adjacency.sum(axis=1)
    colors = np.empty(num_tasks, dtype=np.int64)
    blocked = np.zeros((num_tasks + 1, num_tasks), dtype=np.bool_)  # [color, vertex]
    priority = degrees.astype(np.int64)  # saturation * T + degree; below every other once coloured
    num_colors = 0
    for _ in range(num_tasks):
        vertex = int(priority.argmax())
        color = int(blocked[: num_colors + 1, vertex].argmin())
        num_colors = max(num_colors, color + 1)
        colors[vertex] = color
        newly_blocked = adjacency[vertex] & ~blocked[color]
        blocked[color] |= newly_blocked
        priority[newly_blocked] += num_tasks
        priority[vertex] = -(num_tasks**2) - num_tasks
    return classes_of(colors)
