"""``bench aggregate``: what an aggregator adds to a training step, in solver and in passes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from gnn_mtl._core.optional import is_installed
from gnn_mtl._core.threads import one_thread
from gnn_mtl.aggregation import AGGREGATORS, TorchJD, Weighting
from gnn_mtl.aggregation._torchjd import JDMethod
from gnn_mtl.benchmarks._measure import interleaved, result
from gnn_mtl.datasets import planted
from gnn_mtl.gradients import tapped
from gnn_mtl.graph import MiniBatch, NeighborLoader
from gnn_mtl.nn import LabelModel, LinearHeads, SAGEEncoder, masked_bce
from gnn_mtl.training import AggregatorHooks, Optimizers, Train, train_step

FEATURES = 128
TASKS, MANY_TASKS = 112, 500
OBJECTIVES = 8
Measured = tuple[Tensor, Tensor]
"""A Gramian and the losses."""
PATIENCE_S = 5.0
"""CPU seconds that TorchJD may need for one call."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large the graph and the model are, how often things are timed, and TorchJD's tasks."""

    nodes: int
    edges: int
    batch_size: int
    hidden: int
    steps: int
    repeats: int
    solves: int
    theirs: tuple[int, ...] = (TASKS, MANY_TASKS // 2, MANY_TASKS)


FULL = Size(
    nodes=170_000, edges=1_500_000, batch_size=1024, hidden=256, steps=60, repeats=9, solves=3
)
QUICK = Size(
    nodes=10_000, edges=100_000, batch_size=1024, hidden=128, steps=12, repeats=3, solves=1,
    theirs=(TASKS,),
)  # fmt: skip


def run(*, quick: bool = False) -> dict[str, Any]:
    """Take steps of a two-layer GraphSAGE with every method that weighs tasks by a Gramian.

    The graph is planted, fan-out 10, 10; 112 tasks, all active, and the exact Gramian of the last
    shared layer from the step's own forward pass. The model has been trained a little, and then
    stays as it is (learning rate 0), so that all do the same work on the same batches; one thread,
    CPU time.

    Rows, first of steps, milliseconds for every method, all four in turn: a joint step
    (``joint_ms``); forward, Gramian and backward without any weights (``bare_ms``); the whole step
    of the trainer, optimizer included (``step_ms``); its solver (``solve_ms``). ``x_joint`` is the
    solver over a joint step, ``x_bare`` the whole step over the bare one. Then of solvers, at 112
    and at 500 tasks, beside TorchJD's where it has the method and needs less than 5 s, which is
    guessed from fewer tasks; ``torchjd_over_ours`` is its time over ours. Quick asks TorchJD at 112
    tasks only.

    Ratios: the slowest solver over a joint step, and the slowest whole step over forward, Gramian
    and backward.
    """
    size = QUICK if quick else FULL
    with one_thread(), threadpool_limits(limits=1):
        work = _Work(size, TASKS)
        many = _many_gramian(size)
        kinds = gramian_kinds(TASKS)
        steps = [_step_row(kind, work, size) for kind in kinds]
        solvers = [
            row
            for kind, step in zip(kinds, steps, strict=True)
            for row in _solver_rows(kind, step["solve_ms"], work, many, size)
        ]
    return result("aggregate", ratios(steps), [*steps, *solvers])


def ratios(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Return the worst of the methods, from the rows of steps."""
    return {
        "worst_solver_over_joint_step": max(row["x_joint"] for row in rows),
        "worst_gramian_method": max(row["x_bare"] for row in rows),
    }


def gramian_kinds(num_tasks: int) -> list[str]:
    """Return the methods of our own that turn a Gramian into weights."""
    return [kind for kind in sorted(AGGREGATORS) if _ours(kind, num_tasks) is not None]


def _ours(kind: str, num_tasks: int) -> Weighting | None:
    """A new aggregator with its defaults; None where it is not measured."""
    if kind == TorchJD.kind:
        return None
    options: dict[str, Any] = {}
    if kind == "pareto_mtl":  # its objectives are groups of tasks
        options["groups"] = tuple(
            tuple(range(number, num_tasks, OBJECTIVES)) for number in range(OBJECTIVES)
        )
    found = AGGREGATORS[kind](**options).build(num_tasks)
    return found if isinstance(found, Weighting) and found.needs == "gramian" else None


class _Work:
    """A model trained a little, batches, and what is done with them."""

    def __init__(self, size: Size, num_tasks: int) -> None:
        graph = planted(
            size.nodes, size.edges, num_tasks, 8, num_features=FEATURES, conflict=0.5, seed=0
        )
        loader = NeighborLoader(
            graph, "train", num_neighbors=[10, 10], batch_size=size.batch_size, num_workers=0,
            seed=0,
        )  # fmt: skip
        torch.manual_seed(0)
        encoder = SAGEEncoder(FEATURES, size.hidden, 2, norm="batch", dropout=0.3)
        self.model = LabelModel(encoder, LinearHeads(size.hidden, num_tasks)).train()
        self.tasks = tuple(range(num_tasks))
        self.optimizers = Optimizers(self.model, Train(lr=1e-2))
        for step in range(size.steps):
            batch = loader.batch(*divmod(step, len(loader)))
            train_step(self.model, batch, self.tasks, self.optimizers)
        self.optimizers.set_lr(0.0)
        self.batches = [loader.batch(1000, k % len(loader)) for k in range(size.repeats)]
        self.measured = [self.gramian(batch) for batch in self.batches]

    def losses(self, batch: MiniBatch) -> Tensor:
        return masked_bce(self.model(batch), batch.y, batch.observed)

    def gramian(self, batch: MiniBatch) -> Measured:
        """The Gramian and the losses on a batch."""
        with tapped(self.model) as tap:
            losses = self.losses(batch)
        assert tap is not None  # noqa: S101
        found = tap.gramian(losses, tasks=self.tasks)
        return found.gramian.nan_to_num(0.0), losses

    def candidates(self, kind: str) -> dict[str, Callable[[int], object]]:
        """What is timed for a method, by name; functions of the repeat."""
        solver, whole = _ours(kind, len(self.tasks)), _ours(kind, len(self.tasks))
        assert solver is not None  # noqa: S101
        assert whole is not None  # noqa: S101
        return {
            "joint step": partial(self.step, None),
            "gramian and backward": self.without_weights,
            "step": partial(self.step, AggregatorHooks(whole, mode="last_layer")),
            "solver": lambda repeat: _solve(solver, *self.measured[repeat]),
        }

    def without_weights(self, repeat: int) -> None:
        self.optimizers.zero_grad()
        self.gramian(self.batches[repeat])[1].sum().backward()

    def step(self, hooks: AggregatorHooks | None, repeat: int) -> None:
        train_step(self.model, self.batches[repeat], self.tasks, self.optimizers, hooks=hooks)


def _many_gramian(size: Size) -> Measured:
    """Gramian and losses of many tasks, of a smaller model."""
    small = Size(
        nodes=min(size.nodes, 20_000), edges=min(size.edges, 200_000), batch_size=size.batch_size,
        hidden=64, steps=size.steps, repeats=1, solves=0,
    )  # fmt: skip
    return _Work(small, MANY_TASKS).measured[0]


def _step_row(kind: str, work: _Work, size: Size) -> dict[str, Any]:
    times = interleaved(work.candidates(kind), size.repeats)
    joint, bare, step, solve = (
        1000 * times[name]["cpu_s"]
        for name in ("joint step", "gramian and backward", "step", "solver")
    )
    return {
        "kind": kind, "tasks": TASKS, "joint_ms": joint, "bare_ms": bare, "step_ms": step,
        "solve_ms": solve, "x_joint": solve / joint, "x_bare": step / bare,
    }  # fmt: skip


def _solver_rows(
    kind: str, few_ms: float, work: _Work, many: Measured, size: Size
) -> list[dict[str, Any]]:
    """The solver at few and at many tasks, beside TorchJD's; None where that is not measured."""
    ours = _ours(kind, MANY_TASKS)
    assert ours is not None  # noqa: S101
    at_many = interleaved({"solver": lambda _: _solve(ours, *many)}, size.solves)["solver"]["cpu_s"]
    cases = {TASKS: work.measured[0], MANY_TASKS // 2: _first(many, MANY_TASKS // 2)}
    theirs = _theirs(kind, [(cases | {MANY_TASKS: many})[number] for number in size.theirs])
    rows = []
    for tasks, ours_ms in ((TASKS, few_ms), (MANY_TASKS, 1000 * at_many)):
        found = theirs.get(tasks)
        rows.append({
            "kind": kind, "tasks": tasks, "solve_ms": ours_ms,
            "torchjd_ms": None if found is None else 1000 * found,
            "torchjd_over_ours": None if found is None else 1000 * found / ours_ms,
        })  # fmt: skip
    return rows


def _first(measured: Measured, number: int) -> Measured:
    gramian, losses = measured
    return gramian[:number, :number], losses[:number]


def _solve(aggregator: Weighting, gramian: Tensor, losses: Tensor) -> Tensor:
    return aggregator.weights(gramian, losses=losses)


def _theirs(kind: str, cases: Sequence[Measured]) -> dict[int, float]:
    """TorchJD's seconds by number of tasks, from few to many, while it is fast enough."""
    found: dict[int, float] = {}
    if kind not in get_args(JDMethod) or not is_installed("torchjd"):
        return found
    for case in cases:
        number = len(case[1])
        if found and _expected(found, number) > PATIENCE_S:
            break
        theirs = TorchJD(method=kind).build(number)  # type: ignore[arg-type]
        if not isinstance(theirs, Weighting):
            break
        started = time.process_time()
        _solve(theirs, *case)
        found[number] = time.process_time() - started
    return found


def _expected(known: Mapping[int, float], size: int) -> float:
    """The seconds at ``size`` tasks by the power law through the last two; T^3 from one."""
    *earlier, last = sorted(known)
    power = 3.0
    if earlier:
        power = math.log(known[last] / known[earlier[-1]]) / math.log(last / earlier[-1])
    return known[last] * float((size / last) ** max(1.0, power))
