"""A method in one number: mean and spread over seeds, relative change over labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from gnn_mtl._core.errors import ShapeError, UsageError


@dataclass(frozen=True)
class Summary:
    """Mean over seeds, unbiased standard deviation (None for one seed) and number of seeds."""

    mean: float
    std: float | None
    n: int


def summarize(values: ArrayLike, /) -> Summary:
    """Return mean and unbiased standard deviation over seeds, as the OGB leaderboards ask.

    Args:
        values: One finite number per seed, at least one.

    Returns:
        A :class:`Summary`; its ``std`` divides by n - 1 and is None, never 0, for one seed.

    Raises:
        UsageError: If there is no value or one is not finite.

    Example:
        >>> summarize([1.0, 3.0])
        Summary(mean=2.0, std=1.4142135623730951, n=2)
        >>> summarize([0.5]).std is None
        True
    """
    array = np.asarray(values, dtype=np.float64).ravel()
    if array.size == 0 or not np.isfinite(array).all():
        raise UsageError(
            f"`values` should hold one finite number per seed. Found {array.tolist()[:8]}; "
            "leave out runs without a score."
        )
    std = float(array.std(ddof=1)) if array.size > 1 else None
    return Summary(float(array.mean()), std, int(array.size))


def delta_p(scores: ArrayLike, single_task: ArrayLike, /) -> float:
    r"""Return :math:`\Delta_p`, the mean relative change against single-task models, as a fraction.

    :math:`\frac{1}{T} \sum_t (s_t - r_t) / r_t`, Maninis et al. (CVPR 2019, Eq. 4) for scores where
    larger is better. Labels without a score on either side, or with a reference of 0, are left out.

    Args:
        scores: Scores of the method, ``[T]``.
        single_task: Scores of the single-task models, ``[T]``; NaN where none was trained.

    Raises:
        ShapeError: If the shapes differ.
        UsageError: If no label can be compared.
    """
    ours, theirs = np.asarray(scores, np.float64), np.asarray(single_task, np.float64)
    if ours.shape != theirs.shape:
        raise ShapeError(f"Both should have one shape [T]. Found {ours.shape} and {theirs.shape}.")
    usable = np.isfinite(ours) & np.isfinite(theirs) & (theirs != 0)
    if not usable.any():
        raise UsageError("No label has a score in both; compare runs over common labels.")
    return float(((ours - theirs)[usable] / theirs[usable]).mean())
