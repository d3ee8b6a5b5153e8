"""One head per task, all in one module whose parameters have the task as their first dimension.

That layout is the contract: row t of every head parameter belongs to task t and to nobody else, so
an optimizer can leave the rows of inactive tasks untouched.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from gnn_mtl._core.errors import UsageError


class Heads(nn.Module, ABC):
    """Maps representations ``[B, D]`` to one logit per task; every parameter is ``[T, ...]``.

    Heads in which groups of tasks share parameters name both kinds apart.

    Attributes:
        num_tasks: Number of tasks T.
    """

    num_tasks: int

    @abstractmethod
    def forward(self, h: Tensor, tasks: Sequence[int] | Tensor | None = None) -> Tensor:
        """Return logits ``[B, T]``, or ``[B, len(tasks)]`` of the given tasks in their order."""

    def task_parameters(self) -> list[nn.Parameter]:
        """Return the parameters ``[T, ...]`` whose row t belongs to task t."""
        return list(self.parameters())

    def group_parameters(self, tasks: Sequence[int] | None = None) -> list[nn.Parameter]:  # noqa: ARG002
        """Return the parameters that several tasks share and the encoder does not hold.

        Args:
            tasks: Only those of the groups that serve these tasks; default: all.
        """
        return []

    def select(self, tasks: Sequence[int]) -> Self:
        """Return a copy of the heads of some tasks.

        Args:
            tasks: Task ids, in the order of the copy's heads.

        Raises:
            UsageError: If groups of tasks share parameters, which no row holds.
        """
        if self.group_parameters():
            raise UsageError(
                "The heads of some tasks can be cut out where every parameter has a row a task. "
                f"Found {type(self).__name__}; begin with fresh heads."
            )
        rows = torch.as_tensor(list(tasks), dtype=torch.int64)
        chosen = copy.deepcopy(self)
        for name, value in list(chosen.named_parameters()):
            owner, _, leaf = name.rpartition(".")
            rest = nn.Parameter(value.detach()[rows.to(value.device)].clone())
            setattr(chosen.get_submodule(owner), leaf, rest)
        chosen.num_tasks = len(rows)
        return chosen

    @abstractmethod
    def representation_gradients(self, h: Tensor, residual: Tensor, tasks: Tensor) -> Tensor:
        """Return what each task's loss does to the representations.

        Args:
            h: Representations ``[B, D]``.
            residual: Derivative of each task's loss by its own logits, ``[B, S]``.
            tasks: The S tasks, int64.

        Returns:
            Gradients ``[S, B, D]``: the loss of task ``tasks[s]`` by ``h``.
        """


class LinearHeads(Heads):
    """One affine map per task: weight ``[T, D]``, bias ``[T]``, as ``nn.Linear(D, T)``."""

    def __init__(self, in_channels: int, num_tasks: int) -> None:
        super().__init__()
        self.num_tasks = num_tasks
        linear = nn.Linear(in_channels, num_tasks)
        self.weight = linear.weight
        self.bias = linear.bias

    def forward(self, h: Tensor, tasks: Sequence[int] | Tensor | None = None) -> Tensor:
        """Return logits ``[B, T]`` or ``[B, len(tasks)]``."""
        if tasks is None:
            return nn.functional.linear(h, self.weight, self.bias)
        rows = torch.as_tensor(tasks, dtype=torch.int64, device=h.device)
        return nn.functional.linear(h, self.weight[rows], self.bias[rows])

    def representation_gradients(self, h: Tensor, residual: Tensor, tasks: Tensor) -> Tensor:  # noqa: ARG002
        """Return ``residual[b, s] * weight[tasks[s]]``, in closed form."""
        return residual.T[:, :, None] * self.weight[tasks][:, None, :]


class MLPHeads(Heads):
    """A small two-layer network per task: D -> hidden -> 1, all tasks in one batched product."""

    def __init__(self, in_channels: int, num_tasks: int, hidden_channels: int = 16) -> None:
        super().__init__()
        if hidden_channels < 1:
            raise UsageError(f"`hidden_channels` should be at least 1. Found {hidden_channels}.")
        self.num_tasks = num_tasks
        bound_in, bound_out = 1 / math.sqrt(in_channels), 1 / math.sqrt(hidden_channels)
        uniform = torch.nn.init.uniform_
        self.weight_in = nn.Parameter(
            uniform(torch.empty(num_tasks, hidden_channels, in_channels), -bound_in, bound_in)
        )
        self.bias_in = nn.Parameter(
            uniform(torch.empty(num_tasks, hidden_channels), -bound_in, bound_in)
        )
        self.weight_out = nn.Parameter(
            uniform(torch.empty(num_tasks, hidden_channels), -bound_out, bound_out)
        )
        self.bias_out = nn.Parameter(uniform(torch.empty(num_tasks), -bound_out, bound_out))

    def forward(self, h: Tensor, tasks: Sequence[int] | Tensor | None = None) -> Tensor:
        """Return logits ``[B, T]`` or ``[B, len(tasks)]``."""
        weight_in: Tensor = self.weight_in
        bias_in: Tensor = self.bias_in
        weight_out: Tensor = self.weight_out
        bias_out: Tensor = self.bias_out
        if tasks is not None:
            rows = torch.as_tensor(tasks, dtype=torch.int64, device=h.device)
            weight_in, bias_in, weight_out, bias_out = (
                weight_in[rows], bias_in[rows], weight_out[rows], bias_out[rows],
            )  # fmt: skip
        hidden = nn.functional.linear(h, weight_in.flatten(0, 1), bias_in.flatten())
        hidden = torch.relu(hidden).unflatten(1, bias_in.shape)
        return (hidden * weight_out).sum(-1) + bias_out

    def representation_gradients(self, h: Tensor, residual: Tensor, tasks: Tensor) -> Tensor:
        """Return the chain rule through each task's own hidden layer."""
        weight_in, bias_in = self.weight_in[tasks], self.bias_in[tasks]
        hidden = nn.functional.linear(h, weight_in.flatten(0, 1), bias_in.flatten())
        active = (hidden > 0).unflatten(1, bias_in.shape)
        back = residual[:, :, None] * self.weight_out[tasks] * active
        return torch.einsum("bsk,skd->sbd", back, weight_in)


@dataclass(frozen=True, kw_only=True)
class Linear:
    """One affine map per task."""

    kind: ClassVar[str] = "linear"

    def build(self, in_channels: int, num_tasks: int) -> LinearHeads:
        """Build the heads."""
        return LinearHeads(in_channels, num_tasks)


@dataclass(frozen=True, kw_only=True)
class MLPHead:
    """A small two-layer network per task."""

    kind: ClassVar[str] = "mlp"
    hidden_channels: int = 16
    """Hidden units of each task's network."""

    def build(self, in_channels: int, num_tasks: int) -> MLPHeads:
        """Build the heads."""
        return MLPHeads(in_channels, num_tasks, self.hidden_channels)
