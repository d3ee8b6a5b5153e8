"""What pairwise affinities say of groups: each member's mean over the others."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.tasks import Affinity


def group_gains(
    affinity: Affinity, masks: ArrayLike, *, singleton: float = 0.0
) -> NDArray[np.float64]:
    r"""Return :math:`z_{G,t} = \text{mean}_{i \in G \setminus t} Z_{i\to t}` for members t of G.

    TAG's and ETAP's score of a group (arXiv 2109.04617, arXiv 2602.18591): first order, and the
    diagonal does not enter.

    Args:
        affinity: ``values[giver, recipient]``, symmetric or directed.
        masks: Members of each group, bool ``[m, T]``.
        singleton: Score of a task alone: 0, its own baseline. The authors' notebook has -1e6, so
            that no task is ever left alone, however much every other harms it.

    Returns:
        Scores ``[m, T]``; NaN for tasks outside the group, and for members whose affinity with
        every other is unknown. Unknown cells are left out of the mean.

    Raises:
        ShapeError: If ``masks`` is not ``[m, T]``.
        UsageError: If a group is empty.
    """
    masks = check_masks(masks, affinity.num_tasks)
    values = affinity.values.copy()
    np.fill_diagonal(values, np.nan)
    known = ~np.isnan(values)
    members = masks.astype(np.float64)
    total = members @ np.where(known, values, 0.0)
    number = members @ known.astype(np.float64)
    scores = np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)
    alone = masks.sum(axis=1) == 1
    scores[alone] = singleton
    return np.where(masks, scores, np.nan)


def check_masks(masks: ArrayLike, num_tasks: int) -> NDArray[np.bool_]:
    """Return the groups as bool ``[m, T]``, or raise ShapeError or UsageError."""
    found = np.asarray(masks)
    if found.ndim != 2 or found.shape[1] != num_tasks:
        raise ShapeError(f"`masks` should have shape [m, {num_tasks}]. Found {found.shape}.")
    found = found.astype(np.bool_)
    if not found.any(axis=1).all():
        raise UsageError("Every group of `masks` should hold a task. Found an empty one.")
    return found
