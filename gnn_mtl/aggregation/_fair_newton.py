"""The equation behind Nash-MTL and FairGrad, by one damped Newton method."""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 1e-10
"""Added to the cosines: no weight grows past about 1e5 of what its task alone would get."""
TOLERANCE = 1e-8
"""Newton stops after a step that changed no weight by more than this share of it."""
CLOSE = 1e-2
"""From here on steps shrink quadratically; once they do not, they are rounding errors."""
STEPS = 200
HUGE = 1e100
KEPT = 0.01
"""A step leaves every weight at least this share of what it was."""


def fair_weights(gramian: Tensor, alpha: float, preference: Tensor | None = None) -> Tensor:
    r"""Return the positive weights with :math:`(G w)_i = (w_i / p_i)^{-1/\alpha}`.

    They are the minimum of a strictly convex function,

    .. math:: \tfrac12 w^\top G w - \sum_i p_i^{1/\alpha} h(w_i), \qquad h'(w) = w^{-1/\alpha} .

    It is solved in :math:`z_i = \lVert g_i\rVert w_i`, so that G becomes the cosines K, by Newton
    steps that keep z positive and are halved until the function falls.

    Where gradients cancel, there is no solution and the weights grow without bound: K + 1e-10 I
    stops them. A G that is not positive semidefinite (estimated, or of rounded gradients) gets as
    much more on the diagonal as makes it so.

    Args:
        gramian: G, float64 ``[S, S]``, with a positive diagonal.
        alpha: Positive.
        preference: p, positive ``[S]``; default 1.

    Returns:
        w, float64 ``[S]``, positive and finite.

    Complexity:
        About 5 to 15 Cholesky factorisations, more where alpha is far from 1 and norms differ by
        orders of magnitude: 0.1 s at S = 500.
    """
    squares = gramian.diagonal()
    mean = squares.mean()
    norms = (squares / mean).sqrt()
    cosines = _definite(gramian / mean / norms[:, None] / norms)
    wanted = torch.ones_like(norms) if preference is None else preference ** (1 / alpha)
    alone = (wanted / norms**2) ** (alpha / (1 + alpha))  # w of a task with no others
    z = _minimise(cosines, norms * alone, 1 / alpha)
    return z / norms * mean ** (-alpha / (1 + alpha))


def _definite(cosines: Tensor) -> Tensor:
    """``cosines`` with the least power of ten on the diagonal that makes it definite."""
    ridge = RIDGE
    while True:
        shifted = cosines.clone()
        shifted.diagonal().add_(ridge)
        if int(torch.linalg.cholesky_ex(shifted)[1]) == 0:
            return shifted
        ridge *= 10


def _minimise(cosines: Tensor, alone: Tensor, power: float) -> Tensor:
    """The z > 0 with ``cosines @ z = alone * (z / alone)^-power``, ``alone`` where it is alone."""

    def value(z: Tensor) -> Tensor:
        u = z / alone
        gain = u.log() if power == 1 else u ** (1 - power) / (1 - power)
        return z @ cosines @ z / 2 - alone**2 @ gain

    z, last = alone * _along_ray(cosines, alone, power), torch.inf
    for _ in range(STEPS):
        u = z / alone
        pull = alone * (u**-power).clamp(max=HUGE)
        gradient = cosines @ z - pull
        hessian = cosines.clone()
        hessian.diagonal().add_((power * u ** (-power - 1)).clamp(max=HUGE))
        step = -torch.cholesky_solve(gradient[:, None], torch.linalg.cholesky(hessian))[:, 0]
        change = float((step / z).abs().max())
        if change <= TOLERANCE or last / 2 <= change <= CLOSE:
            return z + step
        last = change
        size = min(1.0, (1 - KEPT) / max(float((-step / z).max()), 1e-300))
        before, slope = value(z), gradient @ step
        slack = 1e-13 * (z @ cosines @ z + pull @ z)
        while size > 1e-10 and not value(z + size * step) <= before + 1e-4 * size * slope + slack:
            size /= 2
        z = z + size * step
    return z


def _along_ray(cosines: Tensor, start: Tensor, power: float) -> Tensor:
    """The best multiple of ``start``, from which Newton sets out."""
    quadratic = (start @ cosines @ start).clamp(min=1e-12 * start @ start)
    return (start @ start / quadratic) ** (1 / (1 + power))
