"""The door to PyG: ``Data`` in and out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from gnn_mtl._core.errors import DataError, SplitError
from gnn_mtl.datasets._bits import row_slices
from gnn_mtl.datasets._build import both_ways, build_graph
from gnn_mtl.datasets._features import clean_edge_attr
from gnn_mtl.datasets._splits import SPLITS, TaskNodeSplit
from gnn_mtl.datasets._targets import make_targets
from gnn_mtl.datasets._task_graph import SplitLike, TaskGraph
from gnn_mtl.graph import CSCGraph

if TYPE_CHECKING:
    from torch_geometric.data import Data

MASKS = {"train": "train_mask", "valid": "val_mask", "test": "test_mask"}


def from_pyg(
    data: Data,
    *,
    split: SplitLike,
    label_names: Sequence[str] | None,
    name: str,
    keep_direction: bool,
    seed: int,
) -> TaskGraph:
    """Build a graph from ``edge_index``, ``y``, ``x``, ``edge_attr`` and the three masks.

    An edge list that holds every edge both ways is undirected; any other one is directed, and
    passes messages both ways unless ``keep_direction``.
    """
    for field in ("edge_index", "y"):
        if getattr(data, field, None) is None:
            raise DataError(f"`data` should have `{field}`. Found only {data.keys()}.")
    if split is None:
        split = _split_of(data)
    edges = _to_numpy(data.edge_index)
    edge_attr = None if data.edge_attr is None else _to_numpy(data.edge_attr)
    rows = clean_edge_attr(edge_attr, edges.shape[-1])
    csc = CSCGraph.from_edge_index(edges, len(data.y), keep_edge_ids=rows is not None)
    directed = not csc.is_symmetric()
    labels = make_targets(_to_numpy(data.y))
    return build_graph(
        both_ways(csc) if directed and not keep_direction else csc, labels, split=split,
        x=None if data.x is None else _to_numpy(data.x), edge_attr=rows, label_names=label_names,
        name=name, directed=directed, seed=seed,
    )  # fmt: skip


def to_pyg(graph: TaskGraph) -> Data:
    """Return a PyG ``Data``; test labels of a sealed graph are NaN in it."""
    import torch
    from torch_geometric.data import Data

    y = np.full((graph.num_nodes, graph.num_tasks), np.nan, dtype=np.float32)
    masks = {name: graph._split.mask(slice(None), name) for name in SPLITS}
    for rows in row_slices(graph.num_nodes, graph.num_tasks):
        positive, known = graph._labels.gather(rows)
        if graph.is_sealed:
            known = known & ~masks["test"][rows]
        y[rows] = np.where(known, positive, np.nan)
    data = Data(
        edge_index=torch.from_numpy(graph.csc.to_edge_index()), y=torch.from_numpy(y),
        num_nodes=graph.num_nodes,
    )  # fmt: skip
    x: Any = graph.x
    if x is not None:
        dense = x.toarray() if sp.issparse(x) else np.array(x, dtype=np.float32)
        data.x = torch.from_numpy(dense)
    if graph.edge_attr is not None and graph.csc.edge_ids is not None:
        data.edge_attr = torch.from_numpy(graph.edge_attr[graph.csc.edge_ids])
    for part, field in MASKS.items():
        mask = masks[part] if isinstance(graph._split, TaskNodeSplit) else masks[part][:, 0]
        data[field] = torch.from_numpy(np.ascontiguousarray(mask))
    return data


def _split_of(data: Data) -> SplitLike:
    masks = {part: getattr(data, field, None) for part, field in MASKS.items()}
    missing = [MASKS[part] for part, mask in masks.items() if mask is None]
    if len(missing) == len(MASKS):
        return None
    if missing:
        raise SplitError(
            f"`data` should have all of {', '.join(MASKS.values())} or none. "
            f"Missing: {', '.join(missing)}."
        )
    return {part: _to_numpy(mask) for part, mask in masks.items()}


def _to_numpy(value: Any) -> NDArray[Any]:  # noqa: ANN401
    return (
        value.detach().cpu().to_dense().numpy() if hasattr(value, "detach") else np.asarray(value)
    )
