"""How a predicted affinity is compared with the real one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gnn_mtl.affinity import blend, rank_agreement
from gnn_mtl.affinity._centred_spearman import centred, centred_spearman
from gnn_mtl.tasks import Affinity, SubsetTable


def _both(first: Affinity, second: Affinity) -> NDArray[np.bool_]:
    """Pairs of two tasks known to both."""
    return first.known & second.known & ~np.eye(first.num_tasks, dtype=np.bool_)


def distance(estimate: Affinity, real: Affinity) -> float:
    """Relative distance in the Frobenius norm, diagonal left out."""
    cells = _both(estimate, real)
    gap = estimate.values[cells] - real.values[cells]
    return float(np.linalg.norm(gap) / np.linalg.norm(real.values[cells]))


def row_spearman(estimate: Affinity, real: Affinity) -> float:
    """Rank correlation of all pairs, each recipient's mean taken off."""
    cells = _both(estimate, real)
    return centred_spearman(estimate.values[cells], real.values[cells], np.nonzero(cells)[1])


def mixed(chosen: Affinity, labels: Affinity, weight: float) -> Affinity:
    """A blend of what the two say of a recipient's companions."""
    cells = _both(chosen, labels)
    sides = []
    for each in (chosen, labels):
        values = np.full_like(each.values, np.nan)
        values[cells] = centred(each.values[cells], np.nonzero(cells)[1])
        sides.append(replace(each, values=values, symmetric=False))
    return blend(*sides, weight=weight, scale="zscore")


def blend_weight(chosen: Affinity, labels: Affinity, calibration: SubsetTable) -> float:
    """Co-occurrence's share of the squared rank agreements with the calibration subsets."""
    squares = []
    for each in (chosen, labels):
        values = np.where(each.known, each.values, 0.0)
        np.fill_diagonal(values, 0.0)
        scores = np.where(calibration.masks, calibration.masks.astype(np.float64) @ values, np.nan)
        agreement = rank_agreement(SubsetTable(calibration.masks, scores, "pairs"), calibration)
        squares.append(max(float(np.nan_to_num(agreement)), 0.0) ** 2)
    return squares[1] / sum(squares) if sum(squares) > 0 else 0.5
