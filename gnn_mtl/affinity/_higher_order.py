"""Affinities from a table of subsets: how each task did in the subsets that held each other one."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import GnnMtlWarning, UsageError
from gnn_mtl.tasks import Affinity, SubsetTable

Normalize = Literal["zscore", "relative", "none"]
UNITS = {"zscore": "zscore", "relative": "relative_gain", "loss": "nats"}


def subset_affinity(
    table: SubsetTable, *, normalize: Normalize = "zscore", min_count: int = 1
) -> Affinity:
    r"""Return the higher-order affinity of the tasks.

    .. math:: A_{ji} = \frac{1}{n_{ji}} \sum_{k:\, i, j \in S_k} \tilde f_i(S_k)

    the mean score of the recipient i over the subsets that hold the giver j too (Li et al., KDD
    2023, arXiv 2306.14009; Grad-TAG, arXiv 2409.06091, where rows are recipients).

    Args:
        table: Scores of the subsets, trained or predicted.
        normalize: What is averaged. ``"zscore"``: the score minus the recipient's mean over all its
            subsets, over their standard deviation: 0 is a usual companion. ``"relative"``: the gain
            over ``table.baseline``, over its size: 0 is no effect. ``"none"``: the score itself.
        min_count: Subsets with a score that a cell needs to be known.

    Returns:
        A directed affinity. The diagonal is the mean over all subsets of the task (0 for z-scores).
        ``counts``: scores behind each cell; ``stderr``: standard deviation of a single score around
        the recipient's mean, over the root of the count. Cells with too few are NaN: a warning
        says how many, ``details["unknown_pairs"]`` names the first of them.

    Raises:
        UsageError: If ``normalize`` is unknown, ``min_count`` is below 1, or ``"relative"`` finds
            no baseline.

    Note:
        The authors' notebook adds 1e-3 to the deviation, which swamps losses that differ by less,
        and sets the diagonal and pairs never drawn to 0; its rows are recipients. The means carry
        the noise of who else was in the subsets, which ``stderr`` measures; the weights of
        :class:`SubsetSurrogate` do not.
    """
    if min_count < 1:
        raise UsageError(f"`min_count` should be at least 1. Found {min_count}.")
    scores = normalized_scores(table, normalize)
    known = ~np.isnan(scores)
    number = known.sum(axis=0)
    mean = np.where(known, scores, 0.0).sum(axis=0) / np.maximum(number, 1)
    moved = np.where(known, scores - mean, 0.0)  # centred, so that squares do not cancel
    givers = table.masks.T.astype(np.float64)
    counts = np.rint(givers @ known.astype(np.float64)).astype(np.int64)
    total = np.maximum(counts, 1)
    enough = counts >= min_count
    values = np.where(enough, mean + givers @ moved / total, np.nan)
    spread = np.sqrt((moved**2).sum(axis=0) / np.maximum(number - 1, 1))
    stderr = np.where(enough & (number > 1), spread / np.sqrt(total), np.nan)
    affinity = Affinity(
        values, "higher_order", score_unit(table, normalize), False,
        counts, stderr, table.label_names,
        {
            "normalize": normalize, "min_count": min_count, "scores": table.source,
            "metric": table.metric, "split": table.split, "subsets": table.num_subsets,
            "seed": table.seed,
        },
    )  # fmt: skip
    return _named_gaps(affinity, min_count)


def pair_affinity(
    table: SubsetTable, *, normalize: Normalize = "none", min_count: int = 1
) -> Affinity:
    r"""Return the first-order affinity :math:`A_{ji} = f_i(\{i, j\})`, from the subsets of two.

    Args:
        table: Scores; subsets of other sizes are not read.
        normalize: See :func:`subset_affinity`.
        min_count: See :func:`subset_affinity`; more than one where pairs were trained repeatedly.

    Raises:
        UsageError: If there is no subset of two tasks, or as :func:`subset_affinity`.
    """
    pairs = np.flatnonzero(table.masks.sum(axis=1) == 2)
    if len(pairs) == 0:
        raise UsageError(
            "The affinity of pairs needs subsets of two tasks. Found none; draw them with "
            "all_pairs() (--subset-size 2), or use subset_affinity (--method higher_order)."
        )
    found = subset_affinity(table.select_subsets(pairs), normalize=normalize, min_count=min_count)
    return replace(found, method="pairwise")


def normalized_scores(table: SubsetTable, normalize: Normalize) -> NDArray[np.float64]:
    """Return the scores ``[m, T]`` as z-scores, as gains over the baseline, or as they are.

    A task whose known scores are all equal has z-score 0.

    Raises:
        UsageError: If ``normalize`` is unknown, or ``"relative"`` finds no baseline.
    """
    scale = score_scale(table, normalize)
    if normalize == "none":
        return table.scores.copy()
    if normalize == "relative":
        assert table.baseline is not None  # noqa: S101 - else there is no scale
        return (table.scores - table.baseline) / scale
    known = table.known
    mean = np.where(known, table.scores, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    moved = np.where(np.isinf(scale), 0.0, table.scores - mean)
    return np.where(known, moved / scale, np.nan)


def score_scale(table: SubsetTable, normalize: Normalize) -> NDArray[np.float64]:
    """Return what a difference of each task's scores is divided by, ``[T]``.

    The standard deviation of its known scores (infinite where they are all equal), the size of its
    baseline (NaN where that is 0), or 1.
    """
    if normalize not in get_args(Normalize):
        raise UsageError(
            f"`normalize` should be one of {', '.join(get_args(Normalize))}. Found {normalize!r}."
        )
    if normalize == "none":
        return np.ones(table.num_tasks)
    if normalize == "relative":
        if table.baseline is None:
            raise UsageError(
                "Gains relative to a baseline need one. The table has none; use "
                "normalize='zscore', or set `baseline` to the scores of single-task models "
                "(--method trained --baseline)."
            )
        size = np.abs(table.baseline)
        return np.where(size > 0, size, np.nan)
    known = table.known
    number = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, table.scores, 0.0).sum(axis=0) / number
    spread = np.sqrt((np.where(known, table.scores - mean, 0.0) ** 2).sum(axis=0) / number)
    negligible = spread <= 1e-12 * np.maximum(np.abs(mean), np.finfo(np.float64).tiny)
    return np.where(negligible, np.inf, spread)


def score_unit(table: SubsetTable, normalize: Normalize) -> str:
    """Return the unit of an affinity made of those scores."""
    return UNITS.get(normalize, UNITS.get(table.metric, table.metric))


def _named_gaps(affinity: Affinity, min_count: int) -> Affinity:
    """The affinity with its unknown pairs named, and a warning if there are any."""
    unknown = ~affinity.known & ~np.eye(affinity.num_tasks, dtype=np.bool_)
    if not unknown.any():
        return affinity
    pairs = [[int(a), int(b)] for a, b in np.argwhere(unknown)[:20]]
    affinity.details["unknown_pairs"] = {"number": int(unknown.sum()), "first": pairs}
    names = affinity.label_names
    a, b = pairs[0]
    example = f"{a} -> {b}" if names is None else f"{names[a]!r} -> {names[b]!r}"
    warnings.warn(
        f"{int(unknown.sum())} of {unknown.size - len(unknown)} ordered pairs of tasks are in "
        f"fewer than {min_count} subsets with a score, {example} for one: their affinity is "
        "unknown (NaN). Draw more or larger subsets.",
        GnnMtlWarning,
        stacklevel=3,
    )
    return affinity
