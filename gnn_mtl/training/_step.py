"""One training step: the tasks that can learn from this batch, one backward, one update."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gnn_mtl._core.errors import NonFiniteWarning, TrainingStoppedError
from gnn_mtl.gradients import task_gradients
from gnn_mtl.graph import MiniBatch
from gnn_mtl.nn import LabelModel, masked_bce
from gnn_mtl.training._config import Train
from gnn_mtl.training._group_adam import GroupAdam
from gnn_mtl.training._optimizer import TaskRowAdam, lr_factor
from gnn_mtl.training._outer_step import OuterStep

Combine = Callable[[Tensor], Tensor]
"""From the shared gradients ``[S, P]`` of the active tasks, weighted, to weights ``[S]``."""


class Optimizers:
    """Torch's Adam on the shared parameters and :class:`TaskRowAdam` on the heads, as one.

    Args:
        model: The model.
        config: Learning rate, weight decay and kind.
    """

    def __init__(self, model: LabelModel, config: Train) -> None:
        self.base_lr = config.lr
        decoupled = config.optimizer == "adamw"
        kind = torch.optim.AdamW if decoupled else torch.optim.Adam
        self.shared_parameters = model.shared_parameters()
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

    def step(self, tasks: Sequence[int], group: Sequence[int] | None = None) -> None:
        """Update the shared parameters and the rows of ``tasks``.

        Args:
            tasks: The tasks that took part.
            group: The group whose turn it is, for moments kept by group; default ``tasks``.
        """
        if self.shared is not None:
            self.shared.step()
        if self.grouped is not None:
            self.grouped.step(tuple(tasks if group is None else group))
        self.heads.step(tasks)

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


MAX_SKIPPED_IN_A_ROW = 10


@dataclass
class Skipped:
    """What was left out of the updates because it was not finite, by task."""

    losses: dict[int, int] = field(default_factory=dict)
    updates: int = 0
    in_a_row: int = 0

    def count_update(self) -> None:
        """Count an update that was left out; warn the first time, stop at the tenth in a row.

        Raises:
            TrainingStoppedError: If ten updates in a row were not finite.
        """
        self.updates += 1
        self.in_a_row += 1
        if self.in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise TrainingStoppedError(
                f"Expected finite gradients. Found {self.in_a_row} steps in a row without one: "
                "training diverged. Lower --lr, or set --train.grad-clip 1."
            )
        if self.updates == 1:
            warnings.warn(
                "The gradient of the shared parameters is not finite though every loss is. Such "
                "updates are left out and counted in the summary; lower --lr or set "
                "--train.grad-clip 1.",
                NonFiniteWarning,
                stacklevel=3,
            )

    def count(self, tasks: Sequence[int], names: Sequence[str] | None) -> None:
        """Count a skipped loss of each task; warn the first time a task is met."""
        new = [task for task in tasks if task not in self.losses]
        for task in tasks:
            self.losses[task] = self.losses.get(task, 0) + 1
        if new:
            shown = [names[task] if names else str(task) for task in new[:8]]
            warnings.warn(
                f"The loss of {len(new)} task(s) is not finite: {shown}. They are left out while "
                "it lasts and counted in the summary; lower --lr or look at their features.",
                NonFiniteWarning,
                stacklevel=3,
            )


def train_step(
    model: LabelModel,
    batch: MiniBatch,
    tasks: Sequence[int],
    optimizers: Optimizers,
    *,
    weights: Sequence[float] | None = None,
    pos_weight: Tensor | None = None,
    grad_clip: float | None = None,
    autocast: bool = False,
    skipped: Skipped | None = None,
    label_names: Sequence[str] | None = None,
    combine: Combine | None = None,
) -> tuple[tuple[int, ...], Tensor]:
    """Do one optimizer step on the weighted sum of the tasks' losses.

    A task without an observed label in the batch, or whose loss is not finite, takes no part: its
    head rows and their moments stay as they are.

    Args:
        model: The model, in training mode.
        batch: The batch, on the model's device.
        tasks: The active tasks.
        optimizers: What updates the parameters.
        weights: Weight of each active task's loss; default 1.
        pos_weight: Weights of the tasks' positives ``[T]``.
        grad_clip: Largest norm of the shared gradient.
        autocast: Run the forward pass in bfloat16.
        skipped: Counts what was left out.
        label_names: Names for warnings.
        combine: Weighs the active tasks' shared gradients, from those ``[S, P]``, instead of
            summing them: where PCGrad or any other aggregator acts inside a group. The heads keep
            their own gradients. Costs a backward pass per task.

    Returns:
        The tasks that took part and their losses ``[S]``, detached.

    Raises:
        TrainingStoppedError: If tasks have labels here but not one finite loss.
    """
    weight_of = dict(zip(tasks, weights, strict=True)) if weights is not None else {}
    has_label = batch.observed.any(dim=0).tolist()
    live = tuple(task for task in tasks if has_label[task])
    if not live:
        return (), torch.zeros(0)
    losses = losses_of(model, batch, live, pos_weight, autocast)
    if not bool(torch.isfinite(losses.detach().sum())):
        finite = torch.isfinite(losses.detach()).tolist()
        broken = [task for task, good in zip(live, finite, strict=True) if not good]
        live = tuple(task for task, good in zip(live, finite, strict=True) if good)
        if skipped is not None:
            skipped.count(broken, label_names)
        if not live:
            raise TrainingStoppedError(
                f"Expected finite losses. Found NaN or infinity for all {len(broken)} active tasks "
                f"(first: {broken[:5]}). Lower --train.lr, or set --train.grad-clip 1."
            )
        losses = losses_of(model, batch, live, pos_weight, autocast)
    factors = None
    if weight_of:
        factors = torch.tensor([weight_of[task] for task in live], dtype=losses.dtype)
        factors = factors.to(losses.device)
    weighted = losses if factors is None else losses * factors
    if not descend(
        model, weighted, live, tasks, optimizers, grad_clip=grad_clip, skipped=skipped,
        combine=combine,
    ):  # fmt: skip
        return (), losses.detach()[:0]
    return live, losses.detach()


def descend(
    model: LabelModel,
    weighted: Tensor,
    live: Sequence[int],
    group: Sequence[int],
    optimizers: Optimizers,
    *,
    grad_clip: float | None,
    skipped: Skipped | None,
    combine: Combine | None = None,
) -> bool:
    """Update the parameters by the sum of weighted losses; return whether it was done.

    Args:
        model: The model.
        weighted: Weighted losses of the tasks that take part, ``[S]``, with their graph.
        live: Those tasks.
        group: The tasks whose turn it is.
        optimizers: What updates the parameters.
        grad_clip: Largest norm of the shared gradient.
        skipped: Counts an update that is not finite and is left out.
        combine: See :func:`train_step`.
    """
    optimizers.zero_grad()
    if combine is None or not optimizers.shared_parameters:
        weighted.sum().backward()
    else:
        _combined_backward(model, weighted, optimizers.shared_parameters, combine)
    norm = torch.nn.utils.get_total_norm(
        [p.grad for p in optimizers.shared_parameters if p.grad is not None]
    )
    if not bool(torch.isfinite(norm)):
        if skipped is not None:
            skipped.count_update()
        return False
    if grad_clip is not None:
        torch.nn.utils.clip_grads_with_norm_(optimizers.shared_parameters, grad_clip, norm)
    optimizers.step(live, group)
    if skipped is not None:
        skipped.in_a_row = 0
    return True


def _combined_backward(
    model: LabelModel, weighted: Tensor, shared: list[torch.nn.Parameter], combine: Combine
) -> None:
    """Give the shared parameters the combined gradient and the heads their own."""
    jacobian = task_gradients(weighted, shared, retain_graph=True).jacobian
    weighted.sum().backward(inputs=model.head_parameters())
    combined = combine(jacobian).to(jacobian) @ jacobian
    sizes = [parameter.numel() for parameter in shared]
    for parameter, piece in zip(shared, combined.split(sizes), strict=True):
        parameter.grad = piece.view_as(parameter)


def set_learning_rate(optimizers: Optimizers, config: Train, step: int, total_steps: int) -> float:
    """Set the learning rate of a step (0-based) and return it."""
    return optimizers.set_lr(
        lr_factor(step, total_steps, schedule=config.lr_schedule, warmup_steps=config.warmup_steps)
    )


def losses_of(
    model: LabelModel,
    batch: MiniBatch,
    tasks: tuple[int, ...],
    pos_weight: Tensor | None,
    autocast: bool,
) -> Tensor:
    """Return the losses of ``tasks`` on the batch, with their graph."""
    selected = None if tasks == tuple(range(model.num_tasks)) else tasks
    with torch.autocast(batch.x.device.type, dtype=torch.bfloat16, enabled=autocast):
        logits = model(batch, selected)
    return masked_bce(logits.float(), batch.y, batch.observed, selected, pos_weight=pos_weight)
