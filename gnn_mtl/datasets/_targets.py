"""Label stores: who is positive and which cells are known, packed in bits or kept as lists.

Both stores keep one contract (:class:`TargetStore`); :func:`make_targets` picks the smaller one.
Unlabelled is not negative: a cell that is not observed reads as 0 and as not observed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numba
import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from gnn_mtl._core.errors import LabelError, UsageError
from gnn_mtl.datasets._bits import BitMatrix, packed_width, row_slices

Rows = NDArray[np.integer] | slice
Observed = NDArray[np.bool_] | BitMatrix
"""Bool ``[N]`` (a labelled node has all its labels) or one bit for every cell."""


class TargetStore(Protocol):
    """What a label store must offer: positives and known cells of any rows, for T tasks."""

    @property
    def num_nodes(self) -> int:
        """Number of nodes N."""

    @property
    def num_tasks(self) -> int:
        """Number of tasks T."""

    @property
    def observed(self) -> Observed:
        """Which cells are known."""

    def gather(self, nodes: Rows) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return (positive, observed) of the nodes, bool ``[B, T]``; positives are observed."""

    def select(self, tasks: NDArray[np.int64]) -> TargetStore:
        """Return the same store for some tasks only, without copying the labels."""


@dataclass(frozen=True, eq=False)
class BitTargets:
    """Labels at one bit a cell: ``ceil(T / 8)`` bytes a node.

    Attributes:
        positive: The positives, ``[N, T]``.
        observed: Labelled nodes, bool ``[N]``, or known cells, ``[N, T]``.
    """

    positive: BitMatrix
    observed: Observed

    @property
    def num_nodes(self) -> int:
        """Number of nodes N."""
        return self.positive.num_rows

    @property
    def num_tasks(self) -> int:
        """Number of tasks T."""
        return self.positive.num_columns

    def gather(self, nodes: Rows) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return (positive, observed) of the nodes, bool ``[B, T]`` each."""
        known = gather_observed(self.observed, nodes, self.num_tasks)
        return self.positive.gather(nodes) & known, known

    def select(self, tasks: NDArray[np.int64]) -> BitTargets:
        """Return the same store for some tasks only."""
        return BitTargets(self.positive.select(tasks), _select_observed(self.observed, tasks))


@dataclass(frozen=True, eq=False)
class ListTargets:
    """Labels as the list of positive tasks of every node: small where labels are many and rare.

    Attributes:
        indptr: int64 ``[N + 1]``; the positives of node v are ``indices[indptr[v]:indptr[v + 1]]``.
        indices: int32 positive task ids among the stored tasks.
        observed: Labelled nodes, bool ``[N]``, or known cells, ``[N, T]``.
        position: int32 ``[stored tasks]``: the visible number of each stored task, -1 if hidden.
        num_tasks: Number of visible tasks T.
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    observed: Observed
    position: NDArray[np.int32]
    num_tasks: int

    @classmethod
    def from_csr(cls, labels: sp.csr_matrix, observed: Observed) -> ListTargets:
        """Build from a sparse 0/1 matrix ``[N, T]`` whose stored values are all 1."""
        tasks = labels.shape[1]
        return cls(
            labels.indptr.astype(np.int64), labels.indices.astype(np.int32), observed,
            np.arange(tasks, dtype=np.int32), tasks,
        )  # fmt: skip

    @property
    def num_nodes(self) -> int:
        """Number of nodes N."""
        return len(self.indptr) - 1

    def gather(self, nodes: Rows) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return (positive, observed) of the nodes, bool ``[B, T]`` each."""
        known = gather_observed(self.observed, nodes, self.num_tasks)
        rows = np.arange(self.num_nodes)[nodes] if isinstance(nodes, slice) else nodes
        positive = np.zeros(known.shape, dtype=np.bool_)
        _scatter_lists(self.indptr, self.indices, rows, self.position, positive)
        return positive & known, known

    def select(self, tasks: NDArray[np.int64]) -> ListTargets:
        """Return the same store for some tasks only."""
        order = np.full(self.num_tasks + 1, -1, dtype=np.int32)  # the last entry answers to -1
        order[tasks] = np.arange(len(tasks), dtype=np.int32)
        return replace(
            self, position=order[self.position], num_tasks=len(tasks),
            observed=_select_observed(self.observed, tasks),
        )  # fmt: skip


def make_targets(
    y: ArrayLike | sp.spmatrix | sp.sparray, *, observed: ArrayLike | None = None
) -> TargetStore:
    """Turn labels of any common form into the smaller of the two stores.

    Args:
        y: Labels ``[N, T]`` (or ``[N]`` for one task): 0, 1, or NaN where unobserved; boolean,
            integer or float; dense or any scipy sparse matrix (what is not stored is 0).
        observed: Known cells: bool ``[N]`` for whole nodes or ``[N, T]``; None means every cell
            that is not NaN.

    Returns:
        A :class:`BitTargets`, or a :class:`ListTargets` where positives are rare enough for lists
        to be smaller.

    Raises:
        LabelError: If a value is not 0, 1 or NaN, or shapes differ.

    Note:
        O(N T) time for dense input, in row chunks; extra memory is the result.
    """
    if sp.issparse(y):
        labels, found = _from_sparse(sp.csr_matrix(y)), None
    else:
        labels, found = _from_dense(_as_matrix(y))
    rows, tasks = labels.shape if isinstance(labels, sp.csr_matrix) else (
        labels.num_rows, labels.num_columns,
    )  # fmt: skip
    known = combine_observed(found, observed, rows, tasks)
    if isinstance(labels, BitMatrix):
        return BitTargets(labels, known)
    return store_csr(labels, known)


def store_csr(labels: sp.csr_matrix, observed: Observed) -> TargetStore:
    """Return the smaller store of a sparse 0/1 matrix ``[N, T]``."""
    rows, tasks = labels.shape
    if 4 * labels.nnz + 8 * rows < rows * packed_width(tasks):
        return ListTargets.from_csr(labels, observed)
    return BitTargets(BitMatrix.from_csr(labels), observed)


def combine_observed(
    found: BitMatrix | None, given: ArrayLike | None, num_nodes: int, num_tasks: int
) -> Observed:
    """Return known cells from the two sources, per node where rows are whole."""
    if given is None:
        return per_node(found) if found is not None else np.ones(num_nodes, dtype=np.bool_)
    mask = np.asarray(given)
    if mask.dtype != np.bool_ or mask.shape not in ((num_nodes,), (num_nodes, num_tasks)):
        raise LabelError(
            f"`observed` should be bool with shape ({num_nodes},) or ({num_nodes}, {num_tasks}). "
            f"Found {mask.dtype} with shape {mask.shape}."
        )
    if found is None:
        return mask.copy() if mask.ndim == 1 else per_node(BitMatrix.from_dense(mask))
    if mask.ndim == 1:
        return per_node(BitMatrix(found.bits * mask[:, None].astype(np.uint8), num_tasks))
    return per_node(BitMatrix(found.bits & BitMatrix.from_dense(mask).bits, num_tasks))


def gather_observed(observed: Observed, nodes: Rows, num_tasks: int) -> NDArray[np.bool_]:
    """Return the known cells of some nodes, bool ``[B, T]`` (read-only where whole nodes count)."""
    if isinstance(observed, BitMatrix):
        return observed.gather(nodes)
    rows = np.asarray(observed[nodes])
    return np.broadcast_to(rows[:, None], (len(rows), num_tasks))


def labelled_nodes(store: TargetStore) -> NDArray[np.bool_]:
    """Return bool ``[N]``: nodes with at least one observed cell."""
    observed = store.observed
    return observed.any_in_row() if isinstance(observed, BitMatrix) else np.asarray(observed)


def positive_lists(store: TargetStore) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the observed positives of every node as (indptr int64 ``[N + 1]``, task ids int32)."""
    if isinstance(store, ListTargets) and not isinstance(store.observed, BitMatrix):
        return _visible_lists(store, store.observed)
    counts, tasks = [np.zeros(1, dtype=np.int64)], [np.zeros(0, dtype=np.int32)]
    for rows in row_slices(store.num_nodes, store.num_tasks):
        positive, _ = store.gather(rows)
        counts.append(positive.sum(axis=1, dtype=np.int64))
        tasks.append(np.nonzero(positive)[1].astype(np.int32))
    return np.cumsum(np.concatenate(counts)), np.concatenate(tasks)


def check_tasks(tasks: Sequence[int] | NDArray[np.integer], num_tasks: int) -> NDArray[np.int64]:
    """Return task ids as int64, distinct and in range.

    Raises:
        UsageError: If there is none, one twice, or one outside ``[0, num_tasks)``.
    """
    ids = np.atleast_1d(np.asarray(tasks))
    if ids.ndim != 1 or len(ids) == 0 or not np.issubdtype(ids.dtype, np.integer):
        raise UsageError(f"Tasks should be a non-empty list of task ids. Found {tasks!r}.")
    if ids.min() < 0 or ids.max() >= num_tasks or len(np.unique(ids)) != len(ids):
        raise UsageError(
            f"Task ids should be distinct and lie in [0, {num_tasks}). Found {ids.tolist()[:10]}."
        )
    return ids.astype(np.int64)


def clean_names(label_names: Sequence[str] | None, num_tasks: int) -> tuple[str, ...]:
    """Return one name a task, ``task_0`` ... where none are given."""
    if label_names is None:
        return tuple(f"task_{task}" for task in range(num_tasks))
    names = tuple(str(name) for name in label_names)
    if len(names) != num_tasks:
        raise LabelError(f"`label_names` should hold {num_tasks} names. Found {len(names)}.")
    return names


def _as_matrix(y: ArrayLike) -> NDArray[np.generic]:
    dense = np.asarray(y)
    if dense.ndim == 1:
        dense = dense[:, None]
    if dense.ndim != 2 or dense.shape[1] == 0:
        raise LabelError(f"Labels should have shape [N, T] with T >= 1. Found {dense.shape}.")
    if dense.dtype.kind not in "biuf":
        raise LabelError(f"Labels should be numbers 0, 1 or NaN. Found dtype {dense.dtype}.")
    return dense


def _from_dense(dense: NDArray[np.generic]) -> tuple[BitMatrix, BitMatrix | None]:
    """Pack dense labels; the second result holds the cells that are not NaN (None if none is)."""
    rows, tasks = dense.shape
    positive, known = BitMatrix.zeros(rows, tasks), BitMatrix.zeros(rows, tasks)
    has_nan = False
    for part in row_slices(rows, tasks):
        block = dense[part]
        nan = np.isnan(block) if block.dtype.kind == "f" else np.zeros(block.shape, dtype=np.bool_)
        one = block == 1
        bad = ~(one | nan | (block == 0))
        if bad.any():
            row, task = np.argwhere(bad)[0]
            raise LabelError(
                "Labels should be 0, 1, or NaN where unobserved. Found "
                f"{block[row, task]} at node {part.start + row}, task {task}. "
                "Turn classes into one 0/1 column each."
            )
        positive.set_rows(part, one)
        known.set_rows(part, ~nan)
        has_nan |= bool(nan.any())
    return positive, known if has_nan else None


def _from_sparse(labels: sp.csr_matrix) -> sp.csr_matrix:
    labels = labels.copy()
    labels.sum_duplicates()
    bad = ~((labels.data == 0) | (labels.data == 1))
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        node = int(np.searchsorted(labels.indptr, first, side="right")) - 1
        raise LabelError(
            f"Sparse labels should hold 0 and 1 only. Found {labels.data[first]} at node {node}, "
            f"task {labels.indices[first]}. Mark unknown cells with `observed`, not with NaN."
        )
    if labels.shape[1] == 0:
        raise LabelError(f"Labels should have shape [N, T] with T >= 1. Found {labels.shape}.")
    labels.eliminate_zeros()
    return labels


def _visible_lists(
    store: ListTargets, labelled: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the lists of a store without hidden tasks and unlabelled nodes, never unpacked."""
    task = store.position[store.indices]
    row = np.repeat(np.arange(store.num_nodes), np.diff(store.indptr))
    keep = (task >= 0) & labelled[row]
    row, task = row[keep], task[keep]
    counts = np.bincount(row, minlength=store.num_nodes)
    return np.concatenate([[0], np.cumsum(counts)]), task[np.lexsort((task, row))]


def per_node(known: BitMatrix) -> Observed:
    """Return bool ``[N]`` if every row is wholly known or wholly unknown, else the cells."""
    whole = np.zeros(known.num_rows, dtype=np.bool_)
    for part in known.row_slices():
        cells = known.gather(part)
        whole[part] = cells.all(axis=1)
        if not np.array_equal(whole[part], cells.any(axis=1)):
            return known
    return whole


def _select_observed(observed: Observed, tasks: NDArray[np.int64]) -> Observed:
    return observed.select(tasks) if isinstance(observed, BitMatrix) else observed


@numba.njit(cache=True, nogil=True)
def _scatter_lists(indptr, indices, nodes, position, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for b in range(len(nodes)):
        for e in range(indptr[nodes[b]], indptr[nodes[b] + 1]):
            task = position[indices[e]]
            if task >= 0:
                out[b, task] = True
