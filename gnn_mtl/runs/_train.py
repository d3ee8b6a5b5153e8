"""``train``: one configuration becomes one run folder."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from gnn_mtl._core.errors import RecordError
from gnn_mtl.aggregation import Sum
from gnn_mtl.datasets import TaskGraph, load_dataset
from gnn_mtl.records import RunRecord, RunWriter, manifest, read_run
from gnn_mtl.runs._build import build_hooks, build_model, load_base, with_inputs
from gnn_mtl.runs._config import Features, RunConfig
from gnn_mtl.runs._several import check_groups, learnable, train_separate, train_single
from gnn_mtl.runs._summary import (
    METRICS,
    PER_LABEL,
    num_parameters,
    run_summary,
    score_test,
    timed_validation,
)
from gnn_mtl.schedulers import Separate, Single
from gnn_mtl.training import Train, checkpoint_values, choose_device, fit, training_loader


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
        tasks = learnable(graph, config.scheduler.chosen_tasks(graph.num_tasks, config.seed))
    elif isinstance(config.scheduler, Separate):
        check_groups(graph, config.scheduler.grouping(graph.num_tasks))
        if config.scheduler.base is not None:
            load_base(config.scheduler.base, config, graph)
            refuse_other_data(  # it may have been trained on what is the test split here
                Path(config.scheduler.base), made["dataset"]["sha256"],
                "begin with a run on this dataset",
            )  # fmt: skip
    else:
        config.scheduler.build(graph.num_tasks, config.seed)
        build_hooks(config, graph)
    step, task = _resume_point(out / "checkpoints") if resume else (None, None)
    if resume:
        refuse_other_data(out, made["dataset"]["sha256"])
    with RunWriter.open(out, resume=resume, step=step, task=task) as writer:
        if not resume:
            writer.write_config(config.to_dict())
            writer.write_manifest(made)
        with _deterministic(config.train.deterministic):
            if isinstance(config.scheduler, Single):
                summary = train_single(config, graph, tasks, writer, resume)
            elif isinstance(config.scheduler, Separate):
                summary = train_separate(config, graph, writer, resume)
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


def refuse_other_data(
    out: Path, digest: str, otherwise: str = "restore the dataset or start a new run"
) -> None:
    """Raise RecordError if the dataset is not the one the run was started on."""
    if not (out / "manifest.json").exists():
        return
    found = read_run(out).manifest.dataset.get("sha256")
    if found != digest:
        raise RecordError(
            f"{out} was started on a dataset of SHA-256 {found}. Found {digest} now; {otherwise}."
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
        wanted = _with_newer_fields(wanted)
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


def _with_newer_fields(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the defaults of the fields it does not have, or is older than."""
    added = {name: asdict(part) for name, part in (("features", Features()), ("train", Train()))}
    return {"aggregator": Sum().to_dict()} | {
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
        hooks=build_hooks(config, graph),
    )
    spent = timed_validation(model, graph)
    test = score_test(model, graph)
    return run_summary(
        config,
        done.best_step,
        done.best_epoch,
        {name: done.valid.get(name) for name in METRICS},
        {name: test.macro[name] for name in METRICS},
        {name: test.per_label[name] for name in PER_LABEL},
        test.positives,
        range(graph.num_tasks),
        done.cost,
        num_parameters(model),
        spent,
    )


def _resume_point(checkpoints: Path) -> tuple[int, int | None]:
    """Step and model (task or group) of the newest checkpoint; before step 0 if there is none."""
    states = [
        p for p in (checkpoints / "last.state", *checkpoints.glob("*/last.state")) if p.exists()
    ]
    if not states:
        return -1, None
    newest = max(states, key=lambda path: (path.parent.name, path.stat().st_mtime))
    values = checkpoint_values(newest)
    return int(values["at"]["step"]), values["task"]
