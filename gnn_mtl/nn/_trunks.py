"""Several encoders evaluated as one: a trunk for every group of tasks, over a stem they may share.

A batch is sampled once for all of them and exact inference passes over the graph once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gnn_mtl._core.errors import UsageError
from gnn_mtl.graph import Block
from gnn_mtl.nn._encoder import Conv, ConvEncoder


class Trunks(ConvEncoder):
    r"""K convolutional encoders side by side; the first layers may be one stem.

    Representations are those of the K trunks one after the other, ``[B, K D]``.

    Args:
        encoders: The trunks, of equal widths and depths. Layers of the stem are the first one's.
        shared_layers: Layers of the stem.
        regulate: Multiply the gradient that the trunks send into the stem by
            :math:`1/\sqrt K` (Standley et al., ICML 2020; DMTG).

    Raises:
        UsageError: If the encoders do not fit together, or the stem leaves no layer to a trunk.
    """

    def __init__(
        self, encoders: Sequence[ConvEncoder], *, shared_layers: int = 0, regulate: bool = False
    ) -> None:
        if not encoders or not all(isinstance(encoder, ConvEncoder) for encoder in encoders):
            found = sorted({type(encoder).__name__ for encoder in encoders})
            raise UsageError(
                "Trunks are made of convolutional encoders: sage, gcn, gatv2, gin. Found "
                f"{', '.join(found) or 'none'}."
            )
        first, number = encoders[0], len(encoders)
        shapes = {(e.num_hops, e.in_channels, e.out_channels) for e in encoders}
        if len(shapes) != 1 or not 0 <= shared_layers < first.num_hops:
            raise UsageError(
                "Trunks should be of one depth and width, and deeper than the stem. Found depths "
                f"and widths {sorted(shapes)} over a stem of {shared_layers} layers."
            )
        scale = 1 / math.sqrt(number) if regulate else 1.0
        own = range(shared_layers, first.num_hops)
        convs: list[Any] = list(first.convs[:shared_layers])
        norms: list[nn.Module] = list(first.norms[:shared_layers])
        for index in own:
            forks = index == shared_layers
            convs.append(
                SideBySide([e.convs[index] for e in encoders], forks=forks, scale=scale)  # type: ignore[misc]
            )
            norms.append(_OwnNorms([e.norms[index] for e in encoders]))
        widths = [
            first.out_channels * (1 if i < shared_layers else number) for i in range(len(convs))
        ]
        super().__init__(convs, [first.in_channels, *widths], norm="none", dropout=0.0)
        self.norms = nn.ModuleList(norms)
        self.dropout = first.dropout
        self.elementwise_after_final = first.elementwise_after_final
        self.num_trunks = number
        self.shared_layers = shared_layers

    def keep(self, trunks: Sequence[int]) -> Trunks:
        """Drop the other trunks, in place, and return the encoder."""
        for index in range(self.shared_layers, self.num_hops):
            conv: Any = self.convs[index]
            norm: Any = self.norms[index]
            conv.convs = nn.ModuleList(conv.convs[k] for k in trunks)
            norm.norms = nn.ModuleList(norm.norms[k] for k in trunks)
        self.out_channels = self.out_channels // self.num_trunks * len(trunks)
        self.num_trunks = len(trunks)
        return self


class SideBySide(Conv):
    """One convolution per trunk, on the same sources or each on its own columns of them.

    Args:
        convs: The convolutions.
        forks: Whether they all read the same sources.
        scale: Factor of the gradient sent back to shared sources.
    """

    def __init__(self, convs: Sequence[Conv], *, forks: bool, scale: float = 1.0) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convs)
        self.forks, self.scale = forks, scale
        self.transforms_sources = convs[0].transforms_sources

    def forward(self, x_src: Tensor, x_dst: Tensor, block: Block) -> Tensor:
        """Map ``[num_src, F]`` (or ``[num_src, K F]``) to ``[num_dst, K D]``."""
        number = len(self.convs)
        if self.forks:
            sources = [scaled_gradient(x_src, self.scale)] * number
            targets = [scaled_gradient(x_dst, self.scale)] * number
        else:
            sources, targets = list(x_src.chunk(number, 1)), list(x_dst.chunk(number, 1))
        made = [
            conv(src, dst, block)
            for conv, src, dst in zip(self.convs, sources, targets, strict=True)
        ]
        return torch.cat(made, dim=1)

    def linears(self) -> list[nn.Linear]:
        """Return nothing: no sum of maps is the whole output."""
        return []


class _OwnNorms(nn.Module):
    """Each trunk's own normalisation of its columns."""

    def __init__(self, norms: Sequence[nn.Module]) -> None:
        super().__init__()
        self.norms = nn.ModuleList(norms)

    def forward(self, x: Tensor) -> Tensor:
        parts = x.chunk(len(self.norms), 1)
        return torch.cat([norm(part) for norm, part in zip(self.norms, parts, strict=True)], 1)


class _ScaledGradient(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, scale: float) -> Tensor:  # noqa: ARG004
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401, ARG004
        ctx.scale = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return grad * ctx.scale, None


def scaled_gradient(x: Tensor, scale: float) -> Tensor:
    """Return ``x``; its gradient is multiplied by ``scale`` on the way back."""
    return x if scale == 1.0 else _ScaledGradient.apply(x, scale)
