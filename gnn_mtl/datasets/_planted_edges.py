"""Edges of planted graphs: a repeatable stream of pairs, degree-corrected and by community.

A pair is drawn by choosing a community in proportion to the summed weights of its members, then two
members in proportion to theirs; with probability ``mixing`` the community is the whole graph.
Weights follow a power law, so expected degrees do (a degree-corrected block model, Karrer & Newman,
Phys. Rev. E 83, 016107, 2011, with overlapping blocks). Chunk k of the stream depends on (seed, k)
only: it can be drawn again instead of kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numba
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from gnn_mtl._core.errors import UsageError
from gnn_mtl._core.seeding import generator
from gnn_mtl.graph import CSCGraph

CHUNK = 1 << 18
PILOT_PAIRS = 1 << 20
MAX_DRAWS_PER_EDGE = 20


@dataclass(frozen=True)
class _Stream:
    """Tables to draw pairs from in constant time each (Walker's alias method)."""

    indptr: NDArray[np.int64]  # members of each block; the last block is the whole graph
    nodes: NDArray[np.int32]
    keep: NDArray[np.float64]
    alias: NDArray[np.int64]
    block_keep: NDArray[np.float64]
    block_alias: NDArray[np.int64]
    seed: int

    def chunk(self, number: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return ``CHUNK`` pairs."""
        uniform = generator(self.seed, "edges", number).random((CHUNK, 3))
        return _pairs(
            uniform, self.indptr, self.nodes, self.keep, self.alias, self.block_keep,
            self.block_alias,
        )  # fmt: skip

    def take(self, draws: int) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
        """Yield the first ``draws`` pairs in chunks."""
        for number in range((draws + CHUNK - 1) // CHUNK):
            source, target = self.chunk(number)
            left = draws - number * CHUNK
            yield source[:left], target[:left]


def draw_edges(
    members: sp.csr_matrix, num_edges: int, *, mixing: float, degree_exponent: float, seed: int
) -> CSCGraph:
    """Return an undirected graph without self-loops or repeated edges.

    Args:
        members: Memberships ``[N, C]``, stored cells count.
        num_edges: Distinct edges wanted.
        mixing: Share of the pairs drawn from the whole graph.
        degree_exponent: Exponent of the power law of the weights.
        seed: Seed.

    Raises:
        UsageError: If so many distinct edges do not come up in 20 draws each.
    """
    num_nodes = members.shape[0]
    if num_edges == 0:
        none = np.zeros((2, 0), dtype=np.int32)
        return CSCGraph.from_edge_index(none, num_nodes)
    stream = _tables(members, mixing, degree_exponent, seed)
    draws = _draws_for(stream, num_edges, num_nodes)
    return CSCGraph.from_edge_chunks(
        lambda: stream.take(draws), num_nodes, undirected=True, remove_self_loops=True
    )


def _tables(members: sp.csr_matrix, mixing: float, exponent: float, seed: int) -> _Stream:
    num_nodes = members.shape[0]
    weight = (1.0 - generator(seed, "weights").random(num_nodes)) ** (-1.0 / (exponent - 1.0))
    weight = np.minimum(weight, np.sqrt(num_nodes))
    blocks = sp.csc_matrix(members)
    nodes = np.concatenate([blocks.indices, np.arange(num_nodes)]).astype(np.int32)
    indptr = np.append(blocks.indptr, len(nodes)).astype(np.int64)
    inside = np.add.reduceat(np.append(weight[blocks.indices], 0.0), indptr[:-2])
    inside[np.diff(blocks.indptr) == 0] = 0.0
    block_weight = np.append(inside * (1 - mixing) / inside.sum(), mixing)
    keep, alias = np.empty(len(nodes)), np.empty(len(nodes), dtype=np.int64)
    _alias_tables(indptr, weight[nodes], keep, alias)
    whole = np.array([0, len(block_weight)], dtype=np.int64)
    block_keep, block_alias = np.empty(whole[1]), np.empty(whole[1], dtype=np.int64)
    _alias_tables(whole, block_weight, block_keep, block_alias)
    return _Stream(indptr, nodes, keep, alias, block_keep, block_alias, seed)


def _draws_for(stream: _Stream, num_edges: int, num_nodes: int) -> int:
    """Return how many pairs to draw for ``num_edges`` distinct ones.

    Counts distinct pairs among those whose hash is small (all of them in small graphs): a pair is
    counted or not whatever its multiplicity, so the estimate is unbiased.
    """
    bits = max(0, int(np.ceil(np.log2(num_edges / PILOT_PAIRS))))
    wanted = num_edges / 2**bits
    keys, places = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    number, goal = 0, num_edges
    while number * CHUNK < MAX_DRAWS_PER_EDGE * num_edges + CHUNK:
        new_keys, new_places = [keys], [places]
        while number * CHUNK < goal:
            key, place = _hashed_pairs(*stream.chunk(number), num_nodes, bits)
            new_keys.append(key)
            new_places.append(place + number * CHUNK)
            number += 1
        keys, first = np.unique(np.concatenate(new_keys), return_index=True)
        places = np.concatenate(new_places)[first]
        if len(places) >= wanted:
            return int(np.sort(places)[int(np.ceil(wanted)) - 1]) + 1
        goal = int(number * CHUNK + 1.2 * (wanted - len(keys)) * 2**bits)
    raise UsageError(
        f"Expected {num_edges} distinct edges within {MAX_DRAWS_PER_EDGE} draws each. The "
        "communities are too small: ask for fewer edges or communities, or more mixing."
    )


@numba.njit(cache=True, nogil=True)
def _alias_tables(indptr, weight, keep, alias):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Fill Vose's alias table of each block; ``alias`` holds places in the whole array."""
    for block in range(len(indptr) - 1):
        start, stop = indptr[block], indptr[block + 1]
        size = stop - start
        total = 0.0
        for k in range(start, stop):
            total += weight[k]
        small = np.empty(size, dtype=np.int64)
        large = np.empty(size, dtype=np.int64)
        num_small = 0
        num_large = 0
        for k in range(start, stop):
            keep[k] = weight[k] * size / total if total > 0 else 1.0
            alias[k] = k
            if keep[k] < 1.0:
                small[num_small] = k
                num_small += 1
            else:
                large[num_large] = k
                num_large += 1
        while num_small > 0 and num_large > 0:
            num_small -= 1
            low = small[num_small]
            high = large[num_large - 1]
            alias[low] = high
            keep[high] -= 1.0 - keep[low]
            if keep[high] < 1.0:
                num_large -= 1
                small[num_small] = high
                num_small += 1


@numba.njit(cache=True, nogil=True)
def _draw(uniform, start, stop, keep, alias):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Draw one place of a table with one uniform number."""
    scaled = uniform * (stop - start)
    place = min(np.int64(scaled), stop - start - 1)
    rest = scaled - place
    place += start
    return place if rest < keep[place] else alias[place]


@numba.njit(cache=True, nogil=True)
def _pairs(uniform, indptr, nodes, keep, alias, block_keep, block_alias):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    source = np.empty(len(uniform), dtype=np.int32)
    target = np.empty(len(uniform), dtype=np.int32)
    for e in range(len(uniform)):
        block = _draw(uniform[e, 0], 0, len(block_keep), block_keep, block_alias)
        start, stop = indptr[block], indptr[block + 1]
        source[e] = nodes[_draw(uniform[e, 1], start, stop, keep, alias)]
        target[e] = nodes[_draw(uniform[e, 2], start, stop, keep, alias)]
    return source, target


@numba.njit(cache=True, nogil=True)
def _hashed_pairs(source, target, num_nodes, bits):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return keys and places of the pairs u != v whose hash starts with ``bits`` zeros."""
    keys = np.empty(len(source), dtype=np.int64)
    places = np.empty(len(source), dtype=np.int64)
    count = 0
    for e in range(len(source)):
        u, v = source[e], target[e]
        if u == v:
            continue
        key = np.int64(min(u, v)) * num_nodes + max(u, v)
        mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(32)
        mixed *= np.uint64(0xD6E8FEB86659FD93)
        if bits > 0 and mixed >> np.uint64(64 - bits) != np.uint64(0):
            continue
        keys[count] = key
        places[count] = e
        count += 1
    return keys[:count], places[:count]
