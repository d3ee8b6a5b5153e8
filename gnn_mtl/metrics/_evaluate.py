"""``evaluate``: every score of a split in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gnn_mtl.metrics._cells import checked, macro, row_blocks
from gnn_mtl.metrics._decisions import f1, f1_top_k, f1_true_k, mean_label_count
from gnn_mtl.metrics._ranking import ranking_scores

# Scores that are told the true number of labels of each test node.
ORACLE_METRICS = frozenset({"f1_true_k", "f1_true_k_micro"})


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of one split.

    Attributes:
        macro: Means over the labels with both classes: ``ap, auroc, f1, f1_top_k, f1_true_k``; and
            the pooled ``f1_micro, f1_top_k_micro, f1_true_k_micro``. Those in
            :data:`ORACLE_METRICS` know the true label counts and are not comparable to the others.
        per_label: For ``ap, auroc, f1, f1_top_k, f1_true_k`` an array ``[T]``, NaN where the label
            cannot be scored.
        positives: Observed positives of every label, ``[T]``.
        observed: Observed cells of every label, ``[T]``.
        top_k: The number of labels per node behind ``f1_top_k``.
    """

    macro: dict[str, float]
    per_label: dict[str, NDArray[np.float64]]
    positives: NDArray[np.int64]
    observed: NDArray[np.int64]
    top_k: int

    @property
    def scored(self) -> NDArray[np.bool_]:
        """Boolean ``[T]``: the labels behind every mean."""
        return ~np.isnan(self.per_label["ap"])

    @property
    def scorable(self) -> NDArray[np.bool_]:
        """Boolean ``[T]``: the labels with both a positive and a negative.

        All of them are scored, unless a model had no finite logits for one.
        """
        return (self.positives > 0) & (self.positives < self.observed)

    def mean(self, metric: str, tasks: Sequence[int] | None = None) -> float:
        """Return the mean of a score over labels, where one that should have it but has not is 0.

        To choose between models by: one that scores fewer labels is not better for it.

        Args:
            metric: A name in ``per_label``.
            tasks: The labels; default: all.

        Raises:
            LabelError: If none of the labels can be scored.
        """
        chosen = slice(None) if tasks is None else list(tasks)
        scorable, scored = int(self.scorable[chosen].sum()), int(self.scored[chosen].sum())
        if scorable and not scored:
            return 0.0
        return macro(self.per_label[metric][chosen]) * (scored / scorable if scorable else 1.0)


def evaluate(
    logits: ArrayLike,
    y: ArrayLike,
    observed: ArrayLike | None = None,
    *,
    thresholds: ArrayLike = 0.0,
    top_k: int | None = None,
) -> Scores:
    """Score a split: AUROC, average precision and F1 by three rules, per label and averaged.

    Args:
        logits: Logits ``[N, T]``, finite where observed.
        y: Labels ``[N, T]``, 0 or 1; NaN marks a missing cell if ``observed`` is None.
        observed: Boolean ``[N, T]``: the cells that count.
        thresholds: Decision thresholds of ``f1`` on the logits, a number or ``[T]``.
        top_k: Labels per node for ``f1_top_k``; pass :func:`mean_label_count` of the training
            split. None takes the mean of ``y`` itself, which is a (mild) look at the test labels.

    Returns:
        The :class:`Scores`.

    Raises:
        ShapeError: If the shapes differ.
        DataError: If an observed score is not finite.
        LabelError: If an observed label is not 0 or 1, or no label has both classes.

    Complexity:
        Dominated by one sort per label and one per node: 500 labels x 100,000 nodes take seconds.
    """
    scores, labels, mask = checked(logits, y, observed)
    positives, seen_cells = np.zeros((2, scores.shape[1]), dtype=np.int64)
    for _, _, positive, seen in row_blocks(scores, labels, mask):
        positives += np.count_nonzero(positive, axis=0)
        seen_cells += np.count_nonzero(seen, axis=0)
    k = mean_label_count(labels, mask) if top_k is None else int(top_k)
    area, precision = ranking_scores(scores, labels, mask)
    per_label = {"ap": precision, "auroc": area}
    pooled = {}
    for name, (each, micro) in {
        "f1": f1(scores, labels, mask, thresholds=thresholds),
        "f1_top_k": f1_top_k(scores, labels, mask, k=k),
        "f1_true_k": f1_true_k(scores, labels, mask),
    }.items():
        per_label[name] = each
        pooled[f"{name}_micro"] = micro
    means = {name: macro(values) for name, values in per_label.items()}
    return Scores(means | pooled, per_label, positives, seen_cells, k)
