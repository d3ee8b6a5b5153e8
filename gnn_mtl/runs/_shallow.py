"""The shallow baseline: spectral features and one logistic regression per label.

On many label graphs it beats graph networks trained without care, so every comparison carries it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from gnn_mtl._core.progress import Progress
from gnn_mtl._core.threads import one_thread
from gnn_mtl.datasets import TaskGraph, load_dataset
from gnn_mtl.records import RunRecord
from gnn_mtl.runs._baseline import Fitted, run_baseline, score
from gnn_mtl.runs._build import with_features
from gnn_mtl.runs._config import RunConfig
from gnn_mtl.training import labels_per_node

METHOD = "spectral_lr"
PENALTIES = (0.01, 0.1, 1.0, 10.0)


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
    return run_baseline(
        _choose_penalty,
        shallow_config(config),
        Path(out),
        graph=load_dataset(config.dataset, config.root) if graph is None else graph,
        see=lambda graph: with_features(graph, config),
        resume=resume,
    )


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


def _choose_penalty(graph: TaskGraph) -> Fitted:
    """Fit with every penalty, from the strongest on, and keep the best on the validation split."""
    top_k = labels_per_node(graph)
    tried: dict[str, float] = {}
    weights: Tensor | None = None
    best: Tensor | None = None
    with Progress("logistic regression", len(PENALTIES)) as progress:
        for penalty in PENALTIES:
            with one_thread():
                weights = fit_logistic(graph, penalty, start=weights)
            ap = score(graph, _logits(graph, weights, "valid"), "valid", top_k).macro["ap"]
            if best is None or ap > max(tried.values()):
                best = weights
            tried[str(penalty)] = ap
            progress.advance()
    assert best is not None  # noqa: S101 - PENALTIES is not empty
    return Fitted(
        {split: _logits(graph, best, split) for split in ("valid", "test")},
        num_parameters=best.numel(),
        extra={"valid_ap_by_penalty": tried},
    )


def _logits(graph: TaskGraph, weights: Tensor, split: str) -> NDArray[np.float32]:
    x = torch.from_numpy(graph.features(graph.split_idx[split]))
    return (x @ weights[:-1] + weights[-1]).numpy()
