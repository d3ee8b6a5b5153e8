"""Floor 7: what ``gnn-mtl bench`` measures.

Every bench compares two ways of doing the same work in one process, interleaved and repeated, and
returns ratios of medians of CPU time, never a bare time: machines differ and are shared.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any


def _bench(module: str) -> Callable[..., dict[str, Any]]:
    def run(*, quick: bool = False) -> dict[str, Any]:
        return import_module(f"gnn_mtl.benchmarks.{module}").run(quick=quick)

    return run


BENCHES: dict[str, Callable[..., dict[str, Any]]] = {
    "sampler": _bench("_sampler"),
    "epoch": _bench("_epoch"),
    "refresh": _bench("_refresh"),
    "schedule": _bench("_schedule"),
    "coloring": _bench("_coloring"),
    "sdp": _bench("_sdp"),
    "gradtag": _bench("_gradtag"),
    "aggregate": _bench("_aggregate"),
}

__all__ = ["BENCHES"]
