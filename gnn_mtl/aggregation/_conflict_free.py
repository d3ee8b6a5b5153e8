"""ConFIG: a direction without conflict, as long as its projections on the gradients together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gnn_mtl.aggregation._base import Promise
from gnn_mtl.aggregation._equal_cosines import equal_cosines
from gnn_mtl.aggregation._gramian_method import PreferenceMethod

CANCELS = 1e-10
"""A length below this share of the projections that add up to it is a rounding error."""


def config_weights(gramian: Tensor, preference: Tensor) -> Tensor:
    r"""Return :math:`\ell\, x / \lVert J^\top x\rVert` with x of cosines p; see :class:`ConFIG`."""
    weights = equal_cosines(gramian, preference)
    gains = gramian @ weights
    square, total = float(weights @ gains), float(gains.sum())
    if abs(total) <= CANCELS * float(gains.abs().sum()):
        return torch.zeros_like(weights)
    return weights * (total / square)


@dataclass(frozen=True, kw_only=True)
class ConFIG(PreferenceMethod):
    r"""Gives the direction wanted cosines to the gradients, and the length they agree on.

    Liu, Chu and Thuerey, "ConFIG: Towards Conflict-free Training of Physics Informed Neural
    Networks", ICLR 2025, arXiv 2408.11104, eq. 2: with the unit gradients U, the preference p and
    :math:`\hat x` the unit vector of x,

    .. math:: x = U^+ p , \qquad d = \Big(\sum_i g_i^\top \hat x\Big)\, \hat x .

    In Gramian form :math:`x = U^\top K^+ p` with the cosines :math:`K = U U^\top`. For equal p it
    is the direction of IMTL-G, with a length that shrinks as the gradients disagree.

    Where the gradients are linearly independent no task loses; else the cosines are met in the
    least-squares sense, and only the sum of the losses is sure to fall. Where gradients cancel
    exactly the weights are 0. The momentum version of the paper is not here. Cost: one
    eigendecomposition, 0.05 s at 500 tasks.
    """

    kind: ClassVar[str] = "config"
    promises: ClassVar[frozenset[Promise]] = frozenset({"permutation", "scaling"})

    def solve(self, gramian: Tensor, *, preference: Tensor, **_: object) -> Tensor:
        """Return the weights ``[S]``."""
        return config_weights(gramian, preference)
