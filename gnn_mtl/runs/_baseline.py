"""The run folder of a baseline that is fitted in one go: no steps, no checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnn_mtl.datasets import TaskGraph
from gnn_mtl.metrics import Scores, evaluate
from gnn_mtl.records import RunRecord, RunWriter, manifest, read_run
from gnn_mtl.runs._summary import PER_LABEL
from gnn_mtl.runs._train import describe_dataset, refuse_other_config
from gnn_mtl.training import Cost, labels_per_node


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fitted baseline.

    Attributes:
        logits: For ``"valid"`` and ``"test"`` float32 ``[nodes of the split, T]``.
        num_parameters: Numbers learned.
        extra: What else the summary should say, plain JSON.
    """

    logits: dict[str, NDArray[np.float32]]
    num_parameters: int
    extra: dict[str, Any] = field(default_factory=dict)


def run_baseline(
    fit: Callable[[TaskGraph], Fitted],
    plain: dict[str, Any],
    out: Path,
    *,
    graph: TaskGraph,
    see: Callable[[TaskGraph], TaskGraph] = lambda graph: graph,
    resume: bool = False,
) -> RunRecord:
    """Fit a baseline on the sealed graph, score it once, and write its run folder.

    Args:
        fit: Maps a sealed graph to the fitted baseline, choosing by validation.
        plain: The configuration to record; ``name`` is the method.
        out: The run folder.
        graph: The dataset.
        see: Gives the graph the features the baseline sees; its time is not counted.
        resume: Fit again what an interrupted fit began in that folder.
    """
    if resume:
        refuse_other_config(out, plain)
    made = manifest(dataset=describe_dataset(graph), seed=plain["seed"])
    graph = see(graph)
    sealed = graph.sealed()
    started = time.perf_counter()
    with RunWriter.open(out, resume=resume, step=0 if resume else None) as writer:
        if not resume:
            writer.write_config(plain)
            writer.write_manifest(made)
        fitted = fit(sealed)
        cost = Cost(seconds=time.perf_counter() - started)
        top_k = labels_per_node(sealed)
        valid, test = (score(graph, fitted.logits[s], s, top_k) for s in ("valid", "test"))
        writer.write_summary(
            {
                "status": "done",
                "method": plain["name"],
                "best_step": 0,
                "best_epoch": 0,
                "valid": valid.macro,
                "test": test.macro,
                "per_label": {
                    **{name: test.per_label[name].tolist() for name in PER_LABEL},
                    "positives_test": test.positives.tolist(),
                },
                "tasks": list(range(graph.num_tasks)),
                "cost": cost.to_dict(),
                "num_parameters": fitted.num_parameters,
                **fitted.extra,
            }
        )
        writer.finish()
    return read_run(out)


def score(graph: TaskGraph, logits: NDArray[np.float32], split: str, top_k: int) -> Scores:
    """Return the scores of logits ``[nodes of the split, T]``."""
    y, observed = graph.targets(graph.split_idx[split], split)
    return evaluate(logits, y, observed, top_k=top_k)
