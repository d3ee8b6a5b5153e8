"""One training step: the tasks that can learn from this batch, one backward, one update."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gnn_mtl._core.cost import CostMeter
from gnn_mtl._core.errors import ShapeError, TrainingStoppedError
from gnn_mtl.gradients import frozen, task_gradients
from gnn_mtl.graph import MiniBatch
from gnn_mtl.nn import LabelModel, masked_bce
from gnn_mtl.training._hooks import StepHooks
from gnn_mtl.training._optimizers import Optimizers
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
    has_label = batch.observed.any(dim=0).tolist()
    live = tuple(task for task in tasks if has_label[task])
    if not live:
        return (), torch.zeros(0)
    losses = losses_of(model, batch, live, pos_weight, autocast, meter)
    if not bool(torch.isfinite(losses.detach().sum())):
        finite = torch.isfinite(losses.detach()).tolist()
        broken = [task for task, good in zip(live, finite, strict=True) if not good]
        live = tuple(task for task, good in zip(live, finite, strict=True) if good)
        if skipped is not None:
            skipped.count(broken, label_names)
        if not live:
            _check_others(model, batch, broken, pos_weight, autocast)
            return (), losses.detach()[:0]
        losses = losses_of(model, batch, live, pos_weight, autocast, meter)
    weight_of = dict(zip(tasks, weights, strict=True)) if weights is not None else None
    done = descend(
        model, losses, live, tasks, optimizers,
        weights=None if weight_of is None else [weight_of[task] for task in live],
        again=lambda: losses_of(model, batch, live, pos_weight, autocast, meter),
        grad_clip=grad_clip, skipped=skipped, label_names=label_names, hooks=hooks, step=step,
        meter=meter,
    )  # fmt: skip
    return done, losses.detach()[[live.index(task) for task in done]]


def descend(
    model: LabelModel,
    losses: Tensor,
    live: tuple[int, ...],
    group: Sequence[int],
    optimizers: Optimizers,
    *,
    weights: Sequence[float] | None,
    grad_clip: float | None,
    skipped: Skipped | None,
    again: Callable[[], Tensor] | None = None,
    label_names: Sequence[str] | None = None,
    hooks: StepHooks | None = None,
    step: int = 0,
    meter: CostMeter | None = None,
) -> tuple[int, ...]:
    """Update the parameters by the weighted sum of losses; return the tasks that took part.

    Args:
        model: The model.
        losses: Losses of the tasks that take part, ``[S]``, with their graph.
        live: Those tasks.
        group: The tasks whose turn it is.
        optimizers: What updates the parameters.
        weights: Weights of the losses ``[S]``; default 1.
        again: Computes the losses anew, to tell the task whose gradient breaks the sum and go on
            without it; default leaves the whole update out.
        grad_clip: Largest norm of the shared gradient.
        skipped: Counts an update, or a task's gradient, that is not finite and is left out.
        label_names: Names for warnings.
        hooks: See :func:`train_step`.
        step: See :func:`train_step`.
        meter: Counts the passes.
    """
    factors = _factors(losses, weights, hooks, live, step)
    weighted = losses if factors is None else losses * factors
    optimizers.zero_grad()
    shared = optimizers.shared_parameters
    combined = hooks is not None and bool(shared) and hooks.wants_gradients(step)
    if meter is not None:
        meter.backwards += len(live) + 1 if combined else 1
    if hooks is not None and combined:
        kept = _combined_backward(model, weighted, live, shared, hooks, step)
    else:
        kept = live
        weighted.sum().backward()
    norm = _norm(shared)
    if again is not None and not combined and len(live) > 1 and not bool(norm.isfinite()):
        optimizers.zero_grad()
        weighted = again() if factors is None else again() * factors
        kept = _combined_backward(model, weighted, live, shared, StepHooks(), step)
        norm = _norm(shared)
        if meter is not None:
            meter.backwards += len(live)
    broken = [task for task in live if task not in kept]
    if broken and kept and skipped is not None:
        skipped.count(broken, label_names, "gradient")
    if not kept or not bool(torch.isfinite(norm)):
        if skipped is not None:
            skipped.count_update(live, label_names)
        return ()
    live = kept
    as_it_is = hooks is not None and combined and hooks.rows_are_steps
    if grad_clip is not None and not as_it_is:
        torch.nn.utils.clip_grads_with_norm_(shared, grad_clip, norm)
    optimizers.step(live, group, as_it_is=as_it_is)
    if meter is not None:
        meter.optimizer_steps += 1
        meter.label_gradients += len(live)
    if skipped is not None:
        skipped.in_a_row = 0
    return live


def _factors(
    losses: Tensor,
    weights: Sequence[float] | None,
    hooks: StepHooks | None,
    live: tuple[int, ...],
    step: int,
) -> Tensor | None:
    """Return what the losses are multiplied by, ``[S]``; None = nothing."""
    factors = None
    if weights is not None:
        factors = torch.tensor(list(weights), dtype=losses.dtype).to(losses.device)
    found = None if hooks is None else hooks.weigh_losses(step, live, losses.detach())
    if found is None:
        return factors
    found = _checked(found, losses.shape).to(losses)
    return found if factors is None else factors * found


def _norm(parameters: list[torch.nn.Parameter]) -> Tensor:
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def _combined_backward(
    model: LabelModel,
    weighted: Tensor,
    live: tuple[int, ...],
    shared: list[torch.nn.Parameter],
    hooks: StepHooks,
    step: int,
) -> tuple[int, ...]:
    """Give the shared parameters the combined gradient and the heads their own.

    Returns the tasks with a finite gradient.
    """
    rows = task_gradients(weighted, shared, retain_graph=True).jacobian
    finite = torch.linalg.vector_norm(rows, ord=torch.inf, dim=1).isfinite()
    whole = bool(finite.all())
    if not whole:
        live = tuple(task for task, good in zip(live, finite.tolist(), strict=True) if good)
        rows, weighted = rows[finite], weighted[finite]
        if not live:
            return ()
    found = hooks.combine(step, live, rows)
    weights = rows.new_ones(len(live))
    if found is not None:
        found = _checked(found, weights.shape, rows.shape).to(rows)
        weights, rows = (found, rows) if found.dim() == 1 else (weights, found)
    by_rows = not whole or (found is not None and found.dim() == 2)  # a broken graph spoils all
    weighted.sum().backward(inputs=model.head_parameters(), retain_graph=not by_rows)
    if not by_rows:
        (weighted * weights).sum().backward(inputs=shared)
        return live
    sizes = [parameter.numel() for parameter in shared]
    for parameter, piece in zip(shared, (weights @ rows).split(sizes), strict=True):
        parameter.grad = piece.view_as(parameter)
    return live


def _checked(found: Tensor, *shapes: torch.Size) -> Tensor:
    """Return what a hook returned, detached, or raise ShapeError."""
    if found.shape not in shapes:
        wanted = " or ".join(str(list(shape)) for shape in shapes)
        raise ShapeError(f"The hook should return shape {wanted}. Found {list(found.shape)}.")
    return found.detach()


def _check_others(
    model: LabelModel,
    batch: MiniBatch,
    broken: Sequence[int],
    pos_weight: Tensor | None,
    autocast: bool,
) -> None:
    """Raise TrainingStoppedError if no other task has a finite loss on this batch either."""
    has_label = batch.observed.any(dim=0).tolist()
    others = tuple(t for t in range(model.num_tasks) if has_label[t] and t not in broken)
    if others:
        with frozen(model), torch.no_grad():
            if torch.isfinite(losses_of(model, batch, others, pos_weight, autocast)).any():
                return
    raise TrainingStoppedError(
        f"Expected finite losses. Found NaN or infinity for all {len(broken)} active tasks "
        f"(first: {list(broken[:5])}) and every other. Lower --train.lr, or set "
        "--train.grad-clip 1."
    )


def losses_of(
    model: LabelModel,
    batch: MiniBatch,
    tasks: tuple[int, ...],
    pos_weight: Tensor | None,
    autocast: bool,
    meter: CostMeter | None = None,
) -> Tensor:
    """Return the losses of ``tasks`` on the batch, with their graph."""
    if meter is not None:
        meter.forwards += 1
        meter.nodes += batch.batch_size
    selected = None if tasks == tuple(range(model.num_tasks)) else tasks
    with torch.autocast(batch.x.device.type, dtype=torch.bfloat16, enabled=autocast):
        logits = model(batch, selected)
    return masked_bce(logits.float(), batch.y, batch.observed, selected, pos_weight=pos_weight)
