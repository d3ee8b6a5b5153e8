"""F1 of decisions: by threshold, by a number of labels per node, and by the true number (oracle).

Which rule turned scores into decisions changes F1 more than the model does, so every rule has its
own name and no number of one may stand beside a number of another.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.metrics._cells import Bools, Floats, checked, column_blocks, row_blocks

PerLabelAndMicro = tuple[NDArray[np.float64], float]


def f1(
    logits: ArrayLike,
    y: ArrayLike,
    observed: ArrayLike | None = None,
    *,
    thresholds: ArrayLike = 0.0,
) -> PerLabelAndMicro:
    """Return F1 of ``logits > thresholds``: per label and micro.

    Args:
        logits: Logits ``[N, T]``.
        y: Labels ``[N, T]``; NaN marks a missing cell if ``observed`` is None.
        observed: Boolean ``[N, T]``: the cells that count.
        thresholds: One number or ``[T]``, in the unit of ``logits``. The default 0 is probability
            .5. Rare labels are seldom above it: see :func:`f1_thresholds`.

    Returns:
        ``(per_label, micro)``: ``per_label`` is ``[T]``, NaN where a label has one class only (as
        for AUROC, so that all macro means are over the same labels) and 0 where it has no true
        positive; ``micro`` pools every observed cell of every label.

    Raises:
        ShapeError: If the shapes differ.
    """
    scores, labels, mask = checked(logits, y, observed)
    cuts = np.asarray(thresholds, dtype=np.float64)
    if cuts.shape not in ((), (scores.shape[1],)) or np.isnan(cuts).any():
        raise ShapeError(
            f"`thresholds` should be a number or [{scores.shape[1]}] without NaN. "
            f"Found shape {cuts.shape}{' with NaN' if np.isnan(cuts).any() else ''}."
        )
    counts = _Counts(scores.shape[1])
    for _, block, positive, seen in row_blocks(scores, labels, mask):
        counts.add((block > cuts) & seen, positive, seen)
    return counts.scores()


def f1_top_k(
    logits: ArrayLike,
    y: ArrayLike,
    observed: ArrayLike | None = None,
    *,
    k: int | ArrayLike,
) -> PerLabelAndMicro:
    """Return F1 when every node gets its ``k`` best scored observed labels: per label and micro.

    Args:
        logits: Scores ``[N, T]``. Equal scores are taken in order of the label's number.
        y: Labels ``[N, T]``; NaN marks a missing cell if ``observed`` is None.
        observed: Boolean ``[N, T]``: the cells that count.
        k: Labels per node: one number, e.g. :func:`mean_label_count` of the *training* split, or
            ``[N]``.

    Returns:
        As :func:`f1`.

    Raises:
        ShapeError: If the shapes differ.
        UsageError: If a ``k`` is negative or not an integer.
    """
    scores, labels, mask = checked(logits, y, observed)
    number = np.asarray(k)
    if number.dtype.kind not in "iu" or (number < 0).any():
        raise UsageError("`k` should hold integers >= 0, a number of labels per node.")
    if number.shape not in ((), (scores.shape[0],)):
        raise ShapeError(f"`k` should be a number or [{scores.shape[0]}]. Found {number.shape}.")
    each = np.broadcast_to(number, scores.shape[:1])
    counts = _Counts(scores.shape[1])
    for rows, block, positive, seen in row_blocks(scores, labels, mask):
        counts.add(_best(block, seen, each[rows]), positive, seen)
    return counts.scores()


def f1_true_k(
    logits: ArrayLike, y: ArrayLike, observed: ArrayLike | None = None
) -> PerLabelAndMicro:
    """Return the ORACLE F1 when every node gets as many labels as it truly has.

    This tells the model the number of true labels of each test node, which no user has. Published
    tables on BlogCatalog, PPI and the like are of this kind (Lin et al., "On the Use of Unrealistic
    Predictions in Hundreds of Papers Evaluating Graph Representations"); compare only with those.
    """
    scores, labels, mask = checked(logits, y, observed)
    counts = _Counts(scores.shape[1])
    for _, block, positive, seen in row_blocks(scores, labels, mask):
        counts.add(_best(block, seen, positive.sum(axis=1)), positive, seen)
    return counts.scores()


def mean_label_count(y: ArrayLike, observed: ArrayLike | None = None) -> int:
    """Return the rounded mean number of positive labels per node, at least 1: a ``k`` for top-k."""
    labels = np.asarray(y)
    positive = labels == 1
    if observed is not None:
        positive = positive & np.asarray(observed, dtype=np.bool_)
    return max(1, round(float(positive.sum()) / max(1, labels.shape[0])))


def f1_thresholds(
    logits: ArrayLike, y: ArrayLike, observed: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Return, per label, the threshold with the best F1 on the given cells (use *validation*).

    A threshold lies halfway between two scores, so that ``logits > threshold`` has no ties; of
    equally good ones the highest is taken. Labels with one class only get 0.
    """
    scores, labels, mask = checked(logits, y, observed)
    cuts = np.zeros(scores.shape[1])
    for columns, block, positive, seen in column_blocks(scores, labels, mask):
        for row, task in enumerate(range(columns.start, columns.stop)):
            if not 0 < positive[row].sum() < seen[row].sum():
                continue
            values = block[row][seen[row]].astype(np.float64)
            order = np.argsort(-values, kind="stable")
            values, hits = values[order], np.cumsum(positive[row][seen[row]][order])
            ends = np.flatnonzero(np.append(np.diff(values) != 0, True))
            best = ends[np.argmax(2 * hits[ends] / (ends + 1 + hits[-1]))]
            lower = values[best + 1] if best + 1 < values.size else values[best] - 1.0
            middle = (values[best] + lower) / 2
            cuts[task] = middle if middle < values[best] else lower
    return cuts


class _Counts:
    """True positives, predicted and true labels of every task, summed over blocks of nodes."""

    def __init__(self, num_tasks: int) -> None:
        self.hits, self.predicted, self.true, self.seen = np.zeros((4, num_tasks), dtype=np.int64)

    def add(self, decided: Bools, positive: Bools, seen: Bools) -> None:
        self.hits += np.count_nonzero(decided & positive, axis=0)
        self.predicted += np.count_nonzero(decided, axis=0)
        self.true += np.count_nonzero(positive, axis=0)
        self.seen += np.count_nonzero(seen, axis=0)

    def scores(self) -> PerLabelAndMicro:
        both = self.predicted + self.true
        per_label = 2 * self.hits / np.maximum(both, 1)
        per_label[(self.true == 0) | (self.true == self.seen)] = np.nan
        return per_label, float(2 * self.hits.sum() / max(1, both.sum()))


def _best(scores: Floats, seen: Bools, k: NDArray[np.integer]) -> Bools:
    """Mark the ``k`` highest seen scores of every row, lower column first among equals."""
    ranked = np.where(seen, scores, -np.inf)
    k = np.minimum(k, seen.sum(axis=1))
    ordered = np.sort(ranked, axis=1)
    column = np.clip(scores.shape[1] - k, 0, scores.shape[1] - 1)
    last = np.take_along_axis(ordered, column[:, None], axis=1)
    above = (ranked > last) & (k > 0)[:, None]
    tied = (ranked == last) & seen
    room = (k - above.sum(axis=1))[:, None]
    return above | (tied & (np.cumsum(tied, axis=1) <= room))
