"""The optimizers of a training: shared parameters, head rows, and the learning rate of both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gnn_mtl._core.errors import UsageError
from gnn_mtl.nn import LabelModel
from gnn_mtl.training._config import Train
from gnn_mtl.training._group_adam import GroupAdam
from gnn_mtl.training._outer_step import OuterStep
from gnn_mtl.training._task_row_adam import TaskRowAdam


class Optimizers:
    """Torch's Adam on the shared parameters and :class:`TaskRowAdam` on the heads, as one.

    Args:
        model: The model.
        config: Learning rate, weight decay and kind.
    """

    def __init__(self, model: LabelModel, config: Train) -> None:
        self.base_lr = config.lr
        self._group_parameters = model.heads.group_parameters
        decoupled = config.optimizer == "adamw"
        kind = torch.optim.AdamW if decoupled else torch.optim.Adam
        self.shared_parameters = [*model.shared_parameters(), *model.group_parameters()]
        self.shared: torch.optim.Optimizer | None = None
        self.grouped: GroupAdam | None = None
        if self.shared_parameters and config.group_moments:
            self.grouped = GroupAdam(
                self.shared_parameters,
                config.lr,
                weight_decay=config.weight_decay,
                decoupled=decoupled,
            )
        elif self.shared_parameters:
            self.shared = kind(
                self.shared_parameters, lr=config.lr, weight_decay=config.weight_decay
            )
        self.outer = OuterStep(self.shared_parameters)
        self.heads = TaskRowAdam(
            model.head_parameters(),
            config.lr,
            weight_decay=config.weight_decay,
            decoupled=decoupled,
        )

    def set_lr(self, factor: float) -> float:
        """Multiply the base learning rate by ``factor`` for the next step; return the product."""
        lr = self.base_lr * factor
        if self.shared is not None:
            for group in self.shared.param_groups:
                group["lr"] = lr
        if self.grouped is not None:
            self.grouped.lr = lr
        self.heads.lr = lr
        return lr

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.shared_parameters:
            parameter.grad = None
        self.heads.zero_grad()

    def regroup(self, groups: Sequence[tuple[int, ...]]) -> None:
        """Tell the groups that take turns from now on; matters to moments kept by group."""
        if self.grouped is not None:
            self.grouped.regroup(groups)

    def step(
        self, tasks: Sequence[int], group: Sequence[int] | None = None, *, as_it_is: bool = False
    ) -> None:
        """Update the shared parameters and the rows of ``tasks``.

        Parameters of groups that serve none of them lose their gradient and stay as they are.

        Args:
            tasks: The tasks that took part.
            group: The group whose turn it is, for moments kept by group; default ``tasks``.
            as_it_is: Subtract the shared gradient times the learning rate, past Adam and its
                moments, with decoupled weight decay.
        """
        self._forget_other_groups(tasks)
        if as_it_is:
            self._subtract()
            self.heads.step(tasks)
            return
        if self.shared is not None:
            self.shared.step()
        if self.grouped is not None:
            self.grouped.step(tuple(tasks if group is None else group))
        self.heads.step(tasks)

    def _forget_other_groups(self, tasks: Sequence[int]) -> None:
        """Take the gradient, a zero as it may be, from groups without an active task."""
        served = set(map(id, self._group_parameters(tasks)))
        for parameter in self._group_parameters():
            if id(parameter) not in served:
                parameter.grad = None

    @torch.no_grad()
    def _subtract(self) -> None:
        for parameter in self.shared_parameters:
            if parameter.grad is not None:
                parameter.mul_(1 - self.heads.lr * self.heads.weight_decay)
                parameter.sub_(parameter.grad, alpha=self.heads.lr)

    def state_tensors(self) -> dict[str, Tensor]:
        """Return all state as a flat mapping of tensors."""
        state = {f"heads.{name}": value for name, value in self.heads.state_dict().items()}
        state |= {f"outer.{name}": value for name, value in self.outer.state_dict().items()}
        if self.grouped is not None:
            state |= {f"groups.{name}": value for name, value in self.grouped.state_dict().items()}
        if self.shared is not None:
            for index, entry in self.shared.state_dict()["state"].items():
                for name, value in entry.items():
                    state[f"shared.{index}.{name}"] = torch.as_tensor(value)
        return state

    def load_state_tensors(self, state: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`state_tensors` returned."""

        def part(name: str) -> dict[str, Tensor]:
            return {k.removeprefix(name): v for k, v in state.items() if k.startswith(name)}

        self.heads.load_state_dict(part("heads."))
        self.outer.load_state_dict(part("outer."))
        if self.grouped is not None:
            self.grouped.load_state_dict(part("groups."))
        if self.shared is None:
            return
        entries: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            if key.startswith("shared."):
                _, index, name = key.split(".", 2)
                entries.setdefault(int(index), {})[name] = value.clone()
        self.shared.load_state_dict(
            {"state": entries, "param_groups": self.shared.state_dict()["param_groups"]}
        )


def set_learning_rate(optimizers: Optimizers, config: Train, step: int, total_steps: int) -> float:
    """Set the learning rate of a step (0-based) and return it."""
    return optimizers.set_lr(
        lr_factor(step, total_steps, schedule=config.lr_schedule, warmup_steps=config.warmup_steps)
    )


def lr_factor(
    step: int, total_steps: int, *, schedule: str = "constant", warmup_steps: int = 0
) -> float:
    """Return what the learning rate is multiplied with at a step (0-based).

    Linear warm-up over the first ``warmup_steps``, then ``"constant"`` 1, ``"cosine"`` down to 0 or
    ``"linear"`` down to 0 at ``total_steps``.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    share = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    share = min(max(share, 0.0), 1.0)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * share))
    if schedule == "linear":
        return 1 - share
    raise UsageError(f"`lr_schedule` should be constant, cosine or linear. Found {schedule!r}.")
