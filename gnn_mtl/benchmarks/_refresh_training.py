"""The training whose checkpoints ``bench refresh`` measures, and what its steps leave behind."""

from __future__ import annotations

import copy
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gnn_mtl.affinity import GradientEMA
from gnn_mtl.datasets import TaskGraph, planted
from gnn_mtl.gradients import StreamedGradients, TaskGradients, probe
from gnn_mtl.graph import MiniBatch, NeighborLoader
from gnn_mtl.nn import LabelModel, LinearHeads, SAGEEncoder
from gnn_mtl.tasks import Affinity
from gnn_mtl.training import Optimizers, Train, evaluate_split, set_learning_rate, train_step

REFRESH_PERIOD = 32
STREAM_EVERY = 4
PROBE_NODES = 512
WIDE = 8
BETAS = (0.0, 0.5, 0.9)
SKETCH = "last_layer_sketch online"
State = dict[str, Tensor]


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        nodes: Of the planted graph.
        edges: Of it.
        batch_size: Seeds of a step.
        hidden: Channels.
        epochs: Of the training.
        reference_epochs: Behind the exact cosines at the best checkpoint.
        counts: Batches the probes read.
        ages: How many steps older weights are measured.
        tasks: Numbers of tasks; the first is measured in full.
        repeats: Of every timing.
    """

    nodes: int
    edges: int
    batch_size: int
    hidden: int
    epochs: int
    reference_epochs: int
    counts: tuple[int, ...]
    ages: tuple[int, ...]
    tasks: tuple[int, ...]
    repeats: int


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Weights and what the training knew when it had them.

    Attributes:
        state: Weights and buffers.
        step: Steps done.
        older: Those of some steps earlier, by age.
        online: Averages over the past refreshes and the nodes they read, by mode.
    """

    state: State
    step: int
    older: dict[int, State] = field(default_factory=dict)
    online: dict[str, tuple[Affinity, int]] = field(default_factory=dict)


@dataclass(eq=False)
class Trained:
    """A graph, a model and its checkpoints."""

    size: Size
    tasks: int
    main: bool
    graph: TaskGraph
    model: LabelModel
    optimizers: Optimizers
    period: int
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)

    def loader(self, seed: int, **options: Any) -> NeighborLoader:  # noqa: ANN401
        """Return batches of training nodes as the training reads them."""
        return _loader(self.graph, self.size, seed, **options)

    def window(self, checkpoint: Checkpoint) -> list[MiniBatch]:
        """Return the batches of the last refresh period before a checkpoint."""
        loader = self.loader(1)
        steps = range(max(0, checkpoint.step - self.period), checkpoint.step)
        return [loader.batch(*divmod(step, len(loader))) for step in steps]


def train(size: Size, tasks: int, *, main: bool) -> Trained:
    """Train jointly, streaming as a schedule would; keep ``init``, ``epoch 1`` and ``best``."""
    graph = planted(size.nodes, size.edges, tasks, 8, num_features=64, conflict=0.5, seed=0)
    torch.manual_seed(0)
    encoder = SAGEEncoder(64, size.hidden, 2, norm="batch", dropout=0.3)
    model = LabelModel(encoder, LinearHeads(size.hidden, tasks))
    config = Train(lr=1e-2, warmup_steps=0)
    loader = _loader(graph, size, 1)
    per_epoch = len(loader)
    epochs = size.epochs if main else max(2, size.epochs // 2)
    period = max(1, min(REFRESH_PERIOD, per_epoch // 3))
    done = Trained(size, tasks, main, graph, model, Optimizers(model, config), period)
    statistics = _Online(
        model, _loader(graph, size, 2, batch_size=min(PROBE_NODES, size.batch_size)), period
    )
    recent: deque[State] = deque(maxlen=max(size.ages) + 1)
    done.checkpoints["init"] = Checkpoint(copy.deepcopy(model.state_dict()), 0)
    best = -1.0
    for step in range(epochs * per_epoch):
        batch = loader.batch(*divmod(step, per_epoch))
        statistics.begin(step)
        model.train()
        set_learning_rate(done.optimizers, config, step, epochs * per_epoch)
        with statistics.watch(step, batch):
            train_step(model, batch, tuple(range(tasks)), done.optimizers)
        recent.append(copy.deepcopy(model.state_dict()))
        if (step + 1) % per_epoch:
            continue
        epoch = (step + 1) // per_epoch
        older = {age: recent[-1 - age] for age in size.ages if age < len(recent)}
        now = Checkpoint(recent[-1], step + 1, older, statistics.found())
        if epoch == 1:
            done.checkpoints["epoch 1"] = now
        elif epoch % 3 == 0 or epoch == epochs:
            score = evaluate_split(model, graph, "valid").macro["ap"]
            if score > best:
                best = score
                done.checkpoints["best"] = now
    return done


class _Online:
    """Averages over refreshes: of sums over the steps between them, and of small probes."""

    def __init__(self, model: LabelModel, probes: NeighborLoader, period: int) -> None:
        self.model, self.probes, self.period = model, probes, period
        self.streams = {
            "streamed online": (StreamedGradients(model), min(STREAM_EVERY, period)),
            "streamed online, every step": (StreamedGradients(model, directions=WIDE), 1),
        }
        self.averages = {
            (mode, beta): GradientEMA(model.num_tasks, beta=beta)
            for mode in (*self.streams, SKETCH)
            for beta in BETAS
        }
        self.nodes = dict.fromkeys((*self.streams, SKETCH), 0)

    def begin(self, step: int) -> None:
        """Refresh, where one is due before this step."""
        if not step or step % self.period:
            return
        drawn = self.probes.batch(*divmod(step // self.period, len(self.probes)))
        found: dict[str, TaskGradients] = {
            name: stream.gradients() for name, (stream, _) in self.streams.items()
        }
        found[SKETCH] = probe(self.model, drawn, mode="last_layer_sketch")
        self.nodes[SKETCH] += drawn.batch_size
        for (name, _), average in self.averages.items():
            average.update(found[name])
        for stream, _ in self.streams.values():
            stream.reset()

    def watch(self, step: int, batch: MiniBatch) -> ExitStack:
        """Return a context that adds what the step leaves."""
        stack = ExitStack()
        for name, (stream, every) in self.streams.items():
            if step % every == 0:
                stack.enter_context(stream.watch(batch))
                self.nodes[name] += batch.batch_size
        return stack

    def found(self) -> dict[str, tuple[Affinity, int]]:
        """Return the cosines as they are now and the nodes read, by mode."""
        return {
            f"{mode}, beta {beta:g}": (average.affinity(), self.nodes[mode])
            for (mode, beta), average in self.averages.items()
            if max(average.counts)
        }


def _loader(graph: TaskGraph, size: Size, seed: int, **options: Any) -> NeighborLoader:  # noqa: ANN401
    arguments: dict[str, Any] = {
        "num_neighbors": [10, 10], "batch_size": size.batch_size, "num_workers": 0,
    }  # fmt: skip
    return NeighborLoader(graph, "train", seed=seed, **(arguments | options))
