"""Interleaved, repeated timing and the common frame of a bench's result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from gnn_mtl.records import manifest


def interleaved(
    candidates: Mapping[str, Callable[[int], object]], repeats: int, *, first: int = 0
) -> dict[str, dict[str, float]]:
    """Time each candidate once per repeat, in turn.

    Args:
        candidates: Functions of the number of the repeat.
        repeats: How often each is timed; who goes first rotates.
        first: Who goes first in the first repeat.

    Returns:
        For each candidate the medians ``{"cpu_s", "wall_s"}``; CPU time counts all threads of the
        process and is what ratios are made of.
    """
    cpu: dict[str, list[float]] = {name: [] for name in candidates}
    wall: dict[str, list[float]] = {name: [] for name in candidates}
    names = list(candidates)
    for repeat in range(repeats):
        start = (first + repeat) % len(names)
        for name in names[start:] + names[:start]:
            work = candidates[name]
            started, clock = time.perf_counter(), time.process_time()
            work(repeat)
            cpu[name].append(time.process_time() - clock)
            wall[name].append(time.perf_counter() - started)
    return {name: {"cpu_s": median(cpu[name]), "wall_s": median(wall[name])} for name in candidates}


def result(
    bench: str, ratios: Mapping[str, float | None], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the JSON object of a bench measured on the CPU with one thread."""
    return {
        "bench": bench,
        "device": "cpu",
        "threads": 1,
        "commit": manifest(dataset={}, seed=0)["commit"],
        "ratios": dict(ratios),
        "rows": [dict(row) for row in rows],
    }
