"""Which subsets of tasks to train or to predict, so that every pair of tasks is seen together."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gnn_mtl._core.errors import GnnMtlWarning, UsageError
from gnn_mtl._core.seeding import generator
from gnn_mtl.affinity._group_gains import check_masks

ENUMERATED = 200_000
PAIRS_WANTED = 20
REPAIRS, IDLE = 20_000, 200  # swaps at most; and how many of these may bring nothing
NEVER = 1e9  # how often a task counts as having met itself


@dataclass(frozen=True)
class PairCoverage:
    """How often pairs of tasks are together in some subsets.

    Attributes:
        fewest: Subsets that hold the least covered pair.
        mean: Mean over the pairs.
        most: Subsets that hold the most covered pair.
        missing: Share of the pairs that no subset holds.
        uniform_missing: Share that as many uniformly drawn subsets of these sizes would miss.
        missing_pairs: The first of those pairs, at most 20.
    """

    fewest: int
    mean: float
    most: int
    missing: float
    uniform_missing: float
    missing_pairs: tuple[tuple[int, int], ...]


def draw_subsets(
    num_tasks: int,
    size: int,
    number: int,
    *,
    seed: int = 0,
    min_pairs: int = 1,
    balanced: bool = True,
) -> NDArray[np.bool_]:
    r"""Draw distinct subsets of equal size.

    m subsets of size :math:`\alpha` hold a pair :math:`m\alpha(\alpha-1) / (T(T-1))` times on
    average; drawn uniformly, they miss it with probability :math:`e^{-\text{that}}`: 41 % of the
    pairs at T = 500, m = 2,500, :math:`\alpha` = 10, the setting of Grad-TAG (arXiv 2409.06091).
    Balanced, each subset starts from the pair seen least and takes up the tasks that met its
    members least, and rare pairs are swapped in at the end.

    Args:
        num_tasks: Number of tasks T.
        size: Tasks in every subset.
        number: Number of subsets m.
        seed: Seed of the draw.
        min_pairs: Times every pair should be seen together; a warning says so where some are not.
        balanced: Spread the pairs evenly; otherwise uniformly at random, duplicates skipped.

    Returns:
        Members of each subset, bool ``[m, T]``. Tasks are treated alike, so a permutation of their
        ids gives another design, but no other coverage.

    Raises:
        UsageError: If ``size`` is not in [1, T], or there are fewer than ``number`` such subsets.

    Cost: m times ``size`` passes over T counts; 10,000 subsets of 22 of 500 tasks take seconds, as
    do some hundred swaps in vain where ``min_pairs`` cannot be had.
    """
    if num_tasks < 1 or not 1 <= size <= num_tasks:
        raise UsageError(
            f"`size` should lie in [1, {num_tasks}], the number of tasks. Found {size}."
        )
    total = math.comb(num_tasks, size)
    if not 1 <= number <= total:
        raise UsageError(
            f"`number` should lie in [1, {total}], the subsets of {size} of {num_tasks} tasks. "
            f"Found {number}."
        )
    if min_pairs < 0:
        raise UsageError(f"`min_pairs` should not be negative. Found {min_pairs}.")
    rng = generator(seed, "subsets", num_tasks, size)
    if total <= ENUMERATED and (number == total or not balanced):
        rows = list(combinations(range(num_tasks), size))
        picked = rng.permutation(total)[:number]
        return _warned(_masks([rows[k] for k in picked], num_tasks), min_pairs)
    if balanced and size > 1:
        return _warned(_balanced(num_tasks, size, number, min_pairs, rng), min_pairs)
    return _warned(_uniform(num_tasks, size, number, rng), min_pairs)


def all_pairs(num_tasks: int) -> NDArray[np.bool_]:
    """Return every pair of tasks as a subset, bool ``[T (T - 1) / 2, T]``.

    Raises:
        UsageError: If there are fewer than two tasks.
    """
    if num_tasks < 2:
        raise UsageError(f"`num_tasks` should be at least 2. Found {num_tasks}.")
    return _masks(list(combinations(range(num_tasks), 2)), num_tasks)


def default_subsets(num_tasks: int, size: int | None = None) -> tuple[int, int]:
    """Return a size and a number of subsets: sqrt(T) tasks each, every pair about 20 times.

    At T = 100 about 2,200 subsets of 10 tasks, as in the papers; at T = 500 about 10,800 of 22.
    Never more subsets than there are.

    Args:
        num_tasks: Number of tasks T.
        size: Another size.
    """
    if size is None:
        size = min(num_tasks, max(2, round(num_tasks**0.5)))
    number = math.ceil(PAIRS_WANTED * num_tasks * (num_tasks - 1) / max(1, size * (size - 1)))
    return size, max(1, min(number, math.comb(num_tasks, size)))


def pair_coverage(masks: ArrayLike) -> PairCoverage:
    """Return how often the pairs of tasks are together in the subsets ``[m, T]``.

    Raises:
        ShapeError: If ``masks`` is not a matrix.
        UsageError: If a subset is empty.
    """
    members = np.asarray(masks)
    members = check_masks(members, members.shape[-1] if members.ndim else 0).astype(np.float64)
    num_tasks, sizes = members.shape[1], members.sum(axis=1)
    rows, columns = np.triu_indices(num_tasks, 1)
    if len(rows) == 0:
        return PairCoverage(0, math.nan, 0, 0.0, 0.0, ())
    counts = np.rint((members.T @ members)[rows, columns]).astype(np.int64)
    chance = sizes * (sizes - 1) / (num_tasks * (num_tasks - 1))
    with np.errstate(divide="ignore"):
        uniform = math.exp(np.log1p(-np.minimum(chance, 1.0)).sum())
    gaps = np.flatnonzero(counts == 0)
    pairs = tuple((int(rows[k]), int(columns[k])) for k in gaps[:20])
    return PairCoverage(
        int(counts.min()), float(counts.mean()), int(counts.max()), len(gaps) / len(counts),
        uniform, pairs,
    )  # fmt: skip


def _uniform(num_tasks: int, size: int, number: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Distinct subsets, each as likely as any other."""
    found: dict[tuple[int, ...], None] = {}
    while len(found) < number:
        found[tuple(sorted(rng.choice(num_tasks, size, replace=False).tolist()))] = None
    return _masks(list(found), num_tasks)


def _balanced(
    num_tasks: int, size: int, number: int, min_pairs: int, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Greedy subsets, then swaps for the pairs that are still too rare."""
    counts = np.zeros((num_tasks, num_tasks))
    np.fill_diagonal(counts, NEVER)
    used = np.zeros(num_tasks)
    found: dict[tuple[int, ...], None] = {}
    while len(found) < number:
        members = _greedy_subset(counts, used, size, rng)
        while tuple(sorted(members)) in found:  # a twin: let chance decide on the last tasks
            kept = members[: int(rng.integers(0, size))]
            others = np.setdiff1d(np.arange(num_tasks), kept)
            members = [*kept, *rng.choice(others, size - len(kept), replace=False).tolist()]
        found[tuple(sorted(members))] = None
        counts[np.ix_(members, members)] += 1.0
        used[members] += 1.0
    rows = [list(row) for row in found]
    _repair(rows, counts, min_pairs, rng)
    return _masks(rows, num_tasks)


def _greedy_subset(
    counts: NDArray[np.float64], used: NDArray[np.float64], size: int, rng: np.random.Generator
) -> list[int]:
    """One subset around a pair seen least, of tasks that met its members least.

    Against the least covered pair, one seen c times more costs 1 - 2^-c: new pairs count, and
    pairs seen often do not add up.
    """
    least = counts.min(axis=1)
    fewest = least.min()
    tie = 0.5 * rng.random(len(used)) + used / (used.max() + 1.0)
    members = [int(np.argmin(least + 0.5 * tie))]
    cost = 1e-3 * tie
    for _ in range(size - 1):
        cost += 1.0 - np.exp2(fewest - counts[members[-1]])
        cost[members[-1]] = np.inf
        members.append(int(np.argmin(cost)))
    return members


def _repair(
    rows: list[list[int]], counts: NDArray[np.float64], least: int, rng: np.random.Generator
) -> None:
    """Bring pairs below ``least`` together by swapping out tasks that few pairs need there."""
    known = {tuple(row) for row in rows}
    held: list[set[int]] = [set() for _ in counts]
    for k, row in enumerate(rows):
        for task in row:
            held[task].add(k)
    fewest, idle = math.inf, 0
    for _ in range(REPAIRS):
        lacking = np.triu(np.maximum(least - counts, 0.0), 1)
        first, second = np.nonzero(lacking)
        idle += lacking.sum() >= fewest
        fewest = min(fewest, lacking.sum())
        if fewest == 0 or idle > IDLE:
            return
        pick = int(rng.integers(len(first)))
        a, b = int(first[pick]), int(second[pick])
        swap = _best_swap(rows, held, counts, least, a, b, rng)
        if swap is None:
            continue
        k, out, comer = swap
        others = [task for task in rows[k] if task != out]
        moved = tuple(sorted([*others, comer]))
        if moved in known:
            continue
        known.remove(tuple(rows[k]))
        known.add(moved)
        rows[k] = list(moved)
        held[out].remove(k)
        held[comer].add(k)
        for change, task in ((-1.0, out), (1.0, comer)):
            counts[task, others] += change
            counts[others, task] += change


def _best_swap(
    rows: list[list[int]],
    held: list[set[int]],
    counts: NDArray[np.float64],
    least: int,
    first: int,
    second: int,
    rng: np.random.Generator,
) -> tuple[int, int, int] | None:
    """The (subset, task out, task in) that brings the two together at the most gain or no loss."""
    best, lowest = None, (0, 0.0)
    for anchor, comer in ((first, second), (second, first)):
        for k in held[anchor] - held[comer]:
            row = np.array(rows[k])
            wanted = counts[comer, row] < least
            loss = (counts[np.ix_(row, row)] <= least).sum(axis=1) - (wanted.sum() - wanted)
            loss[row == anchor] = len(counts)
            place = int(np.argmin(loss))
            key = (int(loss[place]), -float(rng.random()))
            if key < lowest:
                best, lowest = (k, int(row[place]), comer), key
    return best


def _masks(rows: Sequence[Sequence[int]], num_tasks: int) -> NDArray[np.bool_]:
    masks = np.zeros((len(rows), num_tasks), dtype=np.bool_)
    members = np.array(rows, dtype=np.int64)
    masks[np.arange(len(rows))[:, None], members] = True
    return masks


def _warned(masks: NDArray[np.bool_], min_pairs: int) -> NDArray[np.bool_]:
    """The design; with a warning if a pair is seen less often than asked for."""
    if min_pairs == 0 or masks.shape[1] < 2:
        return masks
    coverage = pair_coverage(masks)
    if coverage.fewest < min_pairs:
        warnings.warn(
            f"Every pair of tasks should be in {min_pairs} of {len(masks)} subsets. Found one in "
            f"{coverage.fewest}; {coverage.missing:.1%} of the pairs are in none (mean "
            f"{coverage.mean:.1f}). Draw more or larger subsets.",
            GnnMtlWarning,
            stacklevel=3,
        )
    return masks
