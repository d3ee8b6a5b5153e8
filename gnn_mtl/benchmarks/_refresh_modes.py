"""The ways of ``bench refresh`` to measure conflict, each compared with the exact cosines."""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from gnn_mtl.affinity import edge_tau, fidelity, gradient_cosine, label_cooccurrence
from gnn_mtl.benchmarks._refresh_costs import online_cost, prices
from gnn_mtl.benchmarks._refresh_draws import Blocks, draw_by_size, residual_sizes
from gnn_mtl.benchmarks._refresh_training import WIDE, Checkpoint, State, Trained
from gnn_mtl.gradients import (
    StreamedGradients,
    control_variate,
    draw_probe_nodes,
    estimate_cosines,
    probe,
)
from gnn_mtl.graph import MiniBatch
from gnn_mtl.tasks import Affinity

DIRECTIONS = 256
FEW = 4  # batches of the modes that decide nothing
SNAPSHOT_EPOCH = 7  # of the reference's loader: neighbours the reference has not drawn
LAYERS = {
    "exact first convolution": ("convs.0",),
    "exact last convolution": ("convs.1",),
    "exact norms": ("norms",),
    "exact last convolution and norms": ("convs.1", "norms"),
}

Row = dict[str, Any]


def measure(trained: Trained) -> list[Row]:
    """Return the rows of all checkpoints; of the best alone for further numbers of tasks."""
    costs, step_seconds = prices(trained, DIRECTIONS)
    names = ("init", "epoch 1", "best") if trained.main else ("best",)
    return [row for name in names for row in _Study(trained, costs, step_seconds, name).rows()]


class _Study:
    """All modes at one checkpoint."""

    def __init__(
        self, trained: Trained, costs: dict[str, float], step_seconds: float, name: str
    ) -> None:
        self.trained, self.costs, self.step_seconds, self.name = trained, costs, step_seconds, name
        self.at: Checkpoint = trained.checkpoints[name]
        self.model, self.size, self.main = trained.model, trained.size, trained.main
        self.model.load_state_dict(self.at.state)
        self.reference = trained.loader(11)
        self.per_epoch = len(self.reference)
        self.whole = len(trained.graph.split_idx["train"])
        self.out: list[Row] = []

    def rows(self) -> list[Row]:
        """Measure the exact cosines, then everything else."""
        epochs = self.size.reference_epochs if self.name == "best" and self.main else 1
        sums = [self._exact(self.reference.epoch_batches(epoch)) for epoch in range(epochs)]
        total = sum(sums[1:], start=sums[0])
        self.exact = gradient_cosine(total)
        self.tau, self.read = edge_tau(self.exact), f"sampled, {epochs} epochs"
        price, over = self.costs["full"] * self.per_epoch, None
        if self.main and self.name == "best":
            over = self.costs["loop"] / min(self.costs["full"], self.costs["batched"])
        self._row("sampled", self.exact, self.whole * epochs, price, over_loop=over)
        if epochs > 1:
            first, second = (gradient_cosine(one) for one in sums[:2])
            self._row(
                "sampled epoch 2", second, self.whole, price, against=first,
                reference="sampled, epoch 1",
            )  # fmt: skip
        self._layers(total, self.whole * epochs, price)
        del sums, total
        self._probes()
        self._drawn()
        self._streams()
        for mode, (estimate, nodes) in self.at.online.items():
            self._row(mode, estimate, nodes, online_cost(self.costs, mode))
        if self.main and self.name != "init":
            self._bounds(price)
            self._row(
                "co-occurrence of labels", label_cooccurrence(self.trained.graph), self.whole, 0.0
            )
        if self.main and self.name == "best":
            everyone = self.trained.loader(12, num_neighbors=[-1, -1])
            rows = self._exact(everyone.epoch_batches(0))
            self._row("all neighbours", gradient_cosine(rows), self.whole, None)
        return self.out

    def _row(
        self, mode: str, estimate: Affinity, nodes: int, cost: float | None,
        *, against: Affinity | None = None, **more: Any,  # noqa: ANN401
    ) -> None:  # fmt: skip
        tau = self.tau if against is None else edge_tau(against)
        found = fidelity(estimate, self.exact if against is None else against, tau)
        self.out.append({
            "mode": mode, "tasks": self.trained.tasks, "nodes": nodes, "cost_in_steps": cost,
            "edge_f1": found.edge_f1, "edge_f1_as_many": found.edge_f1_as_many,
            "cosine_mae": found.cosine_mae, "pearson": found.pearson, "edges": found.edges,
            "same_color_jaccard": found.same_color_jaccard,
            "in_group_conflict": found.in_group_conflict, "checkpoint": self.name,
            "reference": self.read, "tau": tau, **more,
        })  # fmt: skip

    def _both(
        self, mode: str, blocks: Blocks, nodes: int, cost: float, shift: Tensor | None = None
    ) -> None:
        """Cosines as they are, and freed of the noise of the draw."""
        self._row(mode, blocks.cosines(shift), nodes, cost)
        if blocks.products and 1 < blocks.number < self.per_epoch:
            estimate = blocks.debiased(shift)
            if estimate.known.sum() > len(estimate.known):
                self._row(f"{mode}, debiased", estimate, nodes, cost)

    def _exact(self, batches: Iterable[MiniBatch]) -> Tensor:
        """Gradients by all shared parameters over all nodes of the batches."""
        return probe(self.model, batches, mode="full").jacobian

    def _layers(self, total: Tensor, nodes: int, cost: float) -> None:
        """Exact gradients by some of the parameters only: which layer carries the conflict."""
        names = [name for name, p in self.model.encoder.named_parameters() if p.requires_grad]
        sizes = [p.numel() for p in self.model.shared_parameters()]
        blocks = dict(zip(names, total.split(sizes, dim=1), strict=True))
        for name, starts in LAYERS.items():
            chosen = torch.cat([b for n, b in blocks.items() if n.startswith(starts)], dim=1)
            self._row(f"sampled, {name}", gradient_cosine(chosen), nodes, cost)

    def _probes(self) -> None:
        """Probes on some batches; on fewer where gradients are long or decide nothing."""
        counts = [n for n in self.size.counts if n <= self.per_epoch]
        if self.main and self.name != "init":
            counts = sorted({*counts, self.per_epoch})
        else:
            counts = counts[:-1]
        batches = self.trained.loader(7)
        most: dict[Any, int] = dict.fromkeys(
            ("last_layer", "last_layer_sketch", "full"), counts[-1]
        )
        most["count_sketch"] = min(FEW if self.main else 1, counts[-1])
        blocks = {mode: Blocks(self.per_epoch, products=self.main) for mode in most}
        nodes = 0
        for number, batch in enumerate(islice(batches.epoch_batches(0), counts[-1]), start=1):
            nodes += batch.batch_size
            for mode, limit in most.items():
                if number > limit:
                    continue
                rows = probe(self.model, batch, mode=mode).jacobian
                blocks[mode].add(rows * batch.observed.sum(dim=0)[:, None])
                if number in counts:
                    self._both(mode, blocks[mode], nodes, number * self.costs[mode])
        one, size = batches.batch(0, 0), self.size.batch_size
        found = gradient_cosine(probe(self.model, one, mode="representation").jacobian)
        self._row("representation", found, size, self.costs["representation"])
        if self.main and self.name == "best":
            rows = probe(self.model, one, mode="jvp_sketch", sketch_dim=DIRECTIONS).jacobian
            self._row("jvp_sketch", gradient_cosine(rows), size, self.costs["jvp_sketch"])
        splits = {"last_layer_sketch": 16, "full": FEW} if self.main else {"last_layer_sketch": 16}
        for mode, number in splits.items():
            several = list(islice(batches.epoch_batches(0), number))
            split = estimate_cosines(self.model, several, mode=mode)
            estimate = Affinity(
                split.cosine.numpy(), "split_half", "cosine", stderr=split.standard_error.numpy()
            )
            cost = len(several) * self.costs[mode]
            self._row(f"{mode} split-half", estimate, len(several) * size, cost)

    def _drawn(self) -> None:
        """Nodes drawn with unequal probabilities: by rare labels, by the size of residuals."""
        graph, number = self.trained.graph, min(FEW, self.per_epoch)
        clock = time.process_time()
        sizes = residual_sizes(self.model, self.trained.loader(14))
        forward = (time.process_time() - clock) / self.step_seconds
        wanted = number * self.size.batch_size
        samples = {
            "stratified": (draw_probe_nodes(graph, wanted, seed=5), 0.0),
            "by residuals": (draw_by_size(*sizes, graph.observed_counts("train"), wanted), forward),
        }
        modes: tuple[Any, ...] = ("last_layer", "full") if self.main else ("last_layer",)
        for name, (sample, extra) in samples.items():
            loader = self.trained.loader(8, input_nodes=sample.nodes)
            for mode in modes:
                rows = probe(self.model, loader.epoch_batches(0), mode=mode, sample=sample).jacobian
                cost = extra + number * self.costs[mode]
                self._row(f"{mode} {name}", gradient_cosine(rows), wanted, cost)

    def _streams(self) -> None:
        """Streamed sums at fixed weights: what they are without drift."""
        counts = {n for n in (8, 32, self.per_epoch) if n <= self.per_epoch}
        for k in (0, WIDE):
            stream, nodes = StreamedGradients(self.model, directions=k), 0
            for number, batch in enumerate(self.trained.loader(9).epoch_batches(0), start=1):
                stream.measure(batch)
                nodes += batch.batch_size
                if number in counts:
                    cost = number * self.costs[f"streamed {k}"] + self.costs[f"window {k}"]
                    found = gradient_cosine(stream.gradients().jacobian)
                    self._row(f"streamed at fixed weights, {k} directions", found, nodes, cost)

    def _bounds(self, price: float) -> None:
        """What a window knows at best, what age costs, what knowing the past exactly adds."""
        window = self.trained.window(self.at)
        blocks = Blocks(self.per_epoch)
        for batch in window:
            blocks.add(self._exact([batch]) * batch.observed.sum(dim=0)[:, None])
        nodes, cost = sum(batch.batch_size for batch in window), len(window) * self.costs["full"]
        self._both("full on a window", blocks, nodes, cost)
        del window, blocks
        snapshot: tuple[int, Tensor] | None = None
        for age, state in sorted(self.at.older.items()):
            self.model.load_state_dict(state)
            rows = self._exact(self.reference.epoch_batches(SNAPSHOT_EPOCH))
            self._row(f"sampled, {age} steps older", gradient_cosine(rows), self.whole, price)
            snapshot = age, rows
        self.model.load_state_dict(self.at.state)
        if snapshot is not None:
            self._control_variates(*snapshot)

    def _control_variates(self, age: int, exact: Tensor) -> None:
        """Probes corrected by what the same probes said of weights known exactly."""
        counts = [n for n in self.size.counts if n <= min(16, self.per_epoch)]
        batches = list(islice(self.trained.loader(7).epoch_batches(0), counts[-1]))
        fresh = self._each(self.at.state, batches)
        stale = self._each(self.at.older[age], batches)
        self.model.load_state_dict(self.at.state)
        for number in counts:
            nodes, cost = number * self.size.batch_size, 2 * number * self.costs["full"]
            name = f"control variate, {age} steps older"
            blocks = Blocks(self.per_epoch)
            for f, s in zip(fresh[:number], stale[:number], strict=True):
                blocks.add(f - s)
            self._both(name, blocks, nodes, cost, shift=exact)
            if number > 1:
                rows = control_variate(fresh[:number], stale[:number], exact, fitted=True)
                self._row(f"{name}, fitted", gradient_cosine(rows), nodes, cost)

    def _each(self, state: State, batches: list[MiniBatch]) -> list[Tensor]:
        self.model.load_state_dict(state)
        return [self._exact([batch]) for batch in batches]
