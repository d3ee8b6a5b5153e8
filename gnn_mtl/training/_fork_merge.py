"""ForkMerge: branches trained apart from the same weights, merged by what validation prefers.

Jiang et al., "ForkMerge: Mitigating Negative Transfer in Auxiliary-Task Learning", NeurIPS 2023,
arXiv 2301.12618. There a target task and its auxiliaries make the branches; here sets of tasks do,
so that groups can be branches, scored by the mean over all tasks, or a target with and without
others, scored by the target alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gnn_mtl._core.cost import CostMeter
from gnn_mtl._core.errors import UsageError
from gnn_mtl._core.progress import Progress
from gnn_mtl._core.seeding import derive_seed
from gnn_mtl.datasets import TaskGraph
from gnn_mtl.graph import NeighborLoader
from gnn_mtl.nn import LabelModel
from gnn_mtl.training._config import Train
from gnn_mtl.training._cost import Cost
from gnn_mtl.training._merge_states import State, average_states
from gnn_mtl.training._merge_weights import refresh_batch_norm
from gnn_mtl.training._optimizers import Optimizers, set_learning_rate
from gnn_mtl.training._rounds import batches_between, copied_state, step_options, valid_score
from gnn_mtl.training._setup import choose_device, positive_weights, training_loader
from gnn_mtl.training._skipped import Skipped
from gnn_mtl.training._step import train_step

NORM_BATCHES = 20


@dataclass(frozen=True, kw_only=True)
class ForkMerge:
    """How branches are trained and merged."""

    epochs_per_round: int = 5
    """Epochs between two merges."""
    grid: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    """Shares that a further branch may get of the merged weights."""
    batch_norm: Literal["average", "measure"] = "average"
    """Running statistics of merged batch norms: the mean, or measured anew on 20 batches."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid", tuple(self.grid))
        if self.epochs_per_round < 1:
            raise UsageError(
                f"`epochs_per_round` should be at least 1. Found {self.epochs_per_round}."
            )
        if not self.grid or not all(0 <= share <= 1 for share in self.grid):
            raise UsageError(f"`grid` should hold shares from 0 to 1. Found {self.grid}.")
        if self.batch_norm not in ("average", "measure"):
            raise UsageError(f"`batch_norm` should be average or measure. Found {self.batch_norm}.")


@dataclass(frozen=True, eq=False)
class MergeRound:
    """One round: how the branches scored alone, and what became of them.

    Attributes:
        step: Steps each branch had made by then.
        branch_scores: Validation score of each branch ``[B]``.
        weights: Share of each branch in the merged weights ``[B]``.
        score: Validation score of the merged weights.
    """

    step: int
    branch_scores: NDArray[np.float64]
    weights: NDArray[np.float64]
    score: float


@dataclass(frozen=True, eq=False)
class ForkMerged:
    """What :func:`fork_merge` did; the model passed in holds the best round's merged weights.

    Attributes:
        rounds: All rounds.
        best_round: The one with the best validation score.
        cost: What it took, all branches together.
    """

    rounds: tuple[MergeRound, ...]
    best_round: int
    cost: Cost


def search_merge(
    score: Callable[[NDArray[np.float64]], float], num_branches: int, grid: Sequence[float]
) -> tuple[NDArray[np.float64], float, NDArray[np.float64]]:
    """Search the shares of branches in a merge, greedily from the best branch on.

    Branches are ranked by their own score; each in turn is given every share of the grid of what
    was merged so far, and the best is kept if it beats giving it none. For two branches this is the
    paper's search over lambda.

    Args:
        score: Of the merge with given shares ``[B]``, which sum to 1; larger is better.
        num_branches: Number of branches B.
        grid: Shares to try.

    Returns:
        The shares ``[B]``, their score, and the score of each branch alone ``[B]``.

    Cost: B + (B - 1) len(grid) scores at most; shares of 0 and 1 are known already.
    """
    units = np.eye(num_branches)
    alone = np.array([score(unit) for unit in units])
    order = np.argsort(-np.nan_to_num(alone, nan=-np.inf), kind="stable")
    shares, best = units[order[0]], alone[order[0]]
    for branch in order[1:]:
        before = shares
        for share in grid:
            if 0 < share < 1:
                tried = (1 - share) * before + share * units[branch]
                found = score(tried)
                if found > best:
                    shares, best = tried, found
    return shares, float(best), alone


def fork_merge(
    model: LabelModel,
    graph: TaskGraph,
    branches: Sequence[Sequence[int]],
    config: Train,
    options: ForkMerge | None = None,
    *,
    scored: Sequence[int] | None = None,
    seed: int = 0,
) -> ForkMerged:
    """Train in rounds: fork the model, train each branch on its tasks, merge by validation.

    All branches of a round start from the same weights and see the same batches and dropout. The
    head of a task is merged among the branches that train it, by their shares; if those are all 0,
    equally. Optimizers start anew after every merge; the learning rate follows the whole budget.
    The share of a round does not depend on earlier rounds' scores, and there is no early stopping.

    Args:
        model: Trained in place.
        graph: The dataset; its test labels stay sealed.
        branches: Tasks of every branch: groups, or ``[target, target + auxiliaries, ...]``; two
            to four are sensible.
        config: Budget, batches, optimizer, and the ``monitor`` score.
        options: Rounds and grid.
        scored: Tasks whose mean validation score chooses; default: all.
        seed: Seed of batches and dropout.

    Returns:
        The rounds.

    Raises:
        UsageError: If there is no branch, or a branch or ``scored`` names no task of the graph.

    Cost: B times that of a training, plus B + (B - 1) len(grid) evaluations a round; weights of
    B + 2 models.
    """
    options = options or ForkMerge()
    tasks_of = [_tasks(tasks, graph.num_tasks) for tasks in branches]
    if not tasks_of:
        raise UsageError("Expected at least one branch. Found none.")
    chosen = None if scored is None else _tasks(scored, graph.num_tasks)
    started = time.perf_counter()
    graph = graph.sealed()
    device = choose_device(config.device)
    model.to(device)
    names = _row_names(model)
    loader = training_loader(graph, model, config, seed=derive_seed(seed, "batches"))
    total = config.total_steps(len(loader))
    per_round = options.epochs_per_round * len(loader)
    rounds: list[MergeRound] = []
    pos_weight, skipped = positive_weights(graph, config, device), Skipped()
    cost, best = Cost(), copied_state(model)
    for start in range(0, total, per_round):
        stop = min(start + per_round, total)
        fork, states = copied_state(model), []
        for tasks in tasks_of:
            model.load_state_dict(fork)
            _train(
                model, graph, loader, tasks, config, (start, stop, total), seed, pos_weight,
                skipped, cost,
            )  # fmt: skip
            states.append(copied_state(model))

        def score(shares: NDArray[np.float64], states: Sequence[State] = states) -> float:
            _load(model, states, shares, tasks_of, names, options, loader)
            return valid_score(model, graph, config, chosen, skipped=skipped)

        clock = time.perf_counter()
        shares, value, alone = search_merge(score, len(tasks_of), options.grid)
        cost.eval_seconds += time.perf_counter() - clock
        _load(model, states, shares, tasks_of, names, options, loader)
        if not rounds or value > max(done.score for done in rounds):
            best = copied_state(model)
        rounds.append(MergeRound(stop, alone, shares, value))
    model.load_state_dict(best)
    cost.count_skipped(skipped)
    cost.seconds = time.perf_counter() - started
    scores = [done.score for done in rounds]
    return ForkMerged(tuple(rounds), int(np.nanargmax(scores)), cost)


def _train(
    model: LabelModel,
    graph: TaskGraph,
    loader: NeighborLoader,
    tasks: tuple[int, ...],
    config: Train,
    span: tuple[int, int, int],
    seed: int,
    pos_weight: Tensor | None,
    skipped: Skipped,
    cost: Cost,
) -> None:
    """Train one branch from step ``span[0]`` to before ``span[1]`` of ``span[2]``."""
    start, stop, total = span
    device = next(model.parameters()).device
    optimizers, meter = Optimizers(model, config), CostMeter()
    told = step_options(config, graph, pos_weight, skipped, meter)
    model.train()
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        Progress("branch", stop - start) as progress,
    ):
        torch.manual_seed(derive_seed(seed, "dropout", start))
        for step, batch in batches_between(loader, start, stop):
            set_learning_rate(optimizers, config, step, total)
            live, _ = train_step(model, batch, tasks, optimizers, **told)
            cost.steps += bool(live)
            cost.label_gradients += len(live)
            progress.advance()
    cost.count(meter)


def _load(
    model: LabelModel,
    states: Sequence[State],
    shares: NDArray[np.float64],
    tasks_of: Sequence[tuple[int, ...]],
    names: set[str],
    options: ForkMerge,
    loader: NeighborLoader,
) -> None:
    model.load_state_dict(merge_branches(states, shares.tolist(), tasks_of, names))
    if options.batch_norm == "measure":
        refresh_batch_norm(model, islice(loader.epoch_batches(0), NORM_BATCHES))


def merge_branches(
    states: Sequence[State],
    shares: Sequence[float],
    tasks_of: Sequence[Sequence[int]],
    row_names: set[str],
) -> dict[str, Tensor]:
    """Return the branches' weighted mean; rows of heads among the branches that train them.

    Args:
        states: State of every branch.
        shares: Weight of every branch.
        tasks_of: Tasks of every branch.
        row_names: Tensors ``[T, ...]`` whose row t belongs to task t.

    Raises:
        ShapeError: If the states do not match.
        UsageError: If there is no state, or shares are negative, all 0 or of another number.
    """
    merged = average_states(states, shares)
    tasks_held_by: dict[tuple[int, ...], list[int]] = {}
    for task in sorted({task for tasks in tasks_of for task in tasks}):
        held = tuple(b for b, tasks in enumerate(tasks_of) if task in tasks)
        tasks_held_by.setdefault(held, []).append(task)
    for held, tasks in tasks_held_by.items():
        weights = [shares[b] for b in held]
        rows = average_states(
            [{name: states[b][name][tasks] for name in row_names} for b in held],
            weights if any(weights) else None,
        )
        for name in row_names:
            merged[name][tasks] = rows[name]
    return merged


def _row_names(model: LabelModel) -> set[str]:
    rows = {id(parameter) for parameter in model.head_parameters()}
    return {name for name, parameter in model.named_parameters() if id(parameter) in rows}


def _tasks(tasks: Sequence[int], num_tasks: int) -> tuple[int, ...]:
    ids = tuple(sorted({int(task) for task in tasks}))
    if not ids or not 0 <= ids[0] <= ids[-1] < num_tasks:
        raise UsageError(f"Expected tasks from 0 to {num_tasks - 1}. Found {list(ids[:8])}.")
    return ids
