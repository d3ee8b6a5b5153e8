"""Pieces of a plain loop, for trainings that are more than one ``fit``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from gnn_mtl.datasets import TaskGraph
from gnn_mtl.graph import MiniBatch, NeighborLoader
from gnn_mtl.metrics import macro
from gnn_mtl.nn import LabelModel
from gnn_mtl.training._config import Train
from gnn_mtl.training._evaluate import evaluate_split


def batches_between(
    loader: NeighborLoader, start: int, stop: int
) -> Iterator[tuple[int, MiniBatch]]:
    """Yield the steps from ``start`` to before ``stop`` with their batches, over the epochs."""
    step = start
    while step < stop:
        epoch, index = divmod(step, len(loader))
        for batch in loader.epoch_batches(epoch, index):
            if step == stop:
                return
            yield step, batch
            step += 1


def valid_score(
    model: LabelModel, graph: TaskGraph, config: Train, tasks: Sequence[int] | None = None
) -> float:
    """Return the mean validation score of some tasks, by exact inference; all tasks by default."""
    device = next(model.parameters()).device
    scores = evaluate_split(model, graph, "valid", device=device)
    if tasks is None:
        return scores.macro[config.monitor]
    return macro(np.asarray(scores.per_label[config.monitor])[list(tasks)])


def copied_state(model: LabelModel) -> dict[str, torch.Tensor]:
    """Return the model's state, independent of the model."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
