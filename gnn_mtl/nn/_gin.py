"""Graph isomorphism network (Xu, Hu, Leskovec, Jegelka, ICLR 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gnn_mtl.graph import Block, aggregate
from gnn_mtl.nn._encoder import Conv, ConvEncoder, LayersConfig, Norm, stack


class GINConv(Conv):
    r"""``mlp((1 + eps) target + sum of sources)`` with a two-layer MLP and learned eps.

    On sampled blocks the sum is scaled by degree / sampled, so its expectation is the full sum.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.eps = nn.Parameter(torch.zeros(1))
        self.lin_in = nn.Linear(in_channels, out_channels)
        self.norm = nn.LayerNorm(out_channels)
        self.lin_out = nn.Linear(out_channels, out_channels)

    def forward(self, x_src: Tensor, x_dst: Tensor, block: Block) -> Tensor:
        """Map ``[num_src, F]`` and ``[num_dst, F]`` to ``[num_dst, D]``."""
        total = aggregate(x_src, block) * block.sampling_scale().to(x_src.dtype)[:, None]
        hidden = self.lin_in(total + (1 + self.eps) * x_dst)
        return self.lin_out(torch.relu(self.norm(hidden)))

    def linears(self) -> list[nn.Linear]:
        """Return the MLP's last map."""
        return [self.lin_out]


class GINEncoder(ConvEncoder):
    """GIN layers; see :class:`ConvEncoder`."""

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        num_layers: int = 2,
        *,
        norm: Norm = "batch",
        dropout: float = 0.3,
    ) -> None:
        convs, widths = stack(GINConv, in_channels, hidden_channels, num_layers)
        super().__init__(convs, widths, norm=norm, dropout=dropout)


@dataclass(frozen=True, kw_only=True)
class GIN(LayersConfig):
    """Graph isomorphism network, sum aggregation."""

    kind: ClassVar[str] = "gin"

    def build(self, in_channels: int, edge_channels: int | None = None) -> GINEncoder:  # noqa: ARG002
        """Build the encoder for features of width ``in_channels``; edge features are not used."""
        return GINEncoder(
            in_channels, self.hidden_channels, self.num_layers, norm=self.norm, dropout=self.dropout
        )
