"""DualProj: the mean gradient, moved as little as possible to harm no task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gnn_mtl.aggregation._base import Promise
from gnn_mtl.aggregation._gramian_method import PreferenceMethod
from gnn_mtl.linalg import project_on_dual_cone


def dualproj_weights(gramian: Tensor, preference: Tensor | None = None) -> Tensor:
    r"""Return :math:`\arg\min_{w \ge u} w^\top G w` with :math:`u_i = p_i / S`.

    Args:
        gramian: G, inner products ``[S, S]``.
        preference: p ``[S]``, nonnegative; default 1.
    """
    size = len(gramian)
    shares = torch.ones(size, dtype=torch.float64) if preference is None else preference.double()
    return project_on_dual_cone(gramian, shares[None] / size)[0]


@dataclass(frozen=True, kw_only=True)
class DualProj(PreferenceMethod):
    r"""Projects the mean gradient to where it harms no task.

    Gradient episodic memory (Lopez-Paz and Ranzato, NeurIPS 2017, arXiv 1706.08840, eq. 8), named
    so by Quinton and Rey (arXiv 2406.16232):

    .. math:: d = \arg\min_{d : J d \ge 0} \Bigl\| d - \tfrac{1}{S} \sum_i p_i g_i \Bigr\| .

    - :math:`g_i \cdot d \ge 0` for every task, up to 1e-10 of the longest gradient;
    - the (weighted) mean where the mean harms no task, and all directions as short as it at most;
    - unlike :class:`UPGrad`, tasks with long gradients can drown the others: not linear under
      scaling of single tasks.

    Differs from TorchJD as :class:`UPGrad` does: no ridge relative to the mean, which with norms a
    factor of 20 apart leaves conflicts in most problems.

    Cost: one projection, O(S^3).
    """

    kind: ClassVar[str] = "dualproj"
    promises: ClassVar[frozenset[Promise]] = frozenset(
        {
            "permutation",
            "scaling",
            "nonnegative",
            "non_conflicting",
            "balanced",
            "sum_without_conflict",
        }
    )

    def solve(self, gramian: Tensor, *, preference: Tensor, **_: object) -> Tensor:
        """Return the weights ``[S]``; see :func:`dualproj_weights`."""
        return dualproj_weights(gramian, preference)
