"""One layer's inputs, gated by each unit's slope and gathered into the nodes of the layer above."""

from __future__ import annotations

import torch
from torch import Tensor

from gnn_mtl.graph import Block

PIECE_BYTES = 16 << 20
NEIGHBORS_AT_ONCE = 256


def pushed_inputs(
    block: Block, edge_weight: Tensor, self_weight: Tensor | None, common: Tensor, slope: Tensor
) -> Tensor:
    """Return ``Y[d, b] = sum over sources n of b of A[b, n] * slope[d, n] * common[n]``.

    A target and its sources make one product of a ``[du, k]`` and a ``[k, I]`` matrix; targets of
    like degree, to a factor of two, are padded to one batch of them.

    Args:
        block: The rows gathered by the layer above.
        edge_weight: A's entries ``[E]``.
        self_weight: Entries of targets on themselves ``[num_dst]``, or None.
        common: Columns all units share ``[num_src, I]``.
        slope: ``[du, num_src]``.

    Returns:
        ``[du, num_dst, I]``.
    """
    out = common.new_zeros((block.num_dst, len(slope), common.shape[1]))
    gate_of = slope.T.contiguous()
    degrees = block.degrees.long()
    row_bytes = common.element_size() * (common.shape[1] + len(slope))
    bucket = degrees.clamp(min=1).double().log2().ceil()
    for level in bucket.unique().tolist():
        targets = (bucket == level).nonzero()[:, 0]
        longest = int(degrees[targets].max())
        if longest == 0:
            continue
        reach = min(longest, NEIGHBORS_AT_ONCE)
        for rows in targets.split(max(1, PIECE_BYTES // (row_bytes * reach))):
            for first in range(0, longest, reach):
                place = torch.arange(first, min(first + reach, longest), device=rows.device)
                edges = block.indptr[rows].long()[:, None] + place
                inside = place < degrees[rows, None]
                edges = edges.clamp(max=block.num_edges - 1)
                source = block.indices[edges].long()
                weight = torch.where(inside, edge_weight[edges], 0.0)
                gate = gate_of[source] * weight[:, :, None]
                out.index_add_(0, rows, torch.bmm(gate.transpose(1, 2), common[source]))
    if self_weight is not None:
        own = slice(0, block.num_dst)
        gate = gate_of[own] * self_weight[:, None]
        out += gate[:, :, None] * common[own, None, :]
    return out.transpose(0, 1)
