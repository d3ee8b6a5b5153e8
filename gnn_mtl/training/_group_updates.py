"""Several updates on one batch, one group after the other, and the losses around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gnn_mtl._core.cost import CostMeter
from gnn_mtl._core.errors import TrainingStoppedError
from gnn_mtl.graph import MiniBatch
from gnn_mtl.nn import LabelModel
from gnn_mtl.schedulers import Update
from gnn_mtl.training._batch_losses import BatchLosses
from gnn_mtl.training._descend import descend
from gnn_mtl.training._hooks import StepHooks
from gnn_mtl.training._optimizers import Optimizers
from gnn_mtl.training._ranks import labelled
from gnn_mtl.training._replay import Replay
from gnn_mtl.training._skipped import Skipped
from gnn_mtl.training._step import observe_after


@dataclass(frozen=True, eq=False)
class GroupUpdates:
    """What :func:`group_updates` did.

    Attributes:
        live: Tasks that took part, for each update made.
        losses: Losses of all tasks before each update, float64 ``[U, T]``, then after the last one
            if asked for; NaN where a task has no label here, and before an update that was not made
            for the tasks it was to be of: no change is that update's doing.
        forwards: Forward passes it took, those of a mended update and for the hooks included.
    """

    live: tuple[tuple[int, ...], ...]
    losses: NDArray[np.float64]
    forwards: int

    @property
    def label_gradients(self) -> int:
        """Sum over the updates of the tasks that took part."""
        return sum(map(len, self.live))


def group_updates(
    model: LabelModel,
    batch: MiniBatch,
    updates: Sequence[Update],
    optimizers: Optimizers,
    *,
    after_last: bool = False,
    pos_weight: Tensor | None = None,
    grad_clip: float | None = None,
    autocast: bool = False,
    skipped: Skipped | None = None,
    label_names: Sequence[str] | None = None,
    hooks: StepHooks | None = None,
    step: int = 0,
    meter: CostMeter | None = None,
) -> GroupUpdates:
    """Make the updates one after the other on the same batch, each from the weights before it.

    Every forward pass computes the losses of all tasks: it carries the graph of the update that
    follows and is the measurement of what the one before did. All of them draw the same dropout,
    and batch normalisation counts the batch once: a difference of losses is the update's doing.

    Args:
        model: The model, in training mode.
        batch: The batch, on the model's device.
        updates: Tasks and weights of each update.
        optimizers: What updates the parameters.
        after_last: Also measure what the last update did (one forward pass without graph).
        pos_weight: Weights of the tasks' positives ``[T]``.
        grad_clip: Largest norm of the shared gradient of an update.
        autocast: Run forward passes in bfloat16.
        skipped: Counts what was left out.
        label_names: Names for warnings.
        hooks: See :func:`train_step`; asked for every update.
        step: See :func:`train_step`.
        meter: Counts the passes.

    Returns:
        The tasks that took part in each update and the losses around them.

    Raises:
        TrainingStoppedError: If tasks have labels here but not one finite loss.
    """
    everyone = tuple(range(model.num_tasks))
    unlabelled = ~np.array(labelled(batch.observed))
    if unlabelled.all():
        rows = len(updates) + after_last
        nothing = np.full((rows, model.num_tasks), np.nan)
        return GroupUpdates(((),) * len(updates), nothing, 0)
    replay = Replay(model)
    given = BatchLosses(
        model, batch, pos_weight=pos_weight, autocast=autocast, meter=meter, replay=replay,
        mode=None if hooks is None else hooks.gramian_mode(step),
    )  # fmt: skip
    made_before = given.meter.forwards
    rows_found, live_found = [], []
    for update in updates:
        losses = given(everyone)
        row = _row(given, losses, unlabelled)
        rows_found.append(row)
        live = _live(update, row, unlabelled, skipped, label_names)
        live_found.append(live)
        if not live:
            replay.put_buffers_back()
            continue
        whole = np.isfinite(row[~unlabelled]).all()  # a broken column would spoil the others
        own = losses[list(live)] if whole else given(live)
        weight_of = dict(zip(update.tasks, update.weights, strict=True))
        live_found[-1] = descend(
            given, own, live, update.tasks, optimizers,
            weights=[weight_of[task] for task in live],
            grad_clip=grad_clip, skipped=skipped, label_names=label_names, hooks=hooks, step=step,
        )  # fmt: skip
        row[[task for task in update.tasks if task not in live_found[-1]]] = np.nan
        replay.put_buffers_back()
        observe_after(given, live_found[-1], hooks, step)
    if after_last:
        with torch.no_grad():
            rows_found.append(_row(given, given(everyone), unlabelled))
    replay.finish()
    forwards = given.meter.forwards - made_before
    return GroupUpdates(tuple(live_found), np.stack(rows_found), forwards)


def _row(given: BatchLosses, losses: Tensor, unlabelled: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The losses of all tasks ``[T]``, over the batches of all processes."""
    row = given.means(losses, range(len(losses))).double().cpu().numpy()
    row[unlabelled] = np.nan
    return row


def _live(
    update: Update,
    losses: NDArray[np.float64],
    unlabelled: NDArray[np.bool_],
    skipped: Skipped | None,
    label_names: Sequence[str] | None,
) -> tuple[int, ...]:
    """Return the update's tasks with a finite loss; the broken ones are counted and named."""
    seen = [task for task in update.tasks if not unlabelled[task]]
    live = tuple(task for task in seen if np.isfinite(losses[task]))
    broken = [task for task in seen if task not in live]
    if broken and skipped is not None:
        skipped.count(broken, label_names)
    if broken and not live and not np.isfinite(losses[~unlabelled]).any():
        raise TrainingStoppedError(
            f"Expected finite losses. Found NaN or infinity for all {len(broken)} active tasks "
            f"(first: {broken[:5]}). Lower --train.lr, or set --train.grad-clip 1."
        )
    return live
