"""Where in the network tasks conflict: Recon's score of every layer (Shi et al., ICLR 2023)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.gradients import probe
from gnn_mtl.graph import MiniBatch
from gnn_mtl.linalg import cosine_of_rows
from gnn_mtl.nn import LabelModel


@dataclass(frozen=True, eq=False)
class LayerConflict:
    """Conflicting pairs of tasks in every layer.

    Attributes:
        layers: Names of the layers, in the order of the parameters.
        sizes: Parameters of each, int64 ``[L]``.
        conflicts: Pairs with a cosine below the threshold, summed over the batches: Recon's score,
            int64 ``[L]``.
        pairs: Pairs with a known cosine, summed over the batches, int64 ``[L]``.
        mean_cosine: Mean of the known cosines ``[L]``.
        threshold: The S of Recon's S-conflict score.
    """

    layers: tuple[str, ...]
    sizes: NDArray[np.int64]
    conflicts: NDArray[np.int64]
    pairs: NDArray[np.int64]
    mean_cosine: NDArray[np.float64]
    threshold: float

    @property
    def share(self) -> NDArray[np.float64]:
        """Share of the known pairs that conflict ``[L]``; NaN where none is known."""
        unknown = np.full(len(self.pairs), np.nan)
        return np.divide(self.conflicts, self.pairs, out=unknown, where=self.pairs > 0)

    def ranked(self) -> list[str]:
        """Return the layers, most conflicting first: the candidates for task-specific copies."""
        order = np.argsort(-np.nan_to_num(self.share, nan=-1.0), kind="stable")
        return [self.layers[layer] for layer in order]


def conflicts_by_layer(
    jacobian: Tensor, widths: Sequence[int], /, *, threshold: float = 0.0
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Count the pairs of tasks whose gradients conflict, block of columns by block.

    Args:
        jacobian: Gradients ``[T, P]``; a row that is zero or not finite in a block has no cosine
            there.
        widths: Columns of each of the L blocks; they sum to P.
        threshold: A pair conflicts where its cosine is below (strictly), in [-1, 1].

    Returns:
        Conflicting pairs, known pairs and the sum of the known cosines, each ``[L]``.

    Raises:
        ShapeError: If the widths do not sum to P.
        UsageError: If the threshold is outside [-1, 1].
    """
    if not -1.0 <= threshold <= 1.0:
        raise UsageError(f"`threshold` should lie in [-1, 1]. Found {threshold}.")
    if jacobian.ndim != 2 or sum(widths) != jacobian.shape[1]:
        raise ShapeError(
            f"`widths` should sum to the columns of [T, P] gradients. Found {sum(widths)} and "
            f"{tuple(jacobian.shape)}."
        )
    upper = np.triu_indices(len(jacobian), 1)
    conflicts, pairs, total = [], [], []
    for block in jacobian.split(list(widths), dim=1):
        cosines = cosine_of_rows(block).cpu().numpy()[upper]
        cosines = cosines[~np.isnan(cosines)]
        conflicts.append(int((cosines < threshold).sum()))
        pairs.append(len(cosines))
        total.append(float(cosines.sum()))
    return np.array(conflicts), np.array(pairs), np.array(total)


def layer_conflict(
    model: LabelModel,
    batches: Iterable[MiniBatch],
    *,
    threshold: float = 0.0,
    depth: int | None = None,
    pos_weight: Tensor | None = None,
) -> LayerConflict:
    """Measure in which layers of the encoder the tasks' gradients conflict.

    Recon makes the layers with the highest score task-specific; with many labels and few layers the
    score is a report: what a grouping, or a conflict measured on one layer only, can see.

    Args:
        model: The model; left bitwise as it is.
        batches: Mini-batches; each is counted by itself, as in the paper.
        threshold: S: conflict is a cosine below it (paper: 0, -.02 or -.1).
        depth: How many parts of a parameter's name make its layer: 2 puts ``convs.0.lin_l.weight``
            and ``convs.0.lin_r.weight`` into ``convs.0``; default the module that owns it.
        pos_weight: Weights of the tasks' positives ``[T]``.

    Returns:
        The counts.

    Raises:
        UsageError: If there is no batch, or an option is out of range.

    Cost: per batch a forward and T backward passes, and O(T^2 P).
    """
    if depth is not None and depth < 1:
        raise UsageError(f"`depth` should be at least 1. Found {depth}.")
    named = [(n, p) for n, p in model.encoder.named_parameters() if p.requires_grad]
    layers, widths = [], []
    for layer, group in groupby(named, key=lambda pair: _layer(pair[0], depth)):
        layers.append(layer)
        widths.append(sum(p.numel() for _, p in group))
    found = []
    for batch in [batches] if isinstance(batches, MiniBatch) else batches:
        gradients = probe(model, batch, mode="full", pos_weight=pos_weight)
        rows = torch.where(gradients.valid[:, None], gradients.jacobian, torch.nan)
        found.append(conflicts_by_layer(rows, widths, threshold=threshold))
    if not found:
        raise UsageError("`batches` should hold at least one batch. Found none.")
    conflicts, pairs, total = (np.sum(each, axis=0) for each in zip(*found, strict=True))
    mean = np.divide(total, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    return LayerConflict(
        tuple(layers), np.array(widths, dtype=np.int64), conflicts, pairs, mean, threshold
    )


def _layer(name: str, depth: int | None) -> str:
    parts = name.split(".")
    return ".".join(parts[:-1] if depth is None else parts[: min(depth, len(parts))]) or name
