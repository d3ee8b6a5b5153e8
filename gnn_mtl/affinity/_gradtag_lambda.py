r"""How far a subset's fit may go: the penalty :math:`\lambda`, by trained subsets or by trust."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import UsageError
from gnn_mtl.affinity._centred_spearman import centred_spearman
from gnn_mtl.affinity._gradtag_base import GradTagBase
from gnn_mtl.tasks import SubsetTable

START, LAST = 0.1, 1e4


def rank_agreement(predicted: SubsetTable, real: SubsetTable) -> float:
    """Return the rank correlation of two tables of the same subsets, each task's mean taken off.

    It says whether a task's good companions are told from its bad ones, whatever its level; a
    constant per task has none. NaN where nothing varies.

    Raises:
        UsageError: If the subsets differ.
    """
    if not np.array_equal(predicted.masks, real.masks):
        raise UsageError("Two tables to compare should be of the same subsets. Found others.")
    known = predicted.known & real.known
    return centred_spearman(predicted.scores[known], real.scores[known], np.nonzero(known)[1])


def match_lambda(
    bases: Sequence[GradTagBase], trained: SubsetTable, lambdas: Sequence[float]
) -> tuple[float, dict[str, object]]:
    """Return the penalty whose predictions rank really trained subsets best, and all agreements.

    Raises:
        UsageError: If there is no penalty to try, or the agreement is defined for none.
    """
    agreement = []
    for lam in lambdas:
        losses = [base.losses(base.fit(trained.masks, lam), trained.masks) for base in bases]
        scores = -np.mean(losses, axis=0)
        table = SubsetTable(trained.masks, scores, "predicted", trained.metric, trained.split)
        agreement.append(rank_agreement(table, trained))
    if not len(agreement) or np.isnan(agreement).all():
        raise UsageError(
            "`trained` should hold a task in two subsets with different scores at least. Found "
            "none; train 10 to 20 subsets that share tasks."
        )
    best = int(np.nanargmax(agreement))
    return float(lambdas[best]), {
        "by": "trained subsets", "subsets": trained.num_subsets,
        "spearman": {f"{lam:g}": None if math.isnan(a) else round(a, 4)
                     for lam, a in zip(lambdas, agreement, strict=True)},
    }  # fmt: skip


def trusted_lambda(
    bases: Sequence[GradTagBase], masks: NDArray[np.bool_], tolerance: float
) -> tuple[float, dict[str, object]]:
    """Return the least of .1, 1, 10, ... at which the linearisation holds, and the errors.

    ``tolerance`` bounds the error of every task's logits (:class:`LinearisationAudit`), averaged
    over the subsets; and on the whole the linearised logits have to be nearer to the network's than
    the base model's are. Tasks without a training label are in no subset and do not count.
    """
    lam, errors = START, {}
    while True:
        audits = [base.audit(base.fit(masks, lam)) for base in bases]
        sides = [
            (audit.error[:, base.labelled], audit.control[:, base.labelled])
            for base, audit in zip(bases, audits, strict=True)
        ]
        error = max(float(found.mean(axis=0).max()) for found, _ in sides)
        errors[f"{lam:g}"] = round(error, 5)
        nearer = all(found.mean() < control.mean() for found, control in sides)
        if (error <= tolerance and nearer) or lam >= LAST:
            return lam, {"by": "linearisation", "errors": errors}
        lam *= 10
