"""CAGrad: near the mean gradient, the direction that helps the worst-off task most."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from gnn_mtl._core.errors import UsageError
from gnn_mtl.aggregation._base import Promise
from gnn_mtl.aggregation._gramian_method import GramianMethod
from gnn_mtl.linalg import min_norm_weights, nonnegative_qp

STEPS = 50
TIGHT = 1e-10
EXACT = 1e-13
BALANCED = 1e-15
"""A squared mean gradient below this share of the mean squared gradient is rounding error."""
STATIONARY = 1e-6
"""A shortest combination below this share of the shortest gradient is 0: nobody gains from it."""


def cagrad_weights(gramian: Tensor, c: float = 0.5) -> Tensor:
    r"""Return 1/S + x, where the direction :math:`g_0 + J^\top x` solves CAGrad's problem.

    The shortest way from the mean :math:`g_0` to where every task gains s is
    :math:`x(s) = \arg\min_{x \ge 0} \tfrac12 x^\top G x - (s 1 - J g_0)^\top x`. Its length is
    convex in s, of slope :math:`1^\top x / \|J^\top x\|`, and Newton's method from above finds the
    s at which it is :math:`c \|g_0\|`; duality with the min-norm point gives the start. Where all
    tasks cannot gain more (a Pareto stationary point), the way may be shorter than that.

    Args:
        gramian: G, inner products ``[S, S]``, diagonal positive.
        c: Radius of the ball, relative to :math:`\|g_0\|`; nonnegative.
    """
    size = len(gramian)
    gramian = gramian / gramian.diagonal().mean()
    norms = gramian.diagonal().sqrt()
    mean = torch.full((size,), 1 / size, dtype=torch.float64)
    gains = gramian @ mean
    if c == 0 or float(gains.mean()) <= BALANCED:
        return mean
    radius = c * math.sqrt(float(gains.mean()))
    cosines = gramian / norms[:, None] / norms
    shortest = min_norm_weights(gramian)
    reach = math.sqrt(max(float(shortest @ gramian @ shortest), 0.0))
    gain = 0.0
    if reach > STATIONARY * float(norms.min()):
        gain = float(gains @ shortest) + radius * reach
    lowest = float(gains.min())
    for _ in range(STEPS):
        x = nonnegative_qp(cosines, ((gain - gains) / norms)[None], exact=EXACT)[0]
        length = math.sqrt(max(float(x @ cosines @ x), 0.0))
        if length <= radius * (1 + TIGHT):
            break
        newton = gain - length * (length - radius) / float((x / norms).sum())
        gain = newton if newton > lowest else (lowest + gain) / 2
    x = x * min(1.0, radius / length) if length > 0 else x
    return mean + x / norms


@dataclass(frozen=True, kw_only=True)
class CAGrad(GramianMethod):
    r"""Helps the worst-off task as much as possible within a ball around the mean gradient.

    Liu et al., "Conflict-Averse Gradient Descent for Multi-task Learning", NeurIPS 2021, arXiv
    2110.14048, eq. 3:

    .. math:: d = \arg\max_{d : \|d - g_0\| \le c \|g_0\|} \min_i g_i \cdot d,
              \qquad g_0 = \tfrac{1}{S} \sum_i g_i .

    c = 0 is the mean, whose minima it keeps for c < 1; for c >= 1 it only goes to Pareto stationary
    points. The worst-off task never gains less than from the mean, but for small c it may still
    lose. ``c`` 0.5 is the default of the authors' code, whose scripts have 0.4 to 0.9.

    Differs from the authors' code, which takes 20 steps of SGD with momentum (SciPy's SLSQP for few
    tasks) in the dual: the same problem, solved exactly for any number of tasks. At a Pareto
    stationary point, where the dual's gradient is not defined, the way to gains of 0 is taken.

    Cost: 5 to 10 O(S^3) factorisations.
    """

    kind: ClassVar[str] = "cagrad"
    promises: ClassVar[frozenset[Promise]] = frozenset({"permutation", "scaling", "nonnegative"})

    c: float = 0.5
    """Radius of the ball around the mean gradient, relative to its length; 0 is the mean."""

    rescale: Literal[0, 1, 2] = 0
    """The direction divided by 1 (0), by 1 + c^2 (1, as the authors train) or by 1 + c (2); felt
    with norm native only."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.c) and self.c >= 0):
            raise UsageError(f"`c` should be a number from 0. Found {self.c}.")
        if self.rescale not in (0, 1, 2):
            raise UsageError(f"`rescale` should be 0, 1 or 2. Found {self.rescale!r}.")

    def solve(self, gramian: Tensor, **_: object) -> Tensor:
        """Return the weights ``[S]``; see :func:`cagrad_weights`."""
        return cagrad_weights(gramian, self.c) / (1.0, 1 + self.c**2, 1 + self.c)[self.rescale]
