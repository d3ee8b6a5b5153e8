"""``fit``: the loop from batches, active tasks and updates to the best model by validation."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gnn_mtl._core.errors import InterruptedRunError, TrainingStoppedError, UsageError
from gnn_mtl._core.progress import Progress
from gnn_mtl._core.seeding import derive_seed
from gnn_mtl.datasets import TaskGraph
from gnn_mtl.gradients import probe
from gnn_mtl.graph import LabelInputs, MiniBatch, NeighborLoader
from gnn_mtl.metrics import Scores
from gnn_mtl.nn import LabelModel
from gnn_mtl.records import RunWriter
from gnn_mtl.schedulers import TaskScheduler
from gnn_mtl.training._checkpoint import (
    load_state,
    load_tensors,
    save_state,
    save_tensors,
    save_weights,
)
from gnn_mtl.training._config import Train
from gnn_mtl.training._cost import Cost, reset_peak_rss
from gnn_mtl.training._evaluate import evaluate_split, labels_per_node
from gnn_mtl.training._group_updates import group_updates
from gnn_mtl.training._signals import StopSignal
from gnn_mtl.training._step import Optimizers, Skipped, set_learning_rate, train_step


@dataclass(frozen=True)
class Fit:
    """What a training found; the model passed in holds the best weights by validation.

    Attributes:
        best_step: Optimizer steps done when the best validation score was reached.
        best_epoch: Epochs done by then.
        valid: Macro validation scores there.
        cost: What it took.
    """

    best_step: int
    best_epoch: int
    valid: dict[str, float]
    cost: Cost


@dataclass
class _Progress:
    """Where the training stands; everything a resume needs next to tensors."""

    step: int = 0
    epoch: int = 0
    index: int = 0
    best_score: float | None = None
    best_step: int = 0
    best_epoch: int = 0
    best_valid: dict[str, float] | None = None
    stale_evaluations: int = 0
    evaluated_step: int = -1


def fit(
    model: LabelModel,
    graph: TaskGraph,
    scheduler: TaskScheduler,
    config: Train,
    *,
    seed: int = 0,
    checkpoints: Path | None = None,
    writer: RunWriter | None = None,
    resume: bool = False,
    task: int | None = None,
) -> Fit:
    """Train the model under a task schedule and leave it with its best weights by validation.

    Holds the graph sealed: no test label can reach a loss or a choice. Every random stream derives
    from ``seed``; batches do not depend on the number of threads.

    Args:
        model: Trained in place.
        graph: The dataset.
        scheduler: Says which tasks are supervised at every step, and is fed with gradients when it
            asks for them.
        config: Budget, optimizer, model choice.
        seed: The run's seed.
        checkpoints: Folder for ``last.safetensors``, ``best.safetensors`` and ``last.state``;
            None keeps the best weights in memory and cannot be resumed.
        writer: Where rows are logged.
        resume: Go on from ``checkpoints/last.state``, bit for bit as if never interrupted.
        task: Task id to put into the rows of a single-task model.

    Returns:
        The best validation scores and the cost.

    Raises:
        InterruptedRunError: On SIGINT or SIGTERM, after saving a checkpoint.
        TrainingStoppedError: If no active task has a finite loss; a checkpoint is saved first.
    """
    return _Training(model, graph, scheduler, config, seed, checkpoints, writer, task).run(resume)


class _Training:
    """The state of one ``fit``; each method is one part of the loop."""

    def __init__(
        self,
        model: LabelModel,
        graph: TaskGraph,
        scheduler: TaskScheduler,
        config: Train,
        seed: int,
        checkpoints: Path | None,
        writer: RunWriter | None,
        task: int | None,
    ) -> None:
        if not scheduler.num_tasks == model.num_tasks == graph.num_tasks:
            raise UsageError(
                "Graph, model and schedule should have the same tasks. Found "
                f"{graph.num_tasks}, {model.num_tasks} and {scheduler.num_tasks}."
            )
        self.graph = graph.sealed()
        self.device = choose_device(config.device)
        self.model = model.to(self.device)
        self.scheduler, self.config = scheduler, config
        self.checkpoints, self.writer, self.task = checkpoints, writer, task
        self.optimizers = Optimizers(model, config)
        self.at = _Progress()
        self.cost, self.skipped = Cost(), Skipped()
        self.best_weights: dict[str, Tensor] | None = None
        self.top_k = labels_per_node(self.graph)
        self.pos_weight = positive_weights(self.graph, config)
        if self.pos_weight is not None:
            self.pos_weight = self.pos_weight.to(self.device)
        self.loader = training_loader(self.graph, model, config, seed=derive_seed(seed, "batches"))
        self.probes = training_loader(
            self.graph, model, config, seed=derive_seed(seed, "probes"), drop_last=True,
            batch_size=config.probe_batch_size, num_workers=0,
        )  # fmt: skip
        self.total_steps = config.total_steps(len(self.loader))
        self.saved_at = time.perf_counter()
        self.refresh_seconds = 0.0
        self.dropout_seed = derive_seed(seed, "dropout")

    def run(self, resume: bool) -> Fit:
        """Train with torch's random state set aside, so that the caller's is as it was."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self.dropout_seed)
            return self._run(resume)

    def _run(self, resume: bool) -> Fit:
        reset_peak_rss()
        if resume:
            self._load()
        started = time.perf_counter() - self.cost.seconds
        self.model.train()
        with StopSignal() as stop, Progress("training", self.total_steps) as progress:
            progress.done = self.at.step
            try:
                while not self._is_over():
                    for batch in self._rest_of_epoch():
                        self._step(batch, started)
                        score = self.at.best_score
                        progress.advance(note="" if score is None else f"valid {score:.4f}")
                        self.cost.seconds = time.perf_counter() - started
                        if stop.number is not None:
                            self._save()
                            raise _interrupted(stop.number, self.at.step)
                        if self.at.step >= self.total_steps:
                            break
                    if self.at.index == len(self.loader):
                        self.at.epoch, self.at.index = self.at.epoch + 1, 0
                    self._evaluate_if_due(started)
                    if stop.number is not None:
                        self._save()
                        raise _interrupted(stop.number, self.at.step)
            except TrainingStoppedError:
                self._save()
                raise
        self.cost.seconds = time.perf_counter() - started
        self._save()
        self._load_best()
        return Fit(self.at.best_step, self.at.best_epoch, dict(self.at.best_valid or {}), self.cost)

    def _is_over(self) -> bool:
        patience = self.config.patience
        stale = patience is not None and self.at.stale_evaluations >= patience
        done = self.at.step >= self.total_steps and self.at.evaluated_step == self.at.step
        return stale or done

    def _rest_of_epoch(self) -> Iterator[MiniBatch]:
        if self.at.step >= self.total_steps:  # resumed between the last step and its evaluation
            return iter(())
        return self.loader.epoch_batches(self.at.epoch, self.at.index)

    def _step(self, batch: MiniBatch, started: float) -> None:
        self._refresh()
        labelled = torch.nonzero(batch.observed.any(dim=0)).flatten().tolist()
        tasks = self.scheduler.active_tasks(available=labelled)
        self._log_refreshes()
        outer_lr = self.scheduler.outer_lr
        if outer_lr is not None and self.scheduler.begins_cycle:
            self.optimizers.outer.begin_cycle(outer_lr)
        lr = set_learning_rate(self.optimizers, self.config, self.at.step, self.total_steps)
        live, losses = self._update(batch, tasks)
        self.at.step += 1
        self.at.index += 1
        self.cost.skipped_losses = sum(self.skipped.losses.values())
        self.cost.skipped_updates = self.skipped.updates
        if self.writer is not None and live and self.at.step % self.config.log_every == 0:
            self.writer.log_train(
                step=self.at.step, epoch=self.at.epoch, loss=float(losses.mean()),
                num_active=len(live), lr=lr, seconds=time.perf_counter() - started, **self._tag(),
            )  # fmt: skip

    def _update(self, batch: MiniBatch, tasks: tuple[int, ...]) -> tuple[tuple[int, ...], Tensor]:
        """Make the step's updates; return the tasks that took part and their losses."""
        options: dict[str, Any] = {
            "pos_weight": self.pos_weight, "grad_clip": self.config.grad_clip,
            "autocast": self.config.autocast == "bf16", "skipped": self.skipped,
            "label_names": self.graph.label_names,
        }  # fmt: skip
        updates = self.scheduler.updates()
        if len(updates) == 1 and not self.scheduler.needs_losses:
            weights = self.scheduler.task_weights()
            live, losses = train_step(
                self.model, batch, tasks, self.optimizers, weights=weights, **options
            )
            self.cost.steps += bool(live)
            self.cost.label_gradients += len(live)
            return live, losses
        done = group_updates(
            self.model, batch, updates, self.optimizers,
            after_last=self.scheduler.needs_last_losses, **options,
        )  # fmt: skip
        if self.scheduler.needs_losses:
            self.scheduler.observe_losses(done.losses)
        self.cost.steps += sum(map(bool, done.live))
        self.cost.label_gradients += done.label_gradients
        live = tuple(sorted({task for tasks in done.live for task in tasks}))
        return live, torch.from_numpy(done.losses[0, list(live)])

    def _refresh(self) -> None:
        """Feed the scheduler if it asks; the model, the optimizer and the batches do not notice."""
        owed = self.scheduler.needs_probe()
        if not owed:
            return
        started = time.perf_counter()
        batch = self.probes.batch(*divmod(self.cost.probes, len(self.probes)))
        gradients = probe(
            self.model, batch, tasks=owed, mode=self.config.probe, pos_weight=self.pos_weight
        )
        self.scheduler.observe(gradients)
        self.refresh_seconds = time.perf_counter() - started
        self.cost.refresh_seconds += self.refresh_seconds
        self.cost.probes += 1
        self.cost.probe_label_gradients += gradients.label_gradients

    def _log_refreshes(self) -> None:
        reports = self.scheduler.pop_reports()
        if reports:
            self.optimizers.regroup(self.scheduler.groups)
        for report in reports:
            self.cost.refreshes += report.probed or report.num_colors > 1
            seconds = self.refresh_seconds if report.probed else 0.0
            if self.writer is not None and self.task is None:
                row = {k: v for k, v in report.to_record().items() if k != "kind"}
                self.writer.log_grouping(affinity=report.affinity, seconds=seconds, **row)  # type: ignore[arg-type]

    def _evaluate_if_due(self, started: float) -> None:
        done = self.at.step >= self.total_steps
        if not done and self.at.epoch % self.config.eval_every:
            return
        clock = time.perf_counter()
        scores = self._valid_scores()
        self.cost.eval_seconds += time.perf_counter() - clock
        score = scores.macro[self.config.monitor]
        self.at.stale_evaluations += 1
        self.at.evaluated_step = self.at.step
        best = self.at.best_score
        if best is None or math.isnan(best) or score > best:
            self.at.best_score, self.at.stale_evaluations = score, 0
            self.at.best_step, self.at.best_epoch = self.at.step, self.at.epoch
            self.at.best_valid = dict(scores.macro)
            self._save_best()
        if self.writer is not None:
            self.writer.log_valid(
                step=self.at.step, epoch=self.at.epoch, ap=scores.macro["ap"],
                auroc=scores.macro["auroc"], f1=scores.macro["f1"],
                seconds=time.perf_counter() - started, **self._tag(),
            )  # fmt: skip
        self.cost.seconds = time.perf_counter() - started
        if time.perf_counter() - self.saved_at >= self.config.checkpoint_seconds:
            self._save()

    def _valid_scores(self) -> Scores:
        return evaluate_split(self.model, self.graph, "valid", device=self.device, top_k=self.top_k)

    def _tag(self) -> dict[str, int]:
        return {} if self.task is None else {"task": self.task}

    def _save(self) -> None:
        self.saved_at = time.perf_counter()
        if self.checkpoints is None:
            return
        if self.best_weights is not None:  # before the state that names its step
            save_tensors(self.checkpoints / "best.safetensors", self.best_weights)
        save_weights(self.checkpoints / "last.safetensors", self.model)
        save_state(
            self.checkpoints / "last.state",
            self.model,
            {
                "optimizers": self.optimizers.state_tensors(),
                "scheduler": self.scheduler.state_dict(),
            },
            {
                "at": asdict(self.at),
                "cost": self.cost.to_dict(),
                "skipped": {str(k): v for k, v in self.skipped.losses.items()},
                "task": self.task,
            },
        )

    def _load(self) -> None:
        if self.checkpoints is None:
            raise UsageError("`resume` needs the folder of the checkpoints. Found none.")
        parts, values = load_state(self.checkpoints / "last.state", self.model)
        self.optimizers.load_state_tensors(parts["optimizers"])
        self.scheduler.load_state_dict(parts["scheduler"])
        self.at = _Progress(**values["at"])
        if self.at.best_score is not None:
            self.best_weights = load_tensors(self.checkpoints / "best.safetensors")
        self.cost = Cost(**values["cost"])
        self.skipped = Skipped(
            {int(k): v for k, v in values["skipped"].items()}, self.cost.skipped_updates
        )

    def _save_best(self) -> None:
        state = self.model.state_dict()
        self.best_weights = {name: value.detach().clone() for name, value in state.items()}

    def _load_best(self) -> None:
        if self.best_weights is not None:
            self.model.load_state_dict(self.best_weights)


def training_loader(
    graph: TaskGraph,
    model: LabelModel,
    config: Train,
    *,
    seed: int,
    **options: Any,  # noqa: ANN401
) -> NeighborLoader:
    """Return the loader of training batches that a configuration asks for.

    Args:
        graph: The dataset.
        model: Says how many hops to sample and on which device it lives.
        config: Batch size, fan-outs, threads.
        seed: Seed of shuffling and sampling.
        **options: Arguments of :class:`NeighborLoader` that replace the configured ones.

    Raises:
        UsageError: If labels are inputs and a batch holds every training node, so that none is
            left to be read.
    """
    arguments: dict[str, Any] = {
        "num_neighbors": config.fan_outs(model.encoder.num_hops), "replace": config.replace,
        "batch_size": config.batch_size, "num_workers": config.num_workers,
        "device": next(model.parameters()).device,
    }  # fmt: skip
    arguments |= options
    available = len(graph.split_idx["train"])
    if isinstance(graph, LabelInputs) and arguments["batch_size"] >= available:
        raise UsageError(
            "Labels as inputs need batches smaller than the training set: those of a batch are "
            f"hidden. Found batches of {arguments['batch_size']} of {available} nodes; lower "
            "--train.batch-size and --train.probe-batch-size."
        )
    return NeighborLoader(graph, "train", seed=seed, **arguments)


def choose_device(name: str) -> torch.device:
    """Return the device that ``--device`` names; ``auto`` is CUDA where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"`device` should be auto, cpu or cuda. Found {name!r}.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"`device` is {name!r} but torch finds no CUDA here; use --device auto.")
    return device


def positive_weights(graph: TaskGraph, config: Train) -> Tensor | None:
    """Return the weight of each task's positives ``[T]`` that the configuration asks for."""
    if config.pos_weight == "none":
        return None
    positives = torch.from_numpy(graph.positives("train")).double()
    negatives = torch.from_numpy(graph.observed_counts("train")).double() - positives
    ratio = negatives / positives.clamp(min=1)
    if config.pos_weight == "sqrt":
        ratio = ratio.sqrt()
    return ratio.clamp(min=1, max=100).float()


def _interrupted(number: int, step: int) -> InterruptedRunError:
    return InterruptedRunError(
        f"Stopped by signal {number} after step {step}; a checkpoint was saved. "
        "Go on with --resume.",
        signal_number=number,
    )
