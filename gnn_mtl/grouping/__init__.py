"""Floor 2: from an affinity to groups of tasks (numpy and numba, no models).

``group_tasks`` is the entry point. Colouring works in steps that can be used alone: a
``ConflictRule`` draws the edges; ``color_graph`` colours them by name (``welsh_powell``,
``dsatur``; ``iterated_greedy`` and ``tabu_coloring``, which search for fewer colours;
``equitable_coloring``; ``exact_coloring``), from nothing or from a previous colouring, which
``recolor`` repairs; ``cap_sizes`` bounds the classes; ``minimum_coverage`` and ``fill`` let tasks
repeat where they meet no conflict; ``coarse_coloring`` colours merged tasks where colours are too
many. ``affinity_propagation`` clusters instead. ``random_groups`` draws the control of the same
sizes; ``pair_jaccard``, ``moved_tasks`` and ``in_group_conflict`` compare groupings.
"""

from gnn_mtl.grouping._affinity_propagation import (
    affinity_propagation,
    exemplars,
    similarities,
)
from gnn_mtl.grouping._compare import in_group_conflict, moved_tasks, pair_jaccard
from gnn_mtl.grouping._conflict_rule import ConflictRule, RuleName
from gnn_mtl.grouping._coverage import Coverage, fill, minimum_coverage
from gnn_mtl.grouping._dsatur import dsatur
from gnn_mtl.grouping._equitable_coloring import equitable_coloring
from gnn_mtl.grouping._exact_coloring import MAX_TASKS as MAX_EXACT_TASKS
from gnn_mtl.grouping._exact_coloring import exact_coloring
from gnn_mtl.grouping._greedy_coloring import first_fit, welsh_powell
from gnn_mtl.grouping._group_tasks import (
    COLORINGS,
    METHODS,
    ColoringName,
    color_graph,
    coloring_groups,
    group_tasks,
    matched_random_groups,
)
from gnn_mtl.grouping._iterated_greedy import iterated_greedy
from gnn_mtl.grouping._random_groups import equal_sizes, random_groups
from gnn_mtl.grouping._recolor import recolor
from gnn_mtl.grouping._size_cap import cap_sizes
from gnn_mtl.grouping._supertasks import coarse_coloring, merged_affinity, supertasks
from gnn_mtl.grouping._tabu_coloring import tabu_coloring

__all__ = [
    "COLORINGS",
    "MAX_EXACT_TASKS",
    "METHODS",
    "ColoringName",
    "ConflictRule",
    "Coverage",
    "RuleName",
    "affinity_propagation",
    "cap_sizes",
    "coarse_coloring",
    "color_graph",
    "coloring_groups",
    "dsatur",
    "equal_sizes",
    "equitable_coloring",
    "exact_coloring",
    "exemplars",
    "fill",
    "first_fit",
    "group_tasks",
    "in_group_conflict",
    "iterated_greedy",
    "matched_random_groups",
    "merged_affinity",
    "minimum_coverage",
    "moved_tasks",
    "pair_jaccard",
    "random_groups",
    "recolor",
    "similarities",
    "supertasks",
    "tabu_coloring",
    "welsh_powell",
]
