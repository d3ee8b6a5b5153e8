"""``MiniBatch``: what one training step sees."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gnn_mtl.graph._block import Block
from gnn_mtl.graph._sampler import Sample


@dataclass(frozen=True, eq=False)
class MiniBatch:
    """Sampled layers with their features and the targets of the seeds.

    Attributes:
        n_id: The graph's id of each sampled node, int64 ``[S]``, seeds first.
        batch_size: Number of seeds B.
        x: Features of the sampled nodes ``[S, F]``.
        blocks: One block per layer, outermost first; block l maps ``[blocks[l].num_src, ...]`` to
            its first ``num_dst`` rows, and the last block's targets are the seeds.
        y: Targets of the seeds, float ``[B, T]``, 0 where not observed.
        observed: Which of them may be used, bool ``[B, T]``.
        epoch: Number of the epoch the batch belongs to.
        index: Number of the batch within the epoch.
    """

    n_id: Tensor
    batch_size: int
    x: Tensor
    blocks: tuple[Block, ...]
    y: Tensor
    observed: Tensor
    epoch: int = 0
    index: int = 0

    @property
    def edge_index(self) -> Tensor:
        """All sampled edges as PyG's int64 ``[2, E]`` over the sampled nodes."""
        return self.blocks[0].edge_index

    @property
    def edge_attr(self) -> Tensor | None:
        """Features of all sampled edges ``[E, D]``."""
        return self.blocks[0].edge_attr

    @property
    def seeds(self) -> Tensor:
        """Node ids of the seeds, int64 ``[B]``."""
        return self.n_id[: self.batch_size]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> MiniBatch:
        """Return the batch on another device."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        if self.x.device == torch.device(device):
            return self
        return MiniBatch(
            move(self.n_id),
            self.batch_size,
            move(self.x),
            tuple(block.to(device, non_blocking=non_blocking) for block in self.blocks),
            move(self.y),
            move(self.observed),
            self.epoch,
            self.index,
        )


def layered_blocks(
    sample: Sample, degrees: Tensor | None = None, edge_attr: Tensor | None = None
) -> tuple[Block, ...]:
    """Return the blocks of a sample, outermost first; all are views of the sample's one CSC.

    Layer l needs the outputs of layer l - 1 only at the nodes found up to hop L - l, which are a
    prefix: no layer computes a row that nobody reads.

    Args:
        sample: A sample of L hops.
        degrees: In-degree in the whole graph of every sampled node ``[S]``.
        edge_attr: Features of all sampled edges ``[E, D]``.
    """
    blocks = []
    hops = len(sample.num_nodes) - 1
    ends = [int(sample.indptr[n]) for n in sample.num_nodes[:-1]]
    for hop in range(hops, 0, -1):
        num_dst, num_src = sample.num_nodes[hop - 1], sample.num_nodes[hop]
        end = ends[hop - 1]
        blocks.append(
            Block(
                sample.indptr[: num_dst + 1],
                sample.indices[:end],
                num_src,
                edge_positions=None
                if sample.edge_positions is None
                else sample.edge_positions[:end],
                edge_attr=None if edge_attr is None else edge_attr[:end],
                src_degrees=None if degrees is None else degrees[:num_src],
                dst_degrees=None if degrees is None else degrees[:num_dst],
            )
        )
    return tuple(blocks)
