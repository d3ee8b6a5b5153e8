"""Do groups hold? Agreement over bootstraps of an affinity's errors, or over seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import comb

from gnn_mtl._core.errors import UsageError
from gnn_mtl._core.seeding import generator
from gnn_mtl.grouping._greedy_coloring import class_of_each
from gnn_mtl.tasks import Affinity, Grouping


def adjusted_rand(grouping: Grouping, other: Grouping, /) -> float:
    """Return the adjusted Rand index of two partitions: 1 = the same, 0 = as by chance.

    Hubert & Arabie 1985.

    Raises:
        UsageError: If one is not a partition, or they are of different tasks.
    """
    table = _contingency(grouping, other)
    together = comb(table, 2).sum()
    rows, columns = comb(table.sum(axis=1), 2).sum(), comb(table.sum(axis=0), 2).sum()
    expected = rows * columns / max(comb(grouping.num_tasks, 2), 1)
    most = (rows + columns) / 2
    return float((together - expected) / (most - expected)) if most != expected else 1.0


def normalized_mutual_info(grouping: Grouping, other: Grouping, /) -> float:
    """Return the mutual information of two partitions over the mean of their entropies.

    1 = the same, 0 = independent; two partitions into one group are the same. Unlike
    :func:`adjusted_rand` it is not corrected for chance and favours many groups.

    Raises:
        UsageError: If one is not a partition, or they are of different tasks.
    """
    joint = _contingency(grouping, other) / grouping.num_tasks
    rows, columns = joint.sum(axis=1), joint.sum(axis=0)
    entropies = _entropy(rows) + _entropy(columns)
    mutual = entropies - _entropy(joint.ravel())
    return float(np.clip(2 * mutual / entropies, 0.0, 1.0)) if entropies > 0 else 1.0


@dataclass(frozen=True, eq=False)
class Stability:
    """How far groupings of the same tasks agree.

    Attributes:
        groupings: One for each affinity.
        ari: Adjusted Rand index of every pair of them, ``[n, n]``.
        nmi: Normalised mutual information of every pair, ``[n, n]``.
        together: Share of the groupings in which two tasks share a group, ``[T, T]``.
        consensus: The grouping that agrees best with the others.
    """

    groupings: tuple[Grouping, ...]
    ari: NDArray[np.float64]
    nmi: NDArray[np.float64]
    together: NDArray[np.float64]
    consensus: Grouping

    @property
    def mean_ari(self) -> float:
        """Mean over pairs of different groupings: near 1 the groups hold, near 0 they are noise."""
        return _mean_of_pairs(self.ari)

    @property
    def mean_nmi(self) -> float:
        """Mean over pairs of different groupings."""
        return _mean_of_pairs(self.nmi)

    def share_of_tasks(self) -> NDArray[np.float64]:
        """Return how surely each task sits where it does, ``[T]``.

        The mean over its group in the consensus of how often they are together; 1 for a task alone
        there.
        """
        sure = np.ones(self.consensus.num_tasks)
        for group in self.consensus.groups:
            members = list(group)
            if len(members) > 1:
                inside = self.together[np.ix_(members, members)]
                sure[members] = (inside.sum(axis=1) - 1.0) / (len(members) - 1)
        return sure


def bootstrap_affinities(affinity: Affinity, number: int, *, seed: int = 0) -> list[Affinity]:
    """Draw affinities around one, each cell by its standard error (normal, independent).

    Args:
        affinity: With ``stderr``; cells without one stay. A symmetric one stays symmetric.
        number: How many.
        seed: Seed of the draws.

    Raises:
        UsageError: If there are no standard errors, or ``number`` is below 1.
    """
    if affinity.stderr is None:
        raise UsageError(
            "Bootstraps of an affinity need its standard errors. Found none; estimate it with "
            "them, or pass affinities of several seeds."
        )
    if number < 1:
        raise UsageError(f"`number` should be at least 1. Found {number}.")
    errors = np.nan_to_num(affinity.stderr)
    drawn = []
    for index in range(number):
        noise = generator(seed, "bootstrap_affinities", index).standard_normal(errors.shape)
        if affinity.symmetric:
            noise = np.triu(noise) + np.triu(noise, k=1).T
        details = {**affinity.details, "bootstrap": index}
        drawn.append(replace(affinity, values=affinity.values + errors * noise, details=details))
    return drawn


def stability(affinities: Sequence[Affinity], group: Callable[[Affinity], Grouping]) -> Stability:
    """Group several affinities of the same tasks and compare the groups.

    Args:
        affinities: From :func:`bootstrap_affinities`, or measured with several seeds; the same one
            several times where ``group`` draws anew.
        group: Maps an affinity to disjoint groups, e.g. a partial of ``group_tasks``.

    Raises:
        UsageError: If there are fewer than two, they are of different tasks, or groups overlap.
    """
    if len(affinities) < 2:
        raise UsageError(f"Stability compares at least two groupings. Found {len(affinities)}.")
    groupings = tuple(group(affinity) for affinity in affinities)
    number = len(groupings)
    ari, nmi = np.ones((number, number)), np.ones((number, number))
    for a in range(number):
        for b in range(a + 1, number):
            ari[a, b] = ari[b, a] = adjusted_rand(groupings[a], groupings[b])
            nmi[a, b] = nmi[b, a] = normalized_mutual_info(groupings[a], groupings[b])
    labels = np.stack([class_of_each(each.groups, each.num_tasks) for each in groupings])
    together = (labels[:, :, None] == labels[:, None, :]).mean(axis=0)
    return Stability(groupings, ari, nmi, together, groupings[int(ari.mean(axis=1).argmax())])


def _contingency(grouping: Grouping, other: Grouping) -> NDArray[np.float64]:
    if grouping.num_tasks != other.num_tasks or not (grouping.is_disjoint and other.is_disjoint):
        raise UsageError(
            "Agreement is counted between two partitions of the same tasks. Found "
            f"{grouping.num_tasks} and {other.num_tasks} tasks"
            f"{'' if grouping.is_disjoint and other.is_disjoint else ', and groups that overlap'}; "
            "compare overlapping ones by `pair_jaccard`."
        )
    mine, theirs = grouping.memberships(), other.memberships()
    return mine.astype(np.float64) @ theirs.T.astype(np.float64)


def _entropy(shares: NDArray[np.float64]) -> float:
    some = shares[shares > 0]
    return float(-(some * np.log(some)).sum())


def _mean_of_pairs(matrix: NDArray[np.float64]) -> float:
    return float(matrix[~np.eye(len(matrix), dtype=np.bool_)].mean())
