"""Heads on several trunks: one trunk per task, or all of them with weights to be learned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from gnn_mtl.nn._heads import Heads
from gnn_mtl.nn._trunks import scaled_gradient


class BranchHeads(Heads):
    """Linear heads, each on one of several trunks.

    Args:
        in_channels: Width K D of all trunks.
        trunk_of: The trunk of every task, from 0 on; every trunk has a task.
    """

    def __init__(self, in_channels: int, trunk_of: Sequence[int]) -> None:
        super().__init__()
        self.num_tasks = len(trunk_of)
        self.trunk_of = tuple(int(trunk) for trunk in trunk_of)
        self.num_trunks = max(self.trunk_of) + 1
        linear = nn.Linear(in_channels // self.num_trunks, self.num_tasks)
        self.weight = linear.weight
        self.bias = linear.bias

    def forward(self, h: Tensor, tasks: Sequence[int] | Tensor | None = None) -> Tensor:
        """Return logits ``[B, T]`` or ``[B, len(tasks)]``."""
        ids = torch.arange(self.num_tasks) if tasks is None else torch.as_tensor(tasks).cpu().long()
        trunks = torch.tensor(self.trunk_of)[ids]
        parts, order = [], []
        for trunk, own in enumerate(h.chunk(self.num_trunks, dim=1)):
            places = torch.nonzero(trunks == trunk).flatten()
            rows = ids[places].to(h.device)
            parts.append(nn.functional.linear(own, self.weight[rows], self.bias[rows]))
            order.append(places)
        back = torch.cat(order).argsort().to(h.device)
        return torch.cat(parts, dim=1)[:, back]

    def representation_gradients(self, h: Tensor, residual: Tensor, tasks: Tensor) -> Tensor:
        """Return ``residual[b, s] * weight[tasks[s]]`` in the columns of the task's trunk."""
        trunks = torch.tensor(self.trunk_of, device=h.device)[tasks]
        at = nn.functional.one_hot(trunks, self.num_trunks).to(h.dtype)
        weight = (at[:, :, None] * self.weight[tasks][:, None, :]).flatten(1)
        return residual.T[:, :, None] * weight[:, None, :]

    def select(self, tasks: Sequence[int]) -> Self:
        """Return a copy of the heads of some tasks, each on its trunk."""
        chosen = super().select(tasks)
        chosen.trunk_of = tuple(self.trunk_of[task] for task in tasks)
        return chosen


class TrunkHeads(Heads):
    r"""A linear head of every task on each of K trunks, and the logits between the trunks.

    As a model it answers with each task's best trunk, ``argmax_k alpha[t, k]``. Row t of ``alpha``
    belongs to task t as its heads do.

    Args:
        in_channels: Width K D of all trunks.
        num_tasks: Number of tasks T.
        num_trunks: Number of trunks K.
        noise: ``alpha`` is 1 plus this times uniform noise; 0 leaves the breaking of symmetry to
            the Gumbel noise and the initial weights.
        regulate: Multiply the gradient that the T heads send into a trunk by :math:`1/\sqrt T`.
    """

    def __init__(
        self,
        in_channels: int,
        num_tasks: int,
        num_trunks: int,
        *,
        noise: float = 0.0,
        regulate: bool = False,
    ) -> None:
        super().__init__()
        self.num_tasks, self.num_trunks = num_tasks, num_trunks
        self.regulate = regulate
        width = in_channels // num_trunks
        linear = nn.Linear(width, num_tasks * num_trunks)
        self.weight = nn.Parameter(linear.weight.detach().view(num_tasks, num_trunks, width))
        self.bias = nn.Parameter(linear.bias.detach().view(num_tasks, num_trunks))
        self.alpha = nn.Parameter(1 + noise * torch.rand(num_tasks, num_trunks))

    @property
    def scale(self) -> float:
        """What the gradient into a trunk is multiplied by."""
        return 1 / math.sqrt(self.num_tasks) if self.regulate else 1.0

    def all_logits(self, h: Tensor, tasks: Sequence[int] | Tensor | None = None) -> Tensor:
        """Return the logits of every trunk ``[B, S, K]``."""
        rows = _rows(tasks, h.device)
        own = scaled_gradient(h, self.scale).unflatten(1, (self.num_trunks, -1))
        return torch.einsum("bkd,skd->bsk", own, self.weight[rows]) + self.bias[rows]

    def forward(self, h: Tensor, tasks: Sequence[int] | Tensor | None = None) -> Tensor:
        """Return the logits of each task's best trunk, ``[B, T]`` or ``[B, len(tasks)]``."""
        best = self.alpha[_rows(tasks, h.device)].argmax(dim=1)
        logits = self.all_logits(h, tasks)
        return logits.gather(2, best.expand(len(h), -1)[:, :, None])[:, :, 0]

    def representation_gradients(self, h: Tensor, residual: Tensor, tasks: Tensor) -> Tensor:
        """Return ``residual[b, s] * weight`` in the columns of the task's best trunk."""
        at = nn.functional.one_hot(self.alpha[tasks].argmax(dim=1), self.num_trunks).to(h.dtype)
        weight = (at[:, :, None] * self.weight[tasks]).flatten(1)
        return self.scale * residual.T[:, :, None] * weight[:, None, :]

    def trunk_of(self) -> tuple[int, ...]:
        """Return the best trunk of every task."""
        return tuple(self.alpha.argmax(dim=1).tolist())


def _rows(tasks: Sequence[int] | Tensor | None, device: torch.device) -> Any:  # noqa: ANN401
    """The index of the tasks' rows; of all, a slice."""
    if tasks is None:
        return slice(None)
    return torch.as_tensor(tasks, dtype=torch.int64, device=device)
