"""Puts a ``TaskGraph`` together: edges both ways or not, labels, a split, and a warning."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import LabelWarning
from gnn_mtl.datasets._draw import random_node_split, random_task_split
from gnn_mtl.datasets._splits import Split, make_split
from gnn_mtl.datasets._targets import TargetStore
from gnn_mtl.datasets._task_graph import SplitLike, TaskGraph
from gnn_mtl.graph import CSCGraph


def build_graph(
    csc: CSCGraph,
    labels: TargetStore,
    *,
    split: SplitLike = None,
    x: Any = None,  # noqa: ANN401
    edge_attr: NDArray[np.float32] | None = None,
    label_names: Sequence[str] | None = None,
    name: str = "graph",
    directed: bool = False,
    extras: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> TaskGraph:
    """Return a graph with a split named or drawn, warning of labels that cannot be learned."""
    graph = TaskGraph(
        csc, labels, resolve_split(split, labels, seed), x=x, edge_attr=edge_attr,
        label_names=label_names, name=name, directed=directed, extras=extras,
    )  # fmt: skip
    warn_unlearnable(graph)
    return graph


def resolve_split(split: SplitLike, labels: TargetStore, seed: int) -> Split:
    """Return the split a user meant: drawn, named parts, or one ready made."""
    if split is None or split == "random":
        return random_node_split(labels, seed=seed)
    if split == "task":
        return random_task_split(labels, seed=seed)
    if isinstance(split, Mapping):
        return make_split(split, labels.num_nodes, labels.num_tasks)
    return split  # type: ignore[return-value]


def warn_unlearnable(graph: TaskGraph) -> None:
    """Warn of tasks without a positive in training, by name."""
    tasks = np.flatnonzero(graph.positives("train") == 0)
    if len(tasks):
        names = ", ".join(graph.label_names[task] for task in tasks[:5])
        more = f" and {len(tasks) - 5} more" if len(tasks) > 5 else ""
        warnings.warn(
            f"{len(tasks)} of {graph.num_tasks} labels of {graph.name} have no positive in "
            f"training and cannot be learned: {names}{more}. Choose another split or leave them "
            "out with select_tasks.",
            LabelWarning,
            stacklevel=3,
        )


def both_ways(csc: CSCGraph) -> CSCGraph:
    """Return the union of a graph and its reverse.

    Where an edge is stored both ways already, each direction keeps its own edge id.
    """
    sources, targets = csc.to_edge_index().astype(np.int32)
    chunks = [(sources, targets), (targets, sources)]
    keep = csc.edge_ids is not None
    both = CSCGraph.from_edge_chunks(lambda: chunks, csc.num_nodes, keep_edge_ids=keep)
    if csc.edge_ids is None or both.edge_ids is None:
        return both
    return CSCGraph(both.indptr, both.indices, csc.edge_ids[both.edge_ids % len(sources)])
