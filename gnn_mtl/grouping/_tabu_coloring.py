"""TabuCol: remove a colour, then repair the conflicts by a tabu search."""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
from numpy.typing import NDArray

from gnn_mtl.grouping._dsatur import dsatur
from gnn_mtl.grouping._greedy_coloring import Groups, class_of_each, classes_of
from gnn_mtl.grouping._iterated_greedy import check_iterations
from gnn_mtl.grouping._recolor import recolor
from gnn_mtl.grouping._search import clique_bound, draw, neighbor_lists, stream


def tabu_coloring(
    adjacency: NDArray[np.bool_],
    /,
    *,
    previous: Sequence[Sequence[int]] | None = None,
    iterations: int = 50_000,
    seed: int = 0,
) -> Groups:
    """Colour a conflict graph by TabuCol (Hertz & de Werra 1987).

    The smallest class is dissolved into the others and the conflicts that makes are repaired, one
    task moved to another class at a time: the move that leaves the fewest conflicts, not back to a
    class left within the last ``0.6 F + U{0..9}`` moves (F tasks in conflict; Galinier & Hao 1999)
    unless that is the fewest ever. Each success dissolves the next class.

    Args:
        adjacency: Symmetric boolean matrix ``[T, T]`` with a False diagonal.
        previous: Classes to start from, of an earlier colouring of the same tasks (repaired by
            :func:`recolor`); they come back as they were where no colour can be saved. Default:
            DSATUR's.
        iterations: Moves in all; they are the only budget, there is no clock.
        seed: Seed of the choice among equal moves; the result depends on nothing else.

    Returns:
        Colour classes, at most as many as at the start.

    Raises:
        ShapeError: If ``adjacency`` is not such a matrix.
        UsageError: If ``previous`` does not hold every task once, or ``iterations`` is negative.

    Complexity:
        O(F m + degree) a move for m classes; ``bench coloring`` has times.
    """
    check_iterations(iterations)
    best = dsatur(adjacency) if previous is None else recolor(adjacency, previous)
    lowest = clique_bound(adjacency)
    offsets, neighbors = neighbor_lists(adjacency)
    while len(best) > lowest and iterations > 0:
        colors = _dissolve_smallest(best, adjacency)
        key = stream(seed, f"tabu {len(best)}")
        solved, used = _search(offsets, neighbors, colors, len(best) - 1, iterations, key)
        iterations -= int(used)
        if not solved:
            break
        best = [group for group in classes_of(colors) if group]
    return best


def _dissolve_smallest(groups: Groups, adjacency: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return one colour a task without the smallest class: each member where it conflicts least."""
    smallest = min(range(len(groups)), key=lambda number: (len(groups[number]), number))
    kept = [group for number, group in enumerate(groups) if number != smallest]
    colors = class_of_each([*kept, groups[smallest]], len(adjacency))
    members = np.zeros((len(adjacency), len(kept)), dtype=np.float32)
    for number, group in enumerate(kept):
        members[list(group), number] = 1.0
    rows = list(groups[smallest])
    colors[rows] = (adjacency[rows].astype(np.float32) @ members).argmin(axis=1)
    return colors


@numba.njit(cache=True, nogil=True)
def _search(offsets, neighbors, colors, num_colors, iterations, key):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Move tasks in ``colors`` until no edge is inside a class; (whether it is so, moves made)."""
    num_tasks = len(colors)
    counts = np.zeros((num_tasks, num_colors), dtype=np.int32)  # neighbours of each colour
    tabu_until = np.zeros((num_tasks, num_colors), dtype=np.int64)
    for task in range(num_tasks):
        for index in range(offsets[task], offsets[task + 1]):
            counts[task, colors[neighbors[index]]] += 1
    conflicts = 0
    broken = np.empty(num_tasks, dtype=np.int64)  # tasks in conflict, and where each stands there
    place = np.full(num_tasks, -1, dtype=np.int64)
    num_broken = 0
    for task in range(num_tasks):
        if counts[task, colors[task]] > 0:
            conflicts += counts[task, colors[task]]
            broken[num_broken] = task
            place[task] = num_broken
            num_broken += 1
    conflicts //= 2
    fewest = conflicts
    counter = 0
    for move in range(1, iterations + 1):
        if conflicts == 0:
            return True, move - 1
        best, ties, best_task, best_color = 1 << 40, 0, -1, -1
        for index in range(num_broken):
            task = broken[index]
            own = counts[task, colors[task]]
            for color in range(num_colors):
                change = counts[task, color] - own
                if change > best or color == colors[task]:
                    continue
                if tabu_until[task, color] >= move and conflicts + change >= fewest:
                    continue
                if change < best:
                    best, ties = change, 0
                ties += 1
                if ties > 1:
                    chosen = draw(key, counter, ties)
                    counter += 1
                    if chosen > 0:
                        continue
                best_task, best_color = task, color
        tenure = (6 * num_broken) // 10 + draw(key, counter, 10)
        counter += 1
        if best_task < 0:  # every move is tabu
            continue
        task, old = best_task, colors[best_task]
        colors[task] = best_color
        tabu_until[task, old] = move + tenure
        conflicts += best
        fewest = min(fewest, conflicts)
        for index in range(offsets[task], offsets[task + 1] + 1):
            other = task
            if index < offsets[task + 1]:
                other = neighbors[index]
                counts[other, old] -= 1
                counts[other, best_color] += 1
            in_conflict = counts[other, colors[other]] > 0
            if in_conflict and place[other] < 0:
                broken[num_broken] = other
                place[other] = num_broken
                num_broken += 1
            elif not in_conflict and place[other] >= 0:
                num_broken -= 1
                last = broken[num_broken]
                broken[place[other]] = last
                place[last] = place[other]
                place[other] = -1
    return conflicts == 0, iterations
