"""Uniform neighbour sampling: a numba kernel for CPU and torch operations for any device.

Both draw from the same counter-based streams and number the nodes in the same order, so they return
the same sample bit for bit; the torch one is the reference of the other's tests.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gnn_mtl._core.errors import GraphError, UsageError
from gnn_mtl._core.seeding import derive_seed
from gnn_mtl.graph._counter import draw, draw_torch, node_key, node_key_torch
from gnn_mtl.graph._csc import CSCGraph

Backend = Literal["auto", "numba", "torch"]


@dataclass(frozen=True, eq=False)
class Sample:
    """A sampled neighbourhood: one CSC whose prefixes are the layers' bipartite blocks.

    Nodes are numbered by discovery, seeds first. Every node but those of the last hop is a target
    exactly once, in the order of its number.

    Attributes:
        n_id: int64 ``[S]``: the graph's id of each sampled node; ``n_id[:batch_size]`` the seeds.
        indptr: int32 ``[D + 1]``: bounds of each target's sources, D = targets of all hops.
        indices: int32 ``[edges]``: sources, as positions in ``n_id``.
        edge_positions: int64 ``[edges]``: position of each edge in the graph's ``indices``; None
            unless asked for.
        num_nodes: Number of nodes found up to hop 0 (the seeds), 1, ..., L; increasing.
    """

    n_id: Tensor
    indptr: Tensor
    indices: Tensor
    edge_positions: Tensor | None
    num_nodes: tuple[int, ...]

    @property
    def batch_size(self) -> int:
        """Number of seeds B."""
        return self.num_nodes[0]


class NeighborSampler:
    """Samples up to ``num_neighbors[h]`` in-neighbours of every node found in hop h.

    Without replacement (Floyd's algorithm, Bentley & Floyd, CACM 1987) every subset of size
    min(degree, k) is equally likely; with replacement k draws are made at every node that has a
    neighbour. ``-1`` takes all neighbours. A node is expanded once, in the hop that found it.

    Args:
        graph: The graph; in-neighbours are sampled.
        num_neighbors: Fan-out of each hop, nearest first, e.g. ``[10, 10]``.
        replace: Draw with replacement.
        edge_positions: Also return which edge of the graph each sampled edge is.
        backend: ``"numba"`` (CPU), ``"torch"`` (any device), or ``"auto"``: numba on the CPU.
        device: Where the torch backend keeps the graph and returns the sample.

    Cost: O(B * k_1 * ... * k_L) time; numba 4 bytes of scratch per node and thread, torch 8.

    Raises:
        UsageError: On a fan-out below -1 or equal to 0, or numba asked for on another device.
    """

    def __init__(
        self,
        graph: CSCGraph,
        num_neighbors: Sequence[int],
        *,
        replace: bool = False,
        edge_positions: bool = False,
        backend: Backend = "auto",
        device: torch.device | str = "cpu",
    ) -> None:
        fanouts = [int(k) for k in num_neighbors]
        if not fanouts or any(k == 0 or k < -1 for k in fanouts):
            raise UsageError(
                "`num_neighbors` should hold one positive fan-out per hop, or -1 for all of them."
                f" Found {list(num_neighbors)}."
            )
        self.graph = graph
        self.num_neighbors = tuple(fanouts)
        self.replace = replace
        self.edge_positions = edge_positions
        self.device = torch.device(device)
        if backend == "auto":
            backend = "numba" if self.device.type == "cpu" else "torch"
        if backend == "numba" and self.device.type != "cpu":
            raise UsageError(
                f"The numba backend samples on the CPU. Found device {self.device}; "
                "use backend='torch'."
            )
        if backend not in ("numba", "torch"):
            raise UsageError(f"`backend` should be auto, numba or torch. Found {backend!r}.")
        self.backend: Backend = backend
        self._scratch = threading.local()
        if backend == "torch":
            self._indptr = _as_tensor(graph.indptr).to(self.device)
            self._indices = _as_tensor(graph.indices).to(self.device)

    def sample(
        self, seeds: NDArray[np.integer] | Tensor, *, seed: int, epoch: int = 0, batch: int = 0
    ) -> Sample:
        """Return the sampled neighbourhood of ``seeds``.

        The result depends on the arguments only: not on the thread, the backend, the device or what
        was sampled before.

        Args:
            seeds: Node ids ``[B]``.
            seed: Seed of the stream.
            epoch: Number of the epoch; another number gives other neighbours.
            batch: Number of the batch within the epoch.

        Raises:
            GraphError: If a seed lies outside ``[0, N)``.
        """
        key = derive_seed(seed, "neighbors", epoch, batch)
        if not isinstance(seeds, Tensor):
            seeds = torch.from_numpy(np.array(seeds, dtype=np.int64))
        ids = seeds.to(self.device, torch.int64)
        if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= self.graph.num_nodes):
            raise GraphError(
                f"Seeds should be node ids in [0, {self.graph.num_nodes}). "
                f"Found {int(ids.min())} to {int(ids.max())}."
            )
        if self.backend == "numba":
            return self._sample_numba(ids.numpy(), key)
        return self._sample_torch(ids, key)

    def _sample_numba(self, seeds: NDArray[np.int64], key: int) -> Sample:
        scratch = getattr(self._scratch, "array", None)
        if scratch is None:
            scratch = self._scratch.array = np.zeros(self.graph.num_nodes, dtype=np.int32)
        n_id, indptr, indices, positions, num_nodes = _sample(
            self.graph.indptr, self.graph.indices, seeds,
            np.asarray(self.num_neighbors, dtype=np.int64), np.uint64(key), self.replace,
            self.edge_positions, scratch,
        )  # fmt: skip
        return Sample(
            torch.from_numpy(n_id), torch.from_numpy(indptr), torch.from_numpy(indices),
            torch.from_numpy(positions) if self.edge_positions else None,
            tuple(int(n) for n in num_nodes),
        )  # fmt: skip

    def _sample_torch(self, seeds: Tensor, key: int) -> Sample:
        scratch = getattr(self._scratch, "tensor", None)
        if scratch is None:
            scratch = torch.full((self.graph.num_nodes,), -1, device=self.device)
            self._scratch.tensor = scratch
        unseen = torch.iinfo(torch.int64).max
        n_id = seeds
        first = torch.full((self.graph.num_nodes,), unseen, device=self.device)
        order = torch.arange(len(seeds), device=self.device)
        first.scatter_reduce_(0, seeds, order, "amin")
        scratch[seeds] = first[seeds]
        first[seeds] = unseen
        frontier = seeds
        counts, sources, positions = [], [], []
        num_nodes = [len(seeds)]
        for fanout in self.num_neighbors:
            count, position = self._draw_edges(frontier, fanout, key)
            source = self._indices[position].long()
            new = source[scratch[source] < 0]
            order = torch.arange(len(new), device=self.device)
            first.scatter_reduce_(0, new, order, "amin")
            found = new[first[new] == order]
            first[new] = unseen
            scratch[found] = len(n_id) + torch.arange(len(found), device=self.device)
            n_id = torch.cat([n_id, found])
            frontier = found
            counts.append(count)
            sources.append(scratch[source])
            positions.append(position)
            num_nodes.append(len(n_id))
        scratch[n_id] = -1
        indptr = torch.zeros(sum(map(len, counts)) + 1, dtype=torch.int64, device=self.device)
        torch.cumsum(torch.cat(counts), 0, out=indptr[1:])
        return Sample(
            n_id, indptr.int(), torch.cat(sources).int(),
            torch.cat(positions) if self.edge_positions else None, tuple(num_nodes),
        )  # fmt: skip

    def _draw_edges(self, frontier: Tensor, fanout: int, key: int) -> tuple[Tensor, Tensor]:
        """How many edges each frontier node draws, and their positions in the graph, in order."""
        start = self._indptr[frontier]
        degree = self._indptr[frontier + 1] - start
        if self.replace and fanout > 0:
            count = torch.where(degree > 0, fanout, 0)
        else:
            count = degree if fanout < 0 else degree.clamp(max=fanout)
        drawn = degree > 0 if self.replace else degree > fanout
        if fanout < 0:
            drawn = torch.zeros_like(drawn)
        total = torch.cumsum(count, 0)
        owner = torch.repeat_interleave(torch.arange(len(frontier), device=self.device), count)
        rank = torch.arange(len(owner), device=self.device) - (total - count)[owner]
        offset = rank
        rows = drawn.nonzero().flatten()
        if len(rows):
            streams = node_key_torch(key, frontier[rows])
            chosen = torch.empty((len(rows), fanout), dtype=torch.int64, device=self.device)
            for i in range(fanout):
                if self.replace:
                    chosen[:, i] = draw_torch(streams, i, degree[rows])
                    continue
                last = degree[rows] - fanout + i
                pick = draw_torch(streams, i, last + 1)
                taken = (chosen[:, :i] == pick[:, None]).any(dim=1)
                chosen[:, i] = torch.where(taken, last, pick)
            slot = torch.full((len(frontier),), -1, dtype=torch.int64, device=self.device)
            slot[rows] = torch.arange(len(rows), device=self.device)
            edge_slot = slot[owner]
            is_drawn = edge_slot >= 0
            offset = torch.where(is_drawn, chosen[edge_slot.clamp(min=0), rank % fanout], rank)
        return count, start[owner] + offset


def _as_tensor(array: NDArray[np.generic]) -> Tensor:
    """A tensor that shares the array's memory; a read-only array is copied."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())


@numba.njit(cache=True, nogil=True)
def _sample(indptr, indices, seeds, fanouts, key, replace, want_positions, scratch):  # type: ignore[no-untyped-def]
    """The whole sample in one call; ``scratch`` is all zero before and after."""
    hops = len(fanouts)
    num_nodes = np.empty(hops + 1, dtype=np.int64)
    n_id = np.empty(max(16, 2 * len(seeds)), dtype=np.int64)
    n = 0
    for v in seeds:
        n_id[n] = v
        n += 1
        if scratch[v] == 0:
            scratch[v] = n
    num_nodes[0] = n
    out_indptr = np.zeros(n + 1, dtype=np.int32)
    out_indices = np.empty(0, dtype=np.int32)
    positions = np.empty(0, dtype=np.int64)
    begin, edges = 0, 0
    for hop in range(hops):
        fanout = fanouts[hop]
        end = n
        if len(out_indptr) < end + 1:
            grown = np.empty(end + 1, dtype=np.int32)
            grown[: begin + 1] = out_indptr[: begin + 1]
            out_indptr = grown
        total = edges
        for target in range(begin, end):
            v = n_id[target]
            degree = indptr[v + 1] - indptr[v]
            if fanout >= 0 and (replace or degree > fanout):
                degree = fanout if degree > 0 else 0
            total += degree
            out_indptr[target + 1] = total
        more = np.empty(total, dtype=np.int32)
        more[:edges] = out_indices
        out_indices = more
        if want_positions:
            more_positions = np.empty(total, dtype=np.int64)
            more_positions[:edges] = positions
            positions = more_positions
        if len(n_id) < n + total - edges:
            more_nodes = np.empty(n + total - edges, dtype=np.int64)
            more_nodes[:n] = n_id[:n]
            n_id = more_nodes
        chosen = np.empty(max(1, fanout), dtype=np.int64)
        for target in range(begin, end):
            v = n_id[target]
            start = indptr[v]
            degree = indptr[v + 1] - start
            count = out_indptr[target + 1] - out_indptr[target]
            drawn = fanout >= 0 and count > 0 and (replace or degree > fanout)
            stream = node_key(key, v)
            for i in range(count):
                offset = np.int64(i)
                if drawn and replace:
                    offset = draw(stream, i, degree)
                elif drawn:
                    last = degree - fanout + i
                    offset = draw(stream, i, last + 1)
                    for j in range(i):
                        if chosen[j] == offset:
                            offset = last
                            break
                    chosen[i] = offset
                u = indices[start + offset]
                local = scratch[u]
                if local == 0:
                    n_id[n] = u
                    n += 1
                    local = np.int32(n)
                    scratch[u] = local
                out_indices[edges] = local - 1
                if want_positions:
                    positions[edges] = start + offset
                edges += 1
        begin = end
        num_nodes[hop + 1] = n
    for i in range(n):
        scratch[n_id[i]] = 0
    return n_id[:n].copy(), out_indptr[: begin + 1].copy(), out_indices, positions, num_nodes
