"""Two affinities into one: a prior and a measurement, or two measurements."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.tasks import Affinity

Scale = Literal["rank", "zscore", "none"]


def blend(
    first: Affinity, second: Affinity, *, weight: ArrayLike = 0.5, scale: Scale = "rank"
) -> Affinity:
    r"""Return :math:`(1 - w) A + w B` of two affinities of the same tasks, cell by cell.

    Args:
        first: Affinity A.
        second: Affinity B.
        weight: The weight w of B in [0, 1], a number or ``[T, T]`` (:func:`prior_weight`). Where
            only one of the two is known, it counts in full.
        scale: How the two are made comparable, over their known cells off the diagonal:
            ``"rank"`` by their ranks, spread evenly over [-1, 1], ties averaged; ``"zscore"`` by
            mean and standard deviation; ``"none"`` not at all (same unit needed).

    Returns:
        The blend. Ranks and z-scores are centred, so 0 is the middle of the pairs and no longer
        "no effect": threshold them by quantile. The diagonal is the largest value off it. It is
        symmetric if both are.

    Raises:
        ShapeError: If the tasks differ in number, or ``weight`` has another shape.
        UsageError: If ``weight`` is outside [0, 1], the scale is unknown, or units differ unscaled.
    """
    if scale not in get_args(Scale):
        raise UsageError(f"`scale` should be one of {get_args(Scale)}. Found {scale!r}.")
    if first.num_tasks != second.num_tasks:
        raise ShapeError(
            "Two affinities to blend should be of the same tasks. Found "
            f"{first.num_tasks} and {second.num_tasks}."
        )
    if scale == "none" and first.unit != second.unit:
        raise UsageError(
            f"Unscaled affinities should share a unit. Found {first.unit!r} and {second.unit!r}; "
            "use scale='rank'."
        )
    share = np.asarray(weight, dtype=np.float64)
    if share.shape not in {(), first.values.shape}:
        raise ShapeError(
            f"`weight` should be a number or have shape {first.values.shape}. Found {share.shape}."
        )
    if not ((share >= 0) & (share <= 1)).all():
        raise UsageError(f"`weight` should lie in [0, 1]. Found {weight!r}.")
    symmetric = first.symmetric and second.symmetric and np.array_equal(share.T, share)
    a, b = (_scaled(each, scale) for each in (first, second))
    mixed = (1.0 - share) * a + share * b
    values = np.where(np.isnan(a), b, np.where(np.isnan(b), a, mixed))
    if scale != "none":
        off = values[~np.eye(len(values), dtype=np.bool_)]
        top = np.nanmax(off) if np.isfinite(off).any() else np.nan
        known = ~np.isnan(first.values.diagonal()) | ~np.isnan(second.values.diagonal())
        np.fill_diagonal(values, np.where(known, top, np.nan))
    return Affinity(
        values, "blend", first.unit if scale == "none" else scale, symmetric,
        label_names=first.label_names or second.label_names,
        details={"methods": [first.method, second.method], "scale": scale,
                 "weight": float(share.mean())},
    )  # fmt: skip


def prior_weight(counts: ArrayLike, half: float) -> NDArray[np.float64]:
    """Return ``half / (half + counts)``: what a prior still weighs after so many observations.

    Args:
        counts: Observations behind the measured cells, any shape.
        half: Observations at which prior and measurement weigh the same.

    Raises:
        UsageError: If ``half`` is not positive.
    """
    if not half > 0:
        raise UsageError(f"`half` should be positive. Found {half}.")
    return half / (half + np.asarray(counts, dtype=np.float64))


def _scaled(affinity: Affinity, scale: Scale) -> NDArray[np.float64]:
    """The values made comparable; the diagonal is NaN unless they are taken as they are."""
    values = affinity.values.copy()
    if scale == "none":
        return values
    np.fill_diagonal(values, np.nan)
    known = ~np.isnan(values)
    cells = values[known]
    if len(cells) == 0:
        return values
    if scale == "zscore":
        spread = cells.std()
        values[known] = (cells - cells.mean()) / spread if spread > 0 else 0.0
        return values
    _, place, count = np.unique(cells, return_inverse=True, return_counts=True)
    middle = np.cumsum(count) - (count + 1) / 2.0  # mean 0-based rank of each distinct value
    values[known] = 2.0 * middle[place] / (len(cells) - 1) - 1.0 if len(cells) > 1 else 0.0
    return values
