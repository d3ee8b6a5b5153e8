"""One base model, linearised: what Grad-TAG fits subsets to and scores them by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gnn_mtl._core.errors import UsageError
from gnn_mtl._core.progress import Progress
from gnn_mtl.affinity._gradtag_audit import LinearisationAudit, audit_linearisation
from gnn_mtl.affinity._newton_step import Weighting, newton_step, quadratic_losses
from gnn_mtl.affinity._offset_regression import fit_subsets, linearised_losses
from gnn_mtl.gradients import (
    FeatureStatistics,
    FeatureStore,
    OutputFeatures,
    ParameterFilter,
    negative_shares,
    output_features,
    store_features,
)
from gnn_mtl.graph import MiniBatch
from gnn_mtl.nn import LabelModel

Mode = Literal["statistics", "pairs"]
AUDIT_BYTES = 256 << 20


@dataclass(frozen=True, eq=False)
class GradTagBase:
    """A base model with the features of its training and validation cells, summed or stored.

    Attributes:
        model: The model.
        train: Features to fit to.
        valid: Features to score by; never weighted.
        batch: Validation nodes for audits.
        features: Features of the first of them.
        seed: Seed of the directions.
        parameters: What moves.
        weighting: What a subset's training loss is the mean of.
    """

    model: LabelModel
    train: FeatureStatistics | FeatureStore
    valid: FeatureStatistics | FeatureStore
    batch: MiniBatch
    features: OutputFeatures
    seed: int
    parameters: ParameterFilter
    weighting: Weighting

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """Which tasks have a training cell, bool ``[T]``."""
        if isinstance(self.train, FeatureStatistics):
            return (self.train.weight > 0).cpu().numpy()
        return (self.train.offsets.diff() > 0).cpu().numpy()

    def fit(self, masks: NDArray[np.bool_], lam: float) -> Tensor:
        """Return where training on each subset takes the model, ``[d, m]``."""
        if isinstance(self.train, FeatureStatistics):
            return newton_step(self.train, masks, lam, weighting=self.weighting)
        return fit_subsets(self.train, masks, lam, weighting=self.weighting)

    def losses(self, u: Tensor, masks: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return the members' mean validation losses there, ``[m, T]``."""
        if isinstance(self.valid, FeatureStatistics):
            return quadratic_losses(self.valid, u, masks).cpu().numpy()
        return linearised_losses(self.valid, u, masks).cpu().numpy()

    def audit(self, u: Tensor) -> LinearisationAudit:
        """Compare linearised and real logits at some ``u`` ``[d, k]``."""
        return audit_linearisation(
            self.model, self.batch, self.features, u, seed=self.seed, parameters=self.parameters
        )


def collect_base(
    model: LabelModel,
    train: Callable[[], Iterable[MiniBatch]],
    valid: Callable[[], Iterable[MiniBatch]],
    dim: int,
    *,
    mode: Mode,
    weighting: Weighting,
    parameters: ParameterFilter,
    negatives: float | None,
    pos_weight: Tensor | None,
    seed: int,
    **options: Any,  # noqa: ANN401
) -> GradTagBase:
    """Take the features of all batches, one block of nodes in memory at a time.

    Args:
        model: The base model.
        train: Gives the training batches.
        valid: Gives the validation batches.
        dim: Random directions d.
        mode: Sums or stored pairs.
        weighting: Kept for the fits.
        parameters: What moves.
        negatives: Stored negatives per positive; None for all.
        pos_weight: Weights ``[T]`` of the training positives.
        seed: Seed of the directions.
        **options: Of ``output_features``.

    Raises:
        UsageError: If there is no batch, or the mode is unknown.
    """
    if mode not in get_args(Mode):
        raise UsageError(f"`mode` should be one of {get_args(Mode)}. Found {mode!r}.")
    options |= {"seed": seed, "parameters": parameters}
    first, batches = _peeked(valid())
    features: OutputFeatures | None = None
    sums: list[FeatureStatistics | FeatureStore] = []
    for split, blocks, weights in (("train", train(), pos_weight), ("valid", batches, None)):
        if mode == "pairs":
            sums.append(_stored(model, blocks, dim, negatives, weights, options))
            continue
        total: FeatureStatistics | None = None
        with Progress(f"features of {split} nodes") as progress:
            for batch in blocks:
                found = output_features(model, batch, dim, **options)
                if total is None:
                    total = FeatureStatistics.zeros(
                        model.num_tasks, dim, dtype=found.phi.dtype, device=found.phi.device
                    )
                total.add(found, batch.y, batch.observed, _weights(batch.y, weights))
                progress.advance(batch.batch_size)
                if batch is first:
                    features = _head(found)
        if total is None:
            raise UsageError(f"The batches of {split} nodes should hold one at least. Found none.")
        sums.append(total)
    if features is None:
        features = _head(output_features(model, first, dim, **options))
    return GradTagBase(model, sums[0], sums[1], first, features, seed, parameters, weighting)


def _peeked(batches: Iterable[MiniBatch]) -> tuple[MiniBatch, Iterator[MiniBatch]]:
    """The first batch, and all of them."""
    rest = iter(batches)
    for first in rest:
        return first, chain([first], rest)
    raise UsageError("The batches of valid nodes should hold one at least. Found none.")


def _stored(
    model: LabelModel,
    batches: Iterable[MiniBatch],
    dim: int,
    negatives: float | None,
    pos_weight: Tensor | None,
    options: dict[str, Any],
) -> FeatureStore:
    """Stored pairs; with a sample of the negatives the batches are read twice."""
    options = {**options, "compute_dtype": options.get("dtype")}
    options.pop("dtype")
    keep = None
    if negatives is not None:
        if not isinstance(batches, Sequence):
            batches = list(batches)
        observed = sum(batch.observed.sum(dim=0) for batch in batches)
        positives = sum((batch.observed & (batch.y > 0)).sum(dim=0) for batch in batches)
        keep = negative_shares(
            torch.as_tensor(positives).cpu().numpy(), torch.as_tensor(observed).cpu().numpy(),
            negatives,
        )  # fmt: skip
    store = store_features(model, batches, dim, keep=keep, **options)
    if pos_weight is None:
        return store
    heavier = store.weight * pos_weight.to(store.weight)[store.task]
    return replace(store, weight=torch.where(store.y > 0, heavier, store.weight))


def _weights(y: Tensor, pos_weight: Tensor | None) -> Tensor | None:
    return None if pos_weight is None else torch.where(y > 0, pos_weight.to(y), 1.0)


def _head(features: OutputFeatures) -> OutputFeatures:
    """The first rows, as many as an audit should hold in memory."""
    phi = features.phi
    rows = max(1, AUDIT_BYTES // (phi[0].numel() * phi.element_size()))
    if rows >= len(phi):
        return features
    return OutputFeatures(phi[:rows].clone(), features.logits[:rows])
