"""Which k groups to train: every task is served by the group in which it gains most."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl._core.seeding import generator
from gnn_mtl.tasks import Grouping

Scores = Callable[[NDArray[np.bool_]], NDArray[np.float64]]
EXHAUSTIVE_TASKS = 9
"""Up to here all 2^T - 1 groups are candidates."""


@dataclass(frozen=True)
class GroupChoice:
    """The groups that were chosen.

    Attributes:
        grouping: The groups; a task may be in several.
        served_by: Index of the group, in ``grouping``'s order, that serves each task.
        value: Mean over the tasks of the score in the group that serves them.
        optimal: Whether no other choice among the candidates is better, proven.
    """

    grouping: Grouping
    served_by: tuple[int, ...]
    value: float
    optimal: bool


def choose_groups(
    masks: ArrayLike, scores: ArrayLike, num_groups: int, *, max_nodes: int = 20_000
) -> GroupChoice:
    r"""Choose at most k of some candidate groups, covering every task.

    Maximises :math:`\frac1T \sum_t \max_{G \ni t} s_{G,t}` over at most k candidates (TAG,
    arXiv 2109.04617; ETAP), a weighted set cover and NP-hard. Candidates that another beats for all
    its tasks are dropped; a greedy choice with exchanges is the first incumbent; branch and bound,
    with each task's best score among the candidates left as the bound, then proves or betters it.

    Args:
        masks: Members of each candidate, bool ``[m, T]``.
        scores: Score of each member ``[m, T]``; outside the group not read; NaN inside rules the
            candidate out for that task.
        num_groups: Groups k, at most.
        max_nodes: Branches looked at before the incumbent is returned unproven.

    Raises:
        ShapeError: If the shapes do not fit.
        UsageError: If ``num_groups`` is below 1, or no k candidates found cover every task.
    """
    masks = np.asarray(masks).astype(np.bool_)
    values = np.asarray(scores, dtype=np.float64)
    if masks.ndim != 2 or masks.shape != values.shape or 0 in masks.shape:
        raise ShapeError(
            "`masks` and `scores` should both be [m, T] with m, T >= 1. "
            f"Found {masks.shape} and {values.shape}."
        )
    if num_groups < 1:
        raise UsageError(f"`num_groups` should be at least 1. Found {num_groups}.")
    values = np.where(masks & ~np.isnan(values), values, -np.inf)
    if not np.isfinite(values).any(axis=0).all():
        missing = np.flatnonzero(~np.isfinite(values).any(axis=0)).tolist()
        raise UsageError(f"The candidates should cover every task. Found none for {missing[:8]}.")
    kept = _undominated(values)
    chosen = _exchanged(values[kept], _greedy(values[kept], num_groups))
    search = _BranchAndBound(values[kept], num_groups, max_nodes)
    chosen = search.run(chosen)
    best = values[kept][list(chosen)]
    if not np.isfinite(best.max(axis=0)).all():
        raise UsageError(
            f"{num_groups} of the candidates should cover all {masks.shape[1]} tasks. Found no "
            "such choice; allow more groups or larger candidates."
        )
    members = [tuple(np.flatnonzero(masks[kept[each]]).tolist()) for each in chosen]
    return _choice(members, best, not search.cut)


def search_groups(
    scores: Scores, num_tasks: int, num_groups: int, *, restarts: int = 4, seed: int = 0
) -> GroupChoice:
    """Find at most k groups for which a predictor promises the most.

    Up to 9 tasks all groups are candidates of :func:`choose_groups`. Beyond, a local search: from
    the group of all tasks and random equal ones, the best change of one task's membership is made
    until none helps; a task must stay somewhere. A score that is unknown counts as 0, as that of a
    task alone.

    Args:
        scores: Maps masks ``[m, T]`` to members' scores ``[m, T]``, e.g. ``GainPredictor.predict``
            or a partial of :func:`group_gains`.
        num_tasks: Number of tasks T.
        num_groups: Groups k, at most.
        restarts: Starts of the local search.
        seed: Seed of its random starts.

    Raises:
        UsageError: If a number is below 1.

    Cost: 2^T rows of ``scores`` up to 9 tasks; else k T rows a change.
    """
    if min(num_tasks, num_groups, restarts) < 1:
        raise UsageError(
            "`num_tasks`, `num_groups` and `restarts` should be at least 1. Found "
            f"{num_tasks}, {num_groups} and {restarts}."
        )
    if num_tasks <= EXHAUSTIVE_TASKS:
        numbers = np.arange(1, 1 << num_tasks)
        masks = (numbers[:, None] >> np.arange(num_tasks)) % 2 == 1
        return choose_groups(masks, _known(scores(masks)), num_groups)
    number = min(num_groups, num_tasks)
    rng = generator(seed, "search_groups")
    best, best_value = None, -np.inf
    for start in range(restarts):
        masks = np.zeros((number, num_tasks), dtype=np.bool_)
        masks[rng.permutation(num_tasks) % number, np.arange(num_tasks)] = True
        if start % 2 == 0:
            masks[0] = True
        found, value = _climb(scores, masks)
        if value > best_value:
            best, best_value = found, value
    assert best is not None  # noqa: S101 - at least one start
    values = np.where(best, _known(scores(best)), -np.inf)
    return _choice([tuple(np.flatnonzero(row).tolist()) for row in best], values, False)


def _known(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isnan(scores), 0.0, scores)


def _climb(scores: Scores, masks: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], float]:
    """Change one membership at a time while the mean best score rises."""
    number, num_tasks = masks.shape

    def served(of: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.where(of, _known(scores(of)), -np.inf)

    values = served(masks)
    value = float(values.max(axis=0).mean())
    while True:
        flips = np.repeat(masks, num_tasks, axis=0)
        rows = np.arange(len(flips))
        flips[rows, rows % num_tasks] ^= True
        open_ = flips.any(axis=1)
        changed = np.full(flips.shape, -np.inf)
        changed[open_] = served(flips[open_])
        group = rows // num_tasks
        # the best of the other groups stays what it is
        others = np.stack(
            [np.delete(values, g, axis=0).max(axis=0, initial=-np.inf) for g in range(number)]
        )
        after = np.maximum(changed, others[group]).mean(axis=1)
        pick = int(after.argmax())
        if not after[pick] > value + 1e-12 * max(1.0, abs(value)):
            return masks, value
        value = float(after[pick])
        masks = masks.copy()
        masks[group[pick]] = flips[pick]
        values = values.copy()
        values[group[pick]] = changed[pick]


def _undominated(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Candidates that no other matches or beats for every task, best totals first."""
    finite = np.isfinite(values)
    order = np.lexsort((-np.where(finite, values, 0.0).sum(axis=1), -finite.sum(axis=1)))
    kept: list[int] = []
    for candidate in order.tolist():
        if not kept or not (values[kept] >= values[candidate]).all(axis=1).any():
            kept = [each for each in kept if not (values[candidate] >= values[each]).all()]
            kept.append(candidate)
    return np.array(kept, dtype=np.int64)


def _worth(best: NDArray[np.float64]) -> tuple[int, float]:
    """What choices are compared by: tasks covered, then their summed score."""
    covered = np.isfinite(best)
    return int(covered.sum()), float(best[covered].sum())


def _greedy(values: NDArray[np.float64], num_groups: int) -> list[int]:
    chosen: list[int] = []
    best = np.full(values.shape[1], -np.inf)
    for _ in range(min(num_groups, len(values))):
        merged = np.maximum(values, best)
        worths = [_worth(row) for row in merged]
        pick = max(range(len(values)), key=worths.__getitem__)
        if chosen and worths[pick] <= _worth(best):
            break
        chosen.append(pick)
        best = merged[pick]
    return chosen


def _exchanged(values: NDArray[np.float64], chosen: list[int]) -> list[int]:
    """Swap one chosen candidate for another while that helps."""
    improved = True
    while improved:
        improved = False
        for place in range(len(chosen)):
            rest = [each for at, each in enumerate(chosen) if at != place]
            base = values[rest].max(axis=0, initial=-np.inf)
            worths = [_worth(row) for row in np.maximum(values, base)]
            pick = max(range(len(values)), key=worths.__getitem__)
            if worths[pick] > worths[chosen[place]]:
                chosen[place], improved = pick, True
    return chosen


class _BranchAndBound:
    """Depth-first over the candidates in order, with suffix maxima as the bound."""

    def __init__(self, values: NDArray[np.float64], num_groups: int, max_nodes: int) -> None:
        self.values, self.num_groups, self.max_nodes = values, num_groups, max_nodes
        self.suffix = np.maximum.accumulate(values[::-1], axis=0)[::-1]
        self.nodes, self.cut = 0, False

    def run(self, incumbent: list[int]) -> list[int]:
        """Return the best choice found."""
        self.best = list(incumbent)
        self.worth = _worth(self.values[self.best].max(axis=0))
        self._visit(0, [], np.full(self.values.shape[1], -np.inf))
        return self.best

    def _visit(self, first: int, chosen: list[int], served: NDArray[np.float64]) -> None:
        if len(chosen) == self.num_groups:
            return
        for candidate in range(first, len(self.values)):
            if self.nodes >= self.max_nodes:
                self.cut = True
                return
            if _worth(np.maximum(served, self.suffix[candidate])) <= self.worth:
                return  # suffix maxima only shrink
            self.nodes += 1
            merged = np.maximum(served, self.values[candidate])
            worth = _worth(merged)
            if worth > self.worth:
                self.best, self.worth = [*chosen, candidate], worth
            self._visit(candidate + 1, [*chosen, candidate], merged)


def _choice(
    members: list[tuple[int, ...]], values: NDArray[np.float64], optimal: bool
) -> GroupChoice:
    """Make the answer: groups that serve no task are left out."""
    serving = values.argmax(axis=0)
    used = sorted(set(serving.tolist()), key=lambda each: members[each])
    grouping = Grouping.of([members[each] for each in used], values.shape[1], "best_per_task")
    order = {group: at for at, group in enumerate(grouping.groups)}
    served = tuple(order[members[each]] for each in serving.tolist())
    return GroupChoice(grouping, served, float(values.max(axis=0).mean()), optimal)
