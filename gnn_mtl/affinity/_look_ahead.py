r"""TAG: how every loss changes when one task alone takes a step (Fifty et al., NeurIPS 2021).

.. math:: Z_{i\to j} = 1 - L_j(\theta_s - u_i,\, \theta_j) / L_j(\theta_s, \theta_j)

Heads stay, the batch and all randomness are the same before and after, and nothing is put back
because nothing is changed: the stepped parameters go through a functional call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call

from gnn_mtl._core.cost import CostMeter
from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.affinity._cell_mean import CellMean
from gnn_mtl.affinity._step_rules import StepRule, sgd_rule, split_like
from gnn_mtl.gradients import ProbeMode, TaskGradients, frozen, probe
from gnn_mtl.graph import MiniBatch
from gnn_mtl.nn import LabelModel, masked_bce
from gnn_mtl.tasks import Affinity

Losses = Callable[[Sequence[Tensor]], Tensor]
LOSS_FLOOR = 1e-2
"""Share of its mean below which a loss does not go as a denominator."""


@torch.no_grad()
def look_ahead(
    losses: Losses, parameters: Sequence[Tensor], steps: Tensor
) -> tuple[Tensor, Tensor]:
    """Return all losses before any step and after each of them, every step from the same point.

    Args:
        losses: Maps shared parameters, in the order of ``parameters``, to the T losses on one batch
            with fixed randomness; must not change anything.
        parameters: The shared parameters; read, never written.
        steps: What each giver subtracts, ``[S, P]``.

    Returns:
        Losses before ``[T]`` and after ``[S, T]``.

    Cost: S + 1 evaluations of ``losses``.
    """
    here = [p.detach() for p in parameters]
    before = losses(here).detach()
    after = [
        losses([p - part for p, part in zip(here, split_like(row, here), strict=True)]).detach()
        for row in steps
    ]
    return before, torch.stack(after) if after else before.new_zeros((0, len(before)))


def loss_change(
    before: Tensor | NDArray[np.float64],
    after: Tensor | NDArray[np.float64],
    *,
    floor: NDArray[np.float64] | float = 0.0,
    relative: bool = True,
) -> NDArray[np.float64]:
    """Return ``(before - after) / max(before, floor)``: the share of each loss that a step saves.

    Args:
        before: Losses ``[T]``.
        after: Losses ``[..., T]``.
        floor: Smallest denominators; a loss near 0 would otherwise outweigh all others.
        relative: False returns the plain difference.

    Returns:
        Changes, positive = the loss fell; NaN where a loss is not finite, or both are 0.
    """
    start = np.asarray(before, dtype=np.float64)
    change = start - np.asarray(after, dtype=np.float64)
    if relative:
        with np.errstate(divide="ignore", invalid="ignore"):
            change = change / np.maximum(start, floor)
    return np.where(np.isfinite(change), change, np.nan)


def tag_affinity(
    model: LabelModel,
    batches: Iterable[MiniBatch],
    *,
    lr: float = 1e-2,
    rule: StepRule | None = None,
    relative: bool = True,
    min_observed: int = 1,
    min_positives: int = 1,
    pos_weight: Tensor | None = None,
    label_names: tuple[str, ...] | None = None,
) -> Affinity:
    """Measure TAG's inter-task affinity (arXiv 2109.04617 Eq. 1) by explicit look-ahead steps.

    Args:
        model: The model; it and all random states stay bitwise as they are, dropout is off and
            batch normalisation frozen.
        batches: Mini-batches; each is measured by itself and the mean over them is returned.
        lr: Step length of plain gradient descent.
        rule: Another step, e.g. :func:`optimizer_rule`; ``lr`` is then not read.
        relative: Divide by the loss before; False gives the saving in nats.
        min_observed: A batch says nothing on a recipient with fewer observed nodes.
        min_positives: Nor on one with fewer positives.
        pos_weight: Weights of the tasks' positives ``[T]``.
        label_names: One name a task.

    Returns:
        A directed affinity ``[giver, recipient]`` with counts and standard errors over the batches;
        ``details["cost"]`` is what it took. Positive = the recipient's loss falls. The diagonal is
        measured on the very batch the step was fitted to and is optimistic; grouping does not use
        it.

    Raises:
        UsageError: If there is no batch, or an option is out of range.

    Cost: per batch one forward, the T gradients, and T more forwards with all heads.
    """
    parameters = model.shared_parameters()
    names = [name for name, p in model.encoder.named_parameters("encoder") if p.requires_grad]

    def measure(
        batch: MiniBatch,
        _: TaskGradients,
        steps: Tensor,
        meter: CostMeter,
    ) -> tuple[Tensor, Tensor]:
        def losses(values: Sequence[Tensor]) -> Tensor:
            meter.forwards += 1
            meter.nodes += batch.batch_size
            logits = functional_call(model, dict(zip(names, values, strict=True)), (batch,))
            weight = None if pos_weight is None else pos_weight.double()
            return masked_bce(logits.double(), batch.y, batch.observed, pos_weight=weight)

        with frozen(model):
            return look_ahead(losses, parameters, steps)

    return mean_over_batches(
        model, batches, measure, "tag", rule=rule or sgd_rule(lr), mode="full", relative=relative,
        min_observed=min_observed, min_positives=min_positives, pos_weight=pos_weight,
        label_names=label_names, details={} if rule else {"lr": lr},
    )  # fmt: skip


Measure = Callable[[MiniBatch, TaskGradients, Tensor, CostMeter], tuple[Tensor, Tensor]]


def mean_over_batches(
    model: LabelModel,
    batches: Iterable[MiniBatch],
    measure: Measure,
    method: str,
    *,
    rule: StepRule,
    mode: ProbeMode,
    relative: bool,
    min_observed: int,
    min_positives: int,
    pos_weight: Tensor | None,
    label_names: tuple[str, ...] | None,
    details: dict[str, object],
) -> Affinity:
    """Average what ``measure`` finds on each batch: losses before, and after each valid giver."""
    if min_observed < 1 or min_positives < 0:
        raise UsageError(
            "`min_observed` should be at least 1 and `min_positives` not negative. "
            f"Found {min_observed} and {min_positives}."
        )
    num_tasks = model.num_tasks
    mean = CellMean(num_tasks)
    loss_sum, loss_count = np.zeros(num_tasks), np.zeros(num_tasks)
    meter = CostMeter()
    for batch in [batches] if isinstance(batches, MiniBatch) else batches:
        gradients = probe(model, batch, mode=mode, pos_weight=pos_weight, meter=meter)
        if gradients.jacobian.shape[1] == 0:
            raise ShapeError("The model should have shared parameters to step. Found none.")
        givers = gradients.jacobian[gradients.valid]
        steps = rule(givers) if len(givers) else givers
        before, after = (each.cpu().numpy() for each in measure(batch, gradients, steps, meter))
        observed = batch.observed.sum(dim=0).cpu().numpy()
        positives = (batch.observed & (batch.y > 0.5)).sum(dim=0).cpu().numpy()
        usable = (observed >= min_observed) & (positives >= min_positives) & np.isfinite(before)
        loss_sum += np.where(usable, before, 0.0)
        loss_count += usable
        floor = LOSS_FLOOR * loss_sum / np.maximum(loss_count, 1)
        changes = np.full((num_tasks, num_tasks), np.nan)
        changes[gradients.valid.cpu().numpy()] = loss_change(
            before, after, floor=floor, relative=relative
        )
        changes[:, ~usable] = np.nan
        mean.update(changes)
    if not meter.label_gradients:
        raise UsageError("`batches` should hold at least one batch. Found none.")
    return mean.affinity(
        method, "relative_loss" if relative else "nats", label_names=label_names,
        details={"gradients": mode, "cost": meter.to_dict(), **details},
    )  # fmt: skip
