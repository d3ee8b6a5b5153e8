"""AUROC and average precision of every label from one sort per column.

Both need only, for every positive, how many nodes score at least as high: the sort is of plain
values (no permutation), and the positives, usually few, look their ranks up in it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gnn_mtl.metrics._cells import checked, column_blocks


def ranking_scores(
    logits: ArrayLike, y: ArrayLike, observed: ArrayLike | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""Return AUROC and average precision of every label, sharing the sorting.

    AUROC is the Mann-Whitney statistic with ties counted half; average precision is the mean over
    positives of the precision at their score, :math:`\sum_n (R_n - R_{n-1}) P_n`, ties sharing one
    threshold. Both equal scikit-learn's and, averaged by :func:`macro`, OGB's Evaluator.

    Args:
        logits: Scores ``[N, T]``, any monotone function of the probability; finite where observed.
        y: Labels ``[N, T]``, 0 or 1; NaN marks a missing cell if ``observed`` is None.
        observed: Boolean ``[N, T]``: the cells that count. None: where ``y`` is not NaN.

    Returns:
        ``(auroc, average_precision)``, each ``[T]`` float64; NaN for a label whose observed cells
        hold one class only.

    Raises:
        ShapeError: If the shapes differ.
        DataError: If an observed score is not finite.
        LabelError: If an observed label is not 0 or 1.

    Complexity:
        One value sort per label: O(T N log N) time, 64 MiB of working memory.
    """
    scores, labels, mask = checked(logits, y, observed)
    areas = np.full(scores.shape[1], np.nan)
    precisions = np.full(scores.shape[1], np.nan)
    for columns, block, positive, seen in column_blocks(scores, labels, mask):
        for row, task in enumerate(range(columns.start, columns.stop)):
            all_seen = bool(seen[row].all())
            ordered = np.sort(block[row] if all_seen else block[row][seen[row]])
            hits = np.sort(block[row][positive[row]])
            if 0 < hits.size < ordered.size:
                areas[task], precisions[task] = _area_and_precision(ordered, hits)
    return areas, precisions


def auroc(
    logits: ArrayLike, y: ArrayLike, observed: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Return the area under the ROC curve of every label ``[T]``; see :func:`ranking_scores`.

    Example:
        >>> auroc([[0.1], [0.4], [0.35], [0.8]], [[0], [0], [1], [1]])
        array([0.75])
    """
    return ranking_scores(logits, y, observed)[0]


def average_precision(
    logits: ArrayLike, y: ArrayLike, observed: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Return the average precision of every label ``[T]``; see :func:`ranking_scores`."""
    return ranking_scores(logits, y, observed)[1]


def _area_and_precision(
    ordered: NDArray[np.floating], hits: NDArray[np.floating]
) -> tuple[float, float]:
    """Score one label from all its scores and those of its positives, both ascending."""
    n, p = ordered.size, hits.size
    below = np.searchsorted(ordered, hits, side="left")
    not_above = np.searchsorted(ordered, hits, side="right")
    twice_ranks = int((below + not_above + 1).sum())  # integers: exact for any N
    area = (twice_ranks - p * (p + 1)) / (2 * p * (n - p))
    hits_from = p - np.searchsorted(hits, hits, side="left")
    return area, float((hits_from / (n - below)).mean())
