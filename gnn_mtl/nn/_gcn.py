"""Graph convolution with symmetric normalisation (Kipf & Welling, ICLR 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from gnn_mtl._core.errors import ShapeError
from gnn_mtl.graph import Block, aggregate
from gnn_mtl.nn._encoder import Conv, ConvEncoder, LayersConfig, Norm, stack


class GCNConv(Conv):
    r"""``lin(D^-1/2 (A + I) D^-1/2 x)`` with degrees of the whole graph, also on sampled blocks.

    The sum over sampled sources is scaled by degree / sampled, so its expectation is the full sum;
    with all neighbours it equals PyG's ``GCNConv`` on graphs without self-loops. PyG's cannot be
    called on bipartite blocks.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.lin = nn.Linear(in_channels, out_channels)

    def forward(self, x_src: Tensor, x_dst: Tensor, block: Block) -> Tensor:
        """Map ``[num_src, F]`` and ``[num_dst, F]`` to ``[num_dst, D]``."""
        if block.src_degrees is None or block.dst_degrees is None:
            raise ShapeError(
                "GCNConv needs the degrees of the whole graph on its blocks. "
                "Found none; take the blocks from NeighborLoader or full_blocks."
            )
        from_src = (block.src_degrees + 1).to(x_src.dtype).rsqrt()
        to_dst = (block.dst_degrees + 1).to(x_src.dtype).rsqrt()
        neighbors = aggregate(x_src * from_src[:, None], block)
        neighbors = neighbors * (block.sampling_scale().to(x_src.dtype) * to_dst)[:, None]
        return self.lin(neighbors + x_dst * (to_dst * to_dst)[:, None])

    def linears(self) -> list[nn.Linear]:
        """Return the map."""
        return [self.lin]


class GCNEncoder(ConvEncoder):
    """Graph convolutions; see :class:`ConvEncoder`."""

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        num_layers: int = 2,
        *,
        norm: Norm = "batch",
        dropout: float = 0.3,
    ) -> None:
        convs, widths = stack(GCNConv, in_channels, hidden_channels, num_layers)
        super().__init__(convs, widths, norm=norm, dropout=dropout)


@dataclass(frozen=True, kw_only=True)
class GCN(LayersConfig):
    """Graph convolutional network, symmetric normalisation."""

    kind: ClassVar[str] = "gcn"

    def build(self, in_channels: int, edge_channels: int | None = None) -> GCNEncoder:  # noqa: ARG002
        """Build the encoder for features of width ``in_channels``; edge features are not used."""
        return GCNEncoder(
            in_channels, self.hidden_channels, self.num_layers, norm=self.norm, dropout=self.dropout
        )
