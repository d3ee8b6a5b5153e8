"""The shallow baseline: spectral features and one logistic regression per label.

On many label graphs it beats graph networks trained without care, so every comparison carries it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from gnn_mtl._core.progress import Progress
from gnn_mtl._core.threads import one_thread
from gnn_mtl.datasets import TaskGraph, load_dataset
from gnn_mtl.metrics import Scores, evaluate
from gnn_mtl.records import RunRecord, RunWriter, manifest, read_run
from gnn_mtl.runs._build import with_features
from gnn_mtl.runs._config import RunConfig
from gnn_mtl.runs._train import METRICS, PER_LABEL, describe_dataset, refuse_other_config
from gnn_mtl.training import Cost, labels_per_node

METHOD = "spectral_lr"
PENALTIES = (0.1, 1.0, 10.0)


def train_shallow(
    config: RunConfig,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    graph: TaskGraph | None = None,
) -> RunRecord:
    """Fit the shallow baseline on the features a run of ``config`` would see; write a run folder.

    One L2 logistic regression per label, scikit-learn's objective and meaning of C, fitted for all
    labels at once with torch's L-BFGS (fifty times faster than one ``LogisticRegression`` per label
    here, equal scores: tested); C is chosen among :data:`PENALTIES` by macro average precision on
    the validation split. Encoder, schedule and optimizer of the configuration are not used.
    Deterministic given the features.

    Args:
        config: Dataset, features and seed.
        out: The run folder.
        resume: Fit again what an interrupted fit began in that folder.
        graph: The dataset, if it is loaded already.
    """
    out = Path(out)
    plain = shallow_config(config)
    if resume:
        refuse_other_config(out, plain)
    graph = load_dataset(config.dataset, config.root) if graph is None else graph
    made = manifest(dataset=describe_dataset(graph), seed=config.seed)
    graph = with_features(graph, config)
    sealed = graph.sealed()
    started = time.perf_counter()
    with RunWriter.open(out, resume=resume, step=0 if resume else None) as writer:
        if not resume:
            writer.write_config(plain)
            writer.write_manifest(made)
        top_k = labels_per_node(sealed)
        best: tuple[Scores, Tensor] | None = None
        weights: Tensor | None = None
        tried: dict[str, float] = {}
        with Progress("logistic regression", len(PENALTIES)) as progress:
            for penalty in PENALTIES:
                with one_thread():
                    weights = fit_logistic(sealed, penalty, start=weights)
                valid = _score(sealed, weights, "valid", top_k)
                tried[str(penalty)] = valid.macro["ap"]
                if best is None or valid.macro["ap"] > best[0].macro["ap"]:
                    best = (valid, weights)
                progress.advance()
        assert best is not None  # noqa: S101 - PENALTIES is not empty
        valid, weights = best
        cost = Cost(seconds=time.perf_counter() - started)
        test = _score(graph, weights, "test", top_k)
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
                "valid_ap_by_penalty": tried,
            }
        )
        writer.finish()
    return read_run(out)


def shallow_config(config: RunConfig) -> dict[str, Any]:
    """Return the part of a configuration that decides the shallow baseline, as plain values."""
    plain = config.to_dict()
    kept = {key: plain[key] for key in ("dataset", "root", "seed", "features")}
    return {**kept, "name": METHOD, "baseline": {"penalties": list(PENALTIES)}}


def fit_logistic(
    graph: TaskGraph, penalty: float, *, start: Tensor | None = None, max_iter: int = 200
) -> Tensor:
    r"""Fit one logistic regression per label on the training split.

    Minimises :math:`\frac{1}{2} \|w_t\|^2 + C \sum_{n \in O_t} \mathrm{BCE}(w_t x_n + b_t, y_{nt})`
    over the observed cells of each label, the intercept free, as scikit-learn does.

    Args:
        graph: The dataset with dense or sparse features.
        penalty: C; larger is weaker regularisation.
        start: Weights to start from.
        max_iter: L-BFGS iterations.

    Returns:
        Weights and, last row, intercepts, float32 ``[F + 1, T]``.
    """
    nodes = graph.split_idx["train"]
    x = torch.from_numpy(graph.features(nodes))
    y, observed = map(torch.from_numpy, graph.targets(nodes, "train"))
    if start is None:
        start = torch.zeros(x.shape[1] + 1, graph.num_tasks)
    weights = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weights], max_iter=max_iter, history_size=20, line_search_fn="strong_wolfe",
        tolerance_grad=1e-4 * penalty, tolerance_change=1e-7,
    )  # fmt: skip

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = x @ weights[:-1] + weights[-1]
        terms = binary_cross_entropy_with_logits(
            logits, y, weight=observed.float(), reduction="sum"
        )
        total = 0.5 * weights[:-1].square().sum() + penalty * terms
        total.backward()
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return weights.detach()


def _score(graph: TaskGraph, weights: Tensor, split: str, top_k: int) -> Scores:
    nodes = graph.split_idx[split]
    x = torch.from_numpy(graph.features(nodes))
    y, observed = graph.targets(nodes, split)
    return evaluate((x @ weights[:-1] + weights[-1]).numpy(), y, observed, top_k=top_k)
