"""500 labels in 25 planted groups: are they found, how fast, in how much memory?"""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from fidelity import DIM, batches
from sklearn.metrics import adjusted_rand_score

import gnn_mtl as gm
from gnn_mtl._core.errors import GnnMtlWarning
from gnn_mtl.affinity import estimate_affinity, gradtag_table, subset_affinity
from gnn_mtl.affinity._gradtag import subset_masks
from gnn_mtl.grouping import group_tasks
from gnn_mtl.nn import SIGN
from gnn_mtl.runs import load_trained, run_one
from gnn_mtl.tasks import Grouping
from gnn_mtl.training import peak_rss_mb, training_loader


def planted500(out: Path, *, is_smoke: bool = False) -> dict[str, Any]:
    """Train a base model, predict the affinity of all labels, group them; return the record."""
    size = {"num_nodes": 600, "num_tasks": 12, "num_groups": 3} if is_smoke else {
        "num_nodes": 10_000, "num_tasks": 500, "num_groups": 25
    }  # fmt: skip
    name = "planted:" + ",".join(f"{k}={v}" for k, v in size.items()) + ",within=0.8,seed=0"
    graph = gm.load_dataset(name)
    config = gm.RunConfig(
        dataset=name, name="joint", encoder=SIGN(hidden_channels=32 if is_smoke else 64, hops=2),
        features=gm.Features(use="own"),
        train=gm.Train(epochs=4 if is_smoke else 20, eval_every=2, patience=3, batch_size=500,
                       num_workers=0, device="cpu", lr_schedule="constant"),
    )  # fmt: skip
    run = run_one(config, out / "planted500" / "joint-seed0", graph=graph)
    _, seen, model = load_trained(run.path)
    sealed, truth = seen.sealed(), graph.extras["task_groups"]
    clock, phases = (time.perf_counter(), time.process_time()), {}

    def lap(name: str) -> None:
        nonlocal clock
        now = (time.perf_counter(), time.process_time())
        phases[name] = [round(b - a, 1) for a, b in zip(clock, now, strict=True)]
        clock = now

    found: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GnnMtlWarning)
        first, second = batches(sealed, model, config.train)
        masks = subset_masks(graph.num_tasks)
        lap("subsets drawn")
        table = gradtag_table([model], first, second, masks, dim=DIM)
        lap("features, fits and scores")
        affinity = subset_affinity(table)
        lap("affinity")
        groups = group_tasks(affinity, method="sdp", num_groups=size["num_groups"])
        lap("clustering SDP")
        found["gradtag_sdp"] = _ari(groups, truth)
        found["gradtag_spectral"] = _ari(
            group_tasks(affinity, method="spectral", num_groups=size["num_groups"]), truth
        )
        loader = training_loader(sealed, model, config.train, seed=0)
        for method in ("last_layer", "cooccurrence"):
            if method == "cooccurrence":
                other = estimate_affinity(None, sealed, method=method)
            else:
                other = estimate_affinity(model, loader, method=method, max_batches=12)
            found[f"{method}_sdp"] = _ari(
                group_tasks(other, method="sdp", num_groups=size["num_groups"]), truth
            )
    made = run.manifest
    return {
        "dataset": name, "nodes": graph.num_nodes, "tasks": graph.num_tasks,
        "train_nodes": len(graph.split_idx["train"]), "subsets": len(masks), "dim": DIM,
        "lam": table.details["lam"], "unknown": round(1 - table.known.sum() / masks.sum(), 4),
        "base_training_seconds": round(run.summary.cost["seconds"], 1),
        "base_test_ap": round(run.summary.test["ap"], 4), "seconds": phases,
        "peak_rss_mb": round(peak_rss_mb()), "ari": found, "how": groups.method,
        "commit": made.commit, "dirty": made.dirty, "created": made.created,
        "hardware": made.hardware["cpu"], "seed": 0,
    }  # fmt: skip


def _ari(groups: Grouping, truth: np.ndarray) -> float:
    labels = groups.memberships().argmax(axis=0)
    return round(float(adjusted_rand_score(truth, labels)), 4)
