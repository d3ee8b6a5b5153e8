"""Cosines between task gradients, from their rows or from their Gramian."""

from __future__ import annotations

import torch
from torch import Tensor

from gnn_mtl._core.errors import ShapeError, UsageError

CHUNK_BYTES = 1 << 21
"""Size of the float64 copy of one block of columns; bounds the extra memory of `cosine_of_rows`."""


def cosine_of_rows(rows: Tensor, /, *, chunk_size: int | None = None) -> Tensor:
    r"""Return the cosine of every pair of rows, accumulated in float64.

    .. math:: C_{ij} = \langle r_i, r_j\rangle / (\lVert r_i\rVert \lVert r_j\rVert)

    Rows are first divided by their largest entry, so neither a norm of 1e-30 nor one of 1e+30
    loses a pair. A row that is zero or holds a NaN or an infinity has no direction: its row and
    column are NaN. The diagonal of the others is exactly 1.

    Args:
        rows: Floating-point matrix ``[T, P]``, any device.
        chunk_size: Columns converted to float64 at a time; by default 2 MiB worth, which stays in
            cache.

    Returns:
        float64 ``[T, T]`` on the device of ``rows``: symmetric bit for bit, inside [-1, 1].

    Raises:
        ShapeError: If ``rows`` is not a floating-point matrix with at least one row.
        UsageError: If ``chunk_size`` is below 1.

    Complexity:
        O(T^2 P) time; one block of columns and O(T^2) extra memory.

    Example:
        >>> cosine_of_rows(torch.tensor([[1.0, 0.0], [-3.0, 0.0]]))
        tensor([[ 1., -1.],
                [-1.,  1.]], dtype=torch.float64)
    """
    if rows.ndim != 2 or len(rows) == 0 or not rows.is_floating_point():
        raise ShapeError(
            "`rows` should be a floating-point matrix [T, P] with T >= 1. "
            f"Found {rows.dtype} with shape {tuple(rows.shape)}."
        )
    if chunk_size is not None and chunk_size < 1:
        raise UsageError(f"`chunk_size` should be at least 1 column. Found {chunk_size}.")
    rows = rows.detach()
    num_rows, num_columns = rows.shape
    gramian = torch.zeros(num_rows, num_rows, dtype=torch.float64, device=rows.device)
    if num_columns:
        scale = torch.linalg.vector_norm(rows, ord=torch.inf, dim=1).double()
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))[:, None]
        for block in rows.split(chunk_size or max(1, CHUNK_BYTES // (8 * num_rows)), dim=1):
            scaled = block.double() / scale
            gramian.addmm_(scaled, scaled.T)
    return cosine_of_gramian(gramian)


def cosine_of_gramian(gramian: Tensor, /) -> Tensor:
    r"""Return the cosines that a Gramian :math:`G = J J^\top` implies.

    .. math:: C_{ij} = G_{ij} / \sqrt{G_{ii} G_{jj}}

    A task whose diagonal is not positive, or whose row holds a NaN or an infinity of its own, has
    no direction: its row and column are NaN. Any single unknown cell stays NaN. The diagonal of the
    others is exactly 1.

    Args:
        gramian: Floating-point matrix ``[T, T]``; the two halves are averaged.

    Returns:
        float64 ``[T, T]``: symmetric bit for bit, inside [-1, 1].

    Raises:
        ShapeError: If ``gramian`` is not a square floating-point matrix with at least one row.
    """
    square = gramian.ndim == 2 and gramian.shape[0] == gramian.shape[1]
    if not square or len(gramian) == 0 or not gramian.is_floating_point():
        raise ShapeError(
            "`gramian` should be a square floating-point matrix [T, T] with T >= 1. "
            f"Found {gramian.dtype} with shape {tuple(gramian.shape)}."
        )
    products = gramian.detach().double()
    norms = products.diagonal().sqrt()  # NaN where negative
    norms = torch.where(norms.isfinite() & (norms > 0), norms, torch.full_like(norms, torch.nan))
    cosine = (products / norms[:, None] / norms).clamp(-1.0, 1.0)
    cosine = (cosine + cosine.T) / 2
    cosine.diagonal().copy_(torch.where(norms.isnan(), norms, torch.ones_like(norms)))
    return cosine
