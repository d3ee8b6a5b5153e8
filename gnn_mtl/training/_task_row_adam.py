"""Adam and AdamW whose head rows move only while their task is supervised.

A row of a head that gets a zero gradient is not left alone by Adam: its moments decay, its weight
decay acts and the shared step count makes its next bias correction wrong. Here an inactive task's
rows, moments and step count are bitwise unchanged by a step (SON-GOKU spec T11).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gnn_mtl._core.errors import UsageError


class TaskRowAdam:
    """Adam on parameters ``[T, ...]`` with one step count per task row.

    With every task active it is torch's Adam (AdamW with ``decoupled``), to rounding.

    Args:
        parameters: Head parameters; row t belongs to task t.
        lr: Learning rate.
        betas: Decay of the first and second moment.
        eps: Added to the root of the second moment.
        weight_decay: L2 penalty, or decoupled decay.
        decoupled: AdamW's decay (Loshchilov & Hutter, ICLR 2019) instead of Adam's.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled: bool = True,
    ) -> None:
        if not parameters:
            raise UsageError("`parameters` should hold at least one head parameter. Found none.")
        rows = {len(p) for p in parameters}
        if len(rows) != 1:
            raise UsageError(
                "Head parameters should all have the task as first dimension. "
                f"Found first dimensions {sorted(rows)}."
            )
        self.parameters = list(parameters)
        self.lr = lr
        self.betas, self.eps = betas, eps
        self.weight_decay, self.decoupled = weight_decay, decoupled
        self.num_tasks = rows.pop()
        self.steps = torch.zeros(self.num_tasks, dtype=torch.int64)
        self.first = [torch.zeros_like(p) for p in self.parameters]
        self.second = [torch.zeros_like(p) for p in self.parameters]

    @torch.no_grad()
    def step(self, tasks: Sequence[int]) -> None:
        """Update the rows of ``tasks`` from the parameters' ``grad``; touch nothing else."""
        ids = torch.as_tensor(sorted(set(tasks)), dtype=torch.int64)
        everything = len(ids) == self.num_tasks
        self.steps[ids] += 1
        beta1, beta2 = self.betas
        count = self.steps[ids].double()
        step_size = self.lr / (1 - beta1**count)
        root = (1 - beta2**count).sqrt()
        for parameter, first, second in zip(self.parameters, self.first, self.second, strict=True):
            if parameter.grad is None:
                continue
            rows: Any = slice(None) if everything else ids.to(parameter.device)
            shape = (-1,) + (1,) * (parameter.dim() - 1)
            value, grad = parameter[rows], parameter.grad[rows]
            if self.weight_decay and self.decoupled:
                value = value * (1 - self.lr * self.weight_decay)
            elif self.weight_decay:
                grad = grad + self.weight_decay * value
            m = first[rows].lerp(grad, 1 - beta1)
            v = second[rows] * beta2 + (1 - beta2) * grad * grad
            scale = step_size.to(parameter).reshape(shape)
            denominator = v.sqrt() / root.to(parameter).reshape(shape) + self.eps
            parameter[rows] = value - scale * m / denominator
            first[rows], second[rows] = m, v

    def zero_grad(self) -> None:
        """Forget the parameters' gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        """Return moments and step counts as a flat mapping of tensors."""
        state = {"steps": self.steps}
        for index, (m, v) in enumerate(zip(self.first, self.second, strict=True)):
            state[f"first.{index}"], state[f"second.{index}"] = m, v
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.steps.copy_(state["steps"])
        for index, (m, v) in enumerate(zip(self.first, self.second, strict=True)):
            m.copy_(state[f"first.{index}"])
            v.copy_(state[f"second.{index}"])
