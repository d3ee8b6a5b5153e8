"""How labels go together in the training data: an affinity that needs no model."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import UsageError
from gnn_mtl.datasets import PairCounts, TaskGraph, label_correlation, pair_counts
from gnn_mtl.tasks import Affinity

Measure = Literal["phi", "jaccard", "lift"]
UNITS = {"phi": "correlation", "jaccard": "share", "lift": "ratio"}


def label_cooccurrence(graph: TaskGraph, measure: Measure = "phi") -> Affinity:
    r"""Return how labels go together over the training nodes observed for both of a pair.

    It is free, symmetric, and tells nothing of the network: the prior any measured affinity has to
    beat. ``"phi"``: correlation of the 0/1 columns, 0 for independent labels. ``"jaccard"``:
    positives of both over positives of either, in [0, 1], 0 without a common one. ``"lift"``:
    :math:`P(j \mid i) / P(j) - 1`, -1 without a common positive, 0 for independent labels, and
    unbounded (hence noisy) for rare ones.

    Args:
        graph: The graph; only training labels are read, so it may be sealed.
        measure: What is computed.

    Returns:
        A symmetric affinity; ``counts`` are the nodes observed for both, and cells where the
        measure is undefined (no such node, a label that does not vary, no positive) are unknown.

    Raises:
        UsageError: If ``measure`` is unknown.

    Note:
        Time O(T^2 N / 128) word operations, memory a few matrices ``[T, T]``: seconds for 1M nodes
        and 500 tasks. Unlabelled is not negative.
    """
    if measure not in get_args(Measure):
        raise UsageError(f"`measure` should be one of {get_args(Measure)}. Found {measure!r}.")
    counts = pair_counts(graph, margins=measure != "phi")
    values = label_correlation(graph) if measure == "phi" else _shares(counts, measure)
    return Affinity(
        values, f"cooccurrence_{measure}", UNITS[measure], counts=counts.observed,
        label_names=graph.label_names, details={"dataset": graph.name},
    )  # fmt: skip


def _shares(counts: PairCounts, measure: Measure) -> NDArray[np.float64]:
    """Jaccard or lift, over the nodes observed for both; NaN where undefined."""
    assert counts.positive_where_observed is not None  # noqa: S101 - asked for
    both = counts.positive.astype(np.float64)
    ours = counts.positive_where_observed.astype(np.float64)
    if measure == "jaccard":
        top, bottom = both, ours + ours.T - both
    else:
        top, bottom = both * counts.observed, ours * ours.T
    share = np.divide(top, bottom, out=np.full(both.shape, np.nan), where=bottom > 0)
    return share if measure == "jaccard" else share - 1.0
