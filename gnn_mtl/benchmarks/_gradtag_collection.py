"""The price of features: forward mode against a backward pass per (node, task)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from gnn_mtl.benchmarks._gradtag_truth import rows_of
from gnn_mtl.benchmarks._measure import interleaved
from gnn_mtl.gradients import (
    OutputFeatures,
    displacements,
    kronecker_features,
    output_features,
    per_sample_gradients,
)
from gnn_mtl.graph import MiniBatch
from gnn_mtl.nn import LabelModel, LinearHeads, SIGNEncoder

NODES = 1000
TASKS = 100
DIM = 200
HALF_DIM = 8  # directions of the bfloat16 row, which no CPU without such units is quick at
HIDDEN = 128
FEATURES = 128
HOPS = 3
BUFFER = 100  # gradients projected at once, as in the published code


def collection(*, quick: bool) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Return ``collection_speedup`` and its kin, and a row per way of collecting."""
    model, batch = _problem()
    pairs, repeats = (40, 1) if quick else (200, 3)
    cells = _cells(pairs)
    matrix = displacements(model, torch.eye(DIM)).T

    def through_the_batch(_: int) -> Tensor:
        return _projected(per_sample_gradients(model, batch, cells), matrix)

    def through_the_node(_: int) -> Tensor:
        here = torch.zeros(1, dtype=torch.int64)
        return _projected(
            (
                gradient
                for row, task in cells.tolist()
                for gradient in per_sample_gradients(
                    model, rows_of(batch, here + row), torch.tensor([[0, task]])
                )
            ),
            matrix,
        )

    phi: dict[str, Tensor] = {}

    def keep(name: str, found: OutputFeatures) -> None:
        phi[name] = found.phi[cells[:, 0], cells[:, 1]]

    names = [
        "autograd.grad through the batch", "autograd.grad through the node alone", "forward mode",
        "rank-one directions", "forward mode, bfloat16",
    ]  # fmt: skip
    times = interleaved(
        {
            names[0]: through_the_batch,
            names[1]: through_the_node,
            names[2]: lambda _: keep(names[2], output_features(model, batch, DIM)),
            names[3]: lambda _: keep(names[3], kronecker_features(model, batch, DIM)),
        },
        repeats,
    )
    times |= interleaved(
        {
            names[4]: lambda _: keep(
                names[4], output_features(model, batch, HALF_DIM, dtype=torch.bfloat16)
            )
        },
        1,
    )
    every = NODES * TASKS
    covered = [pairs, pairs, every, every, every * HALF_DIM / DIM]
    cost = {name: times[name]["cpu_s"] / n for name, n in zip(names, covered, strict=True)}
    errors = _errors(model, batch, cells, matrix, phi)
    rows = [
        {
            "what": "collection", "way": name, "us_per_pair": 1e6 * cost[name],
            "speedup": cost[names[0]] / cost[name], "tasks": TASKS, "nodes": NODES,
            "directions": DIM, "parameters": len(matrix), **errors.get(name, {}),
        }
        for name in names
    ]  # fmt: skip
    return {
        "collection_speedup": cost[names[0]] / cost[names[2]],
        "collection_speedup_over_single_nodes": cost[names[1]] / cost[names[2]],
    }, rows


def _problem() -> tuple[LabelModel, MiniBatch]:
    """A SIGN model of the published size's kind and one block of nodes."""
    rng = torch.Generator().manual_seed(0)
    width = FEATURES * (HOPS + 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = SIGNEncoder(width, HIDDEN, HOPS, norm="none", dropout=0.0)
        model = LabelModel(encoder, LinearHeads(HIDDEN, TASKS))
    x = torch.randn(NODES, width, generator=rng)
    y = torch.zeros(NODES, TASKS)
    return model, MiniBatch(torch.arange(NODES), NODES, x, (), y, y == 0)


def _cells(number: int) -> Tensor:
    rng = np.random.Generator(np.random.Philox(key=0))
    flat = rng.choice(NODES * TASKS, number, replace=False)
    return torch.from_numpy(np.stack([flat // TASKS, flat % TASKS], axis=1))


def _projected(gradients: Any, matrix: Tensor) -> Tensor:  # noqa: ANN401
    """Features of an iterable of gradients, some at a time."""
    parts, held = [], []
    for gradient in gradients:
        held.append(gradient)
        if len(held) == BUFFER:
            parts.append(torch.stack(held) @ matrix)
            held = []
    if held:
        parts.append(torch.stack(held) @ matrix)
    return torch.cat(parts)


def _errors(
    model: LabelModel, batch: MiniBatch, cells: Tensor, matrix: Tensor, phi: dict[str, Tensor]
) -> dict[str, dict[str, float]]:
    """Error of the features against P' g, and of their inner products against those of g."""
    gradients = torch.stack(list(per_sample_gradients(model, batch, cells)))
    gram = gradients @ gradients.T
    found: dict[str, dict[str, float]] = {}
    for name, features in phi.items():
        dim = features.shape[1]
        if dim == DIM:
            error = (features @ features.T - gram).norm() / gram.norm()
            found[name] = {"gram_error": float(error)}
        if not name.startswith("rank"):
            exact = gradients @ matrix[:, :dim] * (DIM / dim) ** 0.5
            error = (features - exact).norm() / exact.norm()
            found.setdefault(name, {})["feature_error"] = float(error)
    return found
