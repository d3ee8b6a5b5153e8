"""Pieces of a plain loop, for trainings that are more than one ``fit``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from gnn_mtl._core.cost import CostMeter
from gnn_mtl.datasets import TaskGraph
from gnn_mtl.graph import MiniBatch, NeighborLoader
from gnn_mtl.nn import LabelModel
from gnn_mtl.training._config import Train
from gnn_mtl.training._evaluate import evaluate_split
from gnn_mtl.training._skipped import Skipped


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


def step_options(
    config: Train,
    graph: TaskGraph,
    pos_weight: torch.Tensor | None,
    skipped: Skipped,
    meter: CostMeter,
) -> dict[str, Any]:
    """Return what :func:`train_step` is told by a configuration at every step."""
    return {
        "pos_weight": pos_weight, "grad_clip": config.grad_clip,
        "autocast": config.autocast == "bf16", "skipped": skipped,
        "label_names": graph.label_names, "meter": meter,
    }  # fmt: skip


def valid_score(
    model: LabelModel,
    graph: TaskGraph,
    config: Train,
    tasks: Sequence[int] | None = None,
    *,
    skipped: Skipped | None = None,
) -> float:
    """Return the mean validation score of some tasks, by exact inference; all tasks by default.

    A task that could be scored but has logits that are not finite counts 0.
    """
    device = next(model.parameters()).device
    scores = evaluate_split(model, graph, "valid", device=device, skipped=skipped)
    return scores.mean(config.monitor, tasks)


def copied_state(model: LabelModel) -> dict[str, torch.Tensor]:
    """Return the model's state, independent of the model."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
