"""Scores of a split: exact inference, then every metric."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from gnn_mtl._core.errors import TrainingStoppedError
from gnn_mtl.datasets import TaskGraph
from gnn_mtl.metrics import Scores, evaluate
from gnn_mtl.nn import LabelModel, exact_logits
from gnn_mtl.training._skipped import Skipped


def evaluate_split(
    model: LabelModel,
    graph: TaskGraph,
    split: str,
    *,
    device: torch.device | str = "cpu",
    top_k: int | None = None,
    skipped: Skipped | None = None,
) -> Scores:
    """Score the model on a split with exact, unsampled inference.

    A label whose logits are not finite has no score (NaN) and is in no mean; the others have theirs
    as if it did not exist.

    Args:
        model: The model.
        graph: The dataset; must not be sealed if ``split`` is ``"test"``.
        split: ``"train"``, ``"valid"`` or ``"test"``.
        device: Where to compute.
        top_k: Labels per node for ``f1_top_k``; see :func:`gnn_mtl.metrics.evaluate`.
        skipped: Counts the labels left out, and warns of each once.

    Raises:
        TrainingStoppedError: If no label that could be scored has finite logits.

    Warns:
        NonFiniteWarning: If a label's logits are not finite.
    """
    logits = exact_logits(model, graph, graph.split_idx[split], device=device)
    return scores_of(logits, graph, split, top_k=top_k, skipped=skipped)


def scores_of(
    logits: NDArray[np.float32],
    graph: TaskGraph,
    split: str,
    *,
    top_k: int | None = None,
    skipped: Skipped | None = None,
) -> Scores:
    """Return the scores of the logits of a split's nodes ``[B, T]``; see :func:`evaluate_split`.

    Raises:
        TrainingStoppedError: If no label that could be scored has finite logits.

    Warns:
        NonFiniteWarning: If a label's logits are not finite.
    """
    y, observed = graph.targets(graph.split_idx[split], split)
    broken: NDArray[np.bool_] = np.any(~np.isfinite(logits) & observed, axis=0)
    if not broken.any():
        return evaluate(logits, y, observed, top_k=top_k)
    positives, cells = ((y == 1) & observed).sum(axis=0), observed.sum(axis=0)
    scorable: NDArray[np.bool_] = (positives > 0) & (positives < cells)
    if broken.all() or broken[scorable].all():
        raise TrainingStoppedError(
            f"Expected finite scores on the {split} split. Found NaN or infinity: training "
            "diverged. Lower --lr, or set --train.grad-clip 1."
        )
    skipped = Skipped() if skipped is None else skipped
    skipped.count(np.flatnonzero(broken).tolist(), graph.label_names, "score")
    scores = evaluate(logits, y, observed & ~broken, top_k=top_k)
    return replace(scores, positives=positives, observed=cells)


def labels_per_node(graph: TaskGraph) -> int:
    """Return the rounded mean number of training labels of a training node, at least 1."""
    nodes = graph.split_idx["train"]
    return max(1, int(np.rint(graph.positives("train").sum() / max(1, len(nodes)))))
