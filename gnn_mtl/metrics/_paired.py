"""Do two methods differ? Paired tests over seeds and labels, and Holm's correction for many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl._core.seeding import generator

RESAMPLES = 10_000


@dataclass(frozen=True)
class PairedTest:
    """A method against a reference on the same seeds and labels; positive differences favour it.

    Attributes:
        delta: Mean difference over seeds and labels.
        low: Lower end of the 95 % bootstrap interval of ``delta``.
        high: Upper end of it.
        p_bootstrap: Two-sided p-value of ``delta = 0``, resampling seeds and labels.
        p_wilcoxon: Wilcoxon signed-rank p-value over labels, on differences averaged over seeds.
        p_sign: Sign test p-value over labels (wins against losses, ties left out).
        wins: Labels whose mean difference over seeds is above the tolerance.
        losses: Labels where it is below minus the tolerance.
        ties: The other labels.
        num_seeds: Paired seeds.
        num_labels: Labels that both have a score for, on every seed.
        p_holm: ``p_bootstrap`` after Holm's correction over the methods of one
            :func:`compare_paired`; equal to ``p_bootstrap`` for a single test.
    """

    delta: float
    low: float
    high: float
    p_bootstrap: float
    p_wilcoxon: float
    p_sign: float
    wins: int
    losses: int
    ties: int
    num_seeds: int
    num_labels: int
    p_holm: float


def paired_test(
    scores: ArrayLike,
    reference: ArrayLike,
    /,
    *,
    tolerance: float = 0.0,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PairedTest:
    """Test a method against a reference, paired by seed (rows) and label (columns).

    The bootstrap draws seeds and labels with replacement, both at once, so its interval speaks
    about other seeds *and* other labels of the kind. With fewer than about five seeds it is too
    narrow, and labels that share nodes are not independent, which makes the three p-values
    optimistic: a small one is needed, not enough, to claim a difference.

    Args:
        scores: ``[S, T]``, larger is better; NaN where a label has no score. ``[T]`` is one seed.
        reference: The same for the reference, row s with the same seed.
        tolerance: Differences up to this size count as ties.
        resamples: Bootstrap draws; p-values are not smaller than ``1 / (resamples + 1)``.
        seed: Seed of the bootstrap; the answer depends on nothing else.

    Raises:
        ShapeError: If the shapes differ.
        UsageError: If no label has a score everywhere.
    """
    ours, theirs = np.atleast_2d(np.asarray(scores, float)), np.atleast_2d(reference).astype(float)
    if ours.shape != theirs.shape or ours.ndim != 2:
        raise ShapeError(
            f"Both should be [seeds, labels] with the same seeds. Found {ours.shape} and "
            f"{theirs.shape}; pair the runs by seed first."
        )
    difference = ours - theirs
    difference = difference[:, np.isfinite(difference).all(axis=0)]
    if difference.size == 0:
        raise UsageError("No label has a score in both on every seed; nothing can be compared.")
    by_label = difference.mean(axis=0)
    draws = _bootstrap_means(difference, resamples, seed)
    low, high = np.quantile(draws, [0.025, 0.975])
    tail = min(np.count_nonzero(draws <= 0), np.count_nonzero(draws >= 0))
    p_bootstrap = min(1.0, 2 * (tail + 1) / (resamples + 1))
    wins = int((by_label > tolerance).sum())
    losses = int((by_label < -tolerance).sum())
    return PairedTest(
        delta=float(by_label.mean()), low=float(low), high=float(high),
        p_bootstrap=p_bootstrap, p_wilcoxon=_wilcoxon(by_label),
        p_sign=_sign_test(wins, losses),
        wins=wins, losses=losses, ties=by_label.size - wins - losses,
        num_seeds=difference.shape[0], num_labels=by_label.size, p_holm=p_bootstrap,
    )  # fmt: skip


def compare_paired(
    scores: Mapping[str, ArrayLike],
    reference: str,
    *,
    tolerance: float = 0.0,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, PairedTest]:
    """Test every method against ``scores[reference]`` and correct the p-values by Holm's method.

    Args:
        scores: For each method ``[S, T]``, rows paired by seed with the reference's.
        reference: Name of the method the others are compared with.
        tolerance: As in :func:`paired_test`.
        resamples: As in :func:`paired_test`.
        seed: As in :func:`paired_test`.

    Returns:
        One :class:`PairedTest` per method other than the reference, in the order given.

    Raises:
        UsageError: If ``reference`` is not among the methods.
    """
    if reference not in scores:
        raise UsageError(f"`reference` should be one of {sorted(scores)}. Found {reference!r}.")
    tests = {
        name: paired_test(
            values, scores[reference], tolerance=tolerance, resamples=resamples, seed=seed
        )
        for name, values in scores.items()
        if name != reference
    }
    corrected = holm([test.p_bootstrap for test in tests.values()])
    return {
        name: replace(test, p_holm=float(p))
        for (name, test), p in zip(tests.items(), corrected, strict=True)
    }


def holm(p_values: Sequence[float] | NDArray[np.float64], /) -> NDArray[np.float64]:
    """Return p-values corrected for their number by Holm's step-down method (1979).

    Example:
        >>> holm([0.01, 0.04, 0.03]).tolist()
        [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected


def _bootstrap_means(
    difference: NDArray[np.float64], resamples: int, seed: int
) -> NDArray[np.float64]:
    """Mean differences of ``resamples`` tables with seeds and labels drawn with replacement."""
    num_seeds, num_labels = difference.shape
    rng = generator(seed, "paired bootstrap")
    draws = np.empty(resamples)
    for start in range(0, resamples, 1000):
        size = min(1000, resamples - start)
        seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=size)
        labels = rng.multinomial(num_labels, np.full(num_labels, 1 / num_labels), size=size)
        draws[start : start + size] = ((seeds @ difference) * labels).sum(axis=1)
    return draws / (num_seeds * num_labels)


def _sign_test(wins: int, losses: int) -> float:
    if wins + losses == 0:
        return 1.0
    from scipy.stats import binomtest  # loading it takes a second

    return float(binomtest(wins, wins + losses).pvalue)


def _wilcoxon(by_label: NDArray[np.float64]) -> float:
    """Two-sided signed-rank test; 1 where no label differs."""
    if not by_label.any():
        return 1.0
    from scipy.stats import wilcoxon

    return float(wilcoxon(by_label).pvalue)
