"""DeepWalk: uniform random walks read as sentences by skip-gram (Perozzi et al., KDD 2014).

The walks are our own and the same on every machine; skip-gram is gensim's.
"""

from __future__ import annotations

from collections.abc import Iterator

import numba
import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.optional import require
from gnn_mtl._core.progress import Progress
from gnn_mtl._core.seeding import derive_seed
from gnn_mtl.graph import CSCGraph
from gnn_mtl.graph._counter import draw, node_key

WALKS_AT_ONCE = 4096


def deepwalk(
    csc: CSCGraph,
    dim: int,
    *,
    walks_per_node: int = 80,
    walk_length: int = 40,
    window: int = 10,
    seed: int = 0,
) -> NDArray[np.float32]:
    """Return skip-gram vectors of the nodes, float32 ``[N, dim]``; isolated nodes get zeros.

    One pass of skip-gram with hierarchical softmax, in one thread, so that equal arguments give
    equal vectors.

    Args:
        csc: A symmetric graph.
        dim: Number of columns.
        walks_per_node: Walks that start at each node.
        walk_length: Nodes of a walk.
        window: Largest distance of a pair within a walk.
        seed: Seed of walks and skip-gram.

    Raises:
        MissingExtraError: If gensim is not installed.
    """
    gensim = require("gensim.models", extra="embed", purpose="DeepWalk")
    vectors = np.zeros((csc.num_nodes, dim), dtype=np.float32)
    starts = np.flatnonzero(csc.degrees).astype(np.int64)
    if len(starts) == 0:
        return vectors
    model = gensim.Word2Vec(
        vector_size=dim, window=window, negative=0, sg=1, hs=1, min_count=0, sample=0,
        workers=1, epochs=1, seed=derive_seed(seed, "skip-gram") & 0x7FFFFFFF,
    )  # fmt: skip
    # A walk visits a node in proportion to its degree, so the counts need no pass over the walks.
    # Words are strings: gensim reads integers now as words, now as their places.
    words = np.arange(csc.num_nodes).astype(str).astype(object)
    model.build_vocab_from_freq({words[v]: int(csc.degrees[v]) for v in starts})
    with Progress("deepwalk features", walks_per_node * len(starts)) as progress:
        model.train(
            _Sentences(csc, words, starts, walks_per_node, walk_length, seed, progress),
            total_examples=walks_per_node * len(starts), epochs=1,
        )  # fmt: skip
    vectors[[int(word) for word in model.wv.index_to_key]] = model.wv.vectors
    return vectors


def random_walks(
    csc: CSCGraph, starts: NDArray[np.int64], length: int, *, seed: int, turn: int = 0
) -> NDArray[np.int32]:
    """Return one uniform random walk from each start, int32 ``[B, length]``.

    A pure function of (seed, turn, start). Starts need at least one neighbour, and neighbours lie
    on in-edges.
    """
    key = np.uint64(derive_seed(seed, "walks", turn))
    out = np.empty((len(starts), length), dtype=np.int32)
    _walk(csc.indptr, csc.indices, starts, key, out)
    return out


class _Sentences:
    """All walks, turn by turn, each turn in an order of its own, as lists of words."""

    def __init__(
        self,
        csc: CSCGraph,
        words: NDArray[np.object_],
        starts: NDArray[np.int64],
        turns: int,
        length: int,
        seed: int,
        progress: Progress,
    ) -> None:
        self.csc, self.words, self.starts, self.turns = csc, words, starts, turns
        self.length, self.seed, self.progress = length, seed, progress

    def __iter__(self) -> Iterator[list[str]]:
        for turn in range(self.turns):
            rng = np.random.default_rng(derive_seed(self.seed, "walk order", turn))
            order = rng.permutation(self.starts)
            for first in range(0, len(order), WALKS_AT_ONCE):
                part = order[first : first + WALKS_AT_ONCE]
                walks = random_walks(self.csc, part, self.length, seed=self.seed, turn=turn)
                yield from self.words[walks].tolist()
                self.progress.advance(len(part))


@numba.njit(cache=True, nogil=True)
def _walk(indptr, indices, starts, key, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for b in range(len(starts)):
        stream = node_key(key, starts[b])
        node = starts[b]
        out[b, 0] = node
        for step in range(1, out.shape[1]):
            degree = indptr[node + 1] - indptr[node]
            node = np.int64(indices[indptr[node] + draw(stream, step, degree)])
            out[b, step] = node
