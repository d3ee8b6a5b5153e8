"""Gradients of single logits by backward passes: the oracle of ``output_features``, and its price.

One backward pass per (node, task) pair is what forward mode replaces, and the only way where the
network has an operation without a forward-mode rule.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gnn_mtl._core.cost import CostMeter
from gnn_mtl._core.errors import UsageError
from gnn_mtl.gradients._directions import (
    DIRECTIONS_AT_ONCE,
    ParameterFilter,
    chosen_parameters,
    signs,
)
from gnn_mtl.gradients._frozen import frozen
from gnn_mtl.gradients._output_features import OutputFeatures
from gnn_mtl.graph import MiniBatch
from gnn_mtl.nn import LabelModel

GRADIENTS_AT_ONCE = 256


def per_sample_gradients(
    model: LabelModel, batch: MiniBatch, cells: Tensor, parameters: ParameterFilter = "shared"
) -> Iterator[Tensor]:
    """Yield the gradient ``[p]`` of the logit of each cell, in evaluation mode.

    The model is frozen for the forward only: between two gradients it is as the caller left it.

    Args:
        model: The model.
        batch: The nodes.
        cells: Rows of the batch and tasks, int64 ``[n, 2]``.
        parameters: As in :func:`output_features`.

    Cost: one forward for all cells and a backward through the whole batch for each.
    """
    chosen = list(chosen_parameters(model, parameters).values())
    with frozen(model), torch.enable_grad():
        logits = model(batch)
    for row, task in cells.tolist():
        with torch.enable_grad():
            cell = logits[row, task]
        found = torch.autograd.grad(cell, chosen, retain_graph=True, allow_unused=True)
        pieces = zip(found, chosen, strict=True)
        yield torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pieces])


def per_sample_features(
    model: LabelModel,
    batch: MiniBatch,
    dim: int = 200,
    *,
    seed: int = 0,
    parameters: ParameterFilter = "shared",
    meter: CostMeter | None = None,
) -> OutputFeatures:
    """Return what :func:`output_features` returns, by one backward pass per (node, task).

    Args:
        model: The model; in float64 for an oracle.
        batch: The nodes.
        dim: Number of directions d.
        seed: Seed of the directions.
        parameters: What moves.
        meter: Counts the passes.

    Returns:
        Features ``[B, T, d]`` and logits ``[B, T]``.

    Raises:
        UsageError: If ``dim`` is below 1 or no parameter is chosen.

    Cost: B * T backward passes through the batch, a forward for every 256 of them, and
    2 * B * T * p * d operations.
    """
    if dim < 1:
        raise UsageError(f"`dim` should be at least 1. Found {dim}.")
    with frozen(model), torch.no_grad():
        logits = model(batch)
    cells = torch.cartesian_prod(*(torch.arange(n) for n in logits.shape))
    phi = torch.cat(
        [
            project(
                torch.stack(list(per_sample_gradients(model, batch, part, parameters))), dim, seed
            )
            for part in cells.split(GRADIENTS_AT_ONCE)
        ]
    )
    if meter is not None:
        meter.forwards += 1 + -(-len(cells) // GRADIENTS_AT_ONCE)
        meter.backwards += len(cells)
        meter.nodes += batch.batch_size
    return OutputFeatures(phi.view(*logits.shape, dim), logits)


def project(gradients: Tensor, dim: int, seed: int = 0) -> Tensor:
    """Return gradients ``[n, p]`` times P, ``[n, d]``."""
    out = gradients.new_empty((len(gradients), dim))
    for start in range(0, dim, DIRECTIONS_AT_ONCE):
        numbers = range(start, min(start + DIRECTIONS_AT_ONCE, dim))
        drawn = signs(gradients.shape[1], seed, numbers).to(gradients).mul_(2).sub_(1)
        out[:, numbers.start : numbers.stop] = gradients @ drawn.T
    return out / dim**0.5
