"""What Grad-TAG leaves out: tasks without a label, and scores that fail the audit."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import GnnMtlWarning, LabelWarning, UsageError
from gnn_mtl.tasks import SubsetTable


def with_labels(
    members: NDArray[np.bool_], labelled: NDArray[np.bool_], names: tuple[str, ...] | None
) -> NDArray[np.bool_]:
    """The subsets without the tasks that nothing can be learnt of."""
    if labelled.all():
        return members
    without = np.flatnonzero(~labelled)
    shown = ", ".join(str(t) if names is None else names[t] for t in without[:8].tolist())
    if not labelled.any():
        raise UsageError("The training batches should hold a label at least. Found none.")
    warnings.warn(
        f"{len(without)} tasks have no label in the training batches: {shown}. They are left out "
        "of the subsets; their affinity is unknown.",
        LabelWarning,
        stacklevel=3,
    )
    kept = members & labelled
    return kept[kept.any(axis=1)]


def distrusted(
    table: SubsetTable,
    failed: NDArray[np.bool_],
    tolerance: float,
    retrain: Callable[[NDArray[np.bool_]], SubsetTable] | None,
) -> SubsetTable:
    """The table without the scores that failed the audit, or with trained ones instead."""
    if not failed.any():
        return table
    rows = np.flatnonzero(failed.any(axis=1))
    scores = np.where(failed, np.nan, table.scores)
    stderr = None if table.stderr is None else np.where(failed, np.nan, table.stderr)
    facts = {"cells": int(failed.sum()), "subsets": rows.tolist()[:100], "retrained": False}
    details = {**table.details, "distrusted": facts}
    if retrain is None:
        whole = np.flatnonzero((failed == table.known).all(axis=0) & failed.any(axis=0))
        names = [str(t) if table.label_names is None else table.label_names[t] for t in whole[:5]]
        some = f", all scores of {len(whole)} tasks ({', '.join(names)})" if len(whole) else ""
        warnings.warn(
            f"The linearisation should be within {tolerance:g} of the network. It is not for "
            f"{facts['cells']} scores in {len(rows)} of {table.num_subsets} subsets{some}: they "
            "are unknown (NaN). Raise `lam` (--lam), or pass `retrain` (--retrain).",
            GnnMtlWarning,
            stacklevel=3,
        )
        return replace(table, scores=scores, stderr=stderr, details=details)
    real = retrain(table.masks[rows])
    scored = (real.metric, real.split) == (table.metric, table.split)
    if not scored or not np.array_equal(real.masks, table.masks[rows]):
        raise UsageError(
            f"`retrain` should return the scores of the {len(rows)} subsets asked for, in their "
            f"order, by {table.metric} on {table.split} nodes. Found {real.num_subsets} by "
            f"{real.metric} on {real.split} nodes."
        )
    scores[rows] = real.scores
    if stderr is not None:
        stderr[rows] = np.nan if real.stderr is None else real.stderr
    details["distrusted"] = facts | {"retrained": True}
    source = f"{table.source}+{real.source}"
    return replace(table, scores=scores, stderr=stderr, source=source, details=details)
