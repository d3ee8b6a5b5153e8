"""How well are the scores of really trained subsets predicted, and by what?"""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
from scipy.stats import spearmanr

import gnn_mtl as gm
from gnn_mtl._core.errors import GnnMtlWarning
from gnn_mtl.affinity import estimate_affinity, gradtag_table, subset_affinity
from gnn_mtl.graph import NeighborLoader
from gnn_mtl.nn import LabelModel
from gnn_mtl.tasks import SubsetTable
from gnn_mtl.training import training_loader

CALIBRATION = 16
"""Trained subsets that may be looked at before predicting: for lambda, and the constants."""
DIM = 200
SMALL = 20_000
"""Nodes up to which all variants of Grad-TAG are tried."""
BATCH = 2000


def batches(graph: gm.TaskGraph, model: LabelModel, train: gm.Train) -> tuple[Any, Any]:
    """Return the training and the validation nodes in batches, each node once."""
    options: dict[str, Any] = {"batch_size": BATCH, "num_workers": 0, "shuffle": False}
    first = training_loader(graph, model, train, seed=0, **options)
    second = NeighborLoader(graph, "valid", num_neighbors=(), **options)
    return list(first), list(second)


def gradtag(
    models: list[LabelModel],
    graph: gm.TaskGraph,
    train: gm.Train,
    masks: np.ndarray,
    **options: Any,
) -> SubsetTable:
    """Return Grad-TAG's table; unknown scores are told in its details, not in warnings."""
    first, second = batches(graph.sealed(), models[0], train)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GnnMtlWarning)
        return gradtag_table(models, first, second, masks, dim=DIM, **options)


def truth(rows: list[dict[str, Any]], masks: np.ndarray, metric: str, seeds: Any) -> SubsetTable:
    """Return the trained table of one metric, the mean over some seeds."""
    found = {(tuple(row["tasks"]), row["seed"]): row["scores"][metric] for row in rows}
    scores = np.full(masks.shape, np.nan)
    for number, mask in enumerate(masks):
        tasks = tuple(np.flatnonzero(mask).tolist())
        values = [found[tasks, seed] for seed in seeds]
        scores[number, list(tasks)] = np.mean(np.array(values, dtype=float), axis=0)
    return SubsetTable(masks, scores, "trained", metric)


def agreement(predicted: np.ndarray, true: np.ndarray, *, is_score: bool = True) -> dict[str, Any]:
    """Return relative distance, and Spearman's rho after taking each column's mean off.

    A column is what one task scores; the constant per task is what anybody could say, and nothing
    of it is left after the centring.
    """
    known = ~np.isnan(predicted) & ~np.isnan(true)
    known &= known.sum(axis=0) > 1
    if known.sum() < 3:
        return {"distance": None, "spearman": None, "cells": int(known.sum())}
    first, second = np.where(known, predicted, np.nan), np.where(known, true, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        a, b = first - np.nanmean(first, axis=0), second - np.nanmean(second, axis=0)
    flat = np.ptp(a[known]) < 1e-12 or np.ptp(b[known]) < 1e-12
    error = np.linalg.norm((first - second)[known]) / np.linalg.norm(second[known])
    return {
        "distance": round(float(error), 5) if is_score else None,
        "spearman": None if flat else round(float(spearmanr(a[known], b[known])[0]), 4),
        "cells": int(known.sum()),
    }


def pairs(table: SubsetTable) -> np.ndarray:
    """Return the higher-order affinity, givers in rows, without the diagonal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GnnMtlWarning)
        values = subset_affinity(table, normalize="none").values.copy()
    np.fill_diagonal(values, np.nan)
    return values


def from_affinity(affinity: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return the mean affinity of each member to the others of its subset, ``[m, T]``."""
    values = np.nan_to_num(affinity).copy()
    np.fill_diagonal(values, 0.0)
    others = masks.sum(axis=1, keepdims=True) - 1
    return np.where(masks, masks @ values / np.maximum(others, 1), np.nan)


def compare(
    cell_metric: str,
    rows: list[dict[str, Any]],
    masks: np.ndarray,
    seeds: tuple[int, ...],
    models: dict[str, LabelModel],
    graph: gm.TaskGraph,
    train: gm.Train,
) -> list[dict[str, Any]]:
    """Return one row per predictor and metric; scores of the calibration subsets are not judged.

    ``models`` are trained on all labels: ``"joint"``, and perhaps ``"joint_long"``.
    """
    known, judged = masks[:CALIBRATION], masks[CALIBRATION:]
    if len(judged) < 4:
        known, judged = masks[: len(masks) // 2], masks[len(masks) // 2 :]
    free = free_predictors(models["joint"], graph, train, judged)
    out: list[dict[str, Any]] = []
    for metric in dict.fromkeys(("loss", cell_metric, "ap")):
        true = truth(rows, judged, metric, seeds)
        calibration = truth(rows, known, metric, seeds)

        for name, table, seconds, facts in gradtag_predictors(
            models, graph, train, judged, metric, calibration
        ):
            out.append(judgement(name, table, true, seconds=seconds, **facts))
        out.append(judgement("constant", constant(calibration, judged), true))
        for name, (scores, seconds) in free.items():
            table = SubsetTable(judged, scores, name, metric)
            out.append(judgement(name, table, true, is_score=False, seconds=seconds))
        for seed in seeds if len(seeds) > 1 else ():  # the noise floor: one seed by the others
            others = truth(rows, judged, metric, [s for s in seeds if s != seed])
            one = truth(rows, judged, metric, [seed])
            out.append(judgement(f"trained, seed {seed}", one, others))
    return out


def judgement(
    name: str, table: SubsetTable, true: SubsetTable, *, is_score: bool = True, **facts: Any
) -> dict[str, Any]:
    """Return one row: the scores themselves, and the pairwise affinities made of them."""
    both = agreement(pairs(table), pairs(true), is_score=is_score)
    return {
        "metric": true.metric, "predictor": name,
        **agreement(table.scores, true.scores, is_score=is_score),
        **{f"pair_{key}": value for key, value in both.items()}, **facts,
    }  # fmt: skip


def complete_seeds(rows: list[dict[str, Any]], masks: np.ndarray) -> tuple[int, ...]:
    """Return the seeds with which every subset has been trained."""
    wanted = {tuple(np.flatnonzero(mask).tolist()) for mask in masks}
    done: dict[int, set[tuple[int, ...]]] = {}
    for row in rows:
        done.setdefault(row["seed"], set()).add(tuple(row["tasks"]))
    return tuple(sorted(seed for seed, tasks in done.items() if wanted <= tasks))


def gradtag_predictors(
    models: dict[str, LabelModel],
    graph: gm.TaskGraph,
    train: gm.Train,
    judged: np.ndarray,
    metric: str,
    calibration: SubsetTable,
) -> list[tuple[str, SubsetTable, float, dict[str, Any]]]:
    """Grad-TAG in its variants; only the network itself can score by anything but the loss."""
    variants: dict[str, dict[str, Any]] = {"gradtag, forward": {"scoring": "forward"}}
    if metric == "loss":
        variants = {"gradtag": {}, **variants}
        if graph.num_nodes <= SMALL:
            variants |= {
                "gradtag, untuned": {"trained": None},
                "gradtag, pairs": {"mode": "pairs"},
                "gradtag, all weights": {"parameters": "all"},
            }
        if "joint_long" in models:
            variants["gradtag, long base"] = {"base": "joint_long"}
    found = []
    for name, options in variants.items():
        started = time.perf_counter()
        chosen = {"trained": calibration if metric == "loss" else None, "metric": metric, **options}
        base = models[chosen.pop("base", "joint")]
        table = gradtag([base], graph, train, judged, **chosen)
        unknown = 1 - table.known.sum() / judged.sum()
        facts = {"lam": table.details["lam"], "unknown": round(float(unknown), 4)}
        found.append((name, table, round(time.perf_counter() - started, 2), facts))
    return found


def constant(calibration: SubsetTable, judged: np.ndarray) -> SubsetTable:
    """Every task scores what it scored on average in the calibration subsets."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        mean = np.nanmean(calibration.scores, axis=0)
    mean = np.where(np.isnan(mean), np.nanmean(mean), mean)
    scores = np.where(judged, mean, np.nan)
    return SubsetTable(judged, scores, "constant", calibration.metric)


def free_predictors(
    model: LabelModel, graph: gm.TaskGraph, train: gm.Train, judged: np.ndarray
) -> dict[str, tuple[np.ndarray, float]]:
    """What needs no subset: how labels go together, and the base model's gradients."""
    found = {}
    sealed = graph.sealed()
    for name, method in (
        ("co-occurrence (phi)", "cooccurrence"), ("gradient cosine", "last_layer"),
    ):  # fmt: skip
        started = time.perf_counter()
        options: dict[str, Any] = {}
        source: Any = sealed
        if method == "last_layer":
            source = training_loader(sealed, model, train, seed=0, batch_size=BATCH)
            options["max_batches"] = 8
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GnnMtlWarning)
            affinity = estimate_affinity(
                None if method == "cooccurrence" else model, source, method=method, **options
            )
        scores = from_affinity(affinity.values, judged)
        found[name] = (scores, round(time.perf_counter() - started, 2))
    return found
