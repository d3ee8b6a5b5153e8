"""Gramians of noisy gradients, measured on disjoint blocks of nodes: without bias, with errors."""

from __future__ import annotations

import torch
from torch import Tensor

from gnn_mtl._core.errors import ShapeError
from gnn_mtl.linalg._cosine import cosine_of_gramian


def unbiased_gramian(cross: Tensor, masses: Tensor, /) -> Tensor:
    r"""Return the inner products of the tasks' true gradients, free of the noise's own norm.

    With block k's weighted gradient :math:`m_{ki} g_{ki}`, products within a block carry the
    covariance of its noise; products of different, independent blocks do not:

    .. math:: \hat G_{ij} = \frac{\sum_{k \ne l} m_{ki} m_{lj} \langle g_{ki}, g_{lj}\rangle}
                                 {\sum_{k \ne l} m_{ki} m_{lj}}

    Two blocks give the split-half estimator; more use the same nodes better. The diagonal may come
    out negative where noise drowns a gradient: such a task's cosines are unknown.

    Args:
        cross: :math:`m_{ki} m_{lj} \langle g_{ki}, g_{lj}\rangle`, ``[K, S, K, S]``.
        masses: m, ``[K, S]``.

    Returns:
        float64 ``[S, S]``, symmetric; NaN where no two blocks observed the pair.

    Raises:
        ShapeError: If the shapes do not fit, or there are fewer than two blocks.
    """
    _check(cross, masses, 2)
    cross, masses = cross.double(), masses.double()
    within = torch.einsum("kskt->st", cross)
    return _ratio(cross.sum(dim=(0, 2)) - within, masses, masses.T @ masses)


def jackknife_cosine(
    cross: Tensor, masses: Tensor, /, *, unbiased: bool = True
) -> tuple[Tensor, Tensor]:
    r"""Return cosines and their standard errors, by leaving out one block at a time.

    .. math:: \mathrm{SE}^2 = \frac{K - 1}{K} \sum_k (c_{(-k)} - \bar c)^2

    Args:
        cross: Inner products between blocks ``[K, S, K, S]``, see :func:`unbiased_gramian`.
        masses: ``[K, S]``.
        unbiased: Cosines of the unbiased Gramian; else of all blocks taken as one, whose norms the
            noise inflates and whose cosines it shrinks.

    Returns:
        Two float64 ``[S, S]``; NaN where unknown. An error is also NaN where leaving out a block
        leaves the cosine unknown, and too small where the cosine is clamped at -1 or 1.

    Raises:
        ShapeError: If the shapes do not fit, or there are too few blocks: 3 for ``unbiased``,
            2 without.
    """
    _check(cross, masses, 3 if unbiased else 2)
    cross, masses = cross.double(), masses.double()
    blocks = len(masses)
    total = cross.sum(dim=(0, 2))
    inside = torch.einsum("kskt->kst", cross)
    joint, own = masses.T @ masses, inside.sum(dim=0)

    def cosine(left: int | None) -> Tensor:
        kept, within, weights, pairs = total, own, masses, joint
        if left is not None:
            crossing = cross[left].sum(dim=1)
            kept = total - crossing - cross[:, :, left].sum(dim=0) + inside[left]
            within = own - inside[left]
            weights = masses[torch.arange(blocks, device=masses.device) != left]
            pairs = weights.T @ weights
        if unbiased:
            return cosine_of_gramian(_ratio(kept - within, weights, pairs))
        return cosine_of_gramian(kept)

    left_out = torch.stack([cosine(k) for k in range(blocks)])
    spread = (left_out - left_out.mean(dim=0)).square().sum(dim=0)
    return cosine(None), (spread * (blocks - 1) / blocks).sqrt()


def _ratio(total: Tensor, masses: Tensor, within: Tensor) -> Tensor:
    """``total`` over the mass of pairs of different blocks."""
    summed = masses.sum(dim=0)
    pairs = torch.outer(summed, summed) - within
    # a pair seen in one block only leaves rounding errors here
    unknown = pairs <= 1e-9 * torch.outer(summed, summed)
    found = torch.where(unknown, torch.nan, total / torch.where(unknown, 1.0, pairs))
    return (found + found.T) / 2


def _check(cross: Tensor, masses: Tensor, least: int) -> None:
    shape = tuple(masses.shape)
    if len(shape) != 2 or tuple(cross.shape) != shape + shape or shape[0] < least:
        raise ShapeError(
            f"`cross` should have shape [K, S, K, S] and `masses` [K, S] with K >= {least} "
            f"blocks. Found {tuple(cross.shape)} and {shape}."
        )
