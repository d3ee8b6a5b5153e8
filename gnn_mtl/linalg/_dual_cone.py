"""Projections on the cone of directions that conflict with no gradient, many at once."""

from __future__ import annotations

import torch
from torch import Tensor

from gnn_mtl._core.errors import ShapeError
from gnn_mtl.linalg._nonnegative_qp import nonnegative_qp

GUESSES = 20
SMALL = 128
"""Up to this size guesses are made in float64: they tell apart solutions that are equally good."""
EXACT = 1e-10


def project_on_dual_cone(gramian: Tensor, targets: Tensor) -> Tensor:
    r"""Project combinations of vectors on the cone of directions that harm none of the vectors.

    The projection of :math:`J^\top u` on :math:`\{d : J d \ge 0\}` is :math:`J^\top v` with

    .. math:: v = \arg\min_{v \ge u} v^\top G v .

    In :math:`x_i = n_i (v_i - u_i)`, :math:`n_i = \sqrt{G_{ii}}`, these are nonnegative
    least-squares problems that share one Hessian, the cosines, whatever the norms. Accelerated
    gradient steps on all at once (FISTA: Beck and Teboulle, SIAM J. Imaging Sci. 2009) guess which
    vectors touch, an active set settles it and solves exactly.

    Args:
        gramian: G, inner products ``[T, T]``, finite; zero vectors constrain nothing: v = u.
        targets: u, one problem a row ``[M, T]``.

    Returns:
        v, float64 ``[M, T]`` on the CPU: v >= u, G v >= 0 up to 1e-10 of the norms involved, and
        :math:`(v - u)_i (G v)_i = 0`. Where several v are best, the one of about least norm in x.

    Raises:
        ShapeError: If ``gramian`` is not square, or ``targets`` does not fit.

    Complexity:
        O(M T^2) for each of 20 guesses, and about two rounds of factorisations of the faces.
    """
    size = gramian.shape[-1]
    if gramian.shape != (size, size) or targets.ndim != 2 or targets.shape[1] != size or not size:
        raise ShapeError(
            "`gramian` should be square [T, T] with T >= 1, and `targets` [M, T]. "
            f"Found {tuple(gramian.shape)} and {tuple(targets.shape)}."
        )
    gramian = gramian.detach().to("cpu", torch.float64)
    targets = targets.detach().to("cpu", torch.float64)
    norms = gramian.diagonal().clamp(min=0).sqrt()
    norms = torch.where(norms > 0, norms, torch.inf)
    cosines = gramian / norms[:, None] / norms
    cosines.diagonal().fill_(1.0)
    scaled = torch.where(norms.isinf(), 0.0, targets * norms)
    longest = scaled.abs().amax(dim=1, keepdim=True)
    linear = -(scaled / torch.where(longest > 0, longest, 1.0)) @ cosines
    excess = nonnegative_qp(cosines, linear, _guess(cosines, linear), exact=EXACT)
    return targets + excess * longest / norms


def _guess(cosines: Tensor, linear: Tensor) -> Tensor:
    """A few steps of FISTA with restarts on the nonnegative programs."""
    kind = torch.float32 if len(cosines) > SMALL else torch.float64
    hessian, slopes = cosines.to(kind), linear.to(kind)
    top = hessian[int(hessian.square().sum(dim=1).argmax())]
    for _ in range(8):
        top = hessian @ (top / top.norm())
    step = 0.9 / float(top.norm().clamp(min=1))
    x = ahead = (slopes * step).clamp(min=0)
    momentum = torch.ones(len(slopes), 1, dtype=kind)
    for _ in range(GUESSES):
        new = (ahead - step * (ahead @ hessian - slopes)).clamp(min=0)
        turned = ((ahead - new) * (new - x)).sum(dim=1, keepdim=True) > 0
        momentum = torch.where(turned, 1.0, momentum)
        faster = (1 + (1 + 4 * momentum.square()).sqrt()) / 2
        ahead = new + (momentum - 1) / faster * (new - x)
        x, momentum = new, faster
    return x.double()
