"""The whole graph as chunks of targets: exact layer-wise inference and propagation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from gnn_mtl.graph._block import Block
from gnn_mtl.graph._csc import CSCGraph

EDGES_PER_CHUNK = 2_000_000


def full_blocks(
    graph: CSCGraph,
    *,
    edge_attr: NDArray[np.float32] | None = None,
    edges_per_chunk: int = EDGES_PER_CHUNK,
) -> Iterator[tuple[slice, Block]]:
    """Yield (targets, block) over all nodes, each block with about ``edges_per_chunk`` edges.

    The sources of every block are all N nodes, so ``aggregate(x, block)`` on features ``[N, F]``
    gives the exact aggregation of the nodes in the slice. Bounded memory: a chunk holds whole
    neighbour lists, so at least one node however many neighbours it has.

    Args:
        graph: The graph.
        edge_attr: Features of the original edges, addressed by ``graph.edge_ids``.
        edges_per_chunk: Upper bound on the edges of a chunk of more than one node.
    """
    degrees = torch.from_numpy(graph.degrees)
    start = 0
    while start < graph.num_nodes:
        limit = graph.indptr[start] + edges_per_chunk
        stop = int(np.searchsorted(graph.indptr, limit, side="right")) - 1
        stop = min(max(stop, start + 1), graph.num_nodes)
        begin, end = int(graph.indptr[start]), int(graph.indptr[stop])
        attr = None
        if edge_attr is not None:
            ids = graph.edge_ids
            rows = np.arange(begin, end) if ids is None else ids[begin:end]
            attr = torch.from_numpy(np.ascontiguousarray(edge_attr[rows], dtype=np.float32))
        indptr = (graph.indptr[start : stop + 1] - begin).astype(np.int32)
        indices = np.array(graph.indices[begin:end])
        yield (
            slice(start, stop),
            Block(
                torch.from_numpy(indptr),
                torch.from_numpy(indices),
                graph.num_nodes,
                edge_positions=torch.arange(begin, end),
                edge_attr=attr,
                src_degrees=degrees,
                dst_degrees=degrees[start:stop],
            ),
        )
        start = stop
