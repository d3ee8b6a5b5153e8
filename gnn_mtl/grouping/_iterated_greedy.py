"""Iterated greedy: colour again, class by class, which never needs more colours."""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import UsageError
from gnn_mtl.grouping._dsatur import dsatur
from gnn_mtl.grouping._greedy_coloring import Groups, class_of_each, classes_of
from gnn_mtl.grouping._recolor import recolor
from gnn_mtl.grouping._search import clique_bound, draw, neighbor_lists, stream


def iterated_greedy(
    adjacency: NDArray[np.bool_],
    /,
    *,
    previous: Sequence[Sequence[int]] | None = None,
    iterations: int = 300,
    seed: int = 0,
) -> Groups:
    """Colour a conflict graph by repeated first-fit, a whole class at a time (Culberson 1992).

    First-fit over an order in which the members of each class stand together never opens more
    classes than there were, and sometimes empties one. The orders take turns: classes reversed,
    largest first, at random.

    Args:
        adjacency: Symmetric boolean matrix ``[T, T]`` with a False diagonal.
        previous: Classes to start from, of an earlier colouring of the same tasks (repaired by
            :func:`recolor`); they come back as they were where no colour can be saved. Default:
            DSATUR's.
        iterations: Number of passes.
        seed: Seed of the random orders; the result depends on nothing else.

    Returns:
        Colour classes, at most as many as at the start.

    Raises:
        ShapeError: If ``adjacency`` is not such a matrix.
        UsageError: If ``previous`` does not hold every task once, or ``iterations`` is negative.

    Complexity:
        O(T + E) a pass.
    """
    check_iterations(iterations)
    start = dsatur(adjacency) if previous is None else recolor(adjacency, previous)
    if len(start) <= clique_bound(adjacency):
        return start
    offsets, neighbors = neighbor_lists(adjacency)
    colors = class_of_each(start, len(adjacency))
    found = _passes(offsets, neighbors, colors, len(start), iterations, stream(seed, "iterated"))
    improved = classes_of(found)
    return improved if len(improved) < len(start) else start


def check_iterations(iterations: int) -> None:
    """Raise UsageError if a number of iterations is negative."""
    if iterations < 0:
        raise UsageError(f"`iterations` should be 0 or more. Found {iterations}.")


@numba.njit(cache=True, nogil=True)
def _passes(offsets, neighbors, colors, num_colors, iterations, key):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Recolour class by class; return the last colouring, whose number of colours is the least."""
    num_tasks = len(colors)
    counter = 0
    sizes = np.zeros(num_colors, dtype=np.int64)
    rank = np.empty(num_colors, dtype=np.int64)
    starts = np.empty(num_colors + 1, dtype=np.int64)
    order = np.empty(num_tasks, dtype=np.int64)
    seen = np.full(num_colors + 1, -1, dtype=np.int64)
    for iteration in range(iterations):
        sizes[:num_colors] = 0
        for task in range(num_tasks):
            sizes[colors[task]] += 1
        kind = iteration % 3
        classes = np.arange(num_colors)
        if kind == 0:
            classes = classes[::-1].copy()
        elif kind == 1:
            classes = np.argsort(-sizes[:num_colors], kind="mergesort")
        else:
            for i in range(num_colors - 1, 0, -1):
                j = draw(key, counter, i + 1)
                counter += 1
                classes[i], classes[j] = classes[j], classes[i]
        position = 0
        for place in range(num_colors):
            rank[classes[place]] = place
            starts[place] = position
            position += sizes[classes[place]]
        for task in range(num_tasks):
            place = rank[colors[task]]
            order[starts[place]] = task
            starts[place] += 1
        fresh = np.full(num_tasks, -1, dtype=np.int64)
        used = 0
        for place in range(num_tasks):
            task = order[place]
            for index in range(offsets[task], offsets[task + 1]):
                color = fresh[neighbors[index]]
                if color >= 0:
                    seen[color] = task
            color = 0
            while color < used and seen[color] == task:
                color += 1
            used = max(used, color + 1)
            fresh[task] = color
        seen[:] = -1
        colors = fresh
        num_colors = used
    return colors
