"""``bench schedule``: what scheduling costs, refreshes included."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from gnn_mtl._core.seeding import derive_seed
from gnn_mtl._core.threads import one_thread
from gnn_mtl.affinity import gradient_cosine
from gnn_mtl.benchmarks._measure import interleaved, result
from gnn_mtl.datasets import TaskGraph, planted
from gnn_mtl.gradients import ProbeMode, probe
from gnn_mtl.graph import MiniBatch, NeighborLoader
from gnn_mtl.nn import LabelModel, LinearHeads, SAGEEncoder
from gnn_mtl.schedulers import ColoringScheduler, JointScheduler, TaskScheduler
from gnn_mtl.training import Optimizers, Train, train_step

REFRESH_PERIOD = 32
PROBE_NODES = 512


def run(*, quick: bool = False) -> dict[str, Any]:
    """Time windows of 32 steps of joint training and of SON-GOKU from equal weights, on one thread.

    Sampling, gathering, the step, the probe batch, the probe, the averages and the colouring are
    all inside. SON-GOKU runs once fed by the sketch of the last shared layer (the ratio) and once
    by the exact block. Full size: 112 tasks, 128 -> 256 -> 256, batch 1024, fan-out [10, 10]. The
    last row says how far the sketch's cosines are from the exact ones on the same nodes, beside how
    far the exact ones of other nodes are.
    """
    nodes, edges, tasks, batch_size, hidden, repeats = (
        (20_000, 300_000, 112, 512, 128, 2) if quick else (200_000, 3_400_000, 112, 1024, 256, 5)
    )
    graph = planted(nodes, edges, tasks, 8, num_features=128, conflict=0.5, seed=0)
    kinds: dict[str, ProbeMode | None] = {
        "joint": None,
        "coloring": "last_layer_sketch",
        "coloring_exact": "last_layer",
    }
    windows = {
        name: _Window(graph, mode, batch_size, hidden, tasks) for name, mode in kinds.items()
    }
    with one_thread():
        for window in windows.values():
            window(0)
            window.forget()
        times = interleaved(windows, repeats)
    step = times["joint"]["cpu_s"] / REFRESH_PERIOD
    rows = [
        {
            "schedule": name,
            "probe": kinds[name],
            "tasks": tasks,
            "cpu_ms_per_step": 1e3 * t["cpu_s"] / REFRESH_PERIOD,
            "wall_ms_per_step": 1e3 * t["wall_s"] / REFRESH_PERIOD,
            **windows[name].findings(step),
        }
        for name, t in times.items()
    ]
    rows.append(windows["joint"].sketch_error())
    ratios = {
        "scheduled_over_joint": times["joint"]["cpu_s"] / times["coloring"]["cpu_s"],
        "scheduled_exact_over_joint": times["joint"]["cpu_s"] / times["coloring_exact"]["cpu_s"],
    }
    return result("schedule", ratios, rows)


class _Window:
    """One model under one schedule; calling it trains the next 32 steps."""

    def __init__(
        self,
        graph: TaskGraph,
        mode: ProbeMode | None,
        batch_size: int,
        hidden: int,
        tasks: int,
    ) -> None:
        torch.manual_seed(0)
        encoder = SAGEEncoder(128, hidden, 2, norm="batch", dropout=0.0)
        self.model = LabelModel(encoder, LinearHeads(hidden, tasks))
        self.optimizers = Optimizers(self.model, Train(lr=1e-3))
        self.mode = mode
        self.scheduler: TaskScheduler = JointScheduler(tasks)
        if mode is not None:
            self.scheduler = ColoringScheduler(tasks, refresh_period=REFRESH_PERIOD, tau=0.05)
        common: dict[str, Any] = {"num_neighbors": [10, 10], "num_workers": 0}
        self.loader = NeighborLoader(graph, "train", seed=1, batch_size=batch_size, **common)
        self.probes = NeighborLoader(
            graph, "train", seed=derive_seed(1, "probes"), batch_size=PROBE_NODES, **common
        )
        self.count = 0
        self.forget()

    def forget(self) -> None:
        self.colors: list[int] = []
        self.active: list[int] = []
        self.refresh_cpu_s: list[float] = []

    def __call__(self, _repeat: int) -> None:
        for _ in range(REFRESH_PERIOD):
            batch = self.loader.batch(*divmod(self.count, len(self.loader)))
            owed = self.scheduler.needs_probe()
            if owed and self.mode is not None:
                clock = time.process_time()
                nodes = self.probes.batch(*divmod(self.count, len(self.probes)))
                self.scheduler.observe(probe(self.model, nodes, tasks=owed, mode=self.mode))
                self.refresh_cpu_s.append(time.process_time() - clock)
            tasks = self.scheduler.active_tasks()
            self.active.append(len(tasks))
            self.colors.extend(report.num_colors for report in self.scheduler.pop_reports())
            weights = self.scheduler.task_weights()
            train_step(self.model, batch, tasks, self.optimizers, weights=weights)
            self.count += 1

    def findings(self, step_cpu_s: float) -> dict[str, float | None]:
        """Return mean colours, active tasks and the cost of a refresh in joint steps."""
        refresh = None
        if self.refresh_cpu_s:
            refresh = float(np.mean(self.refresh_cpu_s)) / step_cpu_s
        return {
            "mean_colors": float(np.mean(self.colors)) if self.colors else None,
            "mean_active": float(np.mean(self.active)),
            "refresh_cost_in_joint_steps": refresh,
        }

    def sketch_error(self) -> dict[str, Any]:
        """Return the mean absolute differences of the cosines, after the training so far."""
        here, other = (self.probes.batch(99, index) for index in (0, 1))
        measured: tuple[tuple[MiniBatch, ProbeMode], ...] = (
            (here, "last_layer"),
            (here, "last_layer_sketch"),
            (other, "last_layer"),
        )
        exact, sketch, elsewhere = (
            gradient_cosine(probe(self.model, batch, mode=mode).jacobian).values
            for batch, mode in measured
        )
        pairs = np.triu_indices(len(exact), 1)
        return {
            "schedule": f"cosines after {self.count} steps",
            "sketch_mae": float(np.nanmean(np.abs(sketch - exact)[pairs])),
            "other_nodes_mae": float(np.nanmean(np.abs(elsewhere - exact)[pairs])),
        }
