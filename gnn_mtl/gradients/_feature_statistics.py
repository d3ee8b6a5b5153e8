r"""What subset fits need of the features, summed per task: no pair is ever stored.

With :math:`f` the base logits and :math:`\sigma` the logistic function, the loss of task t at
:math:`\theta^* + P u` is to second order :math:`L_t + b_t \cdot u + u^\top H_t u / 2`. The sums of
a split take T * (d^2 + d) numbers whatever the number of nodes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.gradients._output_features import OutputFeatures, output_features
from gnn_mtl.graph import MiniBatch
from gnn_mtl.nn import LabelModel

PIECE_BYTES = 64 << 20


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    r"""Sums over the observed cells of some nodes, one split at a time; blocks are added in place.

    Attributes:
        gradient: :math:`b_t = \sum w (\sigma(f) - y) \phi`, ``[T, d]``.
        hessian: :math:`H_t = \sum w \sigma'(f) \phi \phi^\top`, ``[T, d, d]``.
        loss: :math:`L_t = \sum w\, \mathrm{BCE}(f, y)` in nats, float64 ``[T]``.
        weight: :math:`n_t = \sum w`, the number of cells where nothing is weighted, float64
            ``[T]``. Means are sums over it.
    """

    gradient: Tensor
    hessian: Tensor
    loss: Tensor
    weight: Tensor

    @classmethod
    def zeros(
        cls,
        num_tasks: int,
        dim: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> FeatureStatistics:
        """Return the sums over no node."""
        return cls(
            torch.zeros(num_tasks, dim, dtype=dtype, device=device),
            torch.zeros(num_tasks, dim, dim, dtype=dtype, device=device),
            torch.zeros(num_tasks, dtype=torch.float64, device=device),
            torch.zeros(num_tasks, dtype=torch.float64, device=device),
        )

    @property
    def num_tasks(self) -> int:
        """Number of tasks T."""
        return self.gradient.shape[0]

    @property
    def dim(self) -> int:
        """Number of directions d."""
        return self.gradient.shape[1]

    def add(
        self, features: OutputFeatures, y: Tensor, observed: Tensor, weights: Tensor | None = None
    ) -> None:
        """Add the cells of a block of nodes.

        Args:
            features: Features of the block.
            y: Targets in {0, 1} ``[B, T]``; not read where not observed.
            observed: Which cells count, bool ``[B, T]``.
            weights: What each counts ``[B, T]``; default 1.

        Raises:
            ShapeError: If the shapes do not fit.

        Cost: 2 * B * T * d^2 operations as products batched over tasks, one scaled copy of the
        features of some tasks at a time.
        """
        cells = features.logits.shape
        if (
            cells[1:] != (self.num_tasks,)
            or features.phi.shape != (*cells, self.dim)
            or any(a is not None and a.shape != cells for a in (y, observed, weights))
        ):
            raise ShapeError(
                f"Features should be [B, T = {self.num_tasks}, d = {self.dim}], targets, mask and "
                f"weights [B, T]. Found {tuple(features.phi.shape)}, {tuple(y.shape)} and "
                f"{tuple(observed.shape)}."
            )
        kept = self.gradient.dtype
        logits = features.logits.to(kept)
        target = torch.where(observed, y, 0.0).to(kept)
        weight = observed.to(kept)
        if weights is not None:
            weight = torch.where(observed, weights, 0.0).to(kept)
        share = torch.sigmoid(logits)
        bce = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        self.loss.add_((weight * bce).sum(dim=0, dtype=torch.float64))
        self.weight.add_(weight.sum(dim=0, dtype=torch.float64))
        residual = weight * (share - target)
        root = (weight * share * (1 - share)).sqrt()
        size = features.phi.element_size() * cells[0] * self.dim
        for tasks in torch.arange(self.num_tasks).split(max(1, PIECE_BYTES // max(1, size))):
            part = slice(int(tasks[0]), int(tasks[-1]) + 1)
            phi = features.phi[:, part].to(kept).transpose(0, 1)  # [c, B, d]
            self.gradient[part] += torch.bmm(residual.T[part, None], phi)[:, 0]
            scaled = phi * root.T[part, :, None]
            self.hessian[part].baddbmm_(scaled.transpose(1, 2), scaled)

    def merge(self, other: FeatureStatistics) -> None:
        """Add the sums over other nodes, with the same directions and weights of the model.

        Raises:
            ShapeError: If the numbers of tasks or directions differ.
        """
        for mine, theirs in zip(self._sums(), other._sums(), strict=True):
            if mine.shape != theirs.shape:
                raise ShapeError(
                    f"Statistics should have T = {self.num_tasks} and d = {self.dim}. Found "
                    f"{other.num_tasks} and {other.dim}."
                )
            mine.add_(theirs)

    def _sums(self) -> tuple[Tensor, ...]:
        return self.gradient, self.hessian, self.loss, self.weight


def feature_statistics(
    model: LabelModel,
    batches: Iterable[MiniBatch],
    dim: int = 200,
    **options: Any,  # noqa: ANN401
) -> FeatureStatistics:
    """Return the sums over all observed cells of the batches; one block in memory at a time.

    Args:
        model: The model at the weights to expand around.
        batches: Batches of one split, each node once.
        dim: Number of directions d.
        **options: Of :func:`output_features`.

    Raises:
        UsageError: If there is no batch.
    """
    total: FeatureStatistics | None = None
    for batch in batches:
        found = output_features(model, batch, dim, **options)
        if total is None:
            total = FeatureStatistics.zeros(
                model.num_tasks, dim, dtype=found.phi.dtype, device=found.phi.device
            )
        total.add(found, batch.y, batch.observed)
    if total is None:
        raise UsageError("`batches` should hold at least one batch. Found none.")
    return total
