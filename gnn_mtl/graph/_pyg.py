"""The sampler as a PyG ``BaseSampler``, for ``torch_geometric.loader.NodeLoader``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch_geometric.sampler import BaseSampler, NodeSamplerInput, SamplerOutput

from gnn_mtl._core.errors import UsageError
from gnn_mtl.graph._csc import CSCGraph
from gnn_mtl.graph._sampler import Backend, NeighborSampler


class PyGNeighborSampler(BaseSampler):
    """Neighbour sampling for PyG's loaders, without pyg-lib or torch-sparse.

    Example::

        sampler = PyGNeighborSampler(graph.csc, num_neighbors=[10, 10], seed=0)
        loader = NodeLoader(graph.to_pyg(), node_sampler=sampler, input_nodes=train_idx)

    Edges follow PyG's convention (``row`` sources, ``col`` targets), ``edge`` holds what the edge
    features of the loader's ``Data`` are addressed by, and ``num_sampled_nodes`` /
    ``num_sampled_edges`` are set, so ``trim_to_layer`` works. Randomness is keyed by the seed, the
    epoch (:attr:`epoch`, set by the user) and the batch's first input, so worker processes do not
    change the batches.

    Args:
        graph: The graph.
        num_neighbors: Fan-out per hop.
        replace: Sample with replacement.
        seed: Seed of the stream.
        original_edges: Number edges as the edge list the graph was built from (needs its
            ``edge_ids``), for a ``Data`` with that list; otherwise as in the graph's ``indices``,
            which is the order of ``TaskGraph.to_pyg``.
        backend: See :class:`NeighborSampler`.

    Raises:
        UsageError: As :class:`NeighborSampler`, or if ``original_edges`` are not kept.
    """

    def __init__(
        self,
        graph: CSCGraph,
        num_neighbors: Sequence[int],
        *,
        replace: bool = False,
        seed: int = 0,
        original_edges: bool = False,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        if original_edges and graph.edge_ids is None:
            raise UsageError(
                "`original_edges` needs a graph that keeps the ids of its edges. Found none; build "
                "it with CSCGraph.from_edge_index(..., keep_edge_ids=True)."
            )
        self.sampler = NeighborSampler(
            graph, num_neighbors, replace=replace, edge_positions=True, backend=backend
        )
        self._edge_ids = graph.edge_ids if original_edges else None
        self.seed = seed
        self.epoch = 0

    def sample_from_nodes(self, inputs: NodeSamplerInput, **_: Any) -> SamplerOutput:  # noqa: ANN401
        """Sample around ``inputs.node``; called by PyG's ``NodeLoader``."""
        first = inputs.node if inputs.input_id is None else inputs.input_id
        key = int(first[0]) if len(first) else 0
        sample = self.sampler.sample(inputs.node, seed=self.seed, epoch=self.epoch, batch=key)
        targets = torch.repeat_interleave(
            torch.arange(len(sample.indptr) - 1), sample.indptr.diff().long()
        )
        edge = sample.edge_positions
        if edge is not None and self._edge_ids is not None:
            edge = torch.from_numpy(self._edge_ids[edge.numpy()]).long()
        ends = [0, *(int(sample.indptr[n]) for n in sample.num_nodes[:-1])]
        nodes = [0, *sample.num_nodes]
        return SamplerOutput(
            node=sample.n_id,
            row=sample.indices.long(),
            col=targets,
            edge=edge,
            batch=None,
            num_sampled_nodes=[b - a for a, b in pairwise(nodes)],
            num_sampled_edges=[b - a for a, b in pairwise(ends)],
            metadata=(inputs.input_id, inputs.time),
        )

    def sample_from_edges(self, *_: Any, **__: Any) -> SamplerOutput:  # noqa: ANN401
        """Raise: this project predicts nodes, so only ``NodeLoader`` is served.

        Raises:
            UsageError: Always.
        """
        raise UsageError("PyGNeighborSampler samples around nodes only; use PyG's NodeLoader.")
