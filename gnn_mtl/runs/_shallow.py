"""The shallow baseline: spectral features and one logistic regression per label.

On many label graphs it beats graph networks trained without care, so every comparison carries it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from gnn_mtl._core.progress import Progress
from gnn_mtl.datasets import TaskGraph
from gnn_mtl.metrics import Scores, evaluate
from gnn_mtl.records import RunRecord, RunWriter, manifest, read_run
from gnn_mtl.runs._build import build_graph, with_features
from gnn_mtl.runs._config import RunConfig
from gnn_mtl.runs._train import METRICS, PER_LABEL, describe_dataset
from gnn_mtl.training import Cost, labels_per_node

METHOD = "spectral_lr"
PENALTIES = (0.1, 1.0, 10.0)


def train_shallow(
    config: RunConfig,
    out: str | os.PathLike[str],
    *,
    graph: TaskGraph | None = None,
) -> RunRecord:
    """Fit the shallow baseline on the features a run of ``config`` would see; write a run folder.

    One L2 logistic regression per label (scikit-learn), its strength C chosen among
    :data:`PENALTIES` by macro average precision on the validation split; a label whose training
    cells hold one class is predicted constant. Encoder, schedule and optimizer of the configuration
    are not used. Deterministic given the features.

    Args:
        config: Dataset, features and seed.
        out: The run folder.
        graph: The dataset, if it is loaded already.
    """
    out = Path(out)
    graph = build_graph(config) if graph is None else with_features(graph, config)
    sealed = graph.sealed()
    started = time.perf_counter()
    with RunWriter.open(out) as writer:
        plain = config.to_dict()
        kept = {key: plain[key] for key in ("dataset", "root", "seed", "features")}
        writer.write_config({**kept, "name": METHOD, "baseline": {"penalties": list(PENALTIES)}})
        writer.write_manifest(manifest(dataset=describe_dataset(graph), seed=config.seed))
        top_k = labels_per_node(sealed)
        best: tuple[float, Scores, list[Any]] | None = None
        with Progress("logistic regression", len(PENALTIES) * graph.num_tasks) as progress:
            for number, penalty in enumerate(PENALTIES):
                models = _fit(sealed, penalty, config.seed, progress)
                valid = _score(sealed, models, "valid", top_k)
                writer.log_valid(
                    step=number + 1, epoch=0, ap=valid.macro["ap"], auroc=valid.macro["auroc"],
                    f1=valid.macro["f1"], seconds=time.perf_counter() - started,
                    penalty=penalty,
                )  # fmt: skip
                if best is None or valid.macro["ap"] > best[0]:
                    best = (valid.macro["ap"], valid, models)
        assert best is not None  # noqa: S101 - PENALTIES is not empty
        _, valid, models = best
        cost = Cost(seconds=time.perf_counter() - started)
        test = _score(graph, models, "test", top_k)
        writer.write_summary(
            {
                "status": "done",
                "method": METHOD,
                "best_step": 0,
                "best_epoch": 0,
                "valid": {name: valid.macro[name] for name in METRICS},
                "test": {name: test.macro[name] for name in METRICS},
                "per_label": {
                    **{name: test.per_label[name].tolist() for name in PER_LABEL},
                    "positives_test": test.positives.tolist(),
                },
                "tasks": list(range(graph.num_tasks)),
                "cost": cost.to_dict(),
                "num_parameters": graph.num_tasks * (graph.num_features + 1),
            }
        )
        writer.finish()
    return read_run(out)


def _fit(graph: TaskGraph, penalty: float, seed: int, progress: Progress) -> list[Any]:
    """One classifier per label, or the constant logit of a label with one class."""
    nodes = graph.split_idx["train"]
    x, (y, observed) = graph.features(nodes), graph.targets(nodes, "train")
    models: list[Any] = []
    for task in range(graph.num_tasks):
        rows = observed[:, task]
        label = y[rows, task]
        progress.advance()
        if label.min(initial=1) == label.max(initial=0):
            models.append(0.0 if len(label) == 0 else float(2 * label[0] - 1))
            continue
        model = LogisticRegression(C=penalty, max_iter=300, tol=1e-3, random_state=seed)
        models.append(model.fit(x[rows], label))
    return models


def _score(graph: TaskGraph, models: list[Any], split: str, top_k: int) -> Scores:
    nodes = graph.split_idx[split]
    x = graph.features(nodes)
    logits: NDArray[np.float64] = np.empty((len(nodes), graph.num_tasks))
    for task, model in enumerate(models):
        logits[:, task] = model if isinstance(model, float) else model.decision_function(x)
    y, observed = graph.targets(nodes, split)
    return evaluate(logits, y, observed, top_k=top_k)
