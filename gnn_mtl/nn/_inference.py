"""Exact inference: every layer over the whole graph, in chunks, never with sampled neighbours."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gnn_mtl._core.progress import Progress
from gnn_mtl.graph import (
    Block,
    LabelInputs,
    MiniBatch,
    NeighborLoader,
    TargetSource,
    full_blocks,
)
from gnn_mtl.nn._encoder import ConvEncoder, Encoder
from gnn_mtl.nn._mlp import MLPEncoder
from gnn_mtl.nn._model import LabelModel
from gnn_mtl.nn._sign import SIGNEncoder

ROWS_PER_CHUNK = 65_536


@torch.no_grad()
def exact_logits(
    model: LabelModel,
    graph: TargetSource,
    nodes: NDArray[np.integer],
    *,
    device: torch.device | str = "cpu",
) -> NDArray[np.float32]:
    """Return the model's logits with every neighbour taken into account.

    Convolutional encoders run layer by layer over all nodes, so the cost is one full-graph forward,
    not one k-hop neighbourhood per node. A wrapped user module runs on full neighbourhoods of the
    asked nodes instead, one hop deeper than its layers so that it may normalise by degrees. The
    model is put into evaluation mode and back; random state and buffers stay as they were.

    Args:
        model: The model.
        graph: The dataset; no label is read but training labels that are input features, and of
            those never a node's own (then training nodes take up to five passes).
        nodes: Node ids ``[B]``.
        device: Where to compute; the layers' outputs ``[N, D]`` must fit there.

    Returns:
        float32 ``[B, T]``.

    Cost: for L layers L * E * D additions and N * D * 4 bytes for two layers at a time.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        ids = np.array(nodes, dtype=np.int64)
        if not isinstance(graph, LabelInputs):
            return _logits(model, graph, ids, torch.device(device))
        out = np.empty((len(ids), model.num_tasks), dtype=np.float32)
        for source, rows in graph.label_passes(ids):
            out[rows] = _logits(model, source, ids[rows], torch.device(device))
        return out
    finally:
        for module, mode in modes.items():
            module.training = mode


def _logits(
    model: LabelModel, graph: TargetSource, nodes: NDArray[np.int64], device: torch.device
) -> NDArray[np.float32]:
    if len(nodes) == 0:
        return np.zeros((0, model.num_tasks), dtype=np.float32)
    chunks = _representations(model.encoder, graph, nodes, device)
    return torch.cat([model.heads(h).float().cpu() for h in chunks]).numpy()


def _representations(
    encoder: Encoder, graph: TargetSource, nodes: NDArray[np.int64], device: torch.device
) -> Iterator[Tensor]:
    """Representations of the nodes, in order, in chunks."""
    if isinstance(encoder, MLPEncoder | SIGNEncoder):
        for start in range(0, len(nodes), ROWS_PER_CHUNK):
            chunk = nodes[start : start + ROWS_PER_CHUNK]
            yield encoder.encode(torch.from_numpy(graph.features(chunk)).to(device))
    elif isinstance(encoder, ConvEncoder):
        h = _layer_by_layer(encoder, graph, device)
        for start in range(0, len(nodes), ROWS_PER_CHUNK):
            yield h[torch.from_numpy(nodes[start : start + ROWS_PER_CHUNK]).to(device)]
    else:
        loader = NeighborLoader(
            graph,
            num_neighbors=[-1] * (encoder.num_hops + 1),  # degrees of the last layer's sources
            batch_size=256,
            input_nodes=nodes,
            shuffle=False,
            num_workers=0,
            device=device,
        )
        first = loader.batch(0, 0)
        if 2 * len(first.n_id) > graph.csc.num_nodes:  # then once over the whole graph is cheaper
            h = encoder(_whole_graph(graph, device))
            for start in range(0, len(nodes), ROWS_PER_CHUNK):
                yield h[torch.from_numpy(nodes[start : start + ROWS_PER_CHUNK]).to(device)]
            return
        for batch in loader:
            yield encoder(batch)


def _whole_graph(graph: TargetSource, device: torch.device) -> MiniBatch:
    """All nodes as the seeds of one batch with all edges, for modules that are no stack of ours."""
    num_nodes = graph.csc.num_nodes
    ((_, block),) = full_blocks(
        graph.csc, edge_attr=graph.edge_attr, edges_per_chunk=max(1, graph.csc.num_edges)
    )
    nothing = torch.zeros((num_nodes, 0))
    batch = MiniBatch(
        torch.arange(num_nodes), num_nodes, torch.from_numpy(graph.features(np.arange(num_nodes))),
        (block,), nothing, nothing.bool(),
    )  # fmt: skip
    return batch.to(device)


def _layer_by_layer(encoder: ConvEncoder, graph: TargetSource, device: torch.device) -> Tensor:
    """Outputs of the last layer at all nodes ``[N, D]``."""
    x = torch.from_numpy(graph.features(np.arange(graph.csc.num_nodes))).to(device)
    with Progress("exact inference", len(encoder.convs) * graph.csc.num_nodes) as progress:
        for index, conv in enumerate(encoder.convs):
            parts: list[Tensor] = []
            for rows, block in full_blocks(graph.csc, edge_attr=graph.edge_attr):
                x_src, moved = x, block.to(device)
                if conv.transforms_sources:
                    x_src, moved = _only_read_sources(x, moved)
                parts.append(encoder.layer(index, x_src, x[rows], moved))
                progress.advance(rows.stop - rows.start)
            x = torch.cat(parts)
    return x


def _only_read_sources(x: Tensor, block: Block) -> tuple[Tensor, Block]:
    """The sources the block reads and the block over them alone."""
    used, indices = torch.unique(block.indices, return_inverse=True)
    compact = Block(
        block.indptr,
        indices.to(block.indices.dtype),
        len(used),
        edge_attr=block.edge_attr,
        src_degrees=None if block.src_degrees is None else block.src_degrees[used.long()],
        dst_degrees=block.dst_degrees,
    )
    return x[used.long()], compact
