"""How long the direction is made: conventions differ by orders of magnitude between methods."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from gnn_mtl._core.errors import UsageError

Norm = Literal["sum", "native", "tasks", "unit"]
"""``"sum"``: as long as the plain sum of the gradients, so that a learning rate holds for every
method and group size; ``"native"``: as the paper has it; ``"tasks"``: weights that sum to the
number of tasks; ``"unit"``: length 1."""

VANISHED = 1e-6
"""A direction shorter than this share of what is added up is left as it is: the method says there
is nowhere to go, and noise is not to be blown up to a step."""


def check_norm(norm: str) -> None:
    """Raise UsageError if it is none of :data:`Norm`."""
    if norm not in get_args(Norm):
        raise UsageError(f"`norm` should be one of {', '.join(get_args(Norm))}. Found {norm!r}.")


def rescaled(weights: Tensor, gramian: Tensor, norm: Norm) -> Tensor:
    r"""Return the weights times one positive number, which gives the direction its length.

    Args:
        weights: ``[S]``; the direction is :math:`J^\top w`, of squared length :math:`w^\top G w`.
        gramian: ``[S, S]``.
        norm: The convention.
    """
    if norm == "native":
        return weights
    if norm == "tasks":
        total = float(weights.sum())
        cancels = total <= VANISHED * float(weights.abs().sum())
        return weights if cancels else weights * (len(weights) / total)
    length = torch.sqrt((weights @ gramian @ weights).clamp(min=0))
    reach = weights.abs() @ gramian.diagonal().sqrt()
    if float(length) <= VANISHED * float(reach):
        return weights
    wanted = torch.sqrt(gramian.sum().clamp(min=0)) if norm == "sum" else torch.ones(())
    return weights * (wanted / length)
