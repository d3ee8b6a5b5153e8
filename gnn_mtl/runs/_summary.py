"""What ``summary.json`` says of a run, whoever trained it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnn_mtl.datasets import TaskGraph
from gnn_mtl.metrics import Scores
from gnn_mtl.nn import LabelModel, exact_logits
from gnn_mtl.runs._config import RunConfig
from gnn_mtl.training import Cost, evaluate_split, labels_per_node

METRICS = ("ap", "auroc", "f1", "f1_top_k", "f1_true_k")
PER_LABEL = ("ap", "auroc", "f1")


def run_summary(
    config: RunConfig,
    best_step: int,
    best_epoch: int,
    valid: dict[str, Any],
    test: dict[str, Any],
    per_label: dict[str, np.ndarray],
    positives: np.ndarray,
    tasks: Sequence[int],
    cost: Cost,
    num_parameters: int,
    inference: dict[str, float],
    **extra: Any,  # noqa: ANN401
) -> dict[str, Any]:
    """Return the content of ``summary.json``."""
    return {
        "status": "done",
        "method": config.method,
        "best_step": best_step,
        "best_epoch": best_epoch,
        "valid": valid,
        "test": test,
        "per_label": {
            **{name: values.tolist() for name, values in per_label.items()},
            "positives_test": positives.tolist(),
        },
        "tasks": list(tasks),
        "cost": cost.to_dict() | inference,
        "num_parameters": num_parameters,
        **extra,
    }


def score_test(model: LabelModel, graph: TaskGraph) -> Scores:
    """The one look at the test labels, with the weights chosen by validation."""
    device = next(model.parameters()).device
    return evaluate_split(model, graph, "test", device=device, top_k=labels_per_node(graph))


def num_parameters(model: LabelModel) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in model.parameters())


def timed_logits(
    model: LabelModel, graph: TaskGraph, nodes: NDArray[np.int64]
) -> tuple[NDArray[np.float32], float]:
    """Return exact logits ``[B, S]`` and the seconds they took."""
    started = time.perf_counter()
    logits = exact_logits(model, graph, nodes, device=next(model.parameters()).device)
    return logits, time.perf_counter() - started


def timed_validation(model: LabelModel, graph: TaskGraph) -> dict[str, float]:
    """Return what an answer by one model costs, timed on the validation nodes."""
    nodes = graph.split_idx["valid"]
    return inference_cost(timed_logits(model, graph, nodes)[1], 1, len(nodes))


def inference_cost(seconds: float, forwards: int, num_nodes: int) -> dict[str, float]:
    """Return what an answer for all tasks costs: models run, and milliseconds per 1,000 nodes."""
    return {
        "inference_forwards": forwards,
        "inference_ms_per_1k_nodes": 1e6 * seconds / max(1, num_nodes),
    }
