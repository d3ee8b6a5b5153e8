"""What every way of ``bench refresh`` to measure conflict costs, in training steps."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from gnn_mtl.affinity import GradientEMA, gradient_cosine
from gnn_mtl.benchmarks._measure import interleaved
from gnn_mtl.benchmarks._refresh_training import (
    PROBE_NODES,
    REFRESH_PERIOD,
    SKETCH,
    STREAM_EVERY,
    WIDE,
    Trained,
)
from gnn_mtl.gradients import StreamedGradients, probe
from gnn_mtl.training import train_step

MODES = ("last_layer", "last_layer_sketch", "representation", "count_sketch", "full")


def prices(trained: Trained, directions: int) -> tuple[dict[str, float], float]:
    """Return CPU times over that of a step, by what is done, and the seconds of a step.

    Beside the modes on one batch: ``streamed k`` is what watching a step adds to it, ``window k``
    what beginning and reading a window does; k principal directions.
    """
    size, tasks, model = trained.size, trained.tasks, trained.model
    loader, few = trained.loader(1), trained.loader(3, batch_size=min(PROBE_NODES, size.batch_size))
    batch = loader.batch(99, 0)
    streams = {k: StreamedGradients(model, directions=k) for k in (0, WIDE)}
    averages = {k: GradientEMA(tasks) for k in streams}
    for stream in streams.values():
        stream.measure(batch)

    def step(repeat: int) -> None:
        model.train()
        train_step(model, loader.batch(98, repeat), tuple(range(tasks)), trained.optimizers)

    def forward(_: int) -> None:
        model.train()
        with torch.no_grad():
            model.encoder(batch)

    def watch(k: int, _: int) -> None:
        model.train()
        with torch.no_grad(), streams[k].watch(batch):
            model.encoder(batch)

    def read(k: int, _: int) -> None:
        averages[k].update(streams[k].gradients())
        averages[k].affinity()

    def begin(k: int, _: int) -> None:
        streams[k].reset()
        watch(k, 0)

    def measured(mode: Any, repeat: int) -> None:  # noqa: ANN401
        gradient_cosine(probe(model, loader.batch(97, repeat), mode=mode).jacobian)

    def small(repeat: int) -> None:
        average = GradientEMA(tasks)
        average.update(probe(model, few.batch(0, repeat), mode="last_layer_sketch"))
        average.affinity()

    work: dict[str, Callable[[int], object]] = {
        "step": step, "forward": forward, "small": small,
        **{mode: partial(measured, mode) for mode in MODES},
        **{f"watch {k}": partial(watch, k) for k in streams},
        **{f"read {k}": partial(read, k) for k in streams},
        **{f"begin {k}": partial(begin, k) for k in streams},
    }  # fmt: skip
    state = copy.deepcopy(model.state_dict())
    step(0)
    times = interleaved(work, size.repeats)
    if trained.main:
        slow: dict[str, Callable[[int], object]] = {
            mode: partial(measured, mode) for mode in ("loop", "batched")
        }
        slow["jvp_sketch"] = lambda _: gradient_cosine(
            probe(model, batch, mode="jvp_sketch", sketch_dim=directions).jacobian
        )
        times |= interleaved(slow, 1)
    model.load_state_dict(state)
    unit = times["step"]["cpu_s"]
    costs = {name: found["cpu_s"] / unit for name, found in times.items()}
    for k in streams:
        first = max(0.0, costs[f"begin {k}"] - costs[f"watch {k}"])
        costs[f"streamed {k}"] = max(0.0, costs[f"watch {k}"] - costs["forward"])
        costs[f"window {k}"] = first + costs[f"read {k}"]
    return costs, unit


def online_cost(costs: dict[str, float], mode: str) -> float:
    """Return the price of one refresh of a mode that follows the training."""
    if mode.startswith(SKETCH):
        return costs["small"]
    k, every = (WIDE, 1) if "every step" in mode else (0, STREAM_EVERY)
    return REFRESH_PERIOD / every * costs[f"streamed {k}"] + costs[f"window {k}"]
