"""Splits: which labels may be trained on, per node (OGB) or per (node, task) (KDD'23 communities).

Both kinds answer the same two questions, :meth:`Split.nodes` and :meth:`Split.mask`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gnn_mtl._core.errors import SplitError, UsageError
from gnn_mtl.datasets._bits import BitMatrix
from gnn_mtl.datasets._targets import Rows, TargetStore, labelled_nodes

SPLITS = ("train", "valid", "test")


class Split(Protocol):
    """Which labels belong to ``"train"``, ``"valid"`` and ``"test"``."""

    @property
    def num_nodes(self) -> int:
        """Number of nodes N of the graph."""

    def nodes(self, name: str) -> NDArray[np.int64]:
        """Return the nodes with any cell in the split, ascending unless given otherwise."""

    def mask(self, nodes: Rows, name: str) -> NDArray[np.bool_]:
        """Return the cells in the split, bool ``[B, 1]`` or ``[B, T]``."""

    def select(self, tasks: NDArray[np.int64]) -> Split:
        """Return the same split for some tasks only."""


class NodeSplit:
    """A split of nodes: all labels of a node are in the same part.

    Args:
        train: Node ids for training.
        valid: Node ids for validation.
        test: Node ids for the test.
        num_nodes: Number of nodes N; nodes in no part are allowed.

    Raises:
        SplitError: If a part is empty, holds a node twice or outside ``[0, num_nodes)``, or two
            parts overlap.
    """

    def __init__(
        self, train: ArrayLike, valid: ArrayLike, test: ArrayLike, *, num_nodes: int
    ) -> None:
        self._parts: dict[str, NDArray[np.int64]] = {}
        self._code = np.zeros(num_nodes, dtype=np.uint8)
        for code, (name, ids) in enumerate(zip(SPLITS, (train, valid, test), strict=True), start=1):
            part = _check_ids(name, np.asarray(ids), num_nodes)
            taken = self._code[part]
            if taken.any():
                other = SPLITS[int(taken[taken > 0][0]) - 1]
                raise SplitError(
                    f"Splits should not overlap. Found {int((taken > 0).sum())} nodes both in "
                    f"`{other}` and `{name}`, for example node {int(part[taken > 0][0])}."
                )
            self._code[part] = code
            if int((self._code == code).sum()) != len(part):
                raise SplitError(f"Split `{name}` should hold each node once. Found repeated ids.")
            part.setflags(write=False)
            self._parts[name] = part

    @property
    def num_nodes(self) -> int:
        """Number of nodes N of the graph."""
        return len(self._code)

    def nodes(self, name: str) -> NDArray[np.int64]:
        """Return the node ids of the split, in the order they were given."""
        return self._parts[check_split(name)]

    def mask(self, nodes: Rows, name: str) -> NDArray[np.bool_]:
        """Return which of the nodes are in the split, bool ``[B, 1]``."""
        return (self._code[nodes] == SPLITS.index(check_split(name)) + 1)[:, None]

    def select(self, tasks: NDArray[np.int64]) -> NodeSplit:  # noqa: ARG002
        """Return itself: the split is the same for every task."""
        return self


class TaskNodeSplit:
    """A split of cells: a node may train one task and test another.

    Args:
        train: Training cells, a :class:`BitMatrix` or bool ``[N, T]``.
        valid: Validation cells.
        test: Test cells.

    Raises:
        SplitError: If a part is empty, shapes differ, or two parts share a cell.
    """

    def __init__(
        self,
        train: BitMatrix | ArrayLike,
        valid: BitMatrix | ArrayLike,
        test: BitMatrix | ArrayLike,
    ) -> None:
        cells = {
            name: part if isinstance(part, BitMatrix) else BitMatrix.from_dense(part)
            for name, part in zip(SPLITS, (train, valid, test), strict=True)
        }
        shapes = {(part.num_rows, part.num_columns) for part in cells.values()}
        if len(shapes) != 1:
            raise SplitError(f"Split masks should have one shape [N, T]. Found {sorted(shapes)}.")
        for name, part in cells.items():
            if not part.bits.any():
                raise SplitError(f"Split `{name}` should hold at least one (node, task) cell.")
        for first, second in (("train", "valid"), ("train", "test"), ("valid", "test")):
            shared = np.flatnonzero((cells[first].bits & cells[second].bits).any(axis=1))
            if len(shared):
                raise SplitError(
                    f"Splits should not overlap. Found cells of {len(shared)} nodes both in "
                    f"`{first}` and `{second}`, for example of node {int(shared[0])}."
                )
        self._cells = cells

    @property
    def num_nodes(self) -> int:
        """Number of nodes N of the graph."""
        return self._cells["train"].num_rows

    @property
    def num_tasks(self) -> int:
        """Number of tasks T the masks are for."""
        return self._cells["train"].num_columns

    def nodes(self, name: str) -> NDArray[np.int64]:
        """Return the nodes with any cell in the split, ascending."""
        return np.flatnonzero(self._cells[check_split(name)].any_in_row())

    def mask(self, nodes: Rows, name: str) -> NDArray[np.bool_]:
        """Return which cells of the nodes are in the split, bool ``[B, T]``."""
        return self._cells[check_split(name)].gather(nodes)

    def cells(self, name: str) -> BitMatrix:
        """Return all cells of the split."""
        return self._cells[check_split(name)]

    def select(self, tasks: NDArray[np.int64]) -> TaskNodeSplit:
        """Return the same split for some tasks only (no copy, no new checks)."""
        chosen = object.__new__(TaskNodeSplit)
        chosen._cells = {name: part.select(tasks) for name, part in self._cells.items()}
        return chosen


def make_split(
    parts: Mapping[str, ArrayLike], num_nodes: int, num_tasks: int
) -> NodeSplit | TaskNodeSplit:
    """Build a split from ``{"train", "valid", "test"}`` given as ids, node masks or cell masks.

    Args:
        parts: For each split node ids, a bool mask ``[N]``, or a bool mask ``[N, T]``.
        num_nodes: Number of nodes N.
        num_tasks: Number of tasks T.

    Raises:
        SplitError: If a name is missing, shapes do not fit, or the parts are not a split.
    """
    if set(parts) != set(SPLITS):
        raise SplitError(f"A split should name {', '.join(SPLITS)}. Found {', '.join(parts)}.")
    arrays = [np.asarray(parts[name]) for name in SPLITS]
    if all(array.dtype == np.bool_ and array.ndim == 2 for array in arrays):
        shapes = {array.shape for array in arrays}
        if shapes != {(num_nodes, num_tasks)}:
            raise SplitError(
                f"Two-dimensional split masks should be [N, T] = ({num_nodes}, {num_tasks}). "
                f"Found {sorted(shapes)}. Several alternative splits? Pass one column."
            )
        return TaskNodeSplit(*arrays)
    ids = []
    for name, array in zip(SPLITS, arrays, strict=True):
        if array.dtype == np.bool_:
            if array.shape != (num_nodes,):
                raise SplitError(
                    f"Mask `{name}` should have shape ({num_nodes},). Found {array.shape}."
                )
            array = np.flatnonzero(array)
        ids.append(array)
    return NodeSplit(*ids, num_nodes=num_nodes)


def check_split(name: str) -> str:
    """Return ``name`` if it is one of the three splits, else raise a UsageError."""
    if name not in SPLITS:
        raise UsageError(f"A split is one of {', '.join(SPLITS)}. Found {name!r}.")
    return name


def _check_ids(name: str, ids: NDArray[np.generic], num_nodes: int) -> NDArray[np.int64]:
    if ids.ndim != 1 or len(ids) == 0:
        raise SplitError(
            f"Split `{name}` should be a non-empty list of node ids. Found shape {ids.shape}."
        )
    if not np.issubdtype(ids.dtype, np.integer):
        raise SplitError(f"Split `{name}` should hold integer node ids. Found {ids.dtype}.")
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= num_nodes:
        raise SplitError(
            f"Split `{name}` should hold node ids in [0, {num_nodes}). "
            f"Found {low if low < 0 else high}."
        )
    return ids.astype(np.int64)


def check_split_fits(split: Split, labels: TargetStore) -> None:
    """Raise a SplitError if the split is for another graph or a part has no labelled node."""
    if split.num_nodes != labels.num_nodes:
        raise SplitError(
            f"The split should be over {labels.num_nodes} nodes. Found {split.num_nodes}."
        )
    if isinstance(split, TaskNodeSplit):
        if split.num_tasks != labels.num_tasks:
            raise SplitError(
                f"The split should be over {labels.num_tasks} tasks. Found {split.num_tasks}."
            )
        return
    known = labelled_nodes(labels)
    for name in SPLITS:
        if not known[split.nodes(name)].any():
            raise SplitError(
                f"Split `{name}` should hold at least one labelled node. "
                f"Found {len(split.nodes(name))} nodes, all unlabelled."
            )
