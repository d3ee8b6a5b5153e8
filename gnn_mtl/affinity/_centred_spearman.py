"""Rank correlation blind to levels: which companions are good for a task, whatever its own."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr


def centred(values: NDArray[np.float64], columns: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the values less the mean of their column; what rounding leaves of it is 0.

    Args:
        values: Finite numbers ``[n]``.
        columns: Column of each, int ``[n]``.
    """
    number = np.maximum(np.bincount(columns), 1)
    out = values - (np.bincount(columns, values) / number)[columns]
    out[np.abs(out) <= 1e-12 * np.abs(values).max(initial=0.0)] = 0.0
    return out


def centred_spearman(
    x: NDArray[np.float64], y: NDArray[np.float64], columns: NDArray[np.int64]
) -> float:
    """Return the rank correlation of two lists, each column's mean taken off both.

    A value alone in its column is left out: it has nothing to be above or below of. NaN for fewer
    than three values, and where a side does not vary.

    Args:
        x: Finite numbers ``[n]``.
        y: The others ``[n]``.
        columns: Column of each, int ``[n]``.
    """
    several = np.bincount(columns)[columns] > 1
    sides = [centred(side, columns)[several] for side in (x, y)]
    if several.sum() < 3 or any(np.ptp(side) == 0 for side in sides):
        return math.nan
    return float(spearmanr(*sides).statistic)
