"""``train_subset``: one model on a few tasks, stopped early, and how well each does in it."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gnn_mtl._core.cost import CostMeter
from gnn_mtl._core.errors import InterruptedRunError, ShapeError, UsageError
from gnn_mtl._core.seeding import derive_seed, generator
from gnn_mtl.datasets import TaskGraph
from gnn_mtl.metrics import f1, ranking_scores
from gnn_mtl.nn import Heads, LabelModel, exact_logits
from gnn_mtl.training._config import Train
from gnn_mtl.training._cost import Cost
from gnn_mtl.training._optimizers import Optimizers, set_learning_rate
from gnn_mtl.training._rounds import copied_state, step_options
from gnn_mtl.training._setup import choose_device, positive_weights, training_loader
from gnn_mtl.training._skipped import Skipped
from gnn_mtl.training._step import train_step

SubsetMetric = Literal["loss", "ap", "auroc", "f1"]
SUBSET_METRICS: tuple[str, ...] = get_args(SubsetMetric)


@dataclass(frozen=True, eq=False)
class SubsetScores:
    """How the tasks of one subset did.

    Attributes:
        scores: For ``"loss"`` (minus the mean binary cross-entropy, in nats), ``"ap"``, ``"auroc"``
            and ``"f1"`` the validation score of each task ``[S]``; NaN where it has none (a label
            with one class has only a loss).
        best_epoch: Epochs behind the weights that were scored.
        cost: What the training took.
    """

    scores: dict[str, NDArray[np.float64]]
    best_epoch: int
    cost: Cost


def train_subset(
    model: LabelModel,
    graph: TaskGraph,
    config: Train,
    *,
    seed: int = 0,
    monitor: SubsetMetric = "loss",
    train_share: float = 1.0,
    should_stop: Callable[[], bool] | None = None,
) -> SubsetScores:
    """Train one model jointly on all tasks it has, and score each of them on validation.

    A short sibling of :func:`gnn_mtl.training.fit` for trainings by the hundred: nothing is logged
    or saved. It stops early by the very score it is asked for. A function of its arguments only:
    the same seed, model and tasks give the same numbers whatever was trained before.

    Args:
        model: A model of the tasks of ``graph``; trained in place, left with its best weights.
        graph: The dataset with these tasks only (:meth:`TaskGraph.select_tasks`).
        config: Budget, optimizer, ``eval_every`` and ``patience``; ``monitor`` there is not read.
        seed: Seed of batches and dropout.
        monitor: Score whose mean over the tasks chooses the epoch.
        train_share: Share of the training nodes to train on. Which ones depends on the seed and the
            node only, so that subsets of one seed agree on them; batches shrink with the share, so
            that an epoch has as many steps as before.
        should_stop: Asked after every epoch.

    Returns:
        The scores of the best epoch, on the validation split; test labels stay sealed.

    Raises:
        UsageError: If ``train_share`` or ``monitor`` is out of range, or model and graph differ.
        InterruptedRunError: If ``should_stop`` said so.
        TrainingStoppedError: If no task has a finite loss.

    Cost: epochs * (training nodes of these tasks / batch size) steps, and an exact inference on
    their validation nodes every ``eval_every`` epochs.
    """
    if not 0 < train_share <= 1:
        raise UsageError(f"`train_share` should lie in (0, 1]. Found {train_share}.")
    if monitor not in SUBSET_METRICS:
        raise UsageError(f"`monitor` should be one of {SUBSET_METRICS}. Found {monitor!r}.")
    if model.num_tasks != graph.num_tasks:
        raise UsageError(
            f"Model and graph should have the same tasks. Found {model.num_tasks} and "
            f"{graph.num_tasks}; pass graph.select_tasks(tasks)."
        )
    device = choose_device(config.device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derive_seed(seed, "dropout"))
        return _train(
            model.to(device), graph.sealed(), config, seed, monitor, train_share,
            should_stop or (lambda: False),
        )  # fmt: skip


def task_model(
    model: LabelModel, tasks: Sequence[int], *, heads: Heads | None = None
) -> LabelModel:
    """Return a copy of a model for some of its tasks: the same encoder, the rows of their heads.

    Args:
        model: The model; left as it is.
        tasks: Task ids, in the order of the copy's heads.
        heads: Heads to put on top instead of copied rows, of as many tasks.

    Raises:
        ShapeError: If ``heads`` are of another number of tasks.
        UsageError: If groups of tasks share parameters in the heads, which no row holds.
    """
    if heads is not None:
        if heads.num_tasks != len(tasks):
            raise ShapeError(f"`heads` should be of {len(tasks)} tasks. Found {heads.num_tasks}.")
        return LabelModel(copy.deepcopy(model.encoder), heads)
    return LabelModel(copy.deepcopy(model.encoder), model.heads.select(tasks))


def _train(
    model: LabelModel,
    graph: TaskGraph,
    config: Train,
    seed: int,
    monitor: SubsetMetric,
    train_share: float,
    should_stop: Callable[[], bool],
) -> SubsetScores:
    started = time.perf_counter()
    loader = training_loader(
        graph, model, config, seed=derive_seed(seed, "batches"),
        input_nodes=_sampled(graph, train_share, seed),
        batch_size=max(1, round(config.batch_size * train_share)),
    )  # fmt: skip
    tasks = tuple(range(model.num_tasks))
    pos_weight = positive_weights(graph, config, next(model.parameters()).device)
    optimizers, cost, meter = Optimizers(model, config), Cost(), CostMeter()
    skipped = Skipped()
    told = step_options(config, graph, pos_weight, skipped, meter)
    total_steps = config.total_steps(len(loader))
    best, best_epoch, stale = -math.inf, 0, 0
    best_weights: dict[str, Tensor] | None = None
    epoch = 0
    while cost.steps < total_steps and (config.patience is None or stale < config.patience):
        model.train()
        for batch in loader.epoch_batches(epoch):
            set_learning_rate(optimizers, config, cost.steps, total_steps)
            live, _ = train_step(model, batch, tasks, optimizers, **told)
            cost.steps += 1
            cost.label_gradients += len(live)
            if cost.steps == total_steps:
                break
        epoch += 1
        if should_stop():
            raise InterruptedRunError(f"Stopped in the training of a subset, epoch {epoch}.")
        if epoch % config.eval_every and cost.steps < total_steps:
            continue
        clock = time.perf_counter()
        score = _mean(_valid_scores(model, graph, (monitor,), skipped)[monitor])
        cost.eval_seconds += time.perf_counter() - clock
        stale += 1
        if score > best or best_weights is None:
            best, best_epoch, stale = score if score == score else -math.inf, epoch, 0
            best_weights = copied_state(model)
    if best_weights is not None:
        model.load_state_dict(best_weights)
    scores = _valid_scores(model, graph, SUBSET_METRICS, skipped)
    cost.count_skipped(skipped)
    cost.seconds = time.perf_counter() - started
    cost.count(meter)
    return SubsetScores(scores, best_epoch, cost)


def _sampled(graph: TaskGraph, share: float, seed: int) -> NDArray[np.int64]:
    """The training nodes kept; one at least."""
    nodes = graph.split_idx["train"]
    if share == 1.0:
        return nodes
    drawn = generator(seed, "train_share").random(graph.num_nodes)[nodes]
    kept = nodes[drawn < share]
    return kept if len(kept) else nodes[[int(np.argmin(drawn))]]


def _valid_scores(
    model: LabelModel, graph: TaskGraph, wanted: Sequence[str], skipped: Skipped
) -> dict[str, NDArray[np.float64]]:
    """Validation scores per task; all NaN for a task whose logits are not finite."""
    nodes = graph.split_idx["valid"]
    y, observed = graph.targets(nodes, "valid")
    logits = exact_logits(model, graph, nodes, device=next(model.parameters()).device)
    broken = (~np.isfinite(logits) & observed).any(axis=0)
    if broken.any():
        skipped.count(np.flatnonzero(broken).tolist(), graph.label_names, "score")
    observed = observed & ~broken
    found: dict[str, NDArray[np.float64]] = {}
    if "loss" in wanted:
        found["loss"] = _minus_loss(logits, y, observed)
    if {"ap", "auroc"} & set(wanted):
        found["auroc"], found["ap"] = ranking_scores(logits, y, observed)
    if "f1" in wanted:
        found["f1"] = f1(logits, y, observed)[0]
    return {name: found[name] for name in wanted}


def _minus_loss(
    logits: NDArray[np.float32], y: NDArray[np.float32], observed: NDArray[np.bool_]
) -> NDArray[np.float64]:
    z = np.where(observed, logits, 0.0).astype(np.float64)
    cells = np.where(observed, np.logaddexp(0.0, z) - y * z, 0.0)
    count = observed.sum(axis=0)
    return np.where(count > 0, -cells.sum(axis=0) / np.maximum(count, 1), np.nan)


def _mean(scores: NDArray[np.float64]) -> float:
    known = scores[~np.isnan(scores)]
    return float(known.mean()) if len(known) else math.nan
