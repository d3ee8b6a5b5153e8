"""SIGN: an MLP on pre-propagated features (Frasca et al., 2020, arXiv 2004.11198)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.graph import CSCGraph, MiniBatch, aggregate, full_blocks
from gnn_mtl.nn._encoder import Encoder, Norm, make_dropout, make_norm


def propagate(graph: CSCGraph, x: NDArray[np.float32], hops: int) -> NDArray[np.float32]:
    """Return ``[x, Ax, ..., A^hops x]`` with A the row-normalised adjacency (mean aggregation).

    Args:
        graph: The graph.
        x: Features ``[N, F]``.
        hops: Number of products.

    Returns:
        float32 ``[N, (hops + 1) * F]``.

    Cost: hops * E * F additions, in chunks; memory of the result.
    """
    if hops < 0:
        raise UsageError(f"`hops` should be at least 0. Found {hops}.")
    width = x.shape[1]
    out = np.empty((graph.num_nodes, (hops + 1) * width), dtype=np.float32)
    out[:, :width] = x
    for hop in range(hops):
        source = torch.from_numpy(np.ascontiguousarray(out[:, hop * width : (hop + 1) * width]))
        for rows, block in full_blocks(graph):
            out[rows, (hop + 1) * width : (hop + 2) * width] = aggregate(
                source, block, reduce="mean"
            ).numpy()
    return out


class SIGNEncoder(Encoder):
    """One linear map per propagated copy of the features, concatenated, then one more layer.

    Its input features are those of :func:`propagate`, so training samples no neighbour.

    Args:
        in_channels: Width ``(hops + 1) * F`` of the propagated features.
        hidden_channels: Width of the last layer and of each copy's map.
        hops: Number of propagation steps.
        norm: Normalisation of the copies and of the last layer.
        dropout: Share of activations dropped after each layer.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        hops: int = 2,
        *,
        norm: Norm = "batch",
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        if in_channels < 1 or in_channels % (hops + 1):
            raise ShapeError(
                f"SIGN with {hops} hops needs features of width {hops + 1} * F (see propagate). "
                f"Found width {in_channels}."
            )
        self.in_channels, self.out_channels, self.num_hops = in_channels, hidden_channels, 0
        self.copies = hops + 1
        width = in_channels // self.copies
        self.maps = nn.ModuleList(nn.Linear(width, hidden_channels) for _ in range(self.copies))
        self.copy_norm = make_norm(norm, hidden_channels * self.copies)
        self.dropout = make_dropout(dropout)
        self.elementwise_after_final = norm != "layer"
        self.last = nn.Linear(hidden_channels * self.copies, hidden_channels)
        self.norm = make_norm(norm, hidden_channels)

    def forward(self, batch: MiniBatch) -> Tensor:
        """Return representations ``[B, D]`` of the seeds."""
        return self.encode(batch.x[: batch.batch_size])

    def encode(self, x: Tensor) -> Tensor:
        """Map propagated features ``[B, (hops + 1) F]`` to representations ``[B, D]``."""
        copies = x.chunk(self.copies, dim=1)
        mapped = [linear(copy) for linear, copy in zip(self.maps, copies, strict=True)]
        hidden = self.dropout(torch.relu(self.copy_norm(torch.cat(mapped, dim=1))))
        return self.dropout(torch.relu(self.norm(self.last(hidden))))

    def final_linears(self) -> list[nn.Linear]:
        """Return the last map."""
        return [self.last]


@dataclass(frozen=True, kw_only=True)
class SIGN:
    """SIGN: an MLP on features propagated once before training."""

    kind: ClassVar[str] = "sign"
    hidden_channels: int = 128
    """Width of every layer."""
    hops: int = 2
    """Number of propagation steps; the features are (hops + 1) times as wide."""
    norm: Norm = "batch"
    """Normalisation after each layer."""
    dropout: float = 0.3
    """Share of activations dropped after each layer."""

    def build(self, in_channels: int, edge_channels: int | None = None) -> SIGNEncoder:  # noqa: ARG002
        """Build the encoder for propagated features of width ``in_channels``."""
        return SIGNEncoder(
            in_channels, self.hidden_channels, self.hops, norm=self.norm, dropout=self.dropout
        )
