"""``group_tasks``: one call from an affinity to a grouping."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import CoverageWarning, UsageError
from gnn_mtl._core.seeding import generator
from gnn_mtl.grouping._coverage import minimum_coverage
from gnn_mtl.grouping._dsatur import dsatur
from gnn_mtl.grouping._exact_coloring import exact_coloring
from gnn_mtl.grouping._greedy_coloring import Groups, welsh_powell
from gnn_mtl.grouping._random_groups import equal_sizes, random_groups
from gnn_mtl.tasks import Affinity, Grouping, conflict_graph

ColoringName = Literal["welsh_powell", "dsatur", "exact"]

COLORINGS: Mapping[str, Callable[[NDArray[np.bool_]], Groups]] = {
    "welsh_powell": welsh_powell,
    "dsatur": dsatur,
    "exact": exact_coloring,
}


def color_graph(adjacency: NDArray[np.bool_], coloring: str = "welsh_powell") -> Groups:
    """Colour a conflict graph by the method of that name.

    Args:
        adjacency: Symmetric boolean matrix ``[T, T]`` with a False diagonal.
        coloring: ``"welsh_powell"``, ``"dsatur"`` or ``"exact"`` (few tasks only).

    Returns:
        Colour classes with sorted members, in creation order.

    Raises:
        UsageError: If there is no colouring of that name.
    """
    return _named(coloring, COLORINGS, "coloring")(adjacency)


def coloring_groups(
    affinity: Affinity,
    *,
    tau: float = 0.25,
    coloring: ColoringName = "welsh_powell",
    min_coverage: int = 1,
) -> Grouping:
    """Group tasks so that no two of a group conflict: the colour classes of the conflict graph.

    Args:
        affinity: Symmetric affinity; an edge where it is below ``-tau`` (:func:`conflict_graph`).
        tau: Tolerance; larger gives fewer and larger groups.
        coloring: Method of :func:`color_graph`.
        min_coverage: Let tasks join further groups without conflict until each is in this many.

    Raises:
        UsageError: If ``tau`` or an option is out of range.
        ShapeError: If the affinity is not symmetric.

    Warns:
        CoverageWarning: If some task cannot be in ``min_coverage`` groups.
    """
    adjacency = conflict_graph(affinity, tau)
    covered = minimum_coverage(color_graph(adjacency, coloring), adjacency, min_coverage)
    if covered.uncovered:
        warnings.warn(covered.message(min_coverage), CoverageWarning, stacklevel=2)
    method = f"coloring(tau={tau:g}, coloring={coloring}, min_coverage={min_coverage})"
    return Grouping.of(covered.groups, affinity.num_tasks, method)


def matched_random_groups(
    affinity: Affinity,
    *,
    sizes: tuple[int, ...] | None = None,
    num_groups: int | None = None,
    seed: int = 0,
) -> Grouping:
    """Group tasks at random in given sizes, or in ``num_groups`` equal ones: the control.

    Raises:
        UsageError: If not exactly one of ``sizes`` and ``num_groups`` is given, or they do not fit.
    """
    if (sizes is None) == (num_groups is None):
        raise UsageError("Give either `sizes` or `num_groups` for random groups.")
    if sizes is None:
        sizes = equal_sizes(num_groups or 0, affinity.num_tasks)
    groups = random_groups(sizes, affinity.num_tasks, generator=generator(seed, "random_groups"))
    return Grouping.of(groups, affinity.num_tasks, f"random(sizes={sizes}, seed={seed})")


METHODS: Mapping[str, Callable[..., Grouping]] = {
    "coloring": coloring_groups,
    "random": matched_random_groups,
}


def group_tasks(affinity: Affinity, method: str = "coloring", **options: Any) -> Grouping:  # noqa: ANN401
    """Say which tasks learn together, given how they affect each other.

    Args:
        affinity: Task-by-task affinity, positive = helps.
        method: ``"coloring"`` (options of :func:`coloring_groups`: ``tau``, ``coloring``,
            ``min_coverage``) or ``"random"`` (:func:`matched_random_groups`: ``sizes`` or
            ``num_groups``, ``seed``).
        **options: Options of that method; an unknown one is a TypeError.

    Returns:
        A grouping that covers every task.

    Raises:
        UsageError: If there is no method of that name, or an option is out of range.

    Example:
        >>> cosines = np.array([[1.0, 0.7, -1.0], [0.7, 1.0, -0.7], [-1.0, -0.7, 1.0]])
        >>> group_tasks(Affinity(cosines, "example"), tau=0.25).groups
        ((0, 1), (2,))
    """
    return _named(method, METHODS, "method")(affinity, **options)


def _named(name: str, known: Mapping[str, Callable[..., Any]], what: str) -> Callable[..., Any]:
    if name in known:
        return known[name]
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise UsageError(f"`{what}` should be one of {', '.join(known)}. Found {name!r}.{hint}")
