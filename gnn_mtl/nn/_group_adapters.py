"""Adapters per group: one trunk for all tasks, a small network of its own for every group.

Between joint training and one model per group: the trunk is shared and runs once, and each group
bends the representation its heads read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from gnn_mtl._core.errors import UsageError
from gnn_mtl.nn._heads import Heads
from gnn_mtl.tasks import Grouping

Overlap = Literal["refuse", "first"]


class GroupAdapter(nn.Module):
    """The map ``h -> up relu(down h)`` through ``rank`` hidden units; zero when new.

    Attributes:
        down: Weights and bias into the hidden units.
        up: Weights out of them, ``[D, rank]``.
    """

    def __init__(self, in_channels: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(in_channels, rank)
        self.up = nn.Parameter(torch.zeros(in_channels, rank))

    def hidden(self, h: Tensor) -> Tensor:
        """Return the hidden units ``[B, rank]``."""
        return torch.relu(self.down(h))

    def forward(self, h: Tensor) -> Tensor:
        """Return what is added to the representations, ``[B, D]``."""
        return self.hidden(h) @ self.up.T


class AdapterHeads(Heads):
    r"""Linear heads; those of group g read the representation as its adapter bends it.

    .. math:: z_t = w_t \cdot \bigl(h + U_g\,\mathrm{relu}(D_g h + c_g)\bigr) + b_t

    :math:`U_g` is 0 at first, so the model starts as the one without adapters, with the same
    weights for the same random state. The hidden units are what groups gain: without the ReLU the
    adapter would be one more linear map in front of a linear map every task has to itself, and the
    model no richer than the joint one.

    The weights :math:`w_t` and biases belong to tasks; adapters to groups
    (:meth:`group_parameters`). While no task of a group is supervised its adapter gets no gradient
    and stays bitwise as it is.

    Args:
        in_channels: Width D of the representations.
        num_tasks: Number of tasks T.
        groups: The groups, which cover the tasks.
        rank: Hidden units of an adapter.
        overlap: What to do with a task in several groups: ``"refuse"`` it, or let the ``"first"``
            group that holds it serve it.

    Raises:
        UsageError: If the groups do not cover exactly the tasks, or overlap against ``overlap``.

    Cost: ``D (T + M rank) + T rank`` multiplications a node beyond the trunk, M groups; the
    adapted representations are never formed.
    """

    def __init__(
        self,
        in_channels: int,
        num_tasks: int,
        groups: Grouping | Sequence[Sequence[int]],
        *,
        rank: int = 8,
        overlap: Overlap = "refuse",
    ) -> None:
        super().__init__()
        if rank < 1:
            raise UsageError(f"`rank` should be at least 1. Found {rank}.")
        self.num_tasks = num_tasks
        self.group_of = serving_groups(groups, num_tasks, overlap=overlap)
        linear = nn.Linear(in_channels, num_tasks)
        self.weight = linear.weight
        self.bias = linear.bias
        self.adapters = nn.ModuleList(
            GroupAdapter(in_channels, rank) for _ in range(max(self.group_of) + 1)
        )

    def task_parameters(self) -> list[nn.Parameter]:
        """Return weights and biases."""
        return list(self.parameters(recurse=False))

    def group_parameters(self, tasks: Sequence[int] | None = None) -> list[nn.Parameter]:
        """Return the adapters' parameters, or those of the groups that serve ``tasks``."""
        serving = sorted(
            set(self.group_of if tasks is None else map(self.group_of.__getitem__, tasks))
        )
        return [p for group in serving for p in self.adapters[group].parameters()]

    def forward(self, h: Tensor, tasks: Sequence[int] | Tensor | None = None) -> Tensor:
        """Return logits ``[B, T]`` or ``[B, len(tasks)]``."""
        ids = list(range(self.num_tasks)) if tasks is None else _ids(tasks)
        if not ids:
            return h.new_zeros((len(h), 0))
        rows = torch.tensor(ids, device=h.device)
        weight, bias = self.weight[rows], self.bias[rows]
        parts, order = [], []
        for group, places in self._by_group(ids):
            adapter = self.adapters[group]
            parts.append(adapter.hidden(h) @ (weight[places] @ adapter.up).T)  # type: ignore[operator]
            order += places
        back = torch.tensor(order, device=h.device).argsort()
        return nn.functional.linear(h, weight, bias) + torch.cat(parts, dim=1)[:, back]

    def representation_gradients(self, h: Tensor, residual: Tensor, tasks: Tensor) -> Tensor:
        """Return the chain rule through each group's hidden units."""
        ids = _ids(tasks)
        out = residual.T[:, :, None] * self.weight[tasks][:, None, :]
        for group, places in self._by_group(ids):
            adapter: GroupAdapter = self.adapters[group]  # type: ignore[assignment]
            active = adapter.down(h) > 0
            back = (self.weight[tasks[places]] @ adapter.up)[:, None, :] * active
            out[places] += (residual.T[places, :, None] * back) @ adapter.down.weight
        return out

    def _by_group(self, ids: Sequence[int]) -> list[tuple[int, list[int]]]:
        """The groups that serve these tasks, each with the tasks' places in ``ids``."""
        places: dict[int, list[int]] = {}
        for place, task in enumerate(ids):
            places.setdefault(self.group_of[task], []).append(place)
        return sorted(places.items())


def serving_groups(
    groups: Grouping | Sequence[Sequence[int]], num_tasks: int, *, overlap: Overlap = "refuse"
) -> tuple[int, ...]:
    """Return the number of the group that serves each task.

    Args:
        groups: The groups, which cover the tasks.
        num_tasks: Number of tasks T.
        overlap: ``"refuse"`` overlapping groups, or take the ``"first"`` that holds a task; groups
            that are then left without a task lose their number.

    Raises:
        UsageError: If the groups do not cover exactly the tasks, or overlap against ``overlap``.
    """
    if overlap not in ("refuse", "first"):
        raise UsageError(f"`overlap` should be refuse or first. Found {overlap!r}.")
    grouping = groups if isinstance(groups, Grouping) else Grouping.of(groups, num_tasks)
    if grouping.num_tasks != num_tasks:
        raise UsageError(
            f"The groups should be of the {num_tasks} tasks of this model. Found groups of "
            f"{grouping.num_tasks}."
        )
    if overlap == "refuse" and not grouping.is_disjoint:
        raise UsageError(
            "Every task should be in one group. Found overlapping groups; overlap='first' lets the "
            "first group that holds a task serve it."
        )
    return tuple(np.unique(grouping.first_of(), return_inverse=True)[1].tolist())


def _ids(tasks: Sequence[int] | Tensor) -> list[int]:
    return tasks.tolist() if isinstance(tasks, Tensor) else [int(task) for task in tasks]


@dataclass(frozen=True, kw_only=True)
class Adapters:
    """Linear heads on a representation that every group of tasks bends by a small adapter."""

    kind: ClassVar[str] = "adapters"

    file: str | None = None
    """Grouping file (JSON) written by `gnn-mtl group` or `Grouping.save`; read at once, so that the
    configuration holds the groups themselves."""
    groups: tuple[tuple[int, ...], ...] = ()
    """The groups themselves, instead of a file."""
    rank: int = 8
    """Hidden units of each group's adapter."""
    overlap: Overlap = "refuse"
    """A task in several groups is refused, or served by the first group that holds it."""

    def __post_init__(self) -> None:
        if self.file is not None and not self.groups:
            object.__setattr__(self, "groups", Grouping.load(self.file).groups)
            object.__setattr__(self, "file", None)
        object.__setattr__(self, "groups", tuple(tuple(group) for group in self.groups))
        if self.file is not None or not self.groups:
            raise UsageError("Give either `file` (--head.file) or `groups` for adapters.")
        if self.rank < 1:
            raise UsageError(f"`rank` should be at least 1. Found {self.rank}.")

    def build(self, in_channels: int, num_tasks: int) -> AdapterHeads:
        """Build the heads.

        Raises:
            UsageError: If the groups do not fit the tasks.
        """
        return AdapterHeads(
            in_channels, num_tasks, self.groups, rank=self.rank, overlap=self.overlap
        )
