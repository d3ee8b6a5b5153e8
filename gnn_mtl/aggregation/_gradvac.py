"""GradVac: gradients are turned towards the cosines that their tasks have had on average."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numba
import torch
from torch import Tensor

from gnn_mtl._core.errors import UsageError
from gnn_mtl.aggregation._base import Promise, Weighting
from gnn_mtl.aggregation._gramian_method import GradientOptions
from gnn_mtl.aggregation._pcgrad import random_orders

LARGEST_TARGET = 1 - 1e-6
"""No turn asks for a cosine above this; at 1 it would have to be infinite."""

VANISHED = 1e-16
"""Squared share of its first length below which a turned gradient has no direction left."""

CANCELLED = 1e-2
"""Squared lengths that fall below this share are computed afresh."""

PROMISES: frozenset[Promise] = frozenset({"scaling", "nonnegative"})


@dataclass(frozen=True, kw_only=True)
class GradVac(GradientOptions):
    r"""Turn every gradient towards the others until their cosines are the usual ones, and sum.

    Wang et al., "Gradient Vaccine: Investigating and Improving Multi-task Optimization in Massively
    Multilingual Models", ICLR 2021, arXiv 2010.05874, algorithm 1: :math:`g_i' = g_i`, then for
    every other j in an order of i's own, with :math:`\phi = \cos(g_i', g_j)` below the target
    :math:`\hat\phi_{ij}`,

    .. math:: g_i' \leftarrow g_i' + \frac{\lVert g_i' \rVert \bigl(\hat\phi_{ij} \sqrt{1 - \phi^2}
        - \phi \sqrt{1 - \hat\phi_{ij}^2}\bigr)}{\lVert g_j \rVert \sqrt{1 - \hat\phi_{ij}^2}}\, g_j
        , \qquad d = \sum_i g_i' ,

    after which the cosine is :math:`\hat\phi_{ij}`; and in either case :math:`\hat\phi_{ij}
    \leftarrow (1 - \beta) \hat\phi_{ij} + \beta \phi`. The targets start at 0, so that the first
    step is PCGrad's.

    Differs from the paper: two tasks have one target for all shared parameters, where the paper
    also has one for each layer; it is kept by task id and moves only when both are active; it
    counts as at most 1 - 1e-6.

    Guarantees: the weights are nonnegative.

    Cost: O(T^3) for T tasks at worst, 0.1 s at T = 500; memory O(T^2).
    """

    kind: ClassVar[str] = "gradvac"
    promises: ClassVar[frozenset[Promise]] = PROMISES

    beta: float = 0.5
    """How fast the targets follow the cosines: 0 keeps them at 0 (PCGrad), 1 takes the last cosine.
    The default is that of LibMTL and TorchJD; the authors have no public code."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.beta <= 1:
            raise UsageError(f"`beta` should be from 0 to 1. Found {self.beta}.")

    def build(self, num_tasks: int, seed: int = 0) -> GradVacWeighting:
        """Build the aggregator."""
        return GradVacWeighting(self, num_tasks, seed=seed)


class GradVacWeighting(Weighting):
    """GradVac with the targets of every two tasks; see :class:`GradVac`.

    Args:
        config: The options.
        num_tasks: Number of tasks T.
        seed: Seed of the orders.
    """

    kind: ClassVar[str] = "gradvac"
    promises = PROMISES

    def __init__(self, config: GradVac, num_tasks: int, *, seed: int = 0) -> None:
        super().__init__(num_tasks, norm=config.norm, seed=seed)
        self.beta = config.beta
        self.state["targets"] = torch.zeros(num_tasks, num_tasks, dtype=torch.float64)

    def _weights(self, tasks: Tensor, losses: Tensor, gramian: Tensor | None) -> Tensor:  # noqa: ARG002
        assert gramian is not None  # noqa: S101
        orders = random_orders(len(gramian), self._draw())
        targets = self.state["targets"][tasks[:, None], tasks]
        found, targets = gradvac_weights(gramian, targets, orders, beta=self.beta)
        self.state["targets"] = self.state["targets"].index_put((tasks[:, None], tasks), targets)
        return found


def gradvac_weights(
    gramian: Tensor, targets: Tensor, orders: Tensor, *, beta: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Return the weights and the targets of the next step.

    Args:
        gramian: Inner products, float64 ``[S, S]``, with a positive diagonal.
        targets: Cosine wanted of the turned gradient i (row) with gradient j, ``[S, S]``.
        orders: Row i lists the tasks that i is compared with, first to last, each at most once,
            int64 ``[S, M]``; i itself is skipped.
        beta: Speed of the targets.

    Returns:
        Weights ``[S]``, at least 1 each, and targets ``[S, S]``; a gradient that a turn made vanish
        is left alone from then on, and so are its targets.
    """
    norms = gramian.diagonal().sqrt()
    coefficients, targets = turned(gramian / norms[:, None] / norms, targets, orders, beta)
    return (norms @ coefficients) / norms, targets


def turned(cosines: Tensor, targets: Tensor, orders: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Coefficients of the turned unit gradients ``[S, S]`` and new targets."""
    coefficients, targets = torch.eye(len(cosines), dtype=torch.float64), targets.clone()
    _turn(cosines.numpy(), targets.numpy(), orders.numpy(), beta, coefficients.numpy())
    return coefficients, targets


@numba.njit(cache=True, nogil=True)
def _turn(cosines, targets, orders, beta, coefficients):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Turn one gradient after the other; fill targets and coefficients."""
    for i in range(len(cosines)):
        row = coefficients[i]
        products = cosines[i].copy()  # of the turned gradient with every original one
        square = 1.0
        for j in orders[i]:
            if j == i or square <= VANISHED:
                continue
            length = math.sqrt(square)
            cosine = min(max(products[j] / length, -1.0), 1.0)
            target = min(targets[i, j], LARGEST_TARGET)
            targets[i, j] = (1 - beta) * targets[i, j] + beta * cosine
            if cosine >= target:
                continue
            slope = target / math.sqrt(1 - target * target)
            step = length * (slope * math.sqrt(1 - cosine * cosine) - cosine)
            after = square + step * (2 * products[j] + step)
            row[j] += step
            for k in range(len(products)):
                products[k] += step * cosines[j, k]
            if after < CANCELLED * max(square, 1.0):
                after = 0.0
                for k in range(len(products)):
                    after += products[k] * row[k]
            square = after
