"""One training step: the tasks that can learn from this batch, one backward, one update."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gnn_mtl._core.cost import CostMeter
from gnn_mtl._core.errors import TrainingStoppedError
from gnn_mtl.gradients import frozen
from gnn_mtl.graph import MiniBatch
from gnn_mtl.nn import LabelModel
from gnn_mtl.training._batch_losses import BatchLosses
from gnn_mtl.training._descend import descend
from gnn_mtl.training._hooks import StepHooks
from gnn_mtl.training._optimizers import Optimizers
from gnn_mtl.training._ranks import agreed, labelled
from gnn_mtl.training._replay import Replay
from gnn_mtl.training._skipped import Skipped


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
    hooks: StepHooks | None = None,
    step: int = 0,
    meter: CostMeter | None = None,
) -> tuple[tuple[int, ...], Tensor]:
    """Do one optimizer step on the weighted sum of the tasks' losses.

    A task without an observed label in the batch, or whose loss or gradient is not finite, takes no
    part: its head rows and their moments stay as they are.

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
        hooks: Weighs losses and combines gradients, instead of summing them.
        step: The step number that ``hooks`` are told.
        meter: Counts the passes.

    Returns:
        The tasks that took part and their losses ``[S]``, detached.

    Raises:
        TrainingStoppedError: If tasks have labels here but not one finite loss, active or not.
        ShapeError: If ``hooks`` return something of another shape.
    """
    has_label = labelled(batch.observed)
    live = tuple(task for task in tasks if has_label[task])
    if not live:
        return (), torch.zeros(0)
    looks_after = hooks is not None and hooks.looks_after
    given = BatchLosses(
        model, batch, pos_weight=pos_weight, autocast=autocast, meter=meter,
        replay=Replay(model) if looks_after else None,
        mode=None if hooks is None else hooks.gramian_mode(step),
    )  # fmt: skip
    losses = given(live)
    finite = agreed(torch.isfinite(losses.detach()))
    if not bool(finite.all()):
        good = finite.tolist()
        broken = [task for task, kept in zip(live, good, strict=True) if not kept]
        live = tuple(task for task, kept in zip(live, good, strict=True) if kept)
        if skipped is not None:
            skipped.count(broken, label_names)
        if not live:
            _check_others(given, has_label, broken)
            return (), losses.detach()[:0]
        losses = given(live)
    weight_of = dict(zip(tasks, weights, strict=True)) if weights is not None else None
    done = descend(
        given, losses, live, tasks, optimizers,
        weights=None if weight_of is None else [weight_of[task] for task in live],
        grad_clip=grad_clip, skipped=skipped, label_names=label_names, hooks=hooks, step=step,
    )  # fmt: skip
    if given.replay is not None:
        given.replay.put_buffers_back()
        observe_after(given, done, hooks, step)
        given.replay.finish()
    return done, given.means(losses, live)[[live.index(task) for task in done]]


def observe_after(
    given: BatchLosses, tasks: tuple[int, ...], hooks: StepHooks | None, step: int
) -> None:
    """Tell the hooks, if they ask for it, what the update made of the losses."""
    if hooks is None or not hooks.looks_after or not tasks:
        return
    with torch.no_grad():
        hooks.observe_after(step, tasks, given.means(given(tasks), tasks))


def _check_others(given: BatchLosses, has_label: Sequence[bool], broken: Sequence[int]) -> None:
    """Raise TrainingStoppedError if no other task has a finite loss on this batch either."""
    others = tuple(task for task, seen in enumerate(has_label) if seen and task not in broken)
    if others:
        with frozen(given.model), torch.no_grad():
            if bool(agreed(torch.isfinite(given(others))).any()):
                return
    raise TrainingStoppedError(
        f"Expected finite losses. Found NaN or infinity for all {len(broken)} active tasks "
        f"(first: {list(broken[:5])}) and every other. Lower --train.lr, or set "
        "--train.grad-clip 1."
    )
