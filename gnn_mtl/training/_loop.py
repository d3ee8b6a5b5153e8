"""``fit``: the loop from batches, active tasks and updates to the best model by validation."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from gnn_mtl._core.cost import CostMeter
from gnn_mtl._core.errors import InterruptedRunError, TrainingStoppedError, UsageError
from gnn_mtl._core.progress import Progress
from gnn_mtl._core.seeding import derive_seed
from gnn_mtl.datasets import TaskGraph
from gnn_mtl.graph import MiniBatch
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
from gnn_mtl.training._feed import Feed
from gnn_mtl.training._group_updates import group_updates
from gnn_mtl.training._hooks import StepHooks
from gnn_mtl.training._optimizers import Optimizers, set_learning_rate
from gnn_mtl.training._ranks import labelled
from gnn_mtl.training._rounds import copied_state, step_options
from gnn_mtl.training._setup import choose_device, positive_weights, training_loader
from gnn_mtl.training._signals import StopSignal
from gnn_mtl.training._skipped import Skipped
from gnn_mtl.training._step import train_step


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
    hooks: StepHooks | None = None,
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
        hooks: Act on the losses and gradients of the active tasks at every update; their state is
            part of the checkpoints.

    Returns:
        The best validation scores and the cost.

    Raises:
        InterruptedRunError: On SIGINT or SIGTERM, after saving a checkpoint.
        TrainingStoppedError: If no active task has a finite loss; a checkpoint is saved first.
    """
    made = _Training(model, graph, scheduler, config, seed, checkpoints, writer, task, hooks)
    return made.run(resume)


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
        hooks: StepHooks | None,
    ) -> None:
        if not scheduler.num_tasks == model.num_tasks == graph.num_tasks:
            raise UsageError(
                "Graph, model and schedule should have the same tasks. Found "
                f"{graph.num_tasks}, {model.num_tasks} and {scheduler.num_tasks}."
            )
        if hooks is not None and not isinstance(hooks, StepHooks):
            raise UsageError(
                "`hooks` should be StepHooks; an aggregator is given as AggregatorHooks(it). "
                f"Found {type(hooks).__name__}."
            )
        self.graph = graph.sealed()
        self.device = choose_device(config.device)
        self.model = model.to(self.device)
        self.scheduler, self.config = scheduler, config
        self.checkpoints, self.writer, self.task = checkpoints, writer, task
        self.hooks = hooks
        self.optimizers = Optimizers(model, config)
        self.at = _Progress()
        self.cost, self.skipped = Cost(), Skipped()
        self.best_weights: dict[str, Tensor] | None = None
        self.top_k = labels_per_node(self.graph)
        self.pos_weight = positive_weights(self.graph, config, self.device)
        self.loader = training_loader(self.graph, model, config, seed=derive_seed(seed, "batches"))
        self.feed = Feed(
            model, self.graph, scheduler, config, pos_weight=self.pos_weight,
            seed=derive_seed(seed, "probes"),
        )  # fmt: skip
        self.total_steps = config.total_steps(len(self.loader))
        self.saved_at = time.perf_counter()
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
                        if self._is_spent:
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
        return stale or (self._is_spent and self.at.evaluated_step == self.at.step)

    @property
    def _is_spent(self) -> bool:
        """Whether the budget is: of steps or of label-gradients."""
        budget = self.config.max_label_gradients
        spent = budget is not None and self.cost.label_gradients >= budget
        return spent or self.at.step >= self.total_steps

    def _share(self) -> float:
        """The share of the budget that is spent, by what runs out first."""
        budget, share = self.config.max_label_gradients, self.at.step / self.total_steps
        return share if budget is None else max(share, self.cost.label_gradients / budget)

    def _rest_of_epoch(self) -> Iterator[MiniBatch]:
        if self._is_spent:  # resumed between the last step and its evaluation
            return iter(())
        return self.loader.epoch_batches(self.at.epoch, self.at.index)

    def _step(self, batch: MiniBatch, started: float) -> None:
        self.feed.refresh(self.cost)
        available = [task for task, seen in enumerate(labelled(batch.observed)) if seen]
        tasks = self.scheduler.active_tasks(available=available)
        self._log_refreshes()
        self.feed.active(batch, tasks, self.cost)
        outer_lr = self.scheduler.outer_lr
        if outer_lr is not None and self.scheduler.begins_cycle:
            self.optimizers.outer.begin_cycle(outer_lr)
        at = max(self.at.step, int(self._share() * self.total_steps))
        at = self.at.step if self.at.step < self.config.warmup_steps else at
        lr = set_learning_rate(self.optimizers, self.config, at, self.total_steps)
        with self.feed.watched(batch, self.at.step, self.cost):
            live, losses = self._update(batch, tasks)
        self.at.step += 1
        self.at.index += 1
        self.cost.count_skipped(self.skipped)
        if self.writer is not None and live and self.at.step % self.config.log_every == 0:
            self.writer.log_train(
                step=self.at.step, epoch=self.at.epoch, loss=float(losses.mean()),
                num_active=len(live), lr=lr, seconds=time.perf_counter() - started, **self._tag(),
            )  # fmt: skip

    def _update(self, batch: MiniBatch, tasks: tuple[int, ...]) -> tuple[tuple[int, ...], Tensor]:
        """Make the step's updates; return the tasks that took part and their losses."""
        meter = CostMeter()
        options = step_options(self.config, self.graph, self.pos_weight, self.skipped, meter)
        options |= {"hooks": self.hooks, "step": self.at.step}
        updates = self.scheduler.updates()
        if len(updates) == 1 and not self.scheduler.needs_losses:
            weights = self.scheduler.task_weights()
            live, losses = train_step(
                self.model, batch, tasks, self.optimizers, weights=weights, **options
            )
            self.cost.count(meter)
            self.cost.steps += bool(live)
            self.cost.label_gradients += len(live)
            self.cost.probe_label_gradients += meter.label_gradients - len(live)
            return live, losses
        done = group_updates(
            self.model, batch, updates, self.optimizers,
            after_last=self.scheduler.needs_last_losses, **options,
        )  # fmt: skip
        if self.scheduler.needs_losses:
            self.scheduler.observe_losses(done.losses)
        self.cost.count(meter)
        self.cost.steps += sum(map(bool, done.live))
        self.cost.label_gradients += done.label_gradients
        self.cost.probe_label_gradients += meter.label_gradients - done.label_gradients
        live = tuple(sorted({task for tasks in done.live for task in tasks}))
        return live, torch.from_numpy(done.losses[0, list(live)])

    def _log_refreshes(self) -> None:
        reports = self.scheduler.pop_reports()
        if reports:
            self.optimizers.regroup(self.scheduler.groups)
        for report in reports:
            self.cost.refreshes += report.probed or report.num_colors > 1
            seconds = self.feed.seconds if report.probed else 0.0
            if self.writer is not None and self.task is None:
                row = {k: v for k, v in report.to_record().items() if k != "kind"}
                self.writer.log_grouping(affinity=report.affinity, seconds=seconds, **row)  # type: ignore[arg-type]

    def _evaluate_if_due(self, started: float) -> None:
        if not self._is_spent and self.at.epoch % self.config.eval_every:
            return
        clock = time.perf_counter()
        scores = self._valid_scores()
        self.cost.eval_seconds += time.perf_counter() - clock
        score = scores.mean(self.config.monitor)
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
        scores = evaluate_split(
            self.model, self.graph, "valid", device=self.device, top_k=self.top_k,
            skipped=self.skipped,
        )  # fmt: skip
        self.cost.count_skipped(self.skipped)
        return scores

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
                "streamed": self.feed.state_dict(),
                "hooks": {} if self.hooks is None else self.hooks.state_dict(),
            },
            {
                "at": asdict(self.at),
                "cost": self.cost.to_dict(),
                "skipped": {str(k): v for k, v in self.skipped.losses.items()},
                "skipped_in_a_row": self.skipped.in_a_row,
                "skipped_scores": {str(k): v for k, v in self.skipped.scores.items()},
                "hooks": _kind(self.hooks),
                "task": self.task,
            },
        )

    def _load(self) -> None:
        if self.checkpoints is None:
            raise UsageError("`resume` needs the folder of the checkpoints. Found none.")
        parts, values = load_state(self.checkpoints / "last.state", self.model)
        began, found = values.get("hooks"), _kind(self.hooks)
        if began != found:
            raise UsageError(
                f"The training to resume has hooks {began}. Found {found}; pass the `hooks` it "
                "began with."
            )
        self.optimizers.load_state_tensors(parts["optimizers"])
        self.scheduler.load_state_dict(parts["scheduler"])
        self.feed.load_state_dict(parts["streamed"])
        if self.hooks is not None:
            self.hooks.load_state_dict(parts["hooks"])
        self.at = _Progress(**values["at"])
        if self.at.best_score is not None:
            self.best_weights = load_tensors(self.checkpoints / "best.safetensors")
        self.cost = Cost(**values["cost"])
        self.skipped = Skipped(
            {int(k): v for k, v in values["skipped"].items()}, self.cost.skipped_updates,
            values.get("skipped_in_a_row", 0),
            {int(k): v for k, v in values.get("skipped_scores", {}).items()},
        )  # fmt: skip

    def _save_best(self) -> None:
        self.best_weights = copied_state(self.model)

    def _load_best(self) -> None:
        if self.best_weights is not None:
            self.model.load_state_dict(self.best_weights)


def _kind(hooks: StepHooks | None) -> str | None:
    return None if hooks is None else hooks.name


def _interrupted(number: int, step: int) -> InterruptedRunError:
    return InterruptedRunError(
        f"Stopped by signal {number} after step {step}; a checkpoint was saved. "
        "Go on with --resume.",
        signal_number=number,
    )
