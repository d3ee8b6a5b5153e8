"""``CSCGraph``: in-neighbours of every node in compressed form, built by counting sort."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import GraphError

EdgeChunks = Callable[[], Iterable[tuple[NDArray[np.integer], NDArray[np.integer]]]]
"""A function that yields (source, target) id arrays; called twice, so it must repeat itself."""

MAX_NODES = 2**31 - 1


@dataclass(frozen=True, eq=False)
class CSCGraph:
    """A directed graph as in-neighbour lists; an undirected one holds each edge both ways.

    The sources of the edges into node v are ``indices[indptr[v]:indptr[v + 1]]``: the neighbours
    whose messages v receives. Arrays may be memory maps.

    Attributes:
        indptr: int64 ``[N + 1]``, non-decreasing, from 0 to E.
        indices: int32 ``[E]``, source ids, sorted within each target.
        edge_ids: int32 or int64 ``[E]``: for each stored edge the row of ``edge_index`` (and so of
            the edge features) it came from; both directions of an undirected edge share a row.
            None unless asked for.
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    edge_ids: NDArray[np.integer] | None = None

    def __post_init__(self) -> None:
        if self.indptr.ndim != 1 or len(self.indptr) < 1 or self.indptr.dtype != np.int64:
            raise GraphError(
                "`indptr` should be an int64 vector [N + 1]. "
                f"Found {self.indptr.dtype} with shape {self.indptr.shape}."
            )
        if self.indptr[0] != 0 or int(self.indptr[-1]) != len(self.indices):
            raise GraphError(
                f"`indptr` should run from 0 to the number of edges {len(self.indices)}. "
                f"Found {int(self.indptr[0])} to {int(self.indptr[-1])}."
            )
        if np.any(self.indptr[1:] < self.indptr[:-1]):
            raise GraphError("`indptr` should never decrease. Found a decrease.")
        if self.indices.dtype != np.int32 or self.indices.ndim != 1:
            raise GraphError(
                "`indices` should be an int32 vector [E]. "
                f"Found {self.indices.dtype} with shape {self.indices.shape}."
            )
        if len(self.indices):
            low, high = int(self.indices.min()), int(self.indices.max())
            if low < 0 or high >= self.num_nodes:
                raise GraphError(
                    f"`indices` should lie in [0, {self.num_nodes}). Found {low} to {high}."
                )
        if self.edge_ids is not None and len(self.edge_ids) != len(self.indices):
            raise GraphError(
                f"`edge_ids` should hold {len(self.indices)} ids. Found {len(self.edge_ids)}."
            )

    @property
    def num_nodes(self) -> int:
        """Number of nodes N."""
        return len(self.indptr) - 1

    @property
    def num_edges(self) -> int:
        """Number of stored directed edges E."""
        return len(self.indices)

    @property
    def degrees(self) -> NDArray[np.int64]:
        """In-degree of every node, int64 ``[N]``."""
        return np.diff(self.indptr)

    def neighbors(self, node: int) -> NDArray[np.int32]:
        """Return the sources of the edges into ``node``."""
        return self.indices[self.indptr[node] : self.indptr[node + 1]]

    def to_edge_index(self) -> NDArray[np.int64]:
        """Return int64 ``[2, E]``: sources, targets, sorted by target."""
        targets = np.repeat(np.arange(self.num_nodes, dtype=np.int64), self.degrees)
        return np.stack([self.indices.astype(np.int64), targets])

    def is_symmetric(self) -> bool:
        """Return whether every edge is stored in both directions (O(E) time and memory)."""
        reverse = reverse_graph(self)
        return bool(
            np.array_equal(self.indptr, reverse.indptr)
            and np.array_equal(self.indices, reverse.indices)
        )

    @classmethod
    def from_edge_index(
        cls,
        edge_index: NDArray[np.integer],
        num_nodes: int,
        *,
        undirected: bool = False,
        deduplicate: bool = True,
        remove_self_loops: bool = False,
        keep_edge_ids: bool = False,
    ) -> CSCGraph:
        """Build from an edge list in O(N + E) time and about 4 bytes a stored edge of extra memory.

        Args:
            edge_index: Integers ``[2, E]``: row 0 sources, row 1 targets.
            num_nodes: Number of nodes N, at most 2**31 - 1.
            undirected: Store every edge both ways (a pair given both ways is stored once each way
                when ``deduplicate``).
            deduplicate: Merge equal (source, target) pairs.
            remove_self_loops: Drop edges from a node to itself.
            keep_edge_ids: Also keep the column of ``edge_index`` each stored edge came from (for a
                merged pair the first one).

        Raises:
            GraphError: On a wrong shape or dtype, or ids outside ``[0, num_nodes)``.
        """
        edge_index = np.asarray(edge_index)
        if edge_index.ndim != 2 or edge_index.shape[0] != 2:
            raise GraphError(f"`edge_index` should have shape [2, E]. Found {edge_index.shape}.")
        if not np.issubdtype(edge_index.dtype, np.integer):
            raise GraphError(f"`edge_index` should hold integers. Found {edge_index.dtype}.")
        return cls.from_edge_chunks(
            lambda: [(edge_index[0], edge_index[1])], num_nodes, undirected=undirected,
            deduplicate=deduplicate, remove_self_loops=remove_self_loops,
            keep_edge_ids=keep_edge_ids,
        )  # fmt: skip

    @classmethod
    def from_edge_chunks(
        cls,
        chunks: EdgeChunks,
        num_nodes: int,
        *,
        undirected: bool = False,
        deduplicate: bool = True,
        remove_self_loops: bool = False,
        keep_edge_ids: bool = False,
    ) -> CSCGraph:
        """Build from a repeatable stream of edge chunks, never holding more than one chunk.

        Peak memory is the result (8 bytes a node, 4 bytes a stored edge) plus one chunk, and 4 or 8
        bytes a stored edge more with ``keep_edge_ids``. See :meth:`from_edge_index`.
        """
        if not 0 <= num_nodes <= MAX_NODES:
            raise GraphError(f"`num_nodes` should lie in [0, {MAX_NODES}]. Found {num_nodes}.")
        indptr = np.zeros(num_nodes + 1, dtype=np.int64)
        seen = 0
        for source, target in chunks():
            _check_ids(source, target, num_nodes)
            _count(source, target, indptr, undirected, remove_self_loops)
            seen += len(source)
        np.cumsum(indptr, out=indptr)
        total = int(indptr[-1])
        indices = np.empty(total, dtype=np.int32)
        id_type = np.int32 if seen <= MAX_NODES else np.int64
        edge_ids: NDArray[Any] = np.empty(total if keep_edge_ids else 0, dtype=id_type)
        cursor = indptr[:-1].copy()
        offset = 0
        fits = True
        for source, target in chunks():
            _check_ids(source, target, num_nodes)
            fits = _scatter(
                source, target, indptr, cursor, indices, edge_ids, offset, undirected,
                remove_self_loops,
            )  # fmt: skip
            offset += len(source)
            if not fits:
                break
        if not fits or not np.array_equal(cursor, indptr[1:]):
            raise GraphError(
                f"The edge stream should give the same {seen} edges twice. Found other ones the "
                f"second time, within the first {offset}."
            )
        del cursor
        kept = _sort_rows(indptr, indices, edge_ids, deduplicate)
        if deduplicate and int(kept.sum()) < total:
            new_indptr = np.zeros(num_nodes + 1, dtype=np.int64)
            np.cumsum(kept, out=new_indptr[1:])
            _compact(indptr, new_indptr, indices, edge_ids)
            indptr = new_indptr
            total = int(indptr[-1])
            indices = indices[:total].copy()
            edge_ids = edge_ids[:total].copy() if keep_edge_ids else edge_ids
        return cls(indptr, indices, edge_ids if keep_edge_ids else None)


def reverse_graph(graph: CSCGraph) -> CSCGraph:
    """Return the graph with every edge turned round (sources sorted within each target)."""
    indptr, indices = _reverse(graph.indptr, graph.indices)
    return CSCGraph(indptr, indices)


def _check_ids(source: NDArray[np.integer], target: NDArray[np.integer], num_nodes: int) -> None:
    if len(source) != len(target):
        raise GraphError(
            f"Sources and targets should be equally many. Found {len(source)} and {len(target)}."
        )
    for name, ids in (("source", source), ("target", target)):
        if len(ids) == 0:
            continue
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= num_nodes:
            raise GraphError(
                f"Edge {name} ids should lie in [0, {num_nodes}). "
                f"Found {low if low < 0 else high}. Check `num_nodes`, or whether ids start at 1."
            )


@numba.njit(cache=True, nogil=True)
def _count(source, target, indptr, undirected, remove_self_loops):  # type: ignore[no-untyped-def]
    for e in range(len(source)):
        if source[e] == target[e]:
            if not remove_self_loops:
                indptr[target[e] + 1] += 1
            continue
        indptr[target[e] + 1] += 1
        if undirected:
            indptr[source[e] + 1] += 1


@numba.njit(cache=True, nogil=True)
def _scatter(source, target, indptr, cursor, indices, edge_ids, offset, undirected, no_loops):  # type: ignore[no-untyped-def]
    """Put each edge into its target's row; return False where a row has no room left."""
    keep_ids = len(edge_ids) > 0
    for e in range(len(source)):
        u, v = source[e], target[e]
        if u == v and no_loops:
            continue
        position = cursor[v]
        if position == indptr[v + 1]:
            return False
        indices[position] = u
        if keep_ids:
            edge_ids[position] = offset + e
        cursor[v] = position + 1
        if undirected and u != v:
            position = cursor[u]
            if position == indptr[u + 1]:
                return False
            indices[position] = v
            if keep_ids:
                edge_ids[position] = offset + e
            cursor[u] = position + 1
    return True


@numba.njit(cache=True, nogil=True)
def _sort_rows(indptr, indices, edge_ids, deduplicate):  # type: ignore[no-untyped-def]
    """Sort each row, move its distinct entries to its front; return how many each row keeps."""
    keep_ids = len(edge_ids) > 0
    kept = np.empty(len(indptr) - 1, dtype=np.int64)
    for v in range(len(indptr) - 1):
        start, stop = indptr[v], indptr[v + 1]
        row = indices[start:stop]
        if keep_ids:
            order = np.argsort(row, kind="mergesort")
            row[:] = row[order]
            edge_ids[start:stop] = edge_ids[start:stop][order]
        else:
            row.sort()
        if not deduplicate:
            kept[v] = stop - start
            continue
        write = start
        for e in range(start, stop):
            if e == start or indices[e] != indices[write - 1]:
                indices[write] = indices[e]
                if keep_ids:
                    edge_ids[write] = edge_ids[e]
                write += 1
        kept[v] = write - start
    return kept


@numba.njit(cache=True, nogil=True)
def _compact(old, new, indices, edge_ids):  # type: ignore[no-untyped-def]
    keep_ids = len(edge_ids) > 0
    for v in range(len(new) - 1):
        for k in range(new[v + 1] - new[v]):
            indices[new[v] + k] = indices[old[v] + k]
            if keep_ids:
                edge_ids[new[v] + k] = edge_ids[old[v] + k]


@numba.njit(cache=True, nogil=True)
def _reverse(indptr, indices):  # type: ignore[no-untyped-def]
    n = len(indptr) - 1
    out = np.zeros(n + 1, dtype=np.int64)
    for e in range(len(indices)):
        out[indices[e] + 1] += 1
    for v in range(n):
        out[v + 1] += out[v]
    cursor = out[:-1].copy()
    reversed_indices = np.empty(len(indices), dtype=np.int32)
    for v in range(n):
        for e in range(indptr[v], indptr[v + 1]):
            u = indices[e]
            reversed_indices[cursor[u]] = v
            cursor[u] += 1
    return out, reversed_indices
