"""Every way of measuring cosines of gradients against the exact ones of a trained model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, get_args

import torch
from torch import Tensor

from gnn_mtl._core.cost import CostMeter
from gnn_mtl._core.errors import UsageError
from gnn_mtl._core.progress import Progress
from gnn_mtl.affinity._fidelity import Fidelity, edge_tau, fidelity
from gnn_mtl.affinity._gradient_cosine import gradient_cosine
from gnn_mtl.gradients import (
    ProbeMode,
    StreamedGradients,
    draw_probe_nodes,
    estimate_cosines,
    probe,
)
from gnn_mtl.graph import MiniBatch, NeighborLoader
from gnn_mtl.nn import LabelModel
from gnn_mtl.tasks import Affinity

SLOW_MODES = ("loop", "batched", "jvp_sketch")  # measured on the first batch only
BLOCKS = 4


@dataclass(frozen=True)
class FidelityRow:
    """One estimate.

    Attributes:
        mode: How the gradients were measured.
        nodes: Training nodes read.
        fidelity: What it gets right.
        forwards: Forward passes it took.
        backwards: Backward passes.
        jvps: Forward-mode passes.
        cost: Its CPU time over that of the exact measurement.
    """

    mode: str
    nodes: int
    fidelity: Fidelity
    forwards: int
    backwards: int
    jvps: int
    cost: float

    def to_dict(self) -> dict[str, Any]:
        """Return everything by name, flat."""
        own = {name: value for name, value in asdict(self).items() if name != "fidelity"}
        return own | self.fidelity.to_dict()


@dataclass(frozen=True)
class FidelityStudy:
    """All estimates of one model.

    Attributes:
        rows: The estimates.
        tau: Tolerance of the conflict graphs.
        nodes: Training nodes behind the exact cosines.
        noise: Fidelity of the exact measurement with other neighbours drawn, where there are any.
    """

    rows: tuple[FidelityRow, ...]
    tau: float
    nodes: int
    noise: Fidelity

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "format": "gnn-mtl/fidelity",
            "version": 1,
            "tau": self.tau,
            "nodes": self.nodes,
            "noise": self.noise.to_dict(),
            "rows": [row.to_dict() for row in self.rows],
        }


def fidelity_study(
    model: LabelModel,
    loader: NeighborLoader,
    *,
    tau: float | None = None,
    edge_share: float = 0.1,
    counts: tuple[int, ...] = (1, 4, 16),
    pos_weight: Tensor | None = None,
) -> FidelityStudy:
    """Measure every mode against exact gradients of all shared parameters over the whole split.

    Exact is what the training follows: the loader's fan-outs, dropout and norms frozen, all nodes
    of the loader once. With all neighbours (fan-outs -1) gradients are other quantities; give such
    a loader to compare against those. Modes read other batches than the exact measurement.

    Args:
        model: The trained model; left as it is.
        loader: Batches of the whole training split.
        tau: Tolerance of the conflict graphs; default that which gives ``edge_share`` edges in the
            exact one.
        edge_share: See ``tau``.
        counts: Numbers of batches the modes are measured on.
        pos_weight: Weights of the tasks' positives ``[T]``.

    Returns:
        The study.

    Raises:
        UsageError: If there is one task only.
    """
    if model.num_tasks < 2:
        raise UsageError("Fidelity compares pairs of tasks. Found one task.")
    kept = tuple(sorted({min(max(1, n), len(loader)) for n in counts}))
    one = _Study(model, loader, kept, pos_weight)
    with Progress("exact gradients", 2 * len(loader)) as progress:
        exact, whole, seconds = one.exact(loader.epoch + 1, progress)
        other, *_ = one.exact(loader.epoch + 2, progress)
    tolerance = edge_tau(exact, edge_share) if tau is None else tau
    rows = []
    for mode, nodes, estimate, meter, spent in one.estimates():
        if not _comparable(estimate, exact):
            continue
        rows.append(FidelityRow(
            mode, nodes, fidelity(estimate, exact, tolerance),
            meter.forwards, meter.backwards, meter.jvps, spent / seconds,
        ))  # fmt: skip
    return FidelityStudy(tuple(rows), tolerance, whole, fidelity(other, exact, tolerance))


def _comparable(estimate: Affinity, exact: Affinity) -> bool:
    """Whether they know a pair in common; noise can drown all of an unbiased estimate."""
    known = estimate.known & exact.known
    return bool(known[~torch.eye(len(known), dtype=torch.bool).numpy()].any())


Estimate = tuple[str, int, Affinity, CostMeter, float]


class _Study:
    """The measurements; each knows its passes and CPU time, sampling included."""

    def __init__(
        self,
        model: LabelModel,
        loader: NeighborLoader,
        counts: tuple[int, ...],
        pos_weight: Tensor | None,
    ) -> None:
        self.model, self.loader, self.counts, self.pos_weight = model, loader, counts, pos_weight

    def exact(self, epoch: int, progress: Progress) -> tuple[Affinity, int, float]:
        """Exact cosines of one epoch, the nodes read and the CPU seconds it took."""
        clock = time.process_time()
        total, nodes = torch.zeros(()), 0
        for batch in self.loader.epoch_batches(epoch):
            total = total + self._weighted("full", batch, CostMeter())
            nodes += batch.batch_size
            progress.advance()
        return gradient_cosine(total), nodes, time.process_time() - clock

    def estimates(self) -> list[Estimate]:
        """All of them."""
        found: list[Estimate] = []
        for mode in get_args(ProbeMode):
            found += self._mode(mode)
        for blocks_mode in ("last_layer", "full"):
            found += self._split_half(blocks_mode)
        found += self._stratified()
        for directions in (0, 8):
            found += self._streamed(directions)
        return found

    def _weighted(self, mode: ProbeMode, batch: MiniBatch, meter: CostMeter) -> Tensor:
        rows = probe(self.model, batch, mode=mode, pos_weight=self.pos_weight, meter=meter).jacobian
        mass = batch.observed.sum(dim=0).to(rows)[:, None]
        return torch.where(mass > 0, rows * mass, 0.0)

    def _mode(self, mode: ProbeMode) -> list[Estimate]:
        """One mode on the first batches; representations of several batches do not add up."""
        few = mode in SLOW_MODES or mode == "representation"
        counts = self.counts[:1] if few else self.counts
        meter, clock, total = CostMeter(), time.process_time(), torch.zeros(())
        found: list[Estimate] = []
        nodes, spent = 0, 0.0
        batches = self.loader.epoch_batches(self.loader.epoch)
        for number, batch in enumerate(islice(batches, counts[-1]), start=1):
            try:
                total = total + self._weighted(mode, batch, meter)
            except UsageError:  # a closed form that this model does not have
                return []
            nodes += batch.batch_size
            if number in counts:
                cosine = gradient_cosine(total)
                spent = time.process_time() - clock
                found.append((mode, nodes, cosine, CostMeter(**meter.to_dict()), spent))
        return found

    def _split_half(self, mode: str) -> list[Estimate]:
        number = min(max(BLOCKS, self.counts[-1] if mode != "full" else BLOCKS), len(self.loader))
        if number < 3:
            return []
        meter, clock = CostMeter(), time.process_time()
        batches = list(islice(self.loader.epoch_batches(self.loader.epoch), number))
        split = estimate_cosines(
            self.model, batches, mode=mode, pos_weight=self.pos_weight, meter=meter
        )
        estimate = Affinity(
            split.cosine.cpu().numpy(), "split_half", "cosine",
            stderr=split.standard_error.cpu().numpy(),
        )  # fmt: skip
        nodes = sum(batch.batch_size for batch in batches)
        return [(f"{mode} split-half", nodes, estimate, meter, time.process_time() - clock)]

    def _stratified(self) -> list[Estimate]:
        size = self.loader.batch_size
        number = self.counts[min(1, len(self.counts) - 1)]
        meter, clock = CostMeter(), time.process_time()
        sample = draw_probe_nodes(self.loader.graph, number * size, seed=self.loader.seed)
        sampler = self.loader.sampler
        options: Mapping[str, Any] = {
            "num_neighbors": self.loader.num_neighbors, "batch_size": size, "num_workers": 0,
            "replace": sampler is not None and sampler.replace,
            "input_nodes": sample.nodes, "seed": self.loader.seed + 1,
            "device": next(self.model.parameters()).device,
        }  # fmt: skip
        drawn = NeighborLoader(self.loader.graph, "train", **options)
        found = probe(
            self.model, drawn.epoch_batches(0), mode="last_layer", sample=sample,
            pos_weight=self.pos_weight, meter=meter,
        )  # fmt: skip
        nodes, spent = len(sample.nodes), time.process_time() - clock
        cosine = gradient_cosine(found.jacobian)
        return [("last_layer stratified", nodes, cosine, meter, spent)]

    def _streamed(self, directions: int) -> list[Estimate]:
        try:
            stream = StreamedGradients(
                self.model, directions=directions, pos_weight=self.pos_weight
            )
        except UsageError:  # heads or an end that it does not cover
            return []
        name = "streamed" if not directions else f"streamed, {directions} directions"
        found: list[Estimate] = []
        nodes, spent = 0, 0.0
        counts = (*self.counts, len(self.loader))
        for batch in self.loader.epoch_batches(self.loader.epoch):
            nodes += batch.batch_size
            spent += _only_the_sums(stream, batch)
            if stream.batches in counts:
                clock = time.process_time()
                cosine = gradient_cosine(stream.gradients().jacobian)
                found.append(
                    (name, nodes, cosine, CostMeter(), spent + time.process_time() - clock)
                )
        return found


def _only_the_sums(stream: StreamedGradients, batch: MiniBatch) -> float:
    """CPU seconds of a measurement beyond the forward pass, which the training makes anyway."""

    def timed(work: Callable[[], object]) -> float:
        clock = time.process_time()
        work()
        return time.process_time() - clock

    model, training = stream.model, stream.model.training
    model.eval()
    try:
        with torch.no_grad():
            passed = timed(lambda: model.encoder(batch))
            return max(0.0, timed(lambda: stream.measure(batch)) - passed)
    finally:
        model.train(training)
