"""A multi-layer perceptron on the seeds' own features: the baseline without a graph."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from gnn_mtl.graph import MiniBatch
from gnn_mtl.nn._encoder import Encoder, LayersConfig, Norm, layer_widths, make_dropout, make_norm


class MLPEncoder(Encoder):
    """Linear layers with norm, ReLU and dropout; reads no neighbour."""

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        num_layers: int = 2,
        *,
        norm: Norm = "batch",
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        widths = layer_widths(in_channels, hidden_channels, num_layers)
        self.in_channels, self.out_channels, self.num_hops = widths[0], widths[-1], 0
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(make_norm(norm, width) for width in widths[1:])
        self.dropout = make_dropout(dropout)
        self.elementwise_after_final = norm != "layer"

    def forward(self, batch: MiniBatch) -> Tensor:
        """Return representations ``[B, D]`` of the seeds."""
        return self.encode(batch.x[: batch.batch_size])

    def encode(self, x: Tensor) -> Tensor:
        """Map features ``[B, F]`` to representations ``[B, D]``."""
        for linear, norm in zip(self.linears, self.norms, strict=True):
            x = self.dropout(torch.relu(norm(linear(x))))
        return x

    def final_linears(self) -> list[nn.Linear]:
        """Return the last map."""
        return [self.linears[-1]]  # type: ignore[list-item]


@dataclass(frozen=True, kw_only=True)
class MLP(LayersConfig):
    """Multi-layer perceptron on node features alone."""

    kind: ClassVar[str] = "mlp"

    def build(self, in_channels: int, edge_channels: int | None = None) -> MLPEncoder:  # noqa: ARG002
        """Build the encoder for features of width ``in_channels``."""
        return MLPEncoder(
            in_channels, self.hidden_channels, self.num_layers, norm=self.norm, dropout=self.dropout
        )
