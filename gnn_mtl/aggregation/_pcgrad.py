"""PCGrad: every gradient is projected off those it conflicts with, one after another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numba
import numpy as np
import torch
from torch import Tensor

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.aggregation._base import Promise
from gnn_mtl.aggregation._gramian_method import GramianMethod


@dataclass(frozen=True, kw_only=True)
class PCGrad(GramianMethod):
    r"""Project every gradient off the others it conflicts with, in random order, and sum.

    Yu et al., "Gradient Surgery for Multi-Task Learning", NeurIPS 2020, arXiv 2001.06782,
    algorithm 1: :math:`g_i' = g_i`, then for every other j in an order of i's own

    .. math:: g_i' \leftarrow g_i' - \frac{\min(0, g_i' \cdot g_j)}{\lVert g_j \rVert^2}\, g_j,
        \qquad d = \sum_i g_i' .

    Only the original gradients are projected off, and a later projection can undo an earlier one:
    from three tasks on, d may still conflict with some.

    Guarantees: the weights are nonnegative, and all 1 where nothing conflicts.

    Cost: O(T^3) for T tasks at worst, 0.1 s at T = 500.
    """

    kind: ClassVar[str] = "pcgrad"
    promises: ClassVar[frozenset[Promise]] = frozenset(
        {"scaling", "nonnegative", "sum_without_conflict"}
    )

    def solve(self, gramian: Tensor, *, draw: np.random.Generator, **_: object) -> Tensor:
        """Return the weights for an order per task."""
        return pcgrad_weights(gramian, random_orders(len(gramian), draw))


def pcgrad_weights(gramian: Tensor, orders: Tensor) -> Tensor:
    """Return PCGrad's weights for given orders.

    Args:
        gramian: Inner products, float64 ``[S, S]``, with a positive diagonal.
        orders: Row i lists the tasks that i is projected off, first to last, int64 ``[S, M]``; i
            itself is skipped.

    Returns:
        ``[S]``, at least 1 each.

    Raises:
        ShapeError: If ``orders`` has not one row a task.
        UsageError: If it names a task that does not exist.
    """
    if orders.ndim != 2 or len(orders) != len(gramian):
        raise ShapeError(
            f"`orders` should have one row a task, {len(gramian)}. Found {list(orders.shape)}."
        )
    if orders.numel() and not 0 <= int(orders.min()) <= int(orders.max()) < len(gramian):
        raise UsageError(
            f"`orders` should name tasks 0 to {len(gramian) - 1}. "
            f"Found {int(orders.min())} to {int(orders.max())}."
        )
    return projection_coefficients(gramian, orders).sum(dim=0)


def projection_coefficients(
    gramian: Tensor, orders: Tensor, allowed: Tensor | None = None
) -> Tensor:
    """Return C such that ``C J`` are the projected gradients.

    Args:
        gramian: ``[S, S]``.
        orders: ``[S, M]``; see :func:`pcgrad_weights`.
        allowed: Whether task i (row) may be projected off task j, bool ``[S, S]``; default always.

    Returns:
        float64 ``[S, S]``: nonnegative, with diagonal 1.
    """
    free = ~torch.eye(len(gramian), dtype=torch.bool)
    if allowed is not None:
        free &= allowed
    coefficients = torch.eye(len(gramian), dtype=torch.float64)
    _project(gramian.numpy(), orders.numpy(), free.numpy(), coefficients.numpy())
    return coefficients


@numba.njit(cache=True, nogil=True)
def _project(gramian, orders, free, coefficients):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Project one gradient after the other; fill the coefficients."""
    for i in range(len(gramian)):
        products = gramian[i].copy()  # of the projected gradient with every original one
        for j in orders[i]:
            if products[j] < 0 and free[i, j]:
                step = -products[j] / gramian[j, j]
                coefficients[i, j] += step
                for k in range(len(products)):
                    products[k] += step * gramian[j, k]


def random_orders(size: int, draw: np.random.Generator) -> Tensor:
    """Return one permutation of the tasks a row, int64 ``[S, S]``."""
    return torch.from_numpy(draw.permuted(np.tile(np.arange(size), (size, 1)), axis=1))
