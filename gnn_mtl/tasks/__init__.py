"""Floor 1: what every room means by an affinity, a conflict and a grouping (numpy only).

``Affinity`` says how much training on one task helps another; ``conflict_graph`` is the one place
that turns its sign into edges; ``SubsetTable`` holds how well tasks do in subsets trained together,
measured or predicted; ``Grouping`` is the answer to "which labels learn together".
"""

from gnn_mtl.tasks._affinity import Affinity
from gnn_mtl.tasks._conflict import conflict_graph, interference
from gnn_mtl.tasks._grouping import Grouping
from gnn_mtl.tasks._subset_table import SubsetTable

__all__ = ["Affinity", "Grouping", "SubsetTable", "conflict_graph", "interference"]
