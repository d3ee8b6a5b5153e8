"""``LabelModel``: a shared encoder and one head per task, with the partition declared."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from gnn_mtl.graph import MiniBatch
from gnn_mtl.nn._encoder import Encoder
from gnn_mtl.nn._heads import Heads


class LabelModel(nn.Module):
    """An encoder shared by all tasks and the heads on top of it.

    The partition of parameters is what the attributes say: everything in ``encoder`` is shared, and
    row t of everything in ``heads`` belongs to task t, but for what heads declare as parameters of
    groups. Conflict between tasks is measured on the shared parameters alone.

    Args:
        encoder: Maps a mini-batch to representations ``[B, D]``.
        heads: Maps them to logits ``[B, T]``.
    """

    def __init__(self, encoder: Encoder, heads: Heads) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = heads

    def forward(self, batch: MiniBatch, tasks: Sequence[int] | Tensor | None = None) -> Tensor:
        """Return logits ``[B, T]`` of the seeds, or ``[B, len(tasks)]`` of the given tasks."""
        return self.heads(self.encoder(batch), tasks)

    @property
    def num_tasks(self) -> int:
        """Number of tasks T."""
        return self.heads.num_tasks

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the parameters every task trains."""
        return [p for p in self.encoder.parameters() if p.requires_grad]

    def head_parameters(self) -> list[nn.Parameter]:
        """Return the parameters ``[T, ...]`` whose row t belongs to task t."""
        return [p for p in self.heads.task_parameters() if p.requires_grad]

    def group_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that some tasks share; none without adapters per group."""
        return [p for p in self.heads.group_parameters() if p.requires_grad]
