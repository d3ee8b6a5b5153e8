"""How labels go together, and how far they would by chance: phi and its permutation null."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl._core.progress import Progress
from gnn_mtl._core.seeding import generator
from gnn_mtl.datasets._bits import BitMatrix, row_slices
from gnn_mtl.datasets._pair_counts import has_whole_rows, pair_counts
from gnn_mtl.datasets._targets import BitTargets
from gnn_mtl.datasets._task_graph import TaskGraph

Statistic = Callable[[TaskGraph], ArrayLike]
PAIRS_KEPT = 100_000
TASKS_SAMPLED = 64
CHANCE_PAIRS = 6_000


def label_correlation(graph: TaskGraph) -> NDArray[np.float64]:
    r"""Return the phi coefficient of every pair of labels over the training nodes both observe.

    .. math:: φ_{ij} = (n\,n_{11} - n_{1·} n_{·1}) / \sqrt{n_{1·} n_{0·} n_{·1} n_{·0}}

    Pearson's correlation of the two 0/1 columns. It uses training labels only: a sealed graph will
    do. Symmetric, in [-1, 1].

    Returns:
        Float ``[T, T]``; NaN where no node is observed for both or one label does not vary there.

    Note:
        Time as :func:`sample_overlap`, memory a few matrices ``[T, T]``.
    """
    counts = pair_counts(graph, margins=True)
    assert counts.positive_where_observed is not None  # noqa: S101
    n = counts.observed.astype(np.float64)
    ours = counts.positive_where_observed.astype(np.float64)
    theirs = ours.T
    spread = np.sqrt(ours * (n - ours)) * np.sqrt(theirs * (n - theirs))
    top = n * counts.positive - ours * theirs
    return np.divide(top, spread, out=np.full(n.shape, np.nan), where=spread > 0)


@dataclass(frozen=True, eq=False)
class PermutationNull:
    """What a statistic of pairs of tasks is like when labels have nothing to do with each other.

    Attributes:
        threshold: The quantile of the absolute values found by chance.
        quantile: Which one.
        familywise: Whether it is of the largest of all pairs of each permutation, so that *no* pair
            passes by chance with that probability; otherwise of single pairs, of which a share
            ``1 - quantile`` passes.
        num_permutations: Shufflings.
    """

    threshold: float
    quantile: float
    familywise: bool
    num_permutations: int

    def exceeding(self, values: ArrayLike) -> NDArray[np.bool_]:
        """Return bool ``[T, T]``: off-diagonal cells beyond the threshold on either side."""
        matrix = np.asarray(values, dtype=np.float64)
        beyond = np.abs(np.nan_to_num(matrix)) > self.threshold
        np.fill_diagonal(beyond, False)
        return beyond


def permutation_null(
    graph: TaskGraph,
    statistic: Statistic = label_correlation,
    *,
    num_permutations: int = 20,
    quantile: float = 0.95,
    familywise: bool = False,
    seed: int = 0,
) -> PermutationNull:
    """Find how large a statistic gets when the training labels of each task are shuffled.

    Replaces a fixed threshold for an affinity by one that knows how many samples and positives the
    tasks have.

    Args:
        graph: The graph.
        statistic: Takes a graph, returns ``[T, T]``: a correlation, or an affinity measured on it.
        num_permutations: Shufflings; the cost is that many times the statistic's.
        quantile: Which quantile of the absolute values is the threshold, in (0, 1).
        familywise: Take the quantile of the largest value of each permutation.
        seed: Seed of the shuffling.

    Returns:
        The threshold. With more than 100,000 pairs a random 100,000 of them stand for all.

    Raises:
        UsageError: If a number is out of range, or no pair has a value.
        ShapeError: If the statistic returns another shape.
    """
    if num_permutations < 1 or not 0 < quantile < 1:
        raise UsageError(
            "`num_permutations` should be at least 1 and `quantile` between 0 and 1. "
            f"Found {num_permutations} and {quantile}."
        )
    tasks = graph.num_tasks
    off_diagonal = np.flatnonzero(~np.eye(tasks, dtype=np.bool_))
    rng = generator(seed, "permutation null")
    kept = off_diagonal
    if len(kept) > PAIRS_KEPT and not familywise:
        kept = np.sort(rng.choice(kept, PAIRS_KEPT, replace=False))
    found: list[NDArray[np.float64]] = []
    with Progress("permutations", num_permutations) as progress:
        for _ in range(num_permutations):
            matrix = np.asarray(statistic(_shuffled(graph, rng)), dtype=np.float64)
            if matrix.shape != (tasks, tasks):
                raise ShapeError(
                    f"The statistic should return shape ({tasks}, {tasks}). Found {matrix.shape}."
                )
            values = np.abs(matrix.ravel()[kept])
            values = values[np.isfinite(values)]
            found.append(values.max(keepdims=True) if familywise and len(values) else values)
            progress.advance()
    pooled = np.concatenate(found)
    if len(pooled) == 0:
        raise UsageError("The statistic should know at least one pair of tasks. Found NaN only.")
    return PermutationNull(
        float(np.quantile(pooled, quantile)), quantile, familywise, num_permutations
    )


def correlation_facts(graph: TaskGraph) -> dict[str, Any] | None:
    """Return how many pairs of labels go together more than by chance, as plain JSON values.

    Above 64 tasks, 64 of them evenly spaced stand for all; labels are shuffled 3 to 20 times, for
    some 6,000 pairs by chance.

    Returns:
        ``tasks`` looked at; ``threshold``: the 95 % quantile of absolute phi under permutation;
        ``beyond``: the share of pairs above it (.05 by chance); ``strongest``: the largest absolute
        phi. None if no pair of labels varies.
    """
    count = min(graph.num_tasks, TASKS_SAMPLED)
    if count < graph.num_tasks:
        graph = graph.select_tasks(np.linspace(0, graph.num_tasks - 1, count).round().astype(int))
    upper = np.triu_indices(count, 1)
    values = np.abs(label_correlation(graph)[upper])
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return None
    shufflings = int(np.clip(CHANCE_PAIRS // len(values), 3, 20))
    null = permutation_null(graph, num_permutations=shufflings)
    return {
        "tasks": count, "threshold": round(null.threshold, 4),
        "beyond": round(float((values > null.threshold).mean()), 4),
        "strongest": round(float(values.max()), 4),
    }  # fmt: skip


def shuffle_labels(graph: TaskGraph, *, seed: int = 0) -> TaskGraph:
    """Return the graph with the training labels of each task dealt anew among its training nodes.

    Every task keeps its training nodes and its number of positives, and loses what ties it to
    other tasks, features and edges. Validation and test labels stay.

    Args:
        graph: The graph.
        seed: Seed of the shuffling.
    """
    return _shuffled(graph, generator(seed, "shuffle labels"))


def _shuffled(graph: TaskGraph, rng: np.random.Generator) -> TaskGraph:
    size, tasks = graph.num_nodes, graph.num_tasks
    positive = BitMatrix.zeros(size, tasks)
    whole = has_whole_rows(graph)
    trained = BitMatrix.zeros(0 if whole else size, tasks)
    for rows in row_slices(size, tasks):
        is_positive, is_observed = graph._labels.gather(rows)
        in_training = is_observed & graph._split.mask(rows, "train")
        positive.set_rows(rows, is_positive & ~in_training)
        if not whole:
            trained.set_rows(rows, in_training)
    nodes = graph.split_idx["train"]
    nodes = nodes[graph.labelled()[nodes]]
    for task, count in enumerate(graph.positives("train")):
        if not whole:
            nodes = np.flatnonzero(trained.bits[:, task >> 3] & (1 << (task & 7)))
        positive.set_column(rng.choice(nodes, int(count), replace=False), task)
    other = graph._copy()
    other._labels = BitTargets(positive, graph._labels.observed)
    return other
