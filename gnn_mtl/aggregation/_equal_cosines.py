"""The direction at wanted cosines to all gradients, which IMTL-G and ConFIG share."""

from __future__ import annotations

import torch
from torch import Tensor

RANK = 1e-10
"""Eigenvalues of the cosines below this share of the largest count as zero, and so do parts of
``wanted`` below this share of it: noise is not to be divided by a small number."""


def equal_cosines(gramian: Tensor, wanted: Tensor) -> Tensor:
    r"""Return w such that the cosines of :math:`J^\top w` to the gradients are as ``wanted``.

    With cosines K and norms n of the gradients, :math:`w = K^+ c / n`: the shortest least-squares
    solution of :math:`K z = c`, exact where the gradients are linearly independent. K is formed
    first, so that a task's scale does not matter.

    Args:
        gramian: ``[S, S]`` with a positive diagonal.
        wanted: c ``[S]``; the direction has these inner products with the unit gradients.

    Complexity:
        One eigendecomposition.
    """
    norms = gramian.diagonal().sqrt()
    values, vectors = torch.linalg.eigh(gramian / norms[:, None] / norms)
    kept = values > RANK * values.max()
    vectors = vectors[:, kept]
    parts = vectors.T @ wanted
    parts = torch.where(parts.abs() > RANK * wanted.norm(), parts, 0.0)
    return vectors @ (parts / values[kept]) / norms
