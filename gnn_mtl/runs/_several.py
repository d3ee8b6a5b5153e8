"""Runs of several models: one a label, or one a group of labels; each kept as it is finished."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import LabelError, LabelWarning
from gnn_mtl._core.files import sha256, write_json
from gnn_mtl.datasets import TaskGraph
from gnn_mtl.metrics import auroc, average_precision, evaluate, f1, macro
from gnn_mtl.nn import LabelModel
from gnn_mtl.records import RunWriter
from gnn_mtl.runs._build import build_hooks, build_model, load_base
from gnn_mtl.runs._config import RunConfig
from gnn_mtl.runs._summary import (
    METRICS,
    PER_LABEL,
    inference_cost,
    num_parameters,
    run_summary,
    score_test,
    timed_logits,
    timed_validation,
)
from gnn_mtl.schedulers import Joint, Separate
from gnn_mtl.tasks import Grouping
from gnn_mtl.training import AggregatorHooks, Cost, fit, labels_per_node, load_weights, task_model


def train_single(
    config: RunConfig, graph: TaskGraph, tasks: Sequence[int], writer: RunWriter, resume: bool
) -> dict[str, Any]:
    """Train one model per task, each like a joint run on that label alone; return the summary."""
    per_label = {name: np.full(graph.num_tasks, np.nan) for name in PER_LABEL}
    # How many labels a node gets is no question to a model of one label: no top-k here.
    macros: dict[str, dict[str, list[float]]] = {
        split: {name: [] for name in PER_LABEL} for split in ("valid", "test")
    }
    cost, parts = Cost(), []
    for task in tasks:
        one = graph.select_tasks([task])
        folder = writer.checkpoints / f"task-{task:04d}"
        own = _with_share(config, 1, graph.num_tasks)
        part = _train_part(own, one, folder, task, writer, resume, build_model(config, one))
        parts.append(part)
        cost.add(Cost(**part.cost))
        for name in PER_LABEL:
            macros["valid"][name].append(_number(part.valid.get(name)))
            macros["test"][name].append(_number(part.test.get(name)))
            per_label[name][task] = _number(part.test.get(name))
    means = {
        split: {name: macro(np.array(values)) for name, values in scores.items()}
        for split, scores in macros.items()
    }
    return run_summary(
        config,
        int(np.median([part.best_step for part in parts])),
        int(np.median([part.best_epoch for part in parts])),
        means["valid"],
        means["test"],
        per_label,
        graph.positives("test"),
        tasks,
        cost,
        sum(part.num_parameters for part in parts),
        {
            "inference_forwards": len(parts),
            "inference_ms_per_1k_nodes": sum(part.inference_ms for part in parts),
        },
    )


def learnable(graph: TaskGraph, tasks: tuple[int, ...]) -> tuple[int, ...]:
    """Return the tasks with both classes in every split; the others are named in a warning.

    A model of one label can neither be chosen nor scored where its split holds one class.
    """
    both = np.ones(graph.num_tasks, dtype=bool)
    for split in ("train", "valid", "test"):
        positives = graph.positives(split)
        both &= (positives > 0) & (positives < graph.observed_counts(split))
    kept = tuple(task for task in tasks if both[task])
    left_out = [graph.label_names[task] for task in tasks if not both[task]]
    if not kept:
        raise LabelError(
            "Single-task models need labels with both classes in train, valid and test. "
            f"Found none among {left_out[:8]}; choose others with --scheduler.tasks."
        )
    if left_out:
        warnings.warn(
            f"{len(left_out)} label(s) have one class in a split and get no single-task model: "
            f"{left_out[:8]}. They are left out of the scores of this run.",
            LabelWarning,
            stacklevel=2,
        )
    return kept


def check_groups(graph: TaskGraph, grouping: Grouping) -> None:
    """Raise LabelError if a group has no label by which its model could be chosen."""
    positives = graph.positives("valid")
    both = (positives > 0) & (positives < graph.observed_counts("valid"))
    for number, group in enumerate(grouping.groups):
        if not both[list(group)].any():
            names = [graph.label_names[task] for task in group[:8]]
            raise LabelError(
                "A model of a group is chosen by labels with both classes in validation. Group "
                f"{number} has none ({names}); put its labels into another group."
            )


def train_separate(
    config: RunConfig, graph: TaskGraph, writer: RunWriter, resume: bool
) -> dict[str, Any]:
    """Train one model per group, let each task be served by the best of its groups, and score.

    All models are trained before any is tested; the test labels are looked at once, for all tasks.
    """
    plan = config.scheduler
    assert isinstance(plan, Separate)  # noqa: S101 - train() asks for nothing else
    grouping = plan.grouping(graph.num_tasks)
    if not (writer.path / "groupings.jsonl").stat().st_size:
        writer.log_grouping(
            step=0, groups=grouping.groups, num_colors=len(grouping), num_steps=None, probed=False
        )
    base = None if plan.base is None else load_base(plan.base, config, graph)
    cost, parts, models = Cost(), [], []
    members = sum(map(len, grouping.groups))
    for number, group in enumerate(grouping.groups):
        one = graph.select_tasks(group)
        model = _start(config, one, group, base)
        folder = writer.checkpoints / f"group-{number:04d}"
        hooks = build_hooks(config, graph, group)
        own = _with_share(config, len(group), members)
        part = _train_part(own, one, folder, number, writer, resume, model, hooks=hooks, test=False)
        parts.append(part)
        load_weights(folder / "best.safetensors", model)  # also where an earlier call trained it
        cost.add(Cost(**parts[-1].cost))
        models.append(model)
    served = _serve(config, graph, grouping, models)
    top_k = labels_per_node(graph)
    scores = {}
    for split in ("valid", "test"):
        y, observed = graph.targets(graph.split_idx[split], split)
        scores[split] = evaluate(served.logits[split], y, observed, top_k=top_k)
    weights = {} if plan.base is None else {
        "base_sha256": sha256(Path(plan.base) / "checkpoints" / "best.safetensors")
    }  # fmt: skip
    return run_summary(
        config,
        int(np.median([part.best_step for part in parts])),
        int(np.median([part.best_epoch for part in parts])),
        {name: scores["valid"].macro[name] for name in METRICS},
        {name: scores["test"].macro[name] for name in METRICS},
        {name: scores["test"].per_label[name] for name in PER_LABEL},
        scores["test"].positives,
        range(graph.num_tasks),
        cost,
        sum(num_parameters(models[group]) for group in sorted(set(served.by.tolist()))),
        served.cost,
        served_by=served.by.tolist(),
        **weights,
    )


@dataclass(frozen=True)
class _Served:
    """Logits of all tasks on the validation and the test nodes, and which group gives each."""

    logits: dict[str, NDArray[np.float32]]
    by: NDArray[np.int64]
    cost: dict[str, float]


def _serve(
    config: RunConfig, graph: TaskGraph, grouping: Grouping, models: Sequence[LabelModel]
) -> _Served:
    """Run every model once over the nodes to score; of overlapping groups the best one serves."""
    nodes = {split: graph.split_idx[split] for split in ("valid", "test")}
    everyone = np.unique(np.concatenate(list(nodes.values())))
    rows = {split: np.searchsorted(everyone, ids) for split, ids in nodes.items()}
    y, observed = graph.targets(nodes["valid"], "valid")
    best = np.full(graph.num_tasks, -np.inf)
    by = np.full(graph.num_tasks, -1, dtype=np.int64)
    logits = {
        split: np.zeros((len(ids), graph.num_tasks), np.float32) for split, ids in nodes.items()
    }
    seconds = np.zeros(len(grouping))
    for number, (group, model) in enumerate(zip(grouping.groups, models, strict=True)):
        tasks = np.array(group)
        found, seconds[number] = timed_logits(model, graph.select_tasks(group), everyone)
        scores = _label_scores(
            config.train.monitor, found[rows["valid"]], y[:, tasks], observed[:, tasks]
        )
        better = (by[tasks] < 0) | (np.nan_to_num(scores, nan=-np.inf) > best[tasks])
        best[tasks[better]] = np.nan_to_num(scores, nan=-np.inf)[better]
        by[tasks[better]] = number
        for split, where in rows.items():
            logits[split][:, tasks[better]] = found[where][:, better]
    used = np.unique(by)
    cost = inference_cost(float(seconds[used].sum()), len(used), len(everyone))
    return _Served(logits, by, cost)


def _label_scores(
    monitor: str, logits: NDArray[np.float32], y: NDArray[np.float32], observed: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """The score by which models are chosen, of each label."""
    if monitor == "f1":
        return f1(logits, y, observed)[0]
    return (auroc if monitor == "auroc" else average_precision)(logits, y, observed)


def _start(
    config: RunConfig, one: TaskGraph, group: tuple[int, ...], base: LabelModel | None
) -> LabelModel:
    """What the model of a group begins with."""
    fresh = build_model(config, one)
    if base is None:
        return fresh
    assert isinstance(config.scheduler, Separate)  # noqa: S101 - only these have a base
    return task_model(base, group, heads=fresh.heads if config.scheduler.heads == "fresh" else None)


def _with_share(config: RunConfig, labels: int, of: int) -> RunConfig:
    """The configuration of one of the models: its part of the budget that is one of labels."""
    budget = config.train.max_label_gradients
    if budget is None:
        return config
    return replace(
        config, train=replace(config.train, max_label_gradients=max(1, budget * labels // of))
    )


@dataclass
class _Part:
    """The outcome of one model; kept on disk so that a resume need not repeat it."""

    best_step: int
    best_epoch: int
    valid: dict[str, float]
    test: dict[str, float]
    cost: dict[str, Any]
    num_parameters: int
    inference_ms: float = 0.0


def _train_part(
    config: RunConfig,
    one: TaskGraph,
    folder: Path,
    number: int,
    writer: RunWriter,
    resume: bool,
    model: LabelModel,
    *,
    hooks: AggregatorHooks | None = None,
    test: bool = True,
) -> _Part:
    """Train one of the models, or read what became of it; ``number`` goes into its rows."""
    result = folder / "result.json"
    if resume and result.exists():
        return _Part(**json.loads(result.read_text(encoding="utf-8")))
    folder.mkdir(parents=True, exist_ok=True)
    done = fit(
        model,
        one,
        Joint().build(one.num_tasks, config.seed),
        config.train,
        seed=config.seed,
        checkpoints=folder,
        writer=writer,
        resume=resume and (folder / "last.state").exists(),
        task=number,
        hooks=hooks,
    )
    part = _Part(
        done.best_step,
        done.best_epoch,
        {name: done.valid[name] for name in PER_LABEL if name in done.valid},
        {},
        done.cost.to_dict(),
        num_parameters(model),
    )
    if test:
        part.inference_ms = timed_validation(model, one)["inference_ms_per_1k_nodes"]
        scores = score_test(model, one)
        part.test = {name: scores.macro[name] for name in PER_LABEL}
    write_json(result, part.__dict__)
    return part


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
