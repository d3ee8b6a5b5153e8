"""GATv2 attention with edge features (Brody, Alon, Yahav, ICLR 2022), PyG's layer on our blocks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.graph import Block
from gnn_mtl.nn._encoder import Conv, ConvEncoder, LayersConfig, Norm, layer_widths


class GATv2Conv(Conv):
    """``torch_geometric.nn.GATv2Conv`` called on bipartite blocks, with a residual map.

    The residual carries a target's own features (no self-loops are added to a block), so isolated
    nodes keep an output of their own.
    """

    transforms_sources = True

    def __init__(
        self, in_channels: int, out_channels: int, *, heads: int, edge_channels: int | None
    ) -> None:
        super().__init__()
        from torch_geometric.nn import GATv2Conv as PyGGATv2Conv

        if out_channels % heads:
            raise UsageError(
                f"`hidden_channels` should be a multiple of `heads` = {heads}. "
                f"Found {out_channels}."
            )
        self.edge_channels = edge_channels
        self.conv = PyGGATv2Conv(
            (in_channels, in_channels),
            out_channels // heads,
            heads=heads,
            edge_dim=edge_channels,
            add_self_loops=False,
            residual=True,
        )

    def forward(self, x_src: Tensor, x_dst: Tensor, block: Block) -> Tensor:
        """Map ``[num_src, F]`` and ``[num_dst, F]`` to ``[num_dst, D]``."""
        edge_attr = None
        if self.edge_channels is not None:
            edge_attr = block.edge_attr
            if edge_attr is None:
                raise ShapeError(
                    f"This layer was built for edge features [E, {self.edge_channels}]. "
                    "Found a block without them."
                )
        return self.conv((x_src, x_dst), block.edge_index, edge_attr)

    def linears(self) -> list[nn.Linear]:
        """Return nothing: the maps feed the attention, so their gradients need backward passes."""
        return []


class GATv2Encoder(ConvEncoder):
    """GATv2 layers; see :class:`ConvEncoder`."""

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        num_layers: int = 2,
        *,
        heads: int = 4,
        edge_channels: int | None = None,
        norm: Norm = "batch",
        dropout: float = 0.3,
    ) -> None:
        widths = layer_widths(in_channels, hidden_channels, num_layers)
        convs = [
            GATv2Conv(a, b, heads=heads, edge_channels=edge_channels) for a, b in pairwise(widths)
        ]
        super().__init__(convs, widths, norm=norm, dropout=dropout)


@dataclass(frozen=True, kw_only=True)
class GATv2(LayersConfig):
    """Graph attention (GATv2), with edge features where the graph has them."""

    kind: ClassVar[str] = "gatv2"
    heads: int = 4
    """Attention heads."""

    def build(self, in_channels: int, edge_channels: int | None = None) -> GATv2Encoder:
        """Build the encoder for node and edge features of these widths."""
        return GATv2Encoder(
            in_channels,
            self.hidden_channels,
            self.num_layers,
            heads=self.heads,
            edge_channels=edge_channels,
            norm=self.norm,
            dropout=self.dropout,
        )
