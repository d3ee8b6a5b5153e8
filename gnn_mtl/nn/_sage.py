"""GraphSAGE with mean aggregation (Hamilton, Ying, Leskovec, NeurIPS 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from gnn_mtl.graph import Block, aggregate
from gnn_mtl.nn._encoder import Conv, ConvEncoder, LayersConfig, Norm, stack


class SAGEConv(Conv):
    r"""``lin_l(mean of sources) + lin_r(target)``, with PyG's parameter names and layout.

    Aggregates before it multiplies, so only targets pass through the matrix.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.lin_l = nn.Linear(in_channels, out_channels)
        self.lin_r = nn.Linear(in_channels, out_channels, bias=False)

    def forward(self, x_src: Tensor, x_dst: Tensor, block: Block) -> Tensor:
        """Map ``[num_src, F]`` and ``[num_dst, F]`` to ``[num_dst, D]``."""
        return self.lin_l(aggregate(x_src, block, reduce="mean")) + self.lin_r(x_dst)

    def linears(self) -> list[nn.Linear]:
        """Return both maps."""
        return [self.lin_l, self.lin_r]


class SAGEEncoder(ConvEncoder):
    """GraphSAGE layers; see :class:`ConvEncoder`."""

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        num_layers: int = 2,
        *,
        norm: Norm = "batch",
        dropout: float = 0.3,
    ) -> None:
        convs, widths = stack(SAGEConv, in_channels, hidden_channels, num_layers)
        super().__init__(convs, widths, norm=norm, dropout=dropout)


@dataclass(frozen=True, kw_only=True)
class SAGE(LayersConfig):
    """GraphSAGE, mean aggregation."""

    kind: ClassVar[str] = "sage"

    def build(self, in_channels: int, edge_channels: int | None = None) -> SAGEEncoder:  # noqa: ARG002
        """Build the encoder for features of width ``in_channels``; edge features are not used."""
        return SAGEEncoder(
            in_channels, self.hidden_channels, self.num_layers, norm=self.norm, dropout=self.dropout
        )
