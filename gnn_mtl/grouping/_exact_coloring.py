"""The fewest colours possible, by backtracking: an oracle for a small number of tasks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import UsageError
from gnn_mtl.grouping._dsatur import dsatur
from gnn_mtl.grouping._greedy_coloring import Groups

MAX_TASKS = 24


def exact_coloring(adjacency: NDArray[np.bool_], /) -> Groups:
    """Colour a conflict graph with as few colours as possible.

    Tries one colour fewer than the best known (DSATUR first), most saturated vertex first, until
    that fails; a new colour is opened only after all open ones, which removes their symmetry.

    Args:
        adjacency: Symmetric boolean matrix ``[T, T]`` with a False diagonal, T <= 24.

    Returns:
        Colour classes in creation order.

    Raises:
        ShapeError: If ``adjacency`` is not such a matrix.
        UsageError: If T is above 24 (exponential time).
    """
    if len(adjacency) > MAX_TASKS:
        raise UsageError(
            f"Exact colouring is for at most {MAX_TASKS} tasks. Found {len(adjacency)}; "
            'use coloring="dsatur".'
        )
    best = dsatur(adjacency)
    neighbors = [set(np.flatnonzero(row).tolist()) for row in adjacency]
    while len(best) > 1:
        better = _color_with(neighbors, {}, len(best) - 1)
        if better is None:
            break
        best = better
    return best


def _color_with(neighbors: list[set[int]], colors: dict[int, int], limit: int) -> Groups | None:
    """Extend a partial colouring to all vertices with at most ``limit`` colours, or return None."""
    used = max(colors.values(), default=-1) + 1
    if len(colors) == len(neighbors):
        return [
            tuple(sorted(vertex for vertex in colors if colors[vertex] == color))
            for color in range(used)
        ]
    seen = {
        vertex: {colors[other] for other in neighbors[vertex] if other in colors}
        for vertex in range(len(neighbors))
        if vertex not in colors
    }
    vertex = max(seen, key=lambda v: (len(seen[v]), len(neighbors[v]), -v))
    for color in range(min(used + 1, limit)):
        if color not in seen[vertex]:
            found = _color_with(neighbors, {**colors, vertex: color}, limit)
            if found is not None:
                return found
    return None
