"""What an encoder is: layers over bipartite blocks, from sampled features to representations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.graph import Block, MiniBatch

Norm = Literal["none", "batch", "layer"]


class Encoder(nn.Module, ABC):
    """Maps a mini-batch to one representation per seed; all its parameters are shared by the tasks.

    Attributes:
        in_channels: Width F of the input features.
        out_channels: Width D of the representations.
        num_hops: Number of blocks it consumes; 0 if it only reads the seeds' own features.
        elementwise_after_final: Whether what follows the sum of :meth:`final_linears` acts on
            every entry by itself in evaluation mode (ReLU, frozen batch norm; not layer norm).
    """

    in_channels: int
    out_channels: int
    num_hops: int
    elementwise_after_final: bool = False

    @abstractmethod
    def forward(self, batch: MiniBatch) -> Tensor:
        """Return representations ``[B, D]`` of the seeds."""

    @abstractmethod
    def final_linears(self) -> list[nn.Linear]:
        """Return the linear maps of the last shared layer, each applied once per forward.

        Their inputs and outputs give the exact per-task gradients of this block without a backward
        pass through the rest of the network. Empty if the last layer is not made of such maps.
        """

    def final_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the last shared layer."""
        return [p for linear in self.final_linears() for p in linear.parameters()]


class Conv(nn.Module, ABC):
    """One message-passing layer over a block.

    Attributes:
        transforms_sources: Whether it maps every source before aggregating (attention does); exact
            inference then hands it only the sources a chunk really reads.
    """

    transforms_sources: bool = False

    @abstractmethod
    def forward(self, x_src: Tensor, x_dst: Tensor, block: Block) -> Tensor:
        """Map sources ``[num_src, F]`` and targets ``[num_dst, F]`` to ``[num_dst, D]``."""

    @abstractmethod
    def linears(self) -> list[nn.Linear]:
        """Return the linear maps whose sum is the layer's output; nothing if it is no such sum."""


class ConvEncoder(Encoder):
    """Convolutions with norm, ReLU and dropout after each.

    A layer is computed only at the nodes the next one reads (bipartite blocks), which is where most
    of the speed over whole-subgraph convolutions comes from.

    Args:
        convs: The layers, first applied first.
        channels: Widths F, hidden..., D: one more than there are layers.
        norm: ``"none"``, ``"batch"`` or ``"layer"`` normalisation of each layer's output.
        dropout: Share of activations dropped after each layer, in [0, 1).
    """

    def __init__(
        self, convs: Sequence[Conv], channels: Sequence[int], *, norm: Norm, dropout: float
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convs)
        self.in_channels = channels[0]
        self.out_channels = channels[-1]
        self.num_hops = len(convs)
        self.norms = nn.ModuleList(make_norm(norm, width) for width in channels[1:])
        self.dropout = make_dropout(dropout)
        self.elementwise_after_final = norm != "layer"

    def forward(self, batch: MiniBatch) -> Tensor:
        """Return representations ``[B, D]`` of the seeds."""
        if len(batch.blocks) != self.num_hops:
            raise ShapeError(
                f"A {self.num_hops}-layer encoder needs one sampled hop per layer. Found "
                f"{len(batch.blocks)} blocks; pass num_neighbors with {self.num_hops} entries."
            )
        x = batch.x
        for index, block in enumerate(batch.blocks):
            x = self.layer(index, x, x[: block.num_dst], block)
        return x

    def layer(self, index: int, x_src: Tensor, x_dst: Tensor, block: Block) -> Tensor:
        """Apply layer ``index`` with its norm, activation and dropout."""
        x = self.convs[index](x_src, x_dst, block)
        x = torch.relu(self.norms[index](x))
        return self.dropout(x)

    def final_linears(self) -> list[nn.Linear]:
        """Return the linear maps of the last convolution."""
        return self.convs[-1].linears()  # type: ignore[union-attr, operator]

    def final_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the last convolution."""
        linears = self.final_linears()
        if linears:
            return [p for linear in linears for p in linear.parameters()]
        return list(self.convs[-1].parameters())


@dataclass(frozen=True, kw_only=True)
class LayersConfig:
    """What the layered encoders share."""

    hidden_channels: int = 128
    """Width of every layer."""
    num_layers: int = 2
    """Number of layers; a convolution samples one hop for each."""
    norm: Norm = "batch"
    """Normalisation after each layer."""
    dropout: float = 0.3
    """Share of activations dropped after each layer."""


def stack(
    conv: Callable[[int, int], Conv], in_channels: int, hidden_channels: int, num_layers: int
) -> tuple[list[Conv], list[int]]:
    """Return ``num_layers`` convolutions one after the other, and their widths F, H, ..., H."""
    widths = layer_widths(in_channels, hidden_channels, num_layers)
    return [conv(a, b) for a, b in pairwise(widths)], widths


def layer_widths(in_channels: int, hidden_channels: int, num_layers: int) -> list[int]:
    """Return the widths F, H, ..., H of ``num_layers`` layers, checked.

    Raises:
        UsageError: If a width or the number of layers is below 1.
    """
    if min(in_channels, hidden_channels, num_layers) < 1:
        raise UsageError(
            "`in_channels`, `hidden_channels` and `num_layers` should be at least 1. "
            f"Found {in_channels}, {hidden_channels} and {num_layers}. A graph without features "
            "needs structural ones: gnn_mtl.datasets.structural_features."
        )
    return [in_channels, *[hidden_channels] * num_layers]


class _BatchNorm(nn.BatchNorm1d):
    """Batch normalisation that takes one row too, which has no spread: by running statistics."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) == 1:
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(x)


def make_dropout(share: float) -> nn.Dropout:
    """Return the dropout layer.

    Raises:
        UsageError: If ``share`` is outside [0, 1).
    """
    if not 0.0 <= share < 1.0:
        raise UsageError(f"`dropout` should lie in [0, 1). Found {share}.")
    return nn.Dropout(share)


def make_norm(kind: Norm, width: int) -> nn.Module:
    """Return the normalisation layer of that kind."""
    if kind == "batch":
        return _BatchNorm(width)
    if kind == "layer":
        return nn.LayerNorm(width)
    if kind == "none":
        return nn.Identity()
    raise UsageError(f"`norm` should be none, batch or layer. Found {kind!r}.")
