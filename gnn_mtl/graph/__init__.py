"""Floor 1: the graph and its sampling.

``CSCGraph`` holds in-neighbours; ``NeighborSampler`` draws neighbourhoods from it, identically on
numba and torch; ``NeighborLoader`` turns the seeds of a split into ``MiniBatch``es whose layers are
bipartite ``Block``s; ``aggregate`` is the one differentiable sparse product every encoder uses;
``full_blocks`` walks the whole graph in chunks for exact inference. Labels are seen only through
the ``TargetSource`` protocol.
"""

from typing import TYPE_CHECKING, Any

from gnn_mtl.graph._aggregate import aggregate
from gnn_mtl.graph._block import Block
from gnn_mtl.graph._csc import CSCGraph, reverse_graph
from gnn_mtl.graph._full import full_blocks
from gnn_mtl.graph._loader import LabelInputs, NeighborLoader, TargetSource
from gnn_mtl.graph._minibatch import MiniBatch, layered_blocks
from gnn_mtl.graph._sampler import NeighborSampler, Sample

if TYPE_CHECKING:
    from gnn_mtl.graph._pyg import PyGNeighborSampler

__all__ = [
    "Block",
    "CSCGraph",
    "LabelInputs",
    "MiniBatch",
    "NeighborLoader",
    "NeighborSampler",
    "PyGNeighborSampler",
    "Sample",
    "TargetSource",
    "aggregate",
    "full_blocks",
    "layered_blocks",
    "reverse_graph",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name == "PyGNeighborSampler":
        from gnn_mtl.graph._pyg import PyGNeighborSampler

        return PyGNeighborSampler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
