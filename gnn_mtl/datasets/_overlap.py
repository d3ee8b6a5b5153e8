"""``sample_overlap``: on how many of the same nodes two labels are trained.

Gradients of two tasks are only comparable where the tasks share training samples; on disjoint ones
their alignment says as much about the inputs as about the tasks. The flags and their thresholds
are those of Zhang & Cheng, arXiv 2604.07848: small evidence, so a warning and not a theorem.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gnn_mtl._core.errors import UsageError
from gnn_mtl.datasets._pair_counts import pair_counts
from gnn_mtl.datasets._task_graph import TaskGraph
from gnn_mtl.tasks import Grouping

RED_BELOW = 0.30  # arXiv 2604.07848: below, alignment could not be told from noise (.297 measured)
GREEN_FROM = 0.40  # arXiv 2604.07848: from here on they found it reliable
FLAGS = ("red", "amber", "green")
Measure = Literal["jaccard", "containment"]


@dataclass(frozen=True, eq=False)
class SampleOverlap:
    """Training cells shared by every pair of tasks.

    Attributes:
        observed: Nodes observed in training for both tasks, int64 ``[T, T]``; with Omega_i the
            training nodes of task i, the diagonal holds their number.
        positive: Training nodes positive for both tasks, int64 ``[T, T]``.
    """

    observed: NDArray[np.int64]
    positive: NDArray[np.int64]

    def jaccard(self, *, positive: bool = False) -> NDArray[np.float64]:
        r"""Return :math:`J_{ij} = |Ω_i ∩ Ω_j| / |Ω_i ∪ Ω_j|`, float ``[T, T]``.

        Args:
            positive: Take the positive training nodes as the sets, not the observed ones.

        Returns:
            The matrix; NaN where both sets are empty.
        """
        both = self.positive if positive else self.observed
        sizes = np.diagonal(both)
        return _share(both, sizes[:, None] + sizes - both)

    def containment(self, *, positive: bool = False) -> NDArray[np.float64]:
        r"""Return :math:`C_{ij} = |Ω_i ∩ Ω_j| / \min(|Ω_i|, |Ω_j|)`, NaN where one is empty.

        Args:
            positive: Take the positive training nodes as the sets, not the observed ones.
        """
        both = self.positive if positive else self.observed
        sizes = np.diagonal(both)
        return _share(both, np.minimum(sizes[:, None], sizes))

    def flags(self, measure: Measure = "jaccard") -> NDArray[np.uint8]:
        """Return the flag of each pair, see :func:`overlap_flags`; the paper's measure is not said.

        Args:
            measure: ``"jaccard"``, the stricter, or ``"containment"``.
        """
        return overlap_flags(self._shares(measure))

    def fractions(self, measure: Measure = "jaccard") -> dict[str, float]:
        """Return the share of pairs with each flag; NaN for a single task."""
        tasks = np.arange(len(self.observed))
        return _fractions(self.flags(measure), tasks)

    def inside(self, grouping: Grouping, measure: Measure = "jaccard") -> list[dict[str, float]]:
        """Return :meth:`fractions` among the pairs within each group, in the grouping's order.

        Raises:
            UsageError: If the grouping is over another number of tasks.
        """
        if grouping.num_tasks != len(self.observed):
            raise UsageError(
                f"The grouping should be over {len(self.observed)} tasks. "
                f"Found {grouping.num_tasks}."
            )
        flags = self.flags(measure)
        return [_fractions(flags, np.array(group)) for group in grouping.groups]

    def closest(self, count: int = 10) -> list[tuple[int, int, float]]:
        """Return the pairs with the highest Jaccard of positives as ``(i, j, J)``, highest first.

        Pairs without a common positive are left out, and ties keep the order of the tasks.
        """
        shares = np.nan_to_num(self.jaccard(positive=True))
        shares[np.tril_indices(len(shares))] = 0.0
        candidates = np.flatnonzero(shares)
        if len(candidates) > count:
            least = np.partition(shares.ravel()[candidates], -count)[-count]
            candidates = candidates[shares.ravel()[candidates] >= least]
        order = candidates[np.argsort(-shares.ravel()[candidates], kind="stable")][:count]
        rows, columns = np.unravel_index(order, shares.shape)
        return [(int(i), int(j), float(shares[i, j])) for i, j in zip(rows, columns, strict=True)]

    def _shares(self, measure: Measure) -> NDArray[np.float64]:
        if measure not in ("jaccard", "containment"):
            raise UsageError(f"`measure` is 'jaccard' or 'containment'. Found {measure!r}.")
        return self.jaccard() if measure == "jaccard" else self.containment()


def sample_overlap(graph: TaskGraph) -> SampleOverlap:
    """Count the training samples every pair of tasks shares.

    Only observed training cells count, so a sealed graph will do. With a split per node all labels
    of a fully labelled graph share every sample (J = 1). With the community benchmarks' split per
    (node, task), 20 % of the cells drawn for each task apart, two tasks share a fifth of their
    samples (C = .2, J = .2 / 1.8 = .111) although every label is known: red, without need.

    Args:
        graph: The graph.

    Returns:
        The counts, with both measures and the flags.

    Note:
        Time O(T^2 N / 128) word operations at most, seconds for 1M nodes x 500 tasks; memory is
        two matrices ``[T, T]``.
    """
    counts = pair_counts(graph)
    return SampleOverlap(counts.observed, counts.positive)


def overlap_flags(shares: ArrayLike) -> NDArray[np.uint8]:
    """Return 0 (red) below .30, 1 (amber) below .40, 2 (green) from there on; NaN is red.

    The numbers index :data:`FLAGS`. Thresholds: arXiv 2604.07848, a heuristic.
    """
    values = np.nan_to_num(np.asarray(shares, dtype=np.float64))
    return (values >= RED_BELOW).astype(np.uint8) + (values >= GREEN_FROM)


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def _fractions(flags: NDArray[np.uint8], tasks: NDArray[np.int64]) -> dict[str, float]:
    pairs = flags[np.ix_(tasks, tasks)][np.triu_indices(len(tasks), 1)]
    if len(pairs) == 0:
        return dict.fromkeys(FLAGS, float("nan"))
    counts = np.bincount(pairs, minlength=len(FLAGS)) / len(pairs)
    return dict(zip(FLAGS, counts.tolist(), strict=True))
