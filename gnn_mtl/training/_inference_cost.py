"""What a prediction costs: parameters, passes, operations and milliseconds."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from gnn_mtl._core.errors import UsageError
from gnn_mtl._core.seeding import generator
from gnn_mtl.datasets import TaskGraph
from gnn_mtl.gradients import frozen
from gnn_mtl.graph import MiniBatch, NeighborLoader
from gnn_mtl.nn import LabelModel


@dataclass(frozen=True)
class InferenceCost:
    """The price of the logits of all tasks.

    Attributes:
        parameters: Numbers that are stored, all models together.
        forwards: Models that are run one after the other: 1 for a joint, merged or adapted model
            and for trunks that are run as one, M for one model per group.
        mflops_per_node: Million floating-point operations per predicted node on sampled
            neighbourhoods: two for a multiplication and addition in matrix products, one for an
            addition in an aggregation; elementwise operations are not counted.
        ms_per_1000_nodes: Median milliseconds of the passes of 1,000 nodes, sampling aside, on
            this machine; None where not measured.
    """

    parameters: int
    forwards: int
    mflops_per_node: float
    ms_per_1000_nodes: float | None = None

    def to_dict(self) -> dict[str, float | int | None]:
        """Return the numbers by name."""
        return asdict(self)


def inference_cost(
    models: LabelModel | Sequence[LabelModel],
    graph: TaskGraph,
    *,
    num_neighbors: Sequence[int] = (10, 10),
    num_nodes: int = 1000,
    repeats: int = 5,
    seed: int = 0,
) -> InferenceCost:
    """Measure what the logits of all tasks cost on a batch of nodes.

    Args:
        models: A model, or one per group, which are run on the same batch one after the other.
            They stay as they are.
        graph: The dataset; no label is read.
        num_neighbors: Neighbours sampled per hop; the last entry is repeated or cut to the models'
            layers; -1 takes all.
        num_nodes: Nodes of the batch, at most.
        repeats: Timed runs, after one that is not; 0 leaves time out.
        seed: Seed of the nodes and their neighbours.

    Raises:
        UsageError: If there is no model, or a number is out of range.
    """
    given = [models] if isinstance(models, LabelModel) else list(models)
    if not given or num_nodes < 1 or repeats < 0 or not num_neighbors:
        raise UsageError(
            "Expected a model, `num_neighbors`, `num_nodes` of at least 1 and `repeats` not "
            f"negative. Found {len(given)} models, {list(num_neighbors)}, {num_nodes}, {repeats}."
        )
    nodes = generator(seed, "inference cost").permutation(graph.num_nodes)[:num_nodes]
    kinds = [(model.encoder.num_hops, next(model.parameters()).device) for model in given]
    sampled = {kind: _batch(graph, nodes, num_neighbors, seed, *kind) for kind in set(kinds)}
    batches = [sampled[kind] for kind in kinds]

    def run() -> None:
        for model, batch in zip(given, batches, strict=True):
            model(batch)

    with _evaluating(given), torch.no_grad():
        flops = count_flops(run)
        times = []
        for _ in range(repeats):
            clock = time.perf_counter()
            run()
            if batches[0].x.device.type == "cuda":
                torch.cuda.synchronize(batches[0].x.device)
            times.append(time.perf_counter() - clock)
    return InferenceCost(
        parameters=sum(p.numel() for model in given for p in model.parameters()),
        forwards=len(given),
        mflops_per_node=flops / len(nodes) / 1e6,
        ms_per_1000_nodes=1e6 * float(np.median(times)) / len(nodes) if times else None,
    )


def count_flops(run: Callable[[], object]) -> int:
    """Return the floating-point operations of matrix products and aggregations in a call."""
    from torch.utils.flop_counter import FlopCounterMode

    bags = (torch.ops.aten._embedding_bag, torch.ops.aten._embedding_bag_forward_only)
    with FlopCounterMode(display=False, custom_mapping=dict.fromkeys(bags, _bag_flops)) as counter:
        run()
    return int(counter.get_total_flops())


def _bag_flops(weight: Sequence[int], indices: Sequence[int], *_: Any, **__: Any) -> int:  # noqa: ANN401
    """One addition per edge and column."""
    return indices[0] * weight[1]


def _batch(
    graph: TaskGraph,
    nodes: np.ndarray,
    num_neighbors: Sequence[int],
    seed: int,
    hops: int,
    device: torch.device,
) -> MiniBatch:
    fan_outs = (list(num_neighbors) + [num_neighbors[-1]] * hops)[:hops]
    loader = NeighborLoader(
        graph, num_neighbors=fan_outs, batch_size=len(nodes), input_nodes=nodes, shuffle=False,
        num_workers=0, seed=seed, device=device,
    )  # fmt: skip
    return loader.batch(0, 0)


@contextlib.contextmanager
def _evaluating(models: Sequence[LabelModel]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for model in models:
            stack.enter_context(frozen(model))
        yield
