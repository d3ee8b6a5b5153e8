"""The gradients a schedule asks for: from a probe batch, the steps themselves, the active tasks."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gnn_mtl._core.cost import CostMeter
from gnn_mtl._core.errors import UsageError
from gnn_mtl.datasets import TaskGraph
from gnn_mtl.gradients import ProbeMode, StreamedGradients, TaskGradients, probe
from gnn_mtl.graph import LabelInputs, MiniBatch
from gnn_mtl.nn import LabelModel
from gnn_mtl.schedulers import TaskScheduler
from gnn_mtl.training._config import Train
from gnn_mtl.training._cost import Cost
from gnn_mtl.training._setup import training_loader


class Feed:
    """Feeds a schedule with gradients; the model, the optimizer and the batches do not notice.

    Args:
        model: The model that trains.
        graph: The dataset.
        scheduler: The schedule.
        config: Which gradients, of how many nodes.
        pos_weight: Weights of the tasks' positives ``[T]``.
        seed: Seed of the probe batches.

    Raises:
        UsageError: If the schedule wants the gradients of active tasks and the configuration
            streamed ones.
    """

    def __init__(
        self,
        model: LabelModel,
        graph: TaskGraph,
        scheduler: TaskScheduler,
        config: Train,
        *,
        pos_weight: Tensor | None,
        seed: int,
    ) -> None:
        if config.probe == "streamed" and scheduler.observes_active:
            raise UsageError(
                "Streamed gradients sum up every step already. Use --scheduler.ema-source probe "
                "with them, or another --train.probe."
            )
        self.model, self.scheduler, self.config = model, scheduler, config
        self.pos_weight = pos_weight
        size = config.probe_batch_size
        if isinstance(graph, LabelInputs):  # a batch hides its own labels: leave half to be read
            size = min(size, max(1, len(graph.split_idx["train"]) // 2))
        self.probes = training_loader(
            graph, model, config, seed=seed, drop_last=True, batch_size=size, num_workers=0
        )
        self.streamed: StreamedGradients | None = None
        if config.probe == "streamed":
            self.streamed = StreamedGradients(model, pos_weight=pos_weight)
        self.seconds = 0.0  # what the last refresh took

    def refresh(self, cost: Cost) -> None:
        """Give the schedule the gradients it needs before the next step, if any."""
        owed = self.scheduler.needs_probe()
        if not owed:
            return
        started, meter = time.perf_counter(), CostMeter()
        gradients = self._gradients(owed, cost.probes, meter)
        self.scheduler.observe(gradients)
        cost.probes += 1
        self.seconds = self._count(cost, meter, gradients, started)

    def active(self, batch: MiniBatch, tasks: tuple[int, ...], cost: Cost) -> None:
        """Give it the active tasks' gradients on their own batch, if it asks for them."""
        if not self.scheduler.needs_active_gradients:
            return
        started, meter = time.perf_counter(), CostMeter()
        gradients = self._probe(batch, tasks, meter)
        self.scheduler.observe_active(gradients)
        self._count(cost, meter, gradients, started)

    def watched(
        self, batch: MiniBatch, step: int, cost: Cost
    ) -> contextlib.AbstractContextManager[None]:
        """Sum up what this step leaves behind, if the schedule has ever asked for gradients."""
        due = step % self.config.stream_every == 0 and cost.probes > 0
        return self.streamed.watch(batch) if self.streamed and due else contextlib.nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """Return what was summed up since the last refresh."""
        return {} if self.streamed is None else self.streamed.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        if self.streamed is not None:
            self.streamed.load_state_dict(state)

    def _gradients(self, tasks: tuple[int, ...], number: int, meter: CostMeter) -> TaskGradients:
        """Measure on probe batch ``number``, or read what the steps since have summed up."""
        if self.streamed is None or not self.streamed.batches:
            batch = self.probes.batch(*divmod(number, len(self.probes)))
            if self.streamed is None:
                return self._probe(batch, tasks, meter)
            self.streamed.measure(batch)
            meter.forwards += 1
        found = self.streamed.gradients(tasks)
        self.streamed.reset()
        return found

    def _probe(self, batch: MiniBatch, tasks: tuple[int, ...], meter: CostMeter) -> TaskGradients:
        mode: ProbeMode = self.config.probe  # type: ignore[assignment] # not streamed
        return probe(
            self.model, batch, tasks=tasks, mode=mode, pos_weight=self.pos_weight, meter=meter
        )

    def _count(
        self, cost: Cost, meter: CostMeter, gradients: TaskGradients, started: float
    ) -> float:
        """Add what a measurement took to the costs; return its seconds."""
        seconds = time.perf_counter() - started
        cost.count(meter)
        cost.refresh_seconds += seconds
        cost.probe_label_gradients += gradients.label_gradients
        return seconds
