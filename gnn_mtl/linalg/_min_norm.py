"""The minimum-norm point of a convex hull, from inner products alone."""

from __future__ import annotations

import torch
from torch import Tensor

from gnn_mtl._core.errors import ShapeError
from gnn_mtl.linalg._nonnegative_qp import nonnegative_qp


def min_norm_weights(gramian: Tensor) -> Tensor:
    r"""Return the convex combination of vectors that is shortest.

    .. math:: \arg\min_{w \ge 0,\, 1^\top w = 1} w^\top G w

    With :math:`n_i = \sqrt{G_{ii}}`, unit vectors' products K and :math:`a_i = \min_k n_k / n_i`,
    w is x / n made to sum to 1, where x solves the least-squares problem (Lawson and Hanson,
    Solving Least Squares Problems, 1974, ch. 23; Wolfe, Math. Program. 1976)

    .. math:: \arg\min_{x \ge 0} \tfrac12 x^\top (K + a a^\top) x - a^\top x ,

    exact whether or not the hull contains the origin, and whatever the norms. The Frank-Wolfe
    iteration common for this is still 2 times too long after 100 steps at 500 tasks.

    Args:
        gramian: G, inner products ``[T, T]``, finite. A zero vector is itself the shortest point:
            such vectors share the weight.

    Returns:
        w, float64 ``[T]`` on the CPU: nonnegative, sum 1. All i satisfy
        :math:`(G w)_i \ge w^\top G w`, with equality where w is positive. Of several best w, about
        the one of least norm in x.

    Raises:
        ShapeError: If ``gramian`` is not square with at least one row.

    Complexity:
        A few O(T^3) factorisations: 0.05 s at T = 500.
    """
    if gramian.ndim != 2 or gramian.shape[0] != gramian.shape[1] or len(gramian) == 0:
        raise ShapeError(
            "`gramian` should be a square matrix [T, T] with T >= 1. "
            f"Found shape {tuple(gramian.shape)}."
        )
    gramian = gramian.detach().to("cpu", torch.float64)
    squares = gramian.diagonal().clamp(min=0)
    zero = squares <= torch.finfo(torch.float64).tiny
    if bool(zero.any()):
        return zero.double() / zero.sum()
    norms = squares.sqrt()
    cosines = gramian / norms[:, None] / norms
    inverse = norms.min() / norms
    x = nonnegative_qp(cosines + torch.outer(inverse, inverse), inverse[None])[0]
    weights = x * inverse
    return weights / weights.sum()
