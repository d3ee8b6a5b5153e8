"""From a conflict graph to the classes of a window: colour, merge, cap, cover, fill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gnn_mtl.grouping import (
    Coverage,
    cap_sizes,
    coarse_coloring,
    color_graph,
    fill,
    minimum_coverage,
)
from gnn_mtl.schedulers._coloring_options import ColoringOptions
from gnn_mtl.tasks import Affinity


@dataclass(frozen=True)
class Classes:
    """The classes of a window.

    Attributes:
        colors: Disjoint classes, before any task repeats: what a warm start goes on from.
        covered: The classes to schedule, tasks repeated as the options ask.
        num_supertasks: Super-tasks coloured instead of tasks; None if tasks were.
        num_colors_needed: Colours that the conflict graph itself needed.
    """

    colors: list[tuple[int, ...]]
    covered: Coverage
    num_supertasks: int | None
    num_colors_needed: int


def make_classes(
    affinity: Affinity,
    edges: NDArray[np.bool_],
    tau: float,
    options: ColoringOptions,
    *,
    previous: Sequence[Sequence[int]] | None,
    seed: int,
) -> Classes:
    """Return the classes that the options make of a conflict graph.

    Args:
        affinity: Cosines of the tasks.
        edges: Their conflict graph.
        tau: The tolerance it was drawn with.
        options: What to do.
        previous: Classes to start from.
        seed: Seed of the colouring.
    """
    more = options.coloring_options(seed)
    colors = color_graph(edges, options.coloring, previous=previous, **more)
    needed, num_supertasks = len(colors), None
    if options.max_colors is not None and needed > options.max_colors:
        rule = options.conflict_rule()

        def color(merged: Affinity) -> list[tuple[int, ...]]:
            cut = rule.tau(merged) if rule.sets_tau else tau
            return color_graph(rule.edges(merged, cut), options.coloring, **more)

        colors, num_supertasks = coarse_coloring(affinity, options.max_colors, color)
    size = options.max_group_size
    if size is not None:
        colors = cap_sizes(colors, edges, size)
    covered = minimum_coverage(colors, edges, options.min_coverage, max_size=size)
    if options.fill:
        filled = fill(covered.groups, edges, max_size=size)
        covered = Coverage(filled.groups, filled.counts, covered.uncovered)
    return Classes(colors, covered, num_supertasks, needed)
