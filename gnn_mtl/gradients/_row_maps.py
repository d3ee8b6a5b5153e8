"""How the convolutions gather rows: what lies between a layer's input and its linear maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gnn_mtl.graph import Block, aggregate
from gnn_mtl.nn import Conv, SAGEConv
from gnn_mtl.nn._gcn import GCNConv


@dataclass(frozen=True, eq=False)
class RowMap:
    """The input of one linear map as a fixed combination of rows, the same for every channel.

    ``input[b] = sum over edges e into b of edge_weight[e] * x[src(e)] + self_weight[b] * x[b]``

    Attributes:
        linear: The map.
        edge_weight: ``[E]``; None where it reads no neighbour.
        self_weight: ``[num_dst]``; None where it does not read the target itself.
    """

    linear: nn.Linear
    edge_weight: Tensor | None
    self_weight: Tensor | None

    def transposed(self, y: Tensor, block: Block) -> Tensor:
        """Return the derivative by x ``[num_src, C]`` from that by the map's input y."""
        if self.edge_weight is None:
            out = y.new_zeros((block.num_src, y.shape[1]))
        else:
            reverse, order = block.transposed()
            out = aggregate(y, reverse, weight=self.edge_weight[order])
        if self.self_weight is not None:
            out[: block.num_dst] += self.self_weight[:, None] * y
        return out


def _sage(conv: nn.Module, block: Block, dtype: torch.dtype) -> list[RowMap]:
    share = block.degrees.clamp(min=1).to(dtype).reciprocal()[block.targets]
    return [
        RowMap(conv.lin_l, share, None),  # type: ignore[arg-type]
        RowMap(conv.lin_r, None, torch.ones(block.num_dst, dtype=dtype, device=share.device)),  # type: ignore[arg-type]
    ]


def _gcn(conv: nn.Module, block: Block, dtype: torch.dtype) -> list[RowMap]:
    assert block.src_degrees is not None  # noqa: S101
    assert block.dst_degrees is not None  # noqa: S101
    from_src = (block.src_degrees + 1).to(dtype).rsqrt()
    to_dst = (block.dst_degrees + 1).to(dtype).rsqrt()
    scale = block.sampling_scale().to(dtype) * to_dst
    edge = from_src[block.indices.long()] * scale[block.targets]
    return [RowMap(conv.lin, edge, to_dst * to_dst)]  # type: ignore[arg-type]


ROW_MAPS: dict[type[Conv], Callable[[nn.Module, Block, torch.dtype], list[RowMap]]] = {
    SAGEConv: _sage,
    GCNConv: _gcn,
}
"""By exact class: a subclass may gather differently. The order is that of ``linears()``."""
