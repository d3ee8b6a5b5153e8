"""The sampler as a PyG ``BaseSampler``, for ``torch_geometric.loader.NodeLoader``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch_geometric.sampler import BaseSampler, NodeSamplerInput, SamplerOutput

from gnn_mtl.graph._csc import CSCGraph
from gnn_mtl.graph._sampler import Backend, NeighborSampler


class PyGNeighborSampler(BaseSampler):
    """Neighbour sampling for PyG's loaders, without pyg-lib or torch-sparse.

    Example::

        sampler = PyGNeighborSampler(graph.csc, num_neighbors=[10, 10], seed=0)
        loader = NodeLoader(graph.to_pyg(), node_sampler=sampler, input_nodes=train_idx)

    Edges follow PyG's convention (``row`` sources, ``col`` targets), ``edge`` holds the original
    edge ids where the graph keeps them, and ``num_sampled_nodes`` / ``num_sampled_edges`` are set, so
    ``trim_to_layer`` works. Randomness is keyed by the seed, the epoch (:attr:`epoch`, set by the
    user) and the batch's first input, so worker processes do not change the batches.

    Args:
        graph: The graph.
        num_neighbors: Fan-out per hop.
        replace: Sample with replacement.
        seed: Seed of the stream.
        backend: See :class:`NeighborSampler`.
    """

    def __init__(
        self,
        graph: CSCGraph,
        num_neighbors: Sequence[int],
        *,
        replace: bool = False,
        seed: int = 0,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        self.sampler = NeighborSampler(
            graph, num_neighbors, replace=replace, edge_positions=True, backend=backend
        )
        self.graph = graph
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
        if edge is not None and self.graph.edge_ids is not None:
            edge = torch.from_numpy(self.graph.edge_ids[edge.numpy()]).long()
        ends = [0, *(int(sample.indptr[n]) for n in sample.num_nodes[:-1])]
        nodes = [0, *sample.num_nodes]
        return SamplerOutput(
            node=sample.n_id,
            row=sample.indices.long(),
            col=targets,
            edge=edge,
            batch=None,
            num_sampled_nodes=[b - a for a, b in zip(nodes, nodes[1:], strict=False)],
            num_sampled_edges=[b - a for a, b in zip(ends, ends[1:], strict=False)],
            metadata=(inputs.input_id, inputs.time),
        )

    @property
    def edge_permutation(self) -> None:
        """Edge ids are original ones already."""
        return
