"""``TaskGraph``: a graph, its features, its labels as tasks, and who may see which label when."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gnn_mtl._core.errors import FeatureError, LabelError, SealedLabelsError
from gnn_mtl.datasets._bits import row_slices
from gnn_mtl.datasets._features import (
    Features,
    check_edge_rows,
    check_nodes,
    clean_edge_attr,
    clean_features,
    gather_features,
)
from gnn_mtl.datasets._splits import (
    SPLITS,
    Split,
    TaskNodeSplit,
    check_split,
    check_split_fits,
    make_split,
)
from gnn_mtl.datasets._targets import (
    Rows,
    TargetStore,
    check_tasks,
    clean_names,
    labelled_nodes,
    make_targets,
)
from gnn_mtl.graph import CSCGraph

if TYPE_CHECKING:
    from torch_geometric.data import Data

SplitLike = Split | Mapping[str, ArrayLike] | Literal["random", "task"] | None


class TaskGraph:
    """A node-labelled graph whose every label is a binary task.

    Treat it as a value: methods that change something return another graph that shares the arrays.
    Supervision has one door, :meth:`targets`; how labels are stored and whether the split is per
    node or per (node, task) stays inside. Trainings hold a :meth:`sealed` graph, whose test labels
    nothing can read.

    Message passing is symmetric unless asked otherwise: the builders turn a directed edge list into
    one that passes messages both ways (``keep_direction=True`` keeps in-neighbours only), and
    :attr:`directed` remembers what the source was.

    Args:
        csc: The graph messages pass on.
        labels: A label store, see :func:`gnn_mtl.datasets.make_targets`.
        split: A :class:`NodeSplit` or :class:`TaskNodeSplit`.
        x: Features ``[N, F]``: array, memory map, scipy sparse matrix, or None.
        edge_attr: Features ``[E, D]`` of the source edges, addressed by ``csc.edge_ids``.
        label_names: One name a task; ``task_0`` ... by default.
        name: Name of the dataset.
        directed: Whether the edges of the source were directed.
        extras: Anything else worth keeping: arrays (one row a node or not) and plain JSON values.
        check_finite: Look for NaN in ``x`` and ``edge_attr`` (reads all of both).

    Raises:
        LabelError: If labels or names do not fit the graph.
        SplitError: If the split does not fit, or a part has no observed label.
        FeatureError: If features do not fit or are not finite.

    Example:
        >>> edges = np.array([[0, 1, 2, 3, 4], [1, 2, 3, 4, 5]])
        >>> y = np.array([[1, 0], [0, 1], [1, 1], [1, 0], [np.nan, 1], [0, 1]])
        >>> split = {"train": [0, 1, 2], "valid": [3, 4], "test": [5]}
        >>> graph = TaskGraph.from_arrays(edges, y, split=split)
        >>> graph.targets(np.array([3, 4]), "valid")[1].tolist()
        [[True, True], [False, True]]
    """

    def __init__(
        self,
        csc: CSCGraph,
        labels: TargetStore,
        split: Split,
        *,
        x: Features | None = None,
        edge_attr: NDArray[np.float32] | None = None,
        label_names: Sequence[str] | None = None,
        name: str = "graph",
        directed: bool = False,
        extras: Mapping[str, Any] | None = None,
        check_finite: bool = True,
    ) -> None:
        if labels.num_nodes != csc.num_nodes:
            raise LabelError(
                f"Labels should have one row for each of the {csc.num_nodes} nodes. "
                f"Found {labels.num_nodes} rows."
            )
        self.csc = csc
        self.name = name
        self.directed = bool(directed)
        self.extras: dict[str, Any] = dict(extras or {})
        self.x = clean_features(x, csc.num_nodes, check_finite=check_finite)
        self.edge_attr = clean_edge_attr(edge_attr, None, check_finite=check_finite)
        check_edge_rows(csc.edge_ids, self.edge_attr)
        self.label_names = clean_names(label_names, labels.num_tasks)
        self.is_sealed = False
        self._labels = labels
        self._split = split
        check_split_fits(split, labels)

    def __repr__(self) -> str:
        sealed = ", sealed" if self.is_sealed else ""
        return (
            f"TaskGraph(name={self.name!r}, nodes={self.num_nodes}, edges={self.csc.num_edges}, "
            f"tasks={self.num_tasks}, features={self.num_features}{sealed})"
        )

    @property
    def num_nodes(self) -> int:
        """Number of nodes N."""
        return self.csc.num_nodes

    @property
    def num_tasks(self) -> int:
        """Number of tasks T."""
        return self._labels.num_tasks

    @property
    def num_features(self) -> int:
        """Number of feature columns F; 0 without features."""
        return 0 if self.x is None else int(self.x.shape[1])

    @property
    def split_kind(self) -> Literal["node", "task"]:
        """``"node"`` where all labels of a node share a part, ``"task"`` for a split of cells."""
        return "task" if isinstance(self._split, TaskNodeSplit) else "node"

    @cached_property
    def split_idx(self) -> dict[str, NDArray[np.int64]]:
        """Node ids of each split; those with any observed cell in it if it is per (node, task)."""
        if self.split_kind == "node":
            return {name: self._split.nodes(name) for name in SPLITS}
        found: dict[str, list[NDArray[np.int64]]] = {name: [] for name in SPLITS}
        for rows in row_slices(self.num_nodes, self.num_tasks):
            _, known = self._labels.gather(rows)
            for name in SPLITS:
                cells = (known & self._split.mask(rows, name)).any(axis=1)
                found[name].append(rows.start + np.flatnonzero(cells))
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def targets(
        self, nodes: ArrayLike, split: str
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the labels of some nodes as far as they belong to a split.

        Args:
            nodes: Node ids ``[B]``.
            split: ``"train"``, ``"valid"`` or ``"test"``.

        Returns:
            ``(y, observed)``: float32 ``[B, T]`` holding 0 and 1, and bool ``[B, T]``: True where
            the node is labelled for the task and that label is in the split. ``y`` is 0 wherever
            ``observed`` is False, and means nothing there.

        Raises:
            UsageError: If ``split`` is not one of the three.
            SealedLabelsError: If it is ``"test"`` and the graph is sealed.
        """
        positive, observed = self._cells(check_nodes(nodes, self.num_nodes), split)
        return positive.astype(np.float32), observed

    def features(self, nodes: ArrayLike) -> NDArray[np.float32]:
        """Return the features of some nodes, dense float32 ``[B, F]``.

        Raises:
            FeatureError: If the graph has none.
        """
        if self.x is None:
            raise FeatureError(
                f"{self.name} has no node features. Add some with "
                "gnn_mtl.datasets.with_structural_features(graph)."
            )
        return gather_features(self.x, check_nodes(nodes, self.num_nodes))

    def positives(self, split: str) -> NDArray[np.int64]:
        """Return the number of observed positives of each task in a split, int64 ``[T]``."""
        return self._counts(split)[0].copy()

    def observed_counts(self, split: str) -> NDArray[np.int64]:
        """Return the number of observed cells of each task in a split, int64 ``[T]``."""
        return self._counts(split)[1].copy()

    def labelled(self) -> NDArray[np.bool_]:
        """Return bool ``[N]``: nodes with at least one observed label, in whichever split."""
        return labelled_nodes(self._labels).copy()

    def sealed(self) -> TaskGraph:
        """Return the same graph with its test labels out of reach; what a training holds."""
        other = copy.copy(self)
        other.is_sealed = True
        return other

    def select_tasks(self, tasks: Sequence[int] | NDArray[np.integer]) -> TaskGraph:
        """Return the same graph with some tasks only, in the order given; nothing is copied.

        Raises:
            UsageError: If an id is missing, repeated or out of range.
        """
        ids = check_tasks(tasks, self.num_tasks)
        other = self._copy()
        other._labels = self._labels.select(ids)
        other._split = self._split.select(ids)
        other.label_names = tuple(self.label_names[task] for task in ids)
        return other

    def with_features(self, x: Features) -> TaskGraph:
        """Return the same graph with other features.

        Raises:
            FeatureError: If they do not fit or are not finite.
        """
        other = self._copy()
        other.x = clean_features(x, self.num_nodes)
        return other

    def with_split(self, split: Split | Mapping[str, ArrayLike]) -> TaskGraph:
        """Return the same graph with another split.

        Raises:
            SplitError: If it does not fit.
            SealedLabelsError: If the graph is sealed: a new split would open the test labels.
        """
        self._refuse_sealed("take another split")
        if isinstance(split, Mapping):
            split = make_split(split, self.num_nodes, self.num_tasks)
        check_split_fits(split, self._labels)
        other = self._copy()
        other._split = split
        return other

    @cached_property
    def _digest(self) -> str:
        from gnn_mtl.datasets._fingerprint import fingerprint

        return fingerprint(self)

    def fingerprint(self) -> str:
        """Return a SHA-256 over edges, features, labels, splits and names (64 hexadecimal digits).

        Equal content gives equal digests however it is stored; computed once, O(size of the data).
        """
        return self._digest

    @classmethod
    def from_arrays(
        cls,
        edge_index: ArrayLike,
        y: Any,  # noqa: ANN401
        *,
        num_nodes: int | None = None,
        observed: ArrayLike | None = None,
        split: SplitLike = None,
        x: Any = None,  # noqa: ANN401
        edge_attr: ArrayLike | None = None,
        label_names: Sequence[str] | None = None,
        name: str = "graph",
        directed: bool = False,
        keep_direction: bool = False,
        extras: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> TaskGraph:
        """Build from an edge list and a label matrix.

        Isolated nodes, self-loops (kept), duplicate edges (merged), partly observed and one-class
        labels are ordinary input.

        Args:
            edge_index: Integers ``[2, E]``: sources, targets; undirected edges once or both ways.
            y: Labels ``[N, T]``: 0, 1, or NaN where unobserved; dense or scipy sparse.
            num_nodes: Number of nodes N; by default the rows of ``y``.
            observed: Known cells, bool ``[N]`` or ``[N, T]``; by default all but NaN.
            split: ``{"train", "valid", "test"}`` as ids or masks ``[N]`` or ``[N, T]``; a split
                object; ``"task"`` to draw a split per (node, task); ``"random"`` or None to split
                the labelled nodes 60/20/20.
            x: Features ``[N, F]``, dense or sparse.
            edge_attr: Features ``[E, D]``, a row for each column of ``edge_index``.
            label_names: One name a task.
            name: Name of the dataset.
            directed: Whether the edges have a direction.
            keep_direction: Pass messages along directed edges from source to target only.
            extras: Kept as :attr:`extras`.
            seed: Seed of a drawn split.

        Raises:
            GraphError: If edge ids lie outside the graph.
            LabelError: If labels are not 0, 1 or NaN.
            SplitError: If the split is not one.
            FeatureError: If features are not finite or do not fit.

        Warns:
            LabelWarning: If tasks have no positive in training.
        """
        from gnn_mtl.datasets._build import both_ways, build_graph

        labels = make_targets(y, observed=observed)
        edges = np.asarray(edge_index)
        rows = clean_edge_attr(edge_attr, edges.shape[-1] if edges.ndim == 2 else None)
        csc = CSCGraph.from_edge_index(
            edges, labels.num_nodes if num_nodes is None else num_nodes,
            undirected=not directed, keep_edge_ids=rows is not None,
        )  # fmt: skip
        if directed and not keep_direction:
            csc = both_ways(csc)
        return build_graph(
            csc, labels, split=split, x=x, edge_attr=rows, label_names=label_names, name=name,
            directed=directed, extras=extras, seed=seed,
        )  # fmt: skip

    @classmethod
    def from_pyg(
        cls,
        data: Data,
        *,
        split: SplitLike = None,
        label_names: Sequence[str] | None = None,
        name: str = "pyg",
        keep_direction: bool = False,
        seed: int = 0,
    ) -> TaskGraph:
        """Build from a PyG ``Data``.

        Args:
            data: Has ``edge_index``, ``y`` (``[N, T]``; NaN = unobserved), and optionally ``x``,
                ``edge_attr`` and ``train_mask``, ``val_mask``, ``test_mask`` (``[N]``, or
                ``[N, T]`` for a split per (node, task)).
            split: Used instead of the masks; drawn with ``seed`` where there are none.
            label_names: One name a task.
            name: Name of the dataset.
            keep_direction: Pass messages along directed edges from source to target only.
            seed: Seed of a drawn split.

        Raises:
            DataError: As :meth:`from_arrays`; a missing field is named.
        """
        from gnn_mtl.datasets._pyg import from_pyg

        return from_pyg(
            data, split=split, label_names=label_names, name=name, keep_direction=keep_direction,
            seed=seed,
        )  # fmt: skip

    def to_pyg(self) -> Data:
        """Return a PyG ``Data``: x, edge_index, edge_attr, y, train_mask, val_mask, test_mask.

        ``y`` is float32 ``[N, T]`` with NaN where unobserved; on a sealed graph test labels are NaN
        too. Sparse features become dense.
        """
        from gnn_mtl.datasets._pyg import to_pyg

        return to_pyg(self)

    def _cells(self, nodes: Rows, split: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return (positive, observed) of some nodes in a split, bool ``[B, T]``."""
        if check_split(split) == "test":
            self._refuse_sealed("read test labels")
        positive, known = self._labels.gather(nodes)
        observed = known & self._split.mask(nodes, split)
        return positive & observed, observed

    def _counts(self, split: str) -> NDArray[np.int64]:
        """Return positives and observed cells of each task, int64 ``[2, T]``; counted once."""
        if check_split(split) == "test":
            self._refuse_sealed("count test labels")
        cache: dict[str, NDArray[np.int64]] = self.__dict__.setdefault("_count_cache", {})
        if split not in cache:
            total = np.zeros((2, self.num_tasks), dtype=np.int64)
            nodes = self._split.nodes(split)
            for rows in row_slices(len(nodes), self.num_tasks):
                for k, cells in enumerate(self._cells(nodes[rows], split)):
                    total[k] += cells.sum(axis=0)
            cache[split] = total
        return cache[split]

    def _refuse_sealed(self, what: str) -> None:
        if self.is_sealed:
            raise SealedLabelsError(
                f"Expected an open graph to {what}, found {self.name} sealed for training. "
                "Score the test split with the graph that was sealed, after the training."
            )

    def _copy(self) -> TaskGraph:
        other = copy.copy(self)
        for cached in ("split_idx", "_count_cache", "_digest"):
            other.__dict__.pop(cached, None)
        return other
