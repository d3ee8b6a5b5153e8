"""What the colouring searches share: a counter-based random stream and a proof that they may stop.

A draw is SplitMix64's finaliser (Steele, Lea, Flood, OOPSLA 2014) of a key and the number of the
draw, so that a search is a pure function of its arguments.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.seeding import derive_seed

_GOLDEN = 0x9E3779B97F4A7C15


@numba.njit(inline="always")
def draw(key, counter, bound):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return draw ``counter`` of stream ``key`` as an integer in [0, bound), bound < 2**31."""
    z = key + np.uint64(_GOLDEN) * np.uint64(counter + 1)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = (z ^ (z >> np.uint64(31))) >> np.uint64(33)
    return np.int64((z * np.uint64(bound)) >> np.uint64(31))


def stream(seed: int, name: str) -> np.uint64:
    """Return the key of the stream of that name below ``seed``."""
    return np.uint64(derive_seed(seed, name))


def neighbor_lists(adjacency: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the offsets ``[T + 1]`` and the neighbours of every task, one list after the other."""
    offsets = np.concatenate([[0], np.cumsum(adjacency.sum(axis=1))]).astype(np.int64)
    return offsets, np.nonzero(adjacency)[1].astype(np.int32)


def clique_bound(adjacency: NDArray[np.bool_]) -> int:
    """Return the size of a clique found greedily: no colouring has fewer classes.

    From each of up to 32 tasks of the largest degree, the candidate with the most candidates as
    neighbours joins until none is left.
    """
    best = 1
    for start in np.argsort(-adjacency.sum(axis=1), kind="stable")[:32].tolist():
        size, candidates = 1, np.flatnonzero(adjacency[start])
        while len(candidates) and size + len(candidates) > best:
            inside = adjacency[np.ix_(candidates, candidates)]
            best_one = int(inside.sum(axis=1).argmax())
            candidates, size = candidates[inside[best_one]], size + 1
        best = max(best, size)
    return best
