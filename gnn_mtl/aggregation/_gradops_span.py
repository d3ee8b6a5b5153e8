"""What is left of a vector beside others: all of them at once, or those it conflicts with."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

CONFLICT = -1e-12
"""Cosine below which two gradients conflict."""

IN_SPAN = 1e-10
"""A unit vector is in the span of the others if some relation between the vectors, of squared
coefficients that sum to 1, gives it more than this."""


def beside_all(left: Tensor, singular: Tensor) -> Tensor:
    r"""Return the part of every row of :math:`U \Sigma` that is orthogonal to all other rows.

    The rows of the pseudo-inverse's transpose, :math:`U \Sigma^{-1}`, are orthogonal to all other
    rows where they have length, and have product 1 with their own; that is no longer so for a row
    in a linear relation with others, which lies in their span.

    Args:
        left: U ``[S, r]``, orthonormal columns.
        singular: The diagonal of Sigma ``[r]``, positive.

    Returns:
        ``[S, r]``; exactly zero for a row in the span of the others.
    """
    dual = left / singular
    alone = 1 - left.square().sum(dim=1) <= IN_SPAN
    squares = dual.square().sum(dim=1)
    return torch.where(alone[:, None], dual / squares[:, None], torch.zeros_like(dual))


def beside_conflicting(rows: Tensor, sequence: Tensor, resolution: float) -> Tensor:
    """Return the part of every unit row that is orthogonal to those it had to give way to.

    Row by row in ``sequence``, again and again: where what is left conflicts with it, it joins the
    basis that what is left is orthogonal to.

    Args:
        rows: Unit vectors ``[S, r]``.
        sequence: In whose order conflicts are looked for, ``[S]``.
        resolution: Length below which a vector is rounding.

    Returns:
        ``[S, r]``: no conflict with any row; zero where nothing else would do.
    """
    vectors, order = rows.numpy(), sequence.tolist()
    basis = np.empty((rows.shape[1] + 1, rows.shape[1]))
    left = rows.clone()
    for row in ((rows @ rows.T) < CONFLICT).any(dim=1).nonzero().squeeze(1).tolist():
        others = [other for other in order if other != row]
        left[row] = torch.from_numpy(_given_way(vectors, row, others, basis, resolution))
    return left


def _given_way(
    vectors: np.ndarray, row: int, others: list[int], basis: np.ndarray, resolution: float
) -> np.ndarray:
    """One row of :func:`beside_conflicting`; ``basis`` is room to work in."""
    left, used, calm = vectors[row], 0, 0
    while calm < len(others):
        for other in others:
            if left @ vectors[other] >= CONFLICT:
                calm += 1
                continue
            calm = 0
            fresh = _orthogonal(vectors[other], basis[:used])
            length = math.sqrt(fresh @ fresh)
            basis[used] = fresh / max(length, resolution)
            left = left - (left @ basis[used]) * basis[used]
            used += 1
            if length <= resolution or left @ left <= resolution**2:
                return np.zeros_like(left)
    return left


def _orthogonal(vector: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """The part of a vector orthogonal to an orthonormal basis; twice where much cancels."""
    rest = vector - (basis @ vector) @ basis
    if rest @ rest < 0.5 * (vector @ vector):
        rest = rest - (basis @ rest) @ basis
    return rest
