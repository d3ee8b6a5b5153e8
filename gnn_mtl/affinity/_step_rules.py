"""What a step on one task alone would subtract from the shared parameters.

A rule maps gradient rows ``[S, P]`` to steps ``[S, P]``, the shared parameters flattened in order.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.gradients import adam_scale

StepRule = Callable[[Tensor], Tensor]


def sgd_rule(lr: float) -> StepRule:
    """Return the rule of plain gradient descent: ``lr * g``.

    Raises:
        UsageError: If ``lr`` is not a positive number.
    """
    if not (math.isfinite(lr) and lr > 0):
        raise UsageError(f"`lr` should be a positive number. Found {lr}.")
    return lambda rows: lr * rows


def relative_rule(share: float, parameters: Sequence[Tensor]) -> StepRule:
    r"""Return the rule of steps of equal length, :math:`c\,\lVert\theta\rVert g / \lVert g\rVert`.

    Every giver moves as far, whatever the scale of its loss, so a rare label's row is not lost
    beside a frequent one's.

    Args:
        share: Length c over that of the parameters; .01 is a look-ahead of ordinary size.
        parameters: The shared parameters.

    Raises:
        UsageError: If ``share`` is not a positive number.
    """
    if not (math.isfinite(share) and share > 0):
        raise UsageError(f"`share` should be a positive number. Found {share}.")
    length = share * float(torch.cat([p.detach().flatten() for p in parameters]).norm())

    def rule(rows: Tensor) -> Tensor:
        norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        return rows * (length / norms.clamp(min=torch.finfo(rows.dtype).tiny))

    return rule


def optimizer_rule(
    optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]
) -> StepRule:
    """Return the rule of the very step an optimizer would make, with its momentum and decay.

    Each row is stepped on copies of the parameters by a copy of the optimizer; both stay as they
    are. Works for any torch optimizer, read when the rule is applied.

    Args:
        optimizer: Holds ``parameters``, maybe among others, which do not move.
        parameters: The shared parameters.

    Note:
        An Adam step of one task alone has nearly the same size in every coordinate and is not
        linear in the gradient: the first-order identity of :func:`linear_look_ahead` then holds
        for this step, not for the gradient (:func:`preconditioned_rule` is linear).

    Cost: S copies of the optimizer's state, one at a time.
    """
    _check_held(optimizer, parameters)

    def rule(rows: Tensor) -> Tensor:
        return torch.stack([_step(optimizer, parameters, row) for row in rows])

    return rule


def preconditioned_rule(
    optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]
) -> StepRule:
    r"""Return Adam's step without momentum: :math:`\eta\, g / (\sqrt{\hat v} + \epsilon)`.

    The preconditioner is that of the joint training, the same for every task, so the rule is linear
    in the gradient.

    Args:
        optimizer: ``torch.optim.Adam`` or ``AdamW`` that has stepped all ``parameters``.
        parameters: The shared parameters.

    Raises:
        UsageError: If the optimizer is no Adam, or has not stepped some parameter.
    """
    groups = _check_held(optimizer, parameters)
    factors = adam_scale(optimizer, parameters)
    scale = torch.cat([(float(groups[id(p)]["lr"]) * factors[p]).flatten() for p in parameters])
    return lambda rows: rows * scale.to(rows)


def split_like(row: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return the flat row ``[P]`` in the shapes of the parameters.

    Raises:
        ShapeError: If P is not their size.
    """
    sizes = [p.numel() for p in parameters]
    if row.numel() != sum(sizes):
        raise ShapeError(
            f"A row should have an entry for each of the {sum(sizes)} shared parameters. Found "
            f"{row.numel()}; take gradients of the same parameters."
        )
    return [part.view(p.shape) for part, p in zip(row.split(sizes), parameters, strict=True)]


def _step(
    optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], row: Tensor
) -> Tensor:
    """What a copy of the optimizer subtracts for this gradient, flat ``[P]``."""
    copies = [nn.Parameter(p.detach().clone()) for p in parameters]
    memo = {id(p): twin for p, twin in zip(parameters, copies, strict=True)}
    for group in optimizer.param_groups:  # the others neither move nor are worth a copy
        memo |= {id(p): p for p in group["params"] if id(p) not in memo}
    held = {p: p.grad for group in optimizer.param_groups for p in group["params"]}
    twin = copy.deepcopy(optimizer, memo)
    try:
        for parameter in held:
            parameter.grad = None
        for each, gradient in zip(copies, split_like(row, parameters), strict=True):
            each.grad = gradient.detach().to(each).clone()
        twin.step()
    finally:
        for parameter, gradient in held.items():
            parameter.grad = gradient
    with torch.no_grad():
        moved = [(p - each).flatten() for p, each in zip(parameters, copies, strict=True)]
    return torch.cat(moved).to(row)


def _check_held(
    optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]
) -> dict[int, dict[str, Any]]:
    """The optimizer's group of every parameter, or UsageError."""
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    absent = sum(id(p) not in groups for p in parameters)
    if absent:
        raise UsageError(
            f"The optimizer should hold every shared parameter. Found {absent} of "
            f"{len(parameters)} missing; pass the optimizer that trains them."
        )
    return groups
