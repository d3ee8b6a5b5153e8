"""FairGrad: alpha-fair gains for the tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from gnn_mtl._core.errors import UsageError
from gnn_mtl.aggregation._base import Promise
from gnn_mtl.aggregation._fair_newton import fair_weights
from gnn_mtl.aggregation._gramian_method import PreferenceMethod

ALPHAS = (0.1, 10.0)


def fairgrad_weights(gramian: Tensor, alpha: float, preference: Tensor | None = None) -> Tensor:
    r"""Return the positive w with :math:`(G w)_i = (w_i / p_i)^{-1/\alpha}`; :class:`FairGrad`."""
    return fair_weights(gramian, alpha, preference)


@dataclass(frozen=True, kw_only=True)
class FairGrad(PreferenceMethod):
    r"""Divides the first-order gains of the tasks fairly: from the sum to the worst-off task.

    Ban and Ji, "Fair Resource Allocation in Multi-Task Learning", ICML 2024, arXiv 2402.15638: the
    direction maximises :math:`\sum_i p_i (g_i^\top d)^{1-\alpha} / (1 - \alpha)` in a ball, and is
    :math:`J^\top w` with (eq. 4, there with p = 1)

    .. math:: (G w)_i = (w_i / p_i)^{-1/\alpha} , \qquad w > 0 .

    Every task gains. alpha towards 0 is the sum of the losses, 1 is Nash-MTL, large alpha looks
    after the task that gains least. Where gradients cancel, weights are stopped at
    :math:`10^{10 \alpha / (1 + \alpha)}` times what the task alone would get.

    The authors' code finds the root by bounded least squares, multiplies by the number of tasks and
    cuts the length at 1; here it is Newton's method on the strictly convex function behind it
    (:func:`~gnn_mtl.aggregation._fair_newton.fair_weights`), about 15 times faster: 0.1 s at 500
    tasks. Native weights are those of the equation. The default is that of the authors' scripts.
    """

    kind: ClassVar[str] = "fairgrad"
    promises: ClassVar[frozenset[Promise]] = frozenset(
        {"permutation", "scaling", "nonnegative", "non_conflicting", "balanced"}
    )

    alpha: float = 2.0
    """Fairness, from 0.1 (nearly the sum) to 10 (nearly the worst-off task alone)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not ALPHAS[0] <= self.alpha <= ALPHAS[1]:
            raise UsageError(
                f"`alpha` should be between {ALPHAS[0]} and {ALPHAS[1]:g}. Found {self.alpha}. "
                "Near 0 use `sum`."
            )

    def solve(self, gramian: Tensor, *, preference: Tensor, **_: object) -> Tensor:
        """Return the weights ``[S]``."""
        return fairgrad_weights(gramian, self.alpha, preference)
