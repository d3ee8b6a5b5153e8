"""``train``: one configuration becomes one run folder."""

from __future__ import annotations

import contextlib
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gnn_mtl._core.errors import LabelError, LabelWarning, RecordError
from gnn_mtl._core.files import write_json
from gnn_mtl.datasets import TaskGraph, load_dataset
from gnn_mtl.metrics import Scores, macro
from gnn_mtl.nn import LabelModel
from gnn_mtl.records import RunRecord, RunWriter, manifest, read_run
from gnn_mtl.runs._build import build_model, with_inputs
from gnn_mtl.runs._config import Features, RunConfig
from gnn_mtl.schedulers import Joint, Single
from gnn_mtl.training import (
    Cost,
    Fit,
    Train,
    checkpoint_values,
    choose_device,
    evaluate_split,
    fit,
    labels_per_node,
    training_loader,
)

METRICS = ("ap", "auroc", "f1", "f1_top_k", "f1_true_k")
PER_LABEL = ("ap", "auroc", "f1")


def train(
    config: RunConfig,
    out: str | os.PathLike[str] | None = None,
    *,
    resume: bool = False,
    graph: TaskGraph | None = None,
) -> RunRecord:
    """Train one run, choose its model by validation, score the test split once, write its folder.

    Args:
        config: What to run.
        out: The run folder; default ``runs/DATASET/METHOD-seedN``.
        resume: Go on with an interrupted run in that folder.
        graph: The dataset, if it is loaded already; ``config.dataset`` is then a name only.

    Returns:
        The record, read back from the folder.

    Raises:
        DataError: If the dataset cannot be loaded or trained on.
        RecordError: If the folder holds another run.
        InterruptedRunError: On SIGINT or SIGTERM, after a checkpoint.
        TrainingStoppedError: If training cannot go on (no finite loss).
    """
    out = Path(out) if out is not None else default_folder(config)
    if resume:
        refuse_other_config(out, config.to_dict())
    graph = load_dataset(config.dataset, config.root) if graph is None else graph
    made = manifest(dataset=describe_dataset(graph), seed=config.seed)
    graph = with_inputs(graph, config)
    # What cannot be built fails before anything is written.
    training_loader(graph, build_model(config, graph), config.train, seed=config.seed)
    choose_device(config.train.device)
    tasks: tuple[int, ...] = ()
    if isinstance(config.scheduler, Single):
        tasks = _learnable(graph, config.scheduler.chosen_tasks(graph.num_tasks, config.seed))
    else:
        config.scheduler.build(graph.num_tasks, config.seed)
    step, task = _resume_point(out / "checkpoints") if resume else (None, None)
    if resume:
        refuse_other_data(out, made["dataset"]["sha256"])
    with RunWriter.open(out, resume=resume, step=step, task=task) as writer:
        if not resume:
            writer.write_config(config.to_dict())
            writer.write_manifest(made)
        with _deterministic(config.train.deterministic):
            if isinstance(config.scheduler, Single):
                summary = _train_single(config, graph, tasks, writer, resume)
            else:
                summary = _train_shared(config, graph, writer, resume)
        writer.write_summary(summary)
        writer.finish()
    for state in (out / "checkpoints").rglob("last.state"):  # a finished run is never resumed
        state.unlink()
    return read_run(out)


@contextlib.contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    """Ask torch for deterministic kernels in the block if wanted, and only there."""
    before = torch.are_deterministic_algorithms_enabled()
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def refuse_other_data(out: Path, digest: str) -> None:
    """Raise RecordError if the dataset is not the one the run was started on."""
    if not (out / "manifest.json").exists():
        return
    found = read_run(out).manifest.dataset.get("sha256")
    if found != digest:
        raise RecordError(
            f"{out} was started on a dataset of SHA-256 {found}. Found {digest} now; restore the "
            "dataset or start a new run."
        )


def default_folder(config: RunConfig) -> Path:
    """Return ``runs/DATASET/METHOD-seedN``."""
    name = Path(config.dataset).name.removesuffix(".npz")
    dataset = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")
    return Path("runs") / (dataset or "dataset") / folder_name(config)


def folder_name(config: RunConfig) -> str:
    """Return ``METHOD-seedN`` with every character unfit for a file name replaced."""
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', config.method)}-seed{config.seed}"


def refuse_other_config(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Raise RecordError if the folder holds a run of another configuration than ``wanted``."""
    file = folder / "config.json"
    if not file.exists():
        return
    try:
        found = _with_newer_fields(json.loads(file.read_text(encoding="utf-8")))
        changed = sorted(
            k for k in {*found, *wanted} if _identity(found.get(k)) != _identity(wanted.get(k))
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise RecordError(
            f"{file} should be the configuration of a run. Found: {error}. Remove the folder."
        ) from error
    if changed:
        raise RecordError(
            f"{folder} holds a run of another configuration (differs in {', '.join(changed)}), and "
            f"a run keeps the one it began with. Go on with `gnn-mtl train {folder} --resume`, "
            "choose another --out, or remove the folder."
        )


MACHINE_SETTINGS = frozenset({"device", "num_workers", "log_every", "checkpoint_seconds"})
"""Fields of ``Train`` that say where and how a run is made, not what it is."""


def _with_newer_fields(recorded: dict[str, Any]) -> dict[str, Any]:
    """A recorded configuration, with the defaults of the fields it is older than."""
    added = {name: asdict(part) for name, part in (("features", Features()), ("train", Train()))}
    return {
        key: {**added[key], **value} if key in added and isinstance(value, dict) else value
        for key, value in recorded.items()
    }


def _identity(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return {k: v for k, v in value.items() if k not in MACHINE_SETTINGS}
    return value


def describe_dataset(graph: TaskGraph) -> dict[str, Any]:
    """Return what the manifest says of the dataset."""
    return {
        "name": graph.name,
        "sha256": graph.fingerprint(),
        "num_nodes": graph.num_nodes,
        "num_edges": graph.csc.num_edges,
        "num_tasks": graph.num_tasks,
        "label_names": list(graph.label_names),
    }


def _train_shared(
    config: RunConfig, graph: TaskGraph, writer: RunWriter, resume: bool
) -> dict[str, Any]:
    """One model for all tasks."""
    model = build_model(config, graph)
    scheduler = config.scheduler.build(graph.num_tasks, config.seed)
    done = fit(
        model,
        graph,
        scheduler,
        config.train,
        seed=config.seed,
        checkpoints=writer.checkpoints,
        writer=writer,
        resume=resume and (writer.checkpoints / "last.state").exists(),
    )
    test = _score_test(model, graph)
    return _summary(
        config,
        done.best_step,
        done.best_epoch,
        {name: done.valid.get(name) for name in METRICS},
        {name: test.macro[name] for name in METRICS},
        {name: test.per_label[name] for name in PER_LABEL},
        test.positives,
        range(graph.num_tasks),
        done.cost,
        _num_parameters(model),
    )


def _train_single(
    config: RunConfig, graph: TaskGraph, tasks: tuple[int, ...], writer: RunWriter, resume: bool
) -> dict[str, Any]:
    """One model per task, each like a joint run on that label alone."""
    per_label = {name: np.full(graph.num_tasks, np.nan) for name in PER_LABEL}
    # How many labels a node gets is no question to a model of one label: no top-k here.
    macros: dict[str, dict[str, list[float]]] = {
        split: {name: [] for name in PER_LABEL} for split in ("valid", "test")
    }
    cost, best_steps, best_epochs, parameters = Cost(), [], [], 0
    for task in tasks:
        part = _train_one(config, graph, task, writer, resume)
        cost.add(Cost(**part.cost))
        best_steps.append(part.best_step)
        best_epochs.append(part.best_epoch)
        parameters += part.num_parameters
        for name in PER_LABEL:
            macros["valid"][name].append(_number(part.valid.get(name)))
            macros["test"][name].append(_number(part.test.get(name)))
            per_label[name][task] = _number(part.test.get(name))
    means = {
        split: {name: macro(np.array(values)) for name, values in scores.items()}
        for split, scores in macros.items()
    }
    positives = graph.positives("test")
    return _summary(
        config,
        int(np.median(best_steps)),
        int(np.median(best_epochs)),
        means["valid"],
        means["test"],
        per_label,
        positives,
        tasks,
        cost,
        parameters,
    )


def _learnable(graph: TaskGraph, tasks: tuple[int, ...]) -> tuple[int, ...]:
    """The tasks with both classes in every split; the others are named in a warning.

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


@dataclass
class _Part:
    """The outcome of one single-task model; kept on disk so that a resume need not repeat it."""

    best_step: int
    best_epoch: int
    valid: dict[str, float]
    test: dict[str, float]
    cost: dict[str, Any]
    num_parameters: int


def _train_one(
    config: RunConfig, graph: TaskGraph, task: int, writer: RunWriter, resume: bool
) -> _Part:
    folder = writer.checkpoints / f"task-{task:04d}"
    result = folder / "result.json"
    if resume and result.exists():
        return _Part(**json.loads(result.read_text(encoding="utf-8")))
    folder.mkdir(parents=True, exist_ok=True)
    one = graph.select_tasks([task])
    model = build_model(config, one)
    done: Fit = fit(
        model,
        one,
        Joint().build(1, config.seed),
        config.train,
        seed=config.seed,
        checkpoints=folder,
        writer=writer,
        resume=resume and (folder / "last.state").exists(),
        task=task,
    )
    test = _score_test(model, one)
    part = _Part(
        done.best_step,
        done.best_epoch,
        {name: done.valid[name] for name in PER_LABEL if name in done.valid},
        {name: test.macro[name] for name in PER_LABEL},
        done.cost.to_dict(),
        _num_parameters(model),
    )
    write_json(result, part.__dict__)
    return part


def _score_test(model: LabelModel, graph: TaskGraph) -> Scores:
    """The one look at the test labels, with the weights chosen by validation."""
    device = next(model.parameters()).device
    return evaluate_split(model, graph, "test", device=device, top_k=labels_per_node(graph))


def _summary(
    config: RunConfig,
    best_step: int,
    best_epoch: int,
    valid: dict[str, Any],
    test: dict[str, Any],
    per_label: dict[str, np.ndarray],
    positives: np.ndarray,
    tasks: Any,  # noqa: ANN401
    cost: Cost,
    num_parameters: int,
) -> dict[str, Any]:
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
        "cost": cost.to_dict(),
        "num_parameters": num_parameters,
    }


def _num_parameters(model: LabelModel) -> int:
    return sum(p.numel() for p in model.parameters())


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _resume_point(checkpoints: Path) -> tuple[int, int | None]:
    """Step and task of the newest checkpoint; before step 0 if none was saved yet."""
    states = [
        p
        for p in (checkpoints / "last.state", *checkpoints.glob("task-*/last.state"))
        if p.exists()
    ]
    if not states:
        return -1, None
    newest = max(states, key=lambda path: (path.parent.name, path.stat().st_mtime))
    values = checkpoint_values(newest)
    return int(values["at"]["step"]), values["task"]
