"""Classes of equal size: every step of the schedule costs the same."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import UsageError
from gnn_mtl.grouping._dsatur import dsatur
from gnn_mtl.grouping._greedy_coloring import Groups, class_of_each, classes_of
from gnn_mtl.grouping._recolor import recolor


def equitable_coloring(
    adjacency: NDArray[np.bool_],
    /,
    *,
    previous: Sequence[Sequence[int]] | None = None,
    max_size: int | None = None,
) -> Groups:
    r"""Colour a conflict graph so that the sizes of any two classes differ by at most 1.

    Starts from DSATUR's classes and moves tasks from the largest class towards the smallest along
    shortest chains of classes, each of which passes one task on (the augmentation of Hajnal and
    Szemerédi's proof). Where no chain is left the largest class is split and the search goes on
    with one class more; from :math:`\Delta + 1` classes on an equitable colouring always exists
    (Hajnal & Szemerédi 1970) and is taken from networkx (Kierstead et al. 2010) if need be.

    Args:
        adjacency: Symmetric boolean matrix ``[T, T]`` with a False diagonal.
        previous: Classes to start from instead, of an earlier colouring of the same tasks
            (repaired by :func:`recolor`).
        max_size: Largest number of tasks of a class; forces at least T / max_size classes.

    Returns:
        Colour classes; at most :math:`\max(\Delta + 1, m, \lceil T / s \rceil)` of them if it
        started from m and the largest size is s.

    Raises:
        ShapeError: If ``adjacency`` is not such a matrix.
        UsageError: If ``max_size`` is below 1 or ``previous`` does not hold every task once.

    Example:
        >>> star = np.zeros((5, 5), dtype=bool)
        >>> star[0, 1:] = star[1:, 0] = True
        >>> [len(group) for group in equitable_coloring(star)]
        [1, 2, 2]
    """
    if max_size is not None and max_size < 1:
        raise UsageError(f"`max_size` should be at least 1 task. Found {max_size}.")
    start = dsatur(adjacency) if previous is None else recolor(adjacency, previous)
    num_tasks = len(adjacency)
    lowest = 1 if max_size is None else -(-num_tasks // max_size)
    guaranteed = int(adjacency.sum(axis=1).max()) + 1
    groups = [list(group) for group in start]
    while True:
        while len(groups) < lowest:
            _split_largest(groups)
        balanced = _balance(groups, adjacency)
        if balanced is not None:
            return balanced
        if len(groups) >= guaranteed:
            colors = nx.equitable_color(nx.from_numpy_array(adjacency), len(groups))
            return classes_of(np.array([colors[task] for task in range(num_tasks)]))
        _split_largest(groups)


def _split_largest(groups: list[list[int]]) -> None:
    largest = max(range(len(groups)), key=lambda number: (len(groups[number]), -number))
    half = len(groups[largest]) // 2
    groups.append(groups[largest][:half])
    groups[largest] = groups[largest][half:]


def _balance(groups: list[list[int]], adjacency: NDArray[np.bool_]) -> Groups | None:
    """Return classes whose sizes differ by at most 1, or None where chains of moves do not help."""
    num_groups = len(groups)
    colors = class_of_each(groups, len(adjacency))
    members = np.zeros((len(adjacency), num_groups), dtype=np.float32)
    members[np.arange(len(adjacency)), colors] = 1.0
    edges = adjacency.astype(np.float32)
    neighbors = edges @ members  # [task, class]
    while True:
        sizes = members.sum(axis=0)
        if sizes.max() - sizes.min() <= 1:
            return classes_of(colors)
        free = (neighbors == 0) & (members == 0)
        chain = _chain((members.T @ free.astype(np.float32)) > 0, sizes)
        if chain is None:
            return None
        moves = [
            (int(np.flatnonzero((colors == source) & free[:, target])[0]), source, target)
            for source, target in pairwise(chain)
        ]
        for task, source, target in moves:
            colors[task] = target
            members[task, source], members[task, target] = 0.0, 1.0
            neighbors[:, source] -= edges[task]
            neighbors[:, target] += edges[task]


def _chain(passes_on: NDArray[np.bool_], sizes: NDArray[np.float32]) -> list[int] | None:
    """Return a shortest chain of classes from a largest one to one at least 2 smaller, or None."""
    came_from: dict[int, int | None] = dict.fromkeys(
        np.flatnonzero(sizes == sizes.max()).tolist(), None
    )
    queue = list(came_from)
    for source in queue:
        if sizes[source] <= sizes.max() - 2:
            chain = [source]
            while (before := came_from[chain[-1]]) is not None:
                chain.append(before)
            return chain[::-1]
        for target in np.flatnonzero(passes_on[source]).tolist():
            if target not in came_from:
                came_from[target] = source
                queue.append(target)
    return None
