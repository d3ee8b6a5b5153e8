"""What an adaptive optimizer does to gradients: compare the steps, not the slopes."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from gnn_mtl._core.errors import UsageError


def adam_scale(
    optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor], *, power: float = 1.0
) -> dict[Tensor, Tensor]:
    r"""Return what Adam's state multiplies a gradient with, entry by entry.

    .. math:: s = \left(\sqrt{\hat v} + \epsilon\right)^{-p}

    Cosines of plain gradients can be far from those of the steps Adam takes (arXiv 2602.00329).
    With :math:`p = 1` rows become the tasks' steps, momentum aside; with :math:`p = 1/2` inner
    products become :math:`\langle g_j, s\,g_i\rangle`, the first-order effect of task i's step on
    task j's loss, and stay symmetric. The second moments are those of the training so far: of the
    tasks that were active, and of whole steps.

    Args:
        optimizer: ``torch.optim.Adam`` or ``AdamW``, or one that keeps ``exp_avg_sq`` and ``step``.
        parameters: The shared parameters; those that do not train are left out.
        power: p.

    Returns:
        The factors by parameter, detached; pass them as ``probe(..., scale=...)``.

    Raises:
        UsageError: If a parameter has no second moment yet.
    """
    groups = {p: group for group in optimizer.param_groups for p in group["params"]}
    scale = {}
    for parameter in parameters:
        if not parameter.requires_grad:
            continue
        state = optimizer.state.get(parameter, {}) if parameter in groups else {}
        if "exp_avg_sq" not in state:
            raise UsageError(
                "Every shared parameter should have Adam's second moment. Found one of shape "
                f"{tuple(parameter.shape)} without; take a training step with this optimizer first."
            )
        group = groups[parameter]
        bias = 1.0 - group["betas"][1] ** float(state["step"])
        root = (state["exp_avg_sq"].detach() / bias).sqrt()
        scale[parameter] = (root + group["eps"]) ** -power
    return scale
