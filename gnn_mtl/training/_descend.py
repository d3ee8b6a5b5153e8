"""``descend``: from losses with their graph to one update of the parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gnn_mtl._core.errors import ShapeError
from gnn_mtl.gradients import task_gradients
from gnn_mtl.training._batch_losses import BatchLosses
from gnn_mtl.training._hooks import StepHooks
from gnn_mtl.training._optimizers import Optimizers
from gnn_mtl.training._ranks import sum_gradients, summed
from gnn_mtl.training._skipped import Skipped

Tasks = tuple[int, ...]


def descend(
    given: BatchLosses,
    losses: Tensor,
    live: Tasks,
    group: Sequence[int],
    optimizers: Optimizers,
    *,
    weights: Sequence[float] | None,
    grad_clip: float | None,
    skipped: Skipped | None,
    label_names: Sequence[str] | None = None,
    hooks: StepHooks | None = None,
    step: int = 0,
) -> Tasks:
    """Update the parameters by the weighted sum of losses; return the tasks that took part.

    Where the shared gradient is not finite, the losses are computed anew to tell the tasks whose
    gradient breaks it, and the update goes on without them: the hooks are set back to before they
    were asked for weights, and asked about the others.

    Args:
        given: The batch; ``losses`` are of its last forward pass.
        losses: Losses of the tasks that take part, ``[S]``, with their graph.
        live: Those tasks.
        group: The tasks whose turn it is.
        optimizers: What updates the parameters.
        weights: Weights of the losses ``[S]``; default 1.
        grad_clip: Largest norm of the shared gradient.
        skipped: Counts an update, or a task's gradient, that is not finite and is left out.
        label_names: Names for warnings.
        hooks: See :func:`train_step`.
        step: See :func:`train_step`.
    """
    way = _Descent(given, losses, live, optimizers, weights, hooks or StepHooks(), step)
    optimizers.zero_grad()
    kept, as_it_is = live, False
    norm: Tensor | None = None
    if not way.shared:
        kept = way.by_heads()
    elif way.hooks.wants_gradients(step):
        kept, as_it_is = way.by_rows(losses), way.hooks.rows_are_steps
    else:
        before = None if given.mode is None else way.hooks.state_dict()
        norm = way.by_sum() if given.mode is None else way.by_weights()
        if not norm.isfinite():
            optimizers.zero_grad()
            if before is not None:
                way.hooks.load_state_dict(before)
            kept, norm = way.by_rows(given(live)) if len(live) > 1 else (), None
    norm = _norm(way.shared) if norm is None else norm
    broken = [task for task in live if task not in kept]
    if broken and kept and skipped is not None:
        skipped.count(broken, label_names, "gradient")
    if not kept or not norm.isfinite():
        if skipped is not None:
            skipped.count_update(live, label_names)
        return ()
    if grad_clip is not None and not as_it_is:
        torch.nn.utils.clip_grads_with_norm_(way.shared, grad_clip, norm)
    optimizers.step(kept, group, as_it_is=as_it_is)
    given.meter.optimizer_steps += 1
    given.meter.label_gradients += len(kept)
    if skipped is not None:
        skipped.in_a_row = 0
    return kept


class _Descent:
    """The ways from the losses of one update to the gradients of the parameters."""

    def __init__(
        self,
        given: BatchLosses,
        losses: Tensor,
        live: Tasks,
        optimizers: Optimizers,
        weights: Sequence[float] | None,
        hooks: StepHooks,
        step: int,
    ) -> None:
        self.given, self.losses, self.live = given, losses, live
        self.hooks, self.step, self.meter = hooks, step, given.meter
        self.shared = optimizers.shared_parameters
        self.heads = given.model.head_parameters()
        self.values = given.means(losses, live)
        found = hooks.weigh_losses(step, live, self.values)
        asked = None if found is None else _checked(found, losses.shape)
        scheduled = None if weights is None else torch.tensor(list(weights))
        self.factors: Tensor | None = None
        for more in (scheduled, asked, given.shares(live)):
            if more is not None:
                more = more.to(losses)
                self.factors = more if self.factors is None else self.factors * more

    def by_sum(self) -> Tensor:
        """One backward pass; return the norm of the shared gradient."""
        self.meter.backwards += 1
        self._weigh(self.losses).sum().backward()
        sum_gradients([*self.shared, *self.heads])
        return _norm(self.shared)

    def by_heads(self) -> Tasks:
        """The same where nothing is shared; return the tasks with a finite gradient."""
        self.by_sum()
        good = torch.ones(self.given.model.num_tasks, dtype=torch.bool)
        for parameter in self.heads:
            if parameter.grad is not None:
                rows = parameter.grad.reshape(len(parameter), -1)
                good &= rows.isfinite().all(dim=1).cpu()
        return tuple(task for task in self.live if good[task])

    def by_weights(self) -> Tensor:
        """One Gramian and one weighted backward pass; return the norm of the shared gradient.

        NaN, and no backward pass, if the Gramian shows that a task's gradient is not finite.
        """
        weighted = self._weigh(self.losses)
        weights = self.hooks.known_weights(self.step, self.live)
        if weights is None:
            found = self.given.gramian(weighted, self.live, self.factors)
            if found.broken is not None and bool(found.broken.any()):
                return torch.tensor(torch.nan)
            gramian = found.gramian.nan_to_num(0.0)  # without a gradient in this batch
            weights = self.hooks.weigh_gradients(self.step, self.live, self.values, gramian)
        self.meter.backwards += 1
        if weights is None:
            weighted.sum().backward()
        else:
            weights = _checked(weights, self.losses.shape).to(weighted)
            if self.hooks.weighs_heads:
                (weighted * weights).sum().backward()
            else:
                weighted.sum().backward(inputs=self.heads, retain_graph=True)
                (weighted * weights).sum().backward(inputs=self.shared)
        sum_gradients([*self.shared, *self.heads])
        return _norm(self.shared)

    def by_rows(self, losses: Tensor) -> Tasks:
        """A backward pass per task; return the tasks with a finite gradient."""
        live, weighted, values = self.live, self._weigh(losses), self.values
        rows = summed(task_gradients(weighted, self.shared, retain_graph=True).jacobian)
        self.meter.backwards += len(live)
        finite = torch.linalg.vector_norm(rows, ord=torch.inf, dim=1).isfinite()
        whole = bool(finite.all())
        if not whole:
            live = tuple(task for task, good in zip(live, finite.tolist(), strict=True) if good)
            rows, weighted, values = rows[finite], weighted[finite], values[finite]
            if not live:
                return ()
        found = self._answer(live, rows, values)
        weights = rows.new_ones(len(live))
        if found is not None:
            found = _checked(found, weights.shape, rows.shape).to(rows)
            weights, rows = (found, rows) if found.dim() == 1 else (weights, found)
        again = whole and (found is None or found.dim() == 1)  # a broken graph spoils all
        of_heads = weighted * weights if self.hooks.weighs_heads else weighted
        of_heads.sum().backward(inputs=self.heads, retain_graph=again)
        sum_gradients(self.heads)
        if not again:
            for parameter, piece in zip(self.shared, self._pieces(weights @ rows), strict=True):
                parameter.grad = piece.view_as(parameter)
        else:
            self.meter.backwards += 1
            (weighted * weights).sum().backward(inputs=self.shared)
            sum_gradients(self.shared)
        return live

    def _weigh(self, losses: Tensor) -> Tensor:
        return losses if self.factors is None else losses * self.factors

    def _answer(self, live: Tasks, rows: Tensor, values: Tensor) -> Tensor | None:
        """What the hooks make of gradients that are held."""
        if self.hooks.wants_gradients(self.step):
            self.hooks.set_layout([parameter.numel() for parameter in self.shared])
            return self.hooks.combine(self.step, live, rows)
        if self.given.mode is None:
            return None
        if self.given.mode.startswith("last_layer"):
            last = set(map(id, self.given.model.encoder.final_parameters()))
            pairs = zip(self.shared, self._pieces(rows), strict=True)
            rows = torch.cat([piece for p, piece in pairs if id(p) in last], dim=1)
        held = rows.double()
        return self.hooks.weigh_gradients(self.step, live, values, held @ held.T)

    def _pieces(self, rows: Tensor) -> tuple[Tensor, ...]:
        """The columns of each shared parameter."""
        return rows.split([parameter.numel() for parameter in self.shared], dim=-1)


def _norm(parameters: Sequence[torch.nn.Parameter]) -> Tensor:
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def _checked(found: Tensor, *shapes: torch.Size) -> Tensor:
    """Return what a hook returned, detached, or raise ShapeError."""
    if found.shape not in shapes:
        wanted = " or ".join(str(list(shape)) for shape in shapes)
        raise ShapeError(f"The hook should return shape {wanted}. Found {list(found.shape)}.")
    return found.detach()
