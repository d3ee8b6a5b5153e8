"""TAG's look-ahead to first order, from gradients alone; also the white-box term of ETAP."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from gnn_mtl._core.cost import CostMeter
from gnn_mtl._core.errors import ShapeError
from gnn_mtl.affinity._look_ahead import mean_over_batches
from gnn_mtl.affinity._step_rules import StepRule, sgd_rule
from gnn_mtl.gradients import ProbeMode, TaskGradients, frozen
from gnn_mtl.graph import MiniBatch
from gnn_mtl.nn import LabelModel, masked_bce
from gnn_mtl.tasks import Affinity


def linear_look_ahead(steps: Tensor, jacobian: Tensor, losses: Tensor, /) -> Tensor:
    r"""Return :math:`\langle u_i, g_j\rangle / L_j`, the first-order relative loss change.

    With :math:`u_i = \eta g_i` it is TAG's affinity up to O(eta^2) (arXiv 2109.04617); with
    momentum's step, :math:`u_i = \eta (g_i + \mu v)`, the white-box affinity of ETAP
    (arXiv 2602.18591). The velocity v is torch's, of the gradient's sign, so it *adds*. Divide by
    eta to compare steps of different learning rates. Average over steps with :class:`CellMean`.

    Args:
        steps: What each giver would subtract, ``[S, P]``; see :func:`sgd_rule` and its siblings.
        jacobian: Every recipient's gradient ``[T, P]``, same columns.
        losses: Every recipient's loss ``[T]``; ones for the change in nats.

    Returns:
        float64 ``[S, T]``, row = giver.

    Raises:
        ShapeError: If the shapes do not fit.

    Note:
        A Gramian does as well: with u = lr * g it is ``lr * gramian / losses``, so nothing of size
        T x P need be held.

    Complexity:
        O(S T P).
    """
    if steps.ndim != 2 or jacobian.ndim != 2 or steps.shape[1:] != jacobian.shape[1:]:
        raise ShapeError(
            "`steps` and `jacobian` should be [S, P] and [T, P]. "
            f"Found {tuple(steps.shape)} and {tuple(jacobian.shape)}."
        )
    if losses.shape != jacobian.shape[:1]:
        raise ShapeError(
            f"`losses` should have shape [{len(jacobian)}]. Found {tuple(losses.shape)}."
        )
    products = steps.new_zeros((len(steps), len(jacobian)), dtype=torch.float64)
    width = max(1, (1 << 21) // max(1, len(jacobian)))
    for own, others in zip(steps.split(width, dim=1), jacobian.split(width, dim=1), strict=True):
        products.addmm_(own.double(), others.double().T)
    return products / losses.double()


def tag_linear_affinity(
    model: LabelModel,
    batches: Iterable[MiniBatch],
    *,
    lr: float = 1e-2,
    rule: StepRule | None = None,
    gradients: ProbeMode = "full",
    relative: bool = True,
    min_observed: int = 1,
    min_positives: int = 1,
    pos_weight: Tensor | None = None,
    label_names: tuple[str, ...] | None = None,
) -> Affinity:
    """Estimate TAG's affinity without look-ahead forwards: exact to first order in the step.

    Args:
        model: The model; left bitwise as it is.
        batches: Mini-batches; each is measured by itself.
        lr: Step length of plain gradient descent.
        rule: Another step; a rule that reads an optimizer needs ``gradients="full"``.
        gradients: Parameters that step, see :func:`gnn_mtl.gradients.probe`; ``"last_layer"`` costs
            no backward pass a task and measures what that layer's step does.
        relative: Divide by the recipient's loss; False gives the saving in nats.
        min_observed: A batch says nothing on a recipient with fewer observed nodes.
        min_positives: Nor on one with fewer positives.
        pos_weight: Weights of the tasks' positives ``[T]``.
        label_names: One name a task.

    Returns:
        A directed affinity ``[giver, recipient]`` with counts and standard errors over the batches.

    Raises:
        UsageError: If there is no batch, or an option is out of range.

    Cost: per batch a forward and the T gradients.
    """

    def measure(
        batch: MiniBatch, found: TaskGradients, steps: Tensor, meter: CostMeter
    ) -> tuple[Tensor, Tensor]:
        meter.forwards += 1
        meter.nodes += batch.batch_size
        with frozen(model), torch.no_grad():
            weight = None if pos_weight is None else pos_weight.double()
            logits = model(batch).double()
            before = masked_bce(logits, batch.y, batch.observed, pos_weight=weight)
        ones = torch.ones_like(before)
        return before, before - linear_look_ahead(steps, found.jacobian, ones)

    return mean_over_batches(
        model, batches, measure, "tag_linear", rule=rule or sgd_rule(lr), mode=gradients,
        relative=relative, min_observed=min_observed, min_positives=min_positives,
        pos_weight=pos_weight, label_names=label_names, details={} if rule else {"lr": lr},
    )  # fmt: skip
