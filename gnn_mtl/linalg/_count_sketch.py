"""Count sketch: many columns folded into few, linear and the same on every machine."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gnn_mtl._core.errors import ShapeError, UsageError

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def count_sketch(
    rows: Tensor, /, dim: int, *, seed: int = 0, offset: int = 0, out: Tensor | None = None
) -> Tensor:
    r"""Fold the columns of ``rows`` into ``dim`` buckets with random signs.

    .. math:: S_{tk} = \sum_{p : h(p) = k} s(p)\, R_{tp}

    Bucket h and sign s are a pure function of (seed, column), so sketches of different rows, steps
    and machines belong together, averages of sketches are sketches of averages, and a wide matrix
    may be folded piece by piece (``offset``). Inner products keep their expectation; the standard
    deviation of a cosine c is about :math:`\sqrt{(1 + c^2) / K}` or less (Charikar, Chen,
    Farach-Colton, ICALP 2002; Weinberger et al., ICML 2009).

    Args:
        rows: Floating-point matrix ``[T, P]``: columns ``offset .. offset + P`` of the whole.
        dim: Buckets K.
        seed: Seed of buckets and signs.
        offset: Number of the first column.
        out: Sketch ``[T, K]`` to add to.

    Returns:
        ``[T, K]`` (``out`` if given).

    Raises:
        ShapeError: If ``rows`` is not a floating-point matrix.
        UsageError: If ``dim`` is below 1.

    Complexity:
        O(T P) additions.
    """
    if rows.ndim != 2 or not rows.is_floating_point():
        raise ShapeError(
            "`rows` should be a floating-point matrix [T, P]. "
            f"Found {rows.dtype} with shape {tuple(rows.shape)}."
        )
    if dim < 1:
        raise UsageError(f"`dim` should be at least 1. Found {dim}.")
    if out is None:
        out = rows.new_zeros((len(rows), dim))
    bits = _hash(np.arange(offset, offset + rows.shape[1], dtype=np.uint64), seed)
    bucket = torch.from_numpy(((bits >> np.uint64(1)) % np.uint64(dim)).astype(np.int64))
    sign = torch.from_numpy(1.0 - 2.0 * (bits & np.uint64(1)).astype(np.float64))
    return out.index_add_(1, bucket.to(rows.device), rows.detach() * sign.to(rows))


def _hash(columns: np.ndarray, seed: int) -> np.ndarray:
    """SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) of the column numbers in the seed's stream."""
    with np.errstate(over="ignore"):
        z = columns * _GOLDEN + np.uint64(seed % (1 << 64)) * _M1 + _GOLDEN
        for _ in range(2):
            z = (z ^ (z >> np.uint64(30))) * _M1
            z = (z ^ (z >> np.uint64(27))) * _M2
            z = z ^ (z >> np.uint64(31))
    return z
