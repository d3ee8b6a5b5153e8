"""Coverage: let tasks also join other classes they do not conflict with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import UsageError
from gnn_mtl.grouping._greedy_coloring import Groups, check_adjacency


@dataclass(frozen=True)
class Coverage:
    """What :func:`minimum_coverage` found.

    Attributes:
        groups: The classes, in the order given, with duplicates added.
        counts: Classes each task is in, ``[T]``; weighting a task by the inverse makes one cycle
            sum to every task once.
        uncovered: Tasks that stay below the minimum: each conflicts with some member of every
            other class that has room, and no slot is added for it. A task in all classes is not
            among them, however few they are.
    """

    groups: Groups
    counts: tuple[int, ...]
    uncovered: tuple[int, ...]

    def message(self, min_coverage: int) -> str:
        """Return the sentence to warn with if some task stayed below ``min_coverage``."""
        named = ", ".join(map(str, self.uncovered[:8]))
        more = f" and {len(self.uncovered) - 8} more" if len(self.uncovered) > 8 else ""
        return (
            f"Every task should be in at least {min_coverage} groups. Tasks {named}{more} are in "
            "fewer, because they conflict with a member of every other group with room. "
            "Lower `min_coverage`, or raise `tau`."
        )


def minimum_coverage(
    groups: Sequence[Sequence[int]],
    adjacency: NDArray[np.bool_],
    min_coverage: int,
    *,
    max_size: int | None = None,
) -> Coverage:
    """Duplicate tasks into conflict-free classes until each is in ``min_coverage`` of them.

    Tasks are taken by how few classes they are in, then by index; each tries the classes from the
    smallest up and joins one only if no member of it conflicts with the task, duplicates added so
    far included. So no conflicting pair ever meets (SON-GOKU, minimum update frequency). Never adds
    a class.

    Args:
        groups: Conflict-free classes that together hold every task.
        adjacency: The conflict graph they come from, boolean ``[T, T]``.
        min_coverage: Smallest number of classes a task should be in (1 changes nothing).
        max_size: No task joins a class that has this many.

    Returns:
        The classes with duplicates, how many each task is in, and the tasks left below the minimum.

    Raises:
        ShapeError: If ``adjacency`` is not symmetric, boolean and hollow.
        UsageError: If ``min_coverage`` is below 1 or a task is in no class.
    """
    if min_coverage < 1:
        raise UsageError(f"`min_coverage` should be at least 1. Found {min_coverage}.")
    return _covered(groups, adjacency, min_coverage, max_size)


def fill(
    groups: Sequence[Sequence[int]],
    adjacency: NDArray[np.bool_],
    *,
    max_size: int | None = None,
) -> Coverage:
    """Extend every class by tasks free of conflict with it until none is left (or it is full).

    The classes become maximal independent sets of the conflict graph, so that no step supervises
    fewer tasks than it could. The tasks in the fewest classes join first.

    Args:
        groups: Conflict-free classes that together hold every task.
        adjacency: The conflict graph they come from, boolean ``[T, T]``.
        max_size: No task joins a class that has this many.

    Returns:
        The classes with duplicates and how many each task is in; none counts as uncovered.

    Raises:
        ShapeError: If ``adjacency`` is not symmetric, boolean and hollow.
        UsageError: If a task is in no class.
    """
    filled = _covered(groups, adjacency, len(groups), max_size)
    return replace(filled, uncovered=())


def _covered(
    groups: Sequence[Sequence[int]],
    adjacency: NDArray[np.bool_],
    min_coverage: int,
    max_size: int | None,
) -> Coverage:
    check_adjacency(adjacency)
    wanted = min(min_coverage, len(groups))
    limit = len(adjacency) if max_size is None else max_size
    members = np.zeros((len(groups), len(adjacency)), dtype=np.bool_)
    for row, group in enumerate(groups):
        members[row, list(group)] = True
    counts = members.sum(axis=0)
    if not counts.all():
        missing = np.flatnonzero(counts == 0).tolist()
        raise UsageError(f"`groups` should hold every task. Tasks {missing[:8]} are in none.")
    for task in np.argsort(counts, kind="stable").tolist():
        for row in np.argsort(members.sum(axis=1), kind="stable").tolist():
            if counts[task] >= wanted:
                break
            if members[row, task] or members[row].sum() >= limit:
                continue
            if not (members[row] & adjacency[task]).any():
                members[row, task] = True
                counts[task] += 1
    return Coverage(
        groups=[tuple(np.flatnonzero(row).tolist()) for row in members],
        counts=tuple(counts.tolist()),
        uncovered=tuple(np.flatnonzero(counts < wanted).tolist()),
    )
