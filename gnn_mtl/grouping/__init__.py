"""Floor 2: from an affinity to groups of tasks (numpy and numba, no models).

``group_tasks`` is the entry point. Colouring works in steps that can be used alone: a
``ConflictRule`` draws the edges; ``color_graph`` colours them by name (``welsh_powell``,
``dsatur``; ``iterated_greedy`` and ``tabu_coloring``, which search for fewer colours;
``equitable_coloring``; ``exact_coloring``), from nothing or from a previous colouring, which
``recolor`` repairs; ``cap_sizes`` bounds the classes; ``minimum_coverage`` and ``fill`` let tasks
repeat where they meet no conflict; ``coarse_coloring`` colours merged tasks where colours are too
many.

Clustering looks for helpful groups instead: ``affinity_propagation``; ``spectral_groups`` and its
overlapping relatives ``extended_spectral_groups`` and ``cocluster_groups``; ``k_medoids_groups``;
or partitions that raise an ``objective`` (average density, TAG's, PTG's, normalised association):
``exact_partition`` for few tasks, ``branch_and_bound`` within a budget, ``merged_groups`` and
``local_search`` for many, and ``cluster_sdp``, whose relaxation proves how far the groups of
``round_clusters`` are from the best (``certificate``; ``cvxpy_sdp`` is its reference).
``penalty_sweep``, ``number_by_eigengap`` and ``number_by_score`` choose how many groups;
``stability`` says whether they hold; ``fuzzy_k_means`` groups task vectors softly.

``random_groups`` draws the control of the same sizes; ``pair_jaccard``, ``moved_tasks``,
``adjusted_rand`` and ``in_group_conflict`` compare groupings.
"""

from gnn_mtl.grouping._affinity_propagation import (
    affinity_propagation,
    exemplars,
    similarities,
)
from gnn_mtl.grouping._agglomerative import greedy_groups, merged_groups
from gnn_mtl.grouping._branch_and_bound import (
    PartitionChoice,
    branch_and_bound,
    branch_and_bound_groups,
)
from gnn_mtl.grouping._choose_number import (
    PenaltyPoint,
    ScoredNumber,
    number_by_eigengap,
    number_by_penalty,
    number_by_score,
    penalty_sweep,
)
from gnn_mtl.grouping._cluster_sdp import SDPClusters, cluster_sdp
from gnn_mtl.grouping._compare import in_group_conflict, moved_tasks, pair_jaccard
from gnn_mtl.grouping._conflict_rule import ConflictRule, RuleName
from gnn_mtl.grouping._coverage import Coverage, fill, minimum_coverage
from gnn_mtl.grouping._density import (
    Objective,
    ObjectiveName,
    average_density,
    normalized_association,
    objective,
    tag_value,
)
from gnn_mtl.grouping._dsatur import dsatur
from gnn_mtl.grouping._equitable_coloring import equitable_coloring
from gnn_mtl.grouping._exact_coloring import MAX_TASKS as MAX_EXACT_TASKS
from gnn_mtl.grouping._exact_coloring import exact_coloring
from gnn_mtl.grouping._exact_partition import exact_groups, exact_partition
from gnn_mtl.grouping._fuzzy_k_means import FuzzyClusters, fuzzy_k_means
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
from gnn_mtl.grouping._k_medoids import k_medoids_groups
from gnn_mtl.grouping._local_search import local_search
from gnn_mtl.grouping._pair_values import PairValues, pair_values
from gnn_mtl.grouping._random_groups import equal_sizes, random_groups
from gnn_mtl.grouping._recolor import recolor
from gnn_mtl.grouping._rounding import threshold_groups
from gnn_mtl.grouping._sdp_bound import Certificate, certificate
from gnn_mtl.grouping._sdp_groups import RoundedClusters, round_clusters, sdp_groups
from gnn_mtl.grouping._sdp_oracle import OracleSolution, cvxpy_sdp
from gnn_mtl.grouping._sdp_primal import feasible_matrix, partition_matrix
from gnn_mtl.grouping._size_cap import cap_sizes
from gnn_mtl.grouping._spectral import cocluster_groups, extended_spectral_groups, spectral_groups
from gnn_mtl.grouping._stability import (
    Stability,
    adjusted_rand,
    bootstrap_affinities,
    normalized_mutual_info,
    stability,
)
from gnn_mtl.grouping._supertasks import coarse_coloring, merged_affinity, supertasks
from gnn_mtl.grouping._tabu_coloring import tabu_coloring

__all__ = [
    "COLORINGS",
    "MAX_EXACT_TASKS",
    "METHODS",
    "Certificate",
    "ColoringName",
    "ConflictRule",
    "Coverage",
    "FuzzyClusters",
    "Objective",
    "ObjectiveName",
    "OracleSolution",
    "PairValues",
    "PartitionChoice",
    "PenaltyPoint",
    "RoundedClusters",
    "RuleName",
    "SDPClusters",
    "ScoredNumber",
    "Stability",
    "adjusted_rand",
    "affinity_propagation",
    "average_density",
    "bootstrap_affinities",
    "branch_and_bound",
    "branch_and_bound_groups",
    "cap_sizes",
    "certificate",
    "cluster_sdp",
    "coarse_coloring",
    "cocluster_groups",
    "color_graph",
    "coloring_groups",
    "cvxpy_sdp",
    "dsatur",
    "equal_sizes",
    "equitable_coloring",
    "exact_coloring",
    "exact_groups",
    "exact_partition",
    "exemplars",
    "extended_spectral_groups",
    "feasible_matrix",
    "fill",
    "first_fit",
    "fuzzy_k_means",
    "greedy_groups",
    "group_tasks",
    "in_group_conflict",
    "iterated_greedy",
    "k_medoids_groups",
    "local_search",
    "matched_random_groups",
    "merged_affinity",
    "merged_groups",
    "minimum_coverage",
    "moved_tasks",
    "normalized_association",
    "normalized_mutual_info",
    "number_by_eigengap",
    "number_by_penalty",
    "number_by_score",
    "objective",
    "pair_jaccard",
    "pair_values",
    "partition_matrix",
    "penalty_sweep",
    "random_groups",
    "recolor",
    "round_clusters",
    "sdp_groups",
    "similarities",
    "spectral_groups",
    "stability",
    "supertasks",
    "tabu_coloring",
    "tag_value",
    "threshold_groups",
    "welsh_powell",
]
