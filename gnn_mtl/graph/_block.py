"""``Block``: one bipartite message-passing layer, sources to targets, in CSC."""

from __future__ import annotations

import torch
from torch import Tensor


class Block:
    """The edges of one layer: each of ``num_dst`` targets receives from some of the sources.

    In a sampled batch the targets are the first ``num_dst`` sources, so a stock PyG convolution is
    called as ``conv((x, x[:block.num_dst]), block.edge_index)``. Blocks are passed to autograd
    functions as plain Python objects, never as tensors.

    Args:
        indptr: Bounds of each target's sources, int32 or int64 ``[num_dst + 1]``.
        indices: Positions of the sources, same dtype ``[E]``.
        num_src: Number of sources.
        edge_positions: Optional position of every edge in the whole graph, int64 ``[E]``.
        edge_attr: Optional features of every edge ``[E, D]``.
        src_degrees: Optional in-degree of each source in the whole graph ``[num_src]``.
        dst_degrees: Optional in-degree of each target in the whole graph ``[num_dst]``.
    """

    def __init__(
        self,
        indptr: Tensor,
        indices: Tensor,
        num_src: int,
        *,
        edge_positions: Tensor | None = None,
        edge_attr: Tensor | None = None,
        src_degrees: Tensor | None = None,
        dst_degrees: Tensor | None = None,
    ) -> None:
        self.indptr = indptr
        self.indices = indices
        self.num_src = num_src
        self.edge_positions = edge_positions
        self.edge_attr = edge_attr
        self.src_degrees = src_degrees
        self.dst_degrees = dst_degrees
        self._transposed: tuple[Block, Tensor] | None = None
        self._targets: Tensor | None = None

    @property
    def num_dst(self) -> int:
        """Number of targets."""
        return len(self.indptr) - 1

    @property
    def num_edges(self) -> int:
        """Number of edges E."""
        return len(self.indices)

    @property
    def degrees(self) -> Tensor:
        """Number of sources of each target, ``[num_dst]``."""
        return self.indptr.diff()

    def sampling_scale(self) -> Tensor:
        """Return degree / sampled of each target ``[num_dst]``: 1 where all neighbours are here.

        A sum over uniformly sampled neighbours times this has the full sum as its expectation.
        """
        sampled = self.degrees
        if self.dst_degrees is None:
            return torch.ones_like(sampled, dtype=torch.get_default_dtype())
        return self.dst_degrees / sampled.clamp(min=1)

    @property
    def targets(self) -> Tensor:
        """Target of every edge, int64 ``[E]`` (computed once)."""
        if self._targets is None:
            self._targets = torch.repeat_interleave(
                torch.arange(self.num_dst, device=self.indptr.device),
                self.degrees.long(),
                output_size=self.num_edges,
            )
        return self._targets

    @property
    def edge_index(self) -> Tensor:
        """PyG's int64 ``[2, E]``: sources, targets."""
        return torch.stack([self.indices.long(), self.targets])

    def transposed(self) -> tuple[Block, Tensor]:
        """Return the block with sources and targets exchanged, and its edges' order in this one.

        Computed on first use (a stable sort, so deterministic on every device) and kept.
        """
        if self._transposed is None:
            order = torch.argsort(self.indices, stable=True)
            counts = torch.bincount(self.indices, minlength=self.num_src)
            indptr = torch.zeros(
                self.num_src + 1, dtype=self.indptr.dtype, device=self.indptr.device
            )
            indptr[1:] = counts.cumsum(0)
            reverse = Block(indptr, self.targets[order].to(self.indices.dtype), self.num_dst)
            reverse._transposed = (self, torch.argsort(order))
            self._transposed = (reverse, order)
        return self._transposed

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Block:
        """Return the block on another device."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=non_blocking)

        return Block(
            self.indptr.to(device, non_blocking=non_blocking),
            self.indices.to(device, non_blocking=non_blocking),
            self.num_src,
            edge_positions=move(self.edge_positions),
            edge_attr=move(self.edge_attr),
            src_degrees=move(self.src_degrees),
            dst_degrees=move(self.dst_degrees),
        )

    def __repr__(self) -> str:
        return f"Block({self.num_src} -> {self.num_dst}, {self.num_edges} edges)"
