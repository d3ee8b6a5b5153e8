"""Scores of a split: exact inference, then every metric."""

from __future__ import annotations

import numpy as np
import torch

from gnn_mtl._core.errors import TrainingStoppedError
from gnn_mtl.datasets import TaskGraph
from gnn_mtl.metrics import Scores, evaluate
from gnn_mtl.nn import LabelModel, exact_logits


def evaluate_split(
    model: LabelModel,
    graph: TaskGraph,
    split: str,
    *,
    device: torch.device | str = "cpu",
    top_k: int | None = None,
) -> Scores:
    """Score the model on a split with exact, unsampled inference.

    Args:
        model: The model.
        graph: The dataset; must not be sealed if ``split`` is ``"test"``.
        split: ``"train"``, ``"valid"`` or ``"test"``.
        device: Where to compute.
        top_k: Labels per node for ``f1_top_k``; see :func:`gnn_mtl.metrics.evaluate`.

    Raises:
        TrainingStoppedError: If the model's scores are not finite.
    """
    nodes = graph.split_idx[split]
    y, observed = graph.targets(nodes, split)
    logits = exact_logits(model, graph, nodes, device=device)
    if not np.isfinite(logits).all():
        raise TrainingStoppedError(
            f"Expected finite scores on the {split} split. Found NaN or infinity: training "
            "diverged. Lower --lr, or set --train.grad-clip 1."
        )
    return evaluate(logits, y, observed, top_k=top_k)


def labels_per_node(graph: TaskGraph) -> int:
    """Return the rounded mean number of training labels of a training node, at least 1."""
    nodes = graph.split_idx["train"]
    return max(1, int(np.rint(graph.positives("train").sum() / max(1, len(nodes)))))
