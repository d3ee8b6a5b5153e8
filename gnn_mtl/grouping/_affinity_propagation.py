"""Affinity propagation: groups around exemplars, their number found by the method itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import UsageError
from gnn_mtl._core.seeding import generator
from gnn_mtl.tasks import Affinity, Grouping

DAMPINGS = (0.5, 0.7, 0.9, 0.95)
TIES = 1e-9
"""Noise that tells equal pairs apart, as a share of the spread of the similarities."""


def affinity_propagation(
    affinity: Affinity,
    *,
    preference: float | None = None,
    damping: float = 0.5,
    max_iterations: int = 1000,
    normalize: bool = True,
    seed: int = 0,
) -> Grouping:
    r"""Group tasks around exemplars (Frey & Dueck, Science 2007), as Selective Task Group Updates.

    The similarity of two tasks is :math:`X = (A' + A'^\top) / 2` with
    :math:`A'_{ik} = A_{ik} / A_{kk}`: each column over what the recipient's own updates do for it
    (Jeong & Yoon, ICLR 2025). Unknown cells count as the median of the known ones. The number of
    groups follows from the preference: the larger, the more groups.

    Args:
        affinity: Symmetric or directed, positive = helps.
        preference: Similarity of a task with itself; default the median similarity of two tasks.
            Where all similarities are equal, as with two tasks, they are one group if that is not
            negative (not below a given preference), else each is alone.
        damping: Share of the old messages kept, in [0.5, 1); where they do not settle it is raised.
        max_iterations: Rounds of messages for each damping.
        normalize: Divide by self-affinities; those not positive count as a hundredth of the median
            of the positive ones. Cosines are not changed by it.
        seed: Seed of the tiny noise that breaks ties.

    Returns:
        A grouping into disjoint groups.

    Raises:
        UsageError: If an option is out of range, no self-affinity is positive though
            ``normalize``, or no exemplar emerges.

    Complexity:
        O(T^2) a round; some hundred rounds.

    Note:
        Pitfalls of the released code avoided: a self-affinity of 0 does not divide to infinity, the
        median leaves the diagonal out, the tie-breaking noise is seeded, and a run that does not
        settle is damped more rather than watched longer.
    """
    similarity = similarities(affinity, normalize=normalize)
    if similarity is None:
        raise UsageError(
            "Normalising by self-affinities needs one that is positive. Found none; "
            "pass normalize=False."
        )
    found = exemplars(
        similarity, preference=preference, damping=damping, max_iterations=max_iterations, seed=seed
    )
    if found is None:
        raise UsageError(
            f"Affinity propagation found no exemplar in {max_iterations} rounds. Raise "
            "`preference`, or `max_iterations`."
        )
    return Grouping.from_assignments(found.tolist(), f"affinity_propagation(damping={damping:g})")


def similarities(affinity: Affinity, *, normalize: bool = True) -> NDArray[np.float64] | None:
    """Return the symmetric matrix that is clustered, without NaN; None if it cannot be normalised.

    Args:
        affinity: Symmetric or directed, unknown cells NaN.
        normalize: Divide each column by its diagonal.
    """
    values = affinity.values
    if normalize:
        own = values.diagonal()
        positive = own[own > 0]
        if positive.size == 0:
            return None
        values = values / np.fmax(own, 0.01 * np.median(positive))
    both = np.stack([values, values.T])
    known = ~np.isnan(both)
    similarity = np.where(known, both, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    unknown = ~known.any(axis=0)
    pairs = similarity[~unknown & ~np.eye(len(values), dtype=np.bool_)]
    similarity[unknown] = np.median(pairs) if pairs.size else 0.0
    return similarity


def exemplars(
    similarity: NDArray[np.float64],
    *,
    preference: float | None = None,
    damping: float = 0.5,
    max_iterations: int = 1000,
    seed: int = 0,
) -> NDArray[np.int64] | None:
    """Return the exemplar of every task, or None where none emerges.

    Args:
        similarity: Symmetric ``[T, T]``; its diagonal is not read.
        preference: Value of the diagonal; default the median of the rest, or 0 where that is all
            one value.
        damping: Share of the old messages kept; raised where they do not settle.
        max_iterations: Rounds for each damping.
        seed: Seed of the tie-breaking noise.

    Raises:
        UsageError: If ``damping`` lies outside [0.5, 1) or ``max_iterations`` is below 1.
    """
    if not 0.5 <= damping < 1.0:
        raise UsageError(f"`damping` should lie in [0.5, 1). Found {damping}.")
    if max_iterations < 1:
        raise UsageError(f"`max_iterations` should be at least 1. Found {max_iterations}.")
    num_tasks = len(similarity)
    pairs = similarity[~np.eye(num_tasks, dtype=np.bool_)]
    if num_tasks == 1 or pairs.min() == pairs.max():  # nothing to tell exemplars by
        alone = num_tasks == 1 or pairs[0] < (0.0 if preference is None else preference)
        return np.arange(num_tasks) if alone else np.zeros(num_tasks, dtype=np.int64)
    if preference is None:
        preference = float(np.median(pairs))
    noisy = similarity.copy()
    np.fill_diagonal(noisy, preference)
    noise = generator(seed, "affinity_propagation").standard_normal(noisy.shape)
    noisy += TIES * float(pairs.max() - pairs.min()) * noise  # of two alike, one gives way
    chosen = None
    for strength in (damping, *(more for more in DAMPINGS if more > damping)):
        chosen, settled = _messages(noisy, strength, max_iterations)
        if settled:
            break
    if chosen is None or not chosen.any():
        return None
    return _assigned(similarity, np.flatnonzero(chosen))


def _messages(
    similarity: NDArray[np.float64], damping: float, max_iterations: int, patience: int = 50
) -> tuple[NDArray[np.bool_], bool]:
    """Pass messages until the exemplars stay for ``patience`` rounds; (exemplars, whether so)."""
    num_tasks = len(similarity)
    rows = np.arange(num_tasks)
    responsibility = np.zeros_like(similarity)
    availability = np.zeros_like(similarity)
    before, unchanged = np.zeros(num_tasks, dtype=np.bool_), 0
    for _ in range(max_iterations):
        total = availability + similarity
        first = total.argmax(axis=1)
        largest = total[rows, first].copy()
        total[rows, first] = -np.inf
        second = total.max(axis=1)
        fresh = similarity - largest[:, None]
        fresh[rows, first] = similarity[rows, first] - second
        responsibility = damping * responsibility + (1.0 - damping) * fresh

        support = np.maximum(responsibility, 0.0)
        support[rows, rows] = responsibility.diagonal()
        fresh = support.sum(axis=0) - support
        own = fresh.diagonal().copy()
        fresh = np.minimum(fresh, 0.0)
        fresh[rows, rows] = own
        availability = damping * availability + (1.0 - damping) * fresh

        now = (availability.diagonal() + responsibility.diagonal()) > 0
        unchanged = unchanged + 1 if np.array_equal(now, before) else 0
        before = now
        if unchanged >= patience and now.any():
            return now, True
    return before, False


def _assigned(similarity: NDArray[np.float64], centres: NDArray[np.int64]) -> NDArray[np.int64]:
    """Assign every task to its most similar exemplar, after each group elects its most central."""

    def nearest(centres: NDArray[np.int64]) -> NDArray[np.int64]:
        group = similarity[:, centres].argmax(axis=1)
        group[centres] = np.arange(len(centres))
        return group

    group = nearest(centres)
    elected = []
    for number in range(len(centres)):
        members = np.flatnonzero(group == number)
        inside = similarity[np.ix_(members, members)].copy()
        np.fill_diagonal(inside, 0.0)
        elected.append(int(members[inside.sum(axis=0).argmax()]))
    centres = np.array(sorted(elected), dtype=np.int64)
    return centres[nearest(centres)]
