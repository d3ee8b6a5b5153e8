"""Features of (node, task) pairs kept in memory: all positives, and some negatives that count more.

Labels are rare, so nearly all pairs are negatives that look alike. Of each task's negatives a few
per positive are kept, each counting as many as it stands for; sums over the kept pairs then have
the sums over all pairs as their expectation (Horvitz & Thompson, 1952).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl._core.seeding import generator
from gnn_mtl.gradients._feature_statistics import FeatureStatistics
from gnn_mtl.gradients._output_features import output_features
from gnn_mtl.graph import MiniBatch
from gnn_mtl.nn import LabelModel

LEAST_NEGATIVES = 64


@dataclass(frozen=True, eq=False)
class FeatureStore:
    """Stored pairs of one split, ordered by task, then node.

    Attributes:
        phi: Features ``[n, d]``, in the dtype they are kept in.
        logits: Base logits, float ``[n]``.
        y: Targets, float ``[n]``.
        weight: How many pairs each stands for, float ``[n]``; 1 for positives.
        node: Node ids, int64 ``[n]``.
        offsets: The pairs of task t are those from ``offsets[t]`` to ``offsets[t + 1]``, int64
            ``[T + 1]``.
    """

    phi: Tensor
    logits: Tensor
    y: Tensor
    weight: Tensor
    node: Tensor
    offsets: Tensor

    @property
    def num_tasks(self) -> int:
        """Number of tasks T."""
        return len(self.offsets) - 1

    @property
    def dim(self) -> int:
        """Number of directions d."""
        return self.phi.shape[1]

    @property
    def task(self) -> Tensor:
        """Task of every pair, int64 ``[n]``."""
        return torch.repeat_interleave(
            torch.arange(self.num_tasks, device=self.offsets.device), self.offsets.diff()
        )

    def of(self, task: int) -> slice:
        """Return where the pairs of a task are."""
        return slice(int(self.offsets[task]), int(self.offsets[task + 1]))

    def statistics(self) -> FeatureStatistics:
        """Return the weighted sums over the pairs: unbiased for the sums over the whole split."""
        used = torch.promote_types(self.logits.dtype, torch.float32)
        logits, y, weight = (column.to(used) for column in (self.logits, self.y, self.weight))
        total = FeatureStatistics.zeros(
            self.num_tasks, self.dim, dtype=used, device=self.phi.device
        )
        share = torch.sigmoid(logits)
        bce = functional.binary_cross_entropy_with_logits(logits, y, reduction="none")
        residual, root = weight * (share - y), (weight * share * (1 - share)).sqrt()
        for task in range(self.num_tasks):
            part = self.of(task)
            phi = self.phi[part].to(used)
            total.gradient[task] = residual[part] @ phi
            scaled = phi * root[part, None]
            total.hessian[task] = scaled.T @ scaled
            total.loss[task] = (weight[part] * bce[part]).sum(dtype=torch.float64)
            total.weight[task] = weight[part].sum(dtype=torch.float64)
        return total


def store_features(
    model: LabelModel,
    batches: Iterable[MiniBatch],
    dim: int = 200,
    *,
    keep: NDArray[np.floating] | None = None,
    dtype: torch.dtype | None = None,
    sample_seed: int = 0,
    **options: Any,  # noqa: ANN401
) -> FeatureStore:
    """Return the features of all positives and of a sample of the negatives of some batches.

    Which negatives are kept is a pure function of (``sample_seed``, node): the batches' size and
    order do not matter.

    Args:
        model: The model.
        batches: Batches of one split, each node once.
        dim: Number of directions d.
        keep: Probability with which a negative of each task is kept ``[T]``
            (:func:`negative_shares`); default all.
        dtype: What features are kept in, default as computed; ``torch.float16`` halves the memory
            and rounds each entry by at most .05 %.
        sample_seed: Seed of the sample.
        **options: Of :func:`output_features`; its ``dtype`` as ``compute_dtype``.

    Returns:
        The pairs; n * d entries of ``dtype`` (twice that while they are put in order).

    Raises:
        ShapeError: If ``keep`` is not ``[T]``.
        UsageError: If a probability is not in (0, 1], no pair is observed, or a feature is too
            large for ``dtype``.
    """
    chances = _checked(keep, model.num_tasks)
    options["dtype"] = options.pop("compute_dtype", None)
    parts: list[tuple[Tensor, ...]] = []
    for batch in batches:
        kept = _kept(batch, chances, sample_seed)
        row, task = kept.nonzero(as_tuple=True)
        found = output_features(model, batch, dim, **options)
        positive = batch.y[row, task] > 0
        inverse = torch.from_numpy(1.0 / chances).to(found.logits)[task]
        parts.append(
            (
                found.phi[row, task].to(dtype or found.phi.dtype), found.logits[row, task],
                positive.to(found.logits.dtype), torch.where(positive, 1.0, inverse),
                batch.seeds[row], task,
            )
        )  # fmt: skip
    if not sum(len(part[0]) for part in parts):
        raise UsageError("`batches` should hold at least one observed cell. Found none.")
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    del parts
    node, task = columns[4], columns[5]
    order = torch.argsort(task * (int(node.max()) + 1) + node, stable=True)
    phi, logits, y, weight, node = (column[order] for column in columns[:5])
    if not bool(phi.isfinite().all()):
        raise UsageError(
            f"Features should be finite numbers of {phi.dtype}. Found others; keep them in float32 "
            "or look for non-finite weights."
        )
    counts = torch.bincount(task, minlength=model.num_tasks)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return FeatureStore(phi, logits, y, weight, node, offsets)


def negative_shares(
    positives: NDArray[np.integer],
    observed: NDArray[np.integer],
    per_positive: float = 5.0,
    *,
    least: int = LEAST_NEGATIVES,
) -> NDArray[np.float64]:
    """Return the share of each task's negatives to keep, ``[T]``.

    Args:
        positives: Positives of each task in the split ``[T]``.
        observed: Its observed nodes ``[T]``.
        per_positive: Negatives to keep for every positive, on average.
        least: But at least so many of a task.

    Raises:
        UsageError: If ``per_positive`` or ``least`` is not positive.
    """
    if per_positive <= 0 or least < 1:
        raise UsageError(
            "`per_positive` should be positive and `least` at least 1. "
            f"Found {per_positive} and {least}."
        )
    negatives = np.maximum(np.asarray(observed) - np.asarray(positives), 1)
    wanted = np.maximum(per_positive * np.asarray(positives), least)
    return np.minimum(wanted / negatives, 1.0)


def _checked(keep: NDArray[np.floating] | None, num_tasks: int) -> NDArray[np.float64]:
    if keep is None:
        return np.ones(num_tasks)
    chances = np.asarray(keep, dtype=np.float64)
    if chances.shape != (num_tasks,):
        raise ShapeError(f"`keep` should be [T = {num_tasks}]. Found {chances.shape}.")
    if not ((chances > 0) & (chances <= 1)).all():
        raise UsageError(
            "`keep` should hold probabilities in (0, 1]. Found values from "
            f"{chances.min()} to {chances.max()}."
        )
    return chances


def _kept(batch: MiniBatch, chances: NDArray[np.float64], seed: int) -> Tensor:
    """Which cells are stored, bool ``[B, T]``."""
    if (chances == 1.0).all():
        return batch.observed
    drawn = np.stack(
        [generator(seed, "kept", node).random(len(chances)) for node in batch.seeds.tolist()]
    )
    chosen = torch.from_numpy(drawn < chances).to(batch.observed.device)
    return batch.observed & (chosen | (torch.where(batch.observed, batch.y, 0.0) > 0))
