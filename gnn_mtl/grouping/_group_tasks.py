"""``group_tasks``: one call from an affinity to a grouping."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import CoverageWarning, UsageError
from gnn_mtl._core.seeding import generator
from gnn_mtl.grouping._affinity_propagation import affinity_propagation
from gnn_mtl.grouping._agglomerative import greedy_groups
from gnn_mtl.grouping._branch_and_bound import branch_and_bound_groups
from gnn_mtl.grouping._conflict_rule import ConflictRule, RuleName
from gnn_mtl.grouping._coverage import fill, minimum_coverage
from gnn_mtl.grouping._dsatur import dsatur
from gnn_mtl.grouping._equitable_coloring import equitable_coloring
from gnn_mtl.grouping._exact_coloring import exact_coloring
from gnn_mtl.grouping._exact_partition import exact_groups
from gnn_mtl.grouping._greedy_coloring import Groups, welsh_powell
from gnn_mtl.grouping._iterated_greedy import iterated_greedy
from gnn_mtl.grouping._k_medoids import k_medoids_groups
from gnn_mtl.grouping._random_groups import equal_sizes, random_groups
from gnn_mtl.grouping._recolor import recolor
from gnn_mtl.grouping._sdp_groups import sdp_groups
from gnn_mtl.grouping._size_cap import cap_sizes
from gnn_mtl.grouping._spectral import (
    cocluster_groups,
    extended_spectral_groups,
    spectral_groups,
)
from gnn_mtl.grouping._tabu_coloring import tabu_coloring
from gnn_mtl.tasks import Affinity, Grouping

ColoringName = Literal["welsh_powell", "dsatur", "iterated_greedy", "tabu", "equitable", "exact"]

COLORINGS: Mapping[str, Callable[..., Groups]] = {
    "welsh_powell": welsh_powell,
    "dsatur": dsatur,
    "iterated_greedy": iterated_greedy,
    "tabu": tabu_coloring,
    "equitable": equitable_coloring,
    "exact": exact_coloring,
}
COLD = ("dsatur", "exact")
"""Colourings that cannot start from another one."""


def color_graph(
    adjacency: NDArray[np.bool_],
    coloring: str = "welsh_powell",
    *,
    previous: Sequence[Sequence[int]] | None = None,
    **options: Any,  # noqa: ANN401
) -> Groups:
    """Colour a conflict graph by the method of that name.

    Args:
        adjacency: Symmetric boolean matrix ``[T, T]`` with a False diagonal.
        coloring: ``"welsh_powell"``, ``"dsatur"``, ``"iterated_greedy"``, ``"tabu"`` (fewest
            colours), ``"equitable"`` (sizes alike) or ``"exact"`` (few tasks only).
        previous: Classes of an earlier colouring, to change as little as possible. ``"dsatur"`` and
            ``"exact"``, which start from nothing, are asked only whether they need fewer classes
            than the repaired ones (:func:`recolor`).
        **options: Options of that method, e.g. ``iterations`` and ``seed``; an unknown one is a
            TypeError.

    Returns:
        Colour classes with sorted members, in creation order.

    Raises:
        UsageError: If there is no colouring of that name.
    """
    color = named(coloring, COLORINGS, "coloring")
    if previous is None:
        return color(adjacency, **options)
    if coloring not in COLD:
        return color(adjacency, previous=previous, **options)
    repaired, fresh = recolor(adjacency, previous), color(adjacency, **options)
    return fresh if len(fresh) < len(repaired) else repaired


def coloring_groups(
    affinity: Affinity,
    *,
    tau: float = 0.25,
    rule: RuleName = "threshold",
    edge_share: float = 0.1,
    num_neighbors: int = 3,
    coloring: ColoringName = "welsh_powell",
    min_coverage: int = 1,
    fill_groups: bool = False,
    max_group_size: int | None = None,
    previous: Grouping | None = None,
    **options: Any,  # noqa: ANN401
) -> Grouping:
    """Group tasks so that no two of a group conflict: the colour classes of the conflict graph.

    Args:
        affinity: Symmetric affinity; :class:`ConflictRule` says which pairs conflict.
        tau: Tolerance; larger gives fewer and larger groups.
        rule: See :class:`ConflictRule`.
        edge_share: See :class:`ConflictRule`.
        num_neighbors: See :class:`ConflictRule`.
        coloring: Method of :func:`color_graph`.
        min_coverage: Let tasks join further groups without conflict until each is in this many.
        fill_groups: Let tasks join every group they do not conflict with.
        max_group_size: Largest number of tasks of a group; may force more groups.
        previous: An earlier grouping of the same tasks into disjoint groups, to change as little as
            possible.
        **options: Options of the colouring, e.g. ``iterations`` and ``seed`` of ``"tabu"``.

    Raises:
        UsageError: If ``tau`` or an option is out of range.
        ShapeError: If the affinity is not symmetric.

    Warns:
        CoverageWarning: If some task cannot be in ``min_coverage`` groups.
    """
    conflict = ConflictRule(name=rule, edge_share=edge_share, num_neighbors=num_neighbors)
    tau = conflict.tau(affinity) if conflict.sets_tau else tau
    adjacency = conflict.edges(affinity, tau)
    before = None if previous is None else previous.groups
    groups = color_graph(adjacency, coloring, previous=before, **options)
    if max_group_size is not None:
        groups = cap_sizes(groups, adjacency, max_group_size)
    covered = minimum_coverage(groups, adjacency, min_coverage, max_size=max_group_size)
    if covered.uncovered:
        warnings.warn(covered.message(min_coverage), CoverageWarning, stacklevel=2)
    if fill_groups:
        covered = fill(covered.groups, adjacency, max_size=max_group_size)
    method = f"coloring(tau={tau:g}, coloring={coloring}, min_coverage={min_coverage})"
    return Grouping.of(covered.groups, affinity.num_tasks, method)


def matched_random_groups(
    affinity: Affinity,
    *,
    sizes: tuple[int, ...] | None = None,
    num_groups: int | None = None,
    like: Path | None = None,
    seed: int = 0,
) -> Grouping:
    """Group tasks at random in given sizes, or in ``num_groups`` equal ones: the control.

    Args:
        affinity: Says how many tasks there are.
        sizes: Size of each group.
        num_groups: Number of groups of equal sizes, up to one.
        like: A grouping's file; groups of its sizes are drawn.
        seed: Seed of the draw.

    Raises:
        UsageError: If not exactly one of ``sizes``, ``num_groups`` and ``like`` is given, or it
            does not fit.
        FileFormatError: If ``like`` is not a grouping's file.
    """
    if (sizes is None) + (num_groups is None) + (like is None) != 2:
        raise UsageError("Give either `sizes`, `num_groups` or `like` for random groups.")
    if like is not None:
        found = Grouping.load(like)
        if found.num_tasks != affinity.num_tasks:
            raise UsageError(
                f"{like} should group {affinity.num_tasks} tasks. Found {found.num_tasks}."
            )
        sizes = found.sizes
    if sizes is None:
        sizes = equal_sizes(num_groups or 0, affinity.num_tasks)
    groups = random_groups(sizes, affinity.num_tasks, generator=generator(seed, "random_groups"))
    return Grouping.of(groups, affinity.num_tasks, f"random(sizes={sizes}, seed={seed})")


METHODS: Mapping[str, Callable[..., Grouping]] = {
    "coloring": coloring_groups,
    "tabu": partial(coloring_groups, coloring="tabu"),
    "iterated_greedy": partial(coloring_groups, coloring="iterated_greedy"),
    "equitable": partial(coloring_groups, coloring="equitable"),
    "affinity_propagation": affinity_propagation,
    "sdp": sdp_groups,
    "spectral": spectral_groups,
    "extended_spectral": extended_spectral_groups,
    "cocluster": cocluster_groups,
    "k_medoids": k_medoids_groups,
    "exact": exact_groups,
    "branch_and_bound": branch_and_bound_groups,
    "greedy": greedy_groups,
    "random": matched_random_groups,
}


def group_tasks(affinity: Affinity, method: str = "coloring", **options: Any) -> Grouping:  # noqa: ANN401
    """Say which tasks learn together, given how they affect each other.

    Args:
        affinity: Task-by-task affinity, positive = helps.
        method: ``"coloring"`` (options of :func:`coloring_groups`: ``tau``, ``rule``,
            ``coloring``, ``min_coverage``, ``max_group_size``, ...); ``"tabu"``,
            ``"iterated_greedy"`` and ``"equitable"``, the same with that colouring;
            ``"affinity_propagation"`` (:func:`affinity_propagation`: ``preference``, ...); with
            ``num_groups`` or a number of their own choice ``"sdp"`` (:func:`sdp_groups`, with a
            proven bound), ``"spectral"``, ``"extended_spectral"``, ``"cocluster"``,
            ``"k_medoids"``, ``"greedy"``, ``"branch_and_bound"`` and, for few tasks, ``"exact"``;
            or ``"random"`` (:func:`matched_random_groups`: ``sizes``, ``num_groups`` or ``like``).
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
    return named(method, METHODS, "method")(affinity, **options)


def named(name: str, known: Mapping[str, Callable[..., Any]], what: str) -> Callable[..., Any]:
    """Return what is ``known`` by that name, or raise UsageError with the nearest name."""
    if name in known:
        return known[name]
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise UsageError(f"`{what}` should be one of {', '.join(known)}. Found {name!r}.{hint}")
