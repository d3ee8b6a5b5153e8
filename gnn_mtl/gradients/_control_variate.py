"""Gradients of few nodes, corrected by what the same nodes say of weights known exactly."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gnn_mtl._core.errors import ShapeError, UsageError


def control_variate(
    fresh: Sequence[Tensor], stale: Sequence[Tensor], exact: Tensor, *, fitted: bool = False
) -> Tensor:
    r"""Return gradients at the present weights from few blocks and the exact ones of older weights.

    .. math:: \hat g(w) = \bar g_B(w) + c \, (G(w_0) - \bar g_B(w_0))

    with :math:`\bar g_B` the mean over the blocks B, the same nodes and neighbours at both weights.
    Unbiased for c = 1 (SVRG; Johnson & Zhang, 2013), and the less noisy the closer :math:`w` is to
    :math:`w_0`. ``fitted`` takes each task's c of least variance,
    :math:`\sum_b \langle f_b - \bar f, s_b - \bar s \rangle / \sum_b \| s_b - \bar s \|^2`,
    estimated from the blocks themselves (a bias of the order of one over their number).

    Args:
        fresh: Rows ``[S, P]`` at w of each block, all blocks of equal weight.
        stale: Rows at :math:`w_0` of the same blocks.
        exact: Rows at :math:`w_0` over all nodes.
        fitted: Fit c instead of 1; needs 2 blocks.

    Returns:
        Rows ``[S, P]``.

    Raises:
        ShapeError: If not all rows have one shape, or the blocks differ in number.
        UsageError: If there is no block, or one alone to fit c on.

    Cost: a pass over the blocks, two if fitted. The two probes, and the exact gradients once, are
    the caller's.
    """
    if len(fresh) != len(stale) or any(rows.shape != exact.shape for rows in (*fresh, *stale)):
        raise ShapeError(
            "`fresh` and `stale` should hold rows of the same blocks, each with the shape of "
            f"`exact`, {tuple(exact.shape)}. Found {[tuple(rows.shape) for rows in fresh]} and "
            f"{[tuple(rows.shape) for rows in stale]}."
        )
    if len(fresh) < 1 + fitted:
        raise UsageError(
            f"There should be at least {1 + fitted} blocks{' to fit on' if fitted else ''}. "
            f"Found {len(fresh)}."
        )
    now, then = _mean(fresh), _mean(stale)
    difference = exact - then
    if fitted:
        joint = exact.new_zeros(exact.shape[0])
        own = exact.new_zeros(exact.shape[0])
        for f, s in zip(fresh, stale, strict=True):
            joint += ((f - now) * (s - then)).sum(dim=1)
            own += (s - then).square().sum(dim=1)
        difference = difference * torch.where(own > 0, joint / own, 1.0)[:, None]
    return now + difference


def _mean(blocks: Sequence[Tensor]) -> Tensor:
    return sum(blocks[1:], start=blocks[0]) / len(blocks)
