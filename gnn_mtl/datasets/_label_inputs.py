"""Training labels as input features, so that a network can read the labels of other nodes.

The label trick (Wang et al., 2021, arXiv 2103.13355) and UniMP (Shi et al., IJCAI 2021). No node
may read its own label, by whatever path: batches hide the labels of all their seeds, and exact
inference scores training nodes in folds whose labels are hidden.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gnn_mtl._core.seeding import generator
from gnn_mtl.datasets._features import check_nodes
from gnn_mtl.datasets._task_graph import TaskGraph

FOLDS = 5


class LabelInputGraph(TaskGraph):
    """A ``TaskGraph`` whose :meth:`features` end in ``T + 1`` columns of training labels.

    Column t is 1 for a training positive of task t, else 0; the last column is 1 for a node with
    training labels. Validation and test labels never enter. ``x`` stays the node's own features.

    ``NeighborLoader`` writes zeros into these columns for the seeds of each batch, and
    ``exact_logits`` works through :meth:`label_passes`. Whoever calls :meth:`features` directly has
    to hide the labels of the nodes that are trained on or scored. Propagating these features ahead
    of training (SIGN) would bring a node's own label back to it, so they must not be.
    """

    _hidden: NDArray[np.bool_] | None = None

    @property
    def label_columns(self) -> int:
        """Number of trailing feature columns made of labels, ``T + 1``."""
        return self.num_tasks + 1

    @property
    def num_features(self) -> int:
        """Number of feature columns, those of labels included."""
        return super().num_features + self.label_columns

    def features(self, nodes: ArrayLike) -> NDArray[np.float32]:
        """Return own features, training labels and whether there are any, ``[B, F + T + 1]``."""
        ids = check_nodes(nodes, self.num_nodes)
        own = super().num_features
        out = np.empty((len(ids), self.num_features), dtype=np.float32)
        if own:
            out[:, :own] = super().features(ids)
        positive, observed = self._cells(ids, "train")
        out[:, own:-1] = positive
        out[:, -1] = observed.any(axis=1)
        if self._hidden is not None:
            out[self._hidden[ids], own:] = 0
        return out

    def label_passes(
        self, nodes: NDArray[np.int64]
    ) -> Iterator[tuple[LabelInputGraph, NDArray[np.int64]]]:
        """Yield graphs and the positions in ``nodes`` that may be scored on each.

        Nodes without training labels are scored on the graph as it is. The others fall into five
        fixed folds, each scored while the labels of its nodes are hidden; which nodes are asked for
        does not change a node's score.
        """
        has_labels = np.zeros(self.num_nodes, dtype=np.bool_)
        has_labels[self.split_idx["train"]] = True
        own = has_labels[nodes]
        if not own.all():
            yield self, np.flatnonzero(~own)
        fold = generator(0, "label folds").integers(FOLDS, size=self.num_nodes)
        for number in range(FOLDS):
            rows = np.flatnonzero(own & (fold[nodes] == number))
            if len(rows):
                other = self._copy()
                assert isinstance(other, LabelInputGraph)  # noqa: S101 - a copy keeps its class
                other._hidden = fold == number
                yield other, rows


def with_label_inputs(graph: TaskGraph) -> LabelInputGraph:
    """Return the same graph with training labels as further input features; nothing is copied.

    Labels are gathered from their store for the nodes of each batch: training needs no ``[N, T]``
    array. Exact inference by layers holds the features of all nodes, labels included.

    Args:
        graph: The dataset, with or without own features.
    """
    if isinstance(graph, LabelInputGraph):
        return graph
    other = object.__new__(LabelInputGraph)
    other.__dict__.update(graph.__dict__)
    return other
