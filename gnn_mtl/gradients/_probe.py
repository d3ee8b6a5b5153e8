"""``probe``: the gradients of many tasks of one of our models, measured without a trace."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from gnn_mtl._core.errors import UsageError
from gnn_mtl.gradients._frozen import frozen
from gnn_mtl.gradients._last_layer import last_layer_jacobian
from gnn_mtl.gradients._task_gradients import TaskGradients, task_gradients, usable_rows
from gnn_mtl.graph import MiniBatch
from gnn_mtl.nn import LabelModel, masked_bce

ProbeMode = Literal["last_layer", "last_layer_sketch", "full"]
SKETCH_DIM = 64


def probe(
    model: LabelModel,
    batches: MiniBatch | Iterable[MiniBatch],
    *,
    tasks: Sequence[int] | None = None,
    mode: ProbeMode = "last_layer",
    pos_weight: Tensor | None = None,
) -> TaskGradients:
    """Return every task's gradient of its mean loss over the observed nodes of the batches.

    Parameters, buffers, optimizer, stored gradients and random state stay bitwise as they were;
    dropout and batch normalisation are frozen.

    Args:
        model: The model.
        batches: One batch or several; several act as one (weighted by each task's observed nodes).
        tasks: The tasks to measure; default all.
        mode: ``"last_layer"``: the exact block of the last shared layer (cheap; closed form where
            that layer is linear maps, backward passes through that layer alone elsewhere);
            ``"last_layer_sketch"``: the same with that layer's inputs in 64 random directions, for
            a third of the cost (cosines are off by a fraction of what sampling the nodes does:
            ``bench schedule``; layers without closed form are not sketched);
            ``"full"``: all shared parameters, one backward pass per task.
        pos_weight: Weights of the tasks' positives ``[T]``.

    Returns:
        Rows ``[S, P]``; tasks without an observed node, or with a non-finite gradient, are invalid.

    Raises:
        UsageError: On an unknown mode, an empty task list or no batch.
    """
    if mode not in get_args(ProbeMode):
        raise UsageError(f"`mode` should be one of {list(get_args(ProbeMode))}. Found {mode!r}.")
    ids = tuple(range(model.num_tasks)) if tasks is None else tuple(int(t) for t in tasks)
    if not ids:
        raise UsageError("`tasks` should name at least one task. Found none.")
    if isinstance(batches, MiniBatch):
        batches = [batches]
    total: Tensor | None = None
    counts: Tensor | None = None
    label_gradients = 0
    for batch in batches:
        observed = batch.observed[:, list(ids)].sum(dim=0)
        jacobian = _jacobian(model, batch, ids, mode, pos_weight)
        weighted = torch.where(observed[:, None] > 0, jacobian * observed[:, None], 0.0)
        total = weighted if total is None else total + weighted
        counts = observed if counts is None else counts + observed
        label_gradients += len(ids)
    if total is None or counts is None:
        raise UsageError("`batches` should hold at least one batch. Found none.")
    jacobian = total / counts.clamp(min=1)[:, None]
    return TaskGradients(ids, jacobian, usable_rows(jacobian) & (counts > 0), label_gradients)


def _jacobian(
    model: LabelModel,
    batch: MiniBatch,
    tasks: tuple[int, ...],
    mode: ProbeMode,
    pos_weight: Tensor | None,
) -> Tensor:
    if mode != "full" and model.encoder.final_linears():
        sketch_dim = SKETCH_DIM if mode == "last_layer_sketch" else None
        return last_layer_jacobian(
            model, batch, tasks, pos_weight=pos_weight, sketch_dim=sketch_dim
        )
    parameters = model.shared_parameters() if mode == "full" else model.encoder.final_parameters()
    with frozen(model), torch.enable_grad():
        return _backward(model, batch, tasks, parameters, pos_weight)


def _backward(
    model: LabelModel,
    batch: MiniBatch,
    tasks: tuple[int, ...],
    parameters: list[nn.Parameter],
    pos_weight: Tensor | None,
) -> Tensor:
    """One backward pass per task; tasks whose loss is not finite get NaN and spoil no other."""
    logits = model(batch, tasks)
    losses = masked_bce(logits, batch.y, batch.observed, tasks, pos_weight=pos_weight)
    finite = torch.isfinite(losses.detach())
    if bool(finite.all()):
        return task_gradients(losses, parameters, tasks=tasks).jacobian
    width = sum(p.numel() for p in parameters if p.requires_grad)
    rows = losses.detach().new_full((len(tasks), width), torch.nan)
    good = tuple(task for task, fine in zip(tasks, finite.tolist(), strict=True) if fine)
    if good:
        rows[finite] = _backward(model, batch, good, parameters, pos_weight)
    return rows
