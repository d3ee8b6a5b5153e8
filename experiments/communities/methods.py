"""The methods that are compared: who trains with whom, and in how many models."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from cells import Cell
from fidelity import gradtag

import gnn_mtl as gm
from gnn_mtl._core.errors import GnnMtlWarning
from gnn_mtl.affinity import subset_affinity
from gnn_mtl.affinity._gradtag import subset_masks
from gnn_mtl.grouping import group_tasks
from gnn_mtl.records import RunRecord
from gnn_mtl.runs import load_trained, run_one
from gnn_mtl.runs._demo import stratified_labels
from gnn_mtl.schedulers import Coloring, Separate, Single
from gnn_mtl.tasks import Grouping, SubsetTable

SINGLES = 8
TAU = 0.0
LONG = 5
METHODS = (
    "joint", "single", "gradtag_sdp", "random", "higher_order", "coloring", "label_propagation",
    "joint_long", "coloring_long", "spectral_lr",
)  # fmt: skip
"""In the order in which they are run: the others need the joint model, random needs the sizes."""


def run_methods(
    cell: Cell,
    graph: gm.TaskGraph,
    dataset: str,
    out: Path,
    seeds: Any,
    methods: Any,
    trained: SubsetTable | None,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Train the methods seed by seed; yield the method and what its record says of the run."""
    few = stratified_labels(graph, SINGLES)
    for seed in seeds:
        config = cell.config(dataset, seed)
        for method in METHODS:
            if method not in methods:
                continue
            if method == "higher_order" and trained is None:
                continue  # nothing was trained in subsets
            folder = out / cell.name / f"{method}-seed{seed}"
            plan, facts = schedule(method, cell, graph, folder, seed, few, trained)
            chosen = replace(config, name=method, **({} if plan is None else {"scheduler": plan}))
            if method.endswith("_long"):
                longer = {"epochs": LONG * cell.epochs, "patience": LONG * cell.patience}
                chosen = replace(chosen, train=replace(config.train, **longer))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", GnnMtlWarning)
                run = run_one(chosen, folder, graph=graph)
            yield method, {**summarise(run, few), "grouping": facts}


def schedule(
    method: str,
    cell: Cell,
    graph: gm.TaskGraph,
    folder: Path,
    seed: int,
    few: tuple[int, ...],
    trained: SubsetTable | None,
) -> tuple[Any, dict[str, Any] | None]:
    """Return the scheduler of a method, and how its groups came about."""
    if method == "single":
        return Single(tasks=few), None
    if method.startswith("coloring"):
        return Coloring(tau=TAU), {"tau": TAU}
    if method not in ("gradtag_sdp", "random", "higher_order"):
        return None, None
    file = folder.parent / f"groups-{method}-seed{seed}.json"
    facts: dict[str, Any] = {}
    if not file.exists():
        grouping, facts = find_groups(method, cell, graph, folder.parent, seed, trained)
        grouping.save(file, label_names=graph.label_names)
    grouping = Grouping.load(file)
    facts = {"sizes": sorted(grouping.sizes), "how": grouping.method, **facts}
    return Separate(groups=grouping.groups), facts


def find_groups(
    method: str,
    cell: Cell,
    graph: gm.TaskGraph,
    folder: Path,
    seed: int,
    trained: SubsetTable | None,
) -> tuple[Grouping, dict[str, Any]]:
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GnnMtlWarning)
        if method == "higher_order":
            assert trained is not None
            affinity = subset_affinity(trained)
            grouping = group_tasks(affinity, method="spectral", num_groups=cell.num_groups)
        elif method == "random":
            like = Grouping.load(folder / f"groups-gradtag_sdp-seed{seed}.json")
            rng = np.random.default_rng(seed)
            order, ends = rng.permutation(graph.num_tasks), np.cumsum(like.sizes)
            parts = np.split(order, ends[:-1])
            return Grouping.of([p.tolist() for p in parts], graph.num_tasks, "random"), {}
        else:
            config, seen, model = load_trained(folder / f"joint-seed{seed}")
            masks = subset_masks(graph.num_tasks)
            table = gradtag([model], seen, config.train, masks)
            affinity = subset_affinity(table)
            grouping = group_tasks(affinity, method="sdp", num_groups=cell.num_groups)
    facts = {"seconds": round(time.perf_counter() - started, 1)}
    if method == "gradtag_sdp":
        facts |= {"subsets": len(masks), "lam": table.details["lam"]}
    return grouping, facts


def summarise(run: RunRecord, few: tuple[int, ...]) -> dict[str, Any]:
    """Return what is kept of a run: scores, cost, commit, and the scores of the few labels."""
    summary = run.summary
    assert summary is not None
    kept = ("ap", "auroc", "f1", "f1_true_k")
    costs = ("seconds", "steps", "label_gradients", "inference_forwards")
    some = {
        name: round(float(np.nanmean(summary.per_label[name][list(few)])), 5)
        for name in ("ap", "auroc", "f1")
    }
    return {
        "seed": run.seed,
        "commit": run.manifest.commit,
        "dirty": run.manifest.dirty,
        "dataset_sha256": run.manifest.dataset["sha256"],
        "best_epoch": summary.best_epoch,
        "num_parameters": summary.num_parameters,
        "cost": {k: round(summary.cost[k], 2) for k in costs if k in summary.cost},
        **{
            split: {k: round(v, 5) for k, v in scores.items() if k in kept and math.isfinite(v)}
            for split, scores in (("valid", summary.valid), ("test", summary.test))
        },
        "few": some,
        "hardware": run.manifest.hardware["cpu"],
        "created": run.manifest.created,
    }
