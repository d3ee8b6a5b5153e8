"""Floor 2: from an affinity to groups of tasks (numpy only, no models).

``group_tasks`` is the entry point. Colouring works in three steps that can be used alone:
``conflict_graph`` (room ``tasks``) draws the edges, ``welsh_powell``, ``dsatur`` or
``exact_coloring`` (by name: ``color_graph``) colours them, ``minimum_coverage`` lets rare tasks
repeat where they meet no conflict. ``random_groups`` draws the control of the same sizes;
``pair_jaccard`` and ``in_group_conflict`` compare groupings.
"""

from gnn_mtl.grouping._compare import in_group_conflict, pair_jaccard
from gnn_mtl.grouping._coverage import Coverage, minimum_coverage
from gnn_mtl.grouping._dsatur import dsatur
from gnn_mtl.grouping._exact_coloring import exact_coloring
from gnn_mtl.grouping._greedy_coloring import first_fit, welsh_powell
from gnn_mtl.grouping._group_tasks import (
    color_graph,
    coloring_groups,
    group_tasks,
    matched_random_groups,
)
from gnn_mtl.grouping._random_groups import equal_sizes, random_groups

__all__ = [
    "Coverage",
    "color_graph",
    "coloring_groups",
    "dsatur",
    "equal_sizes",
    "exact_coloring",
    "first_fit",
    "group_tasks",
    "in_group_conflict",
    "matched_random_groups",
    "minimum_coverage",
    "pair_jaccard",
    "random_groups",
    "welsh_powell",
]
