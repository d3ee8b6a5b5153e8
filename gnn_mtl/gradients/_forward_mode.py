"""Directional derivatives of all tasks' losses at once: a column of a sketch for one forward pass.

A derivative along a random direction v is the product of the whole Jacobian with v, for every task
and whatever their number, in one forward-mode pass. K directions make a sketch of K columns whose
inner products estimate the Gramian with an error of about 1 / sqrt(K) per cosine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vmap

from gnn_mtl._core.cost import CostMeter
from gnn_mtl._core.seeding import generator
from gnn_mtl.gradients._frozen import frozen
from gnn_mtl.gradients._losses import TaskLosses
from gnn_mtl.graph import MiniBatch
from gnn_mtl.nn import LabelModel


def jvp_rows(
    model: LabelModel,
    batch: MiniBatch,
    losses: TaskLosses,
    dim: int,
    meter: CostMeter | None = None,
    *,
    seed: int = 0,
    scale: Mapping[Tensor, Tensor] | None = None,
    chunk_size: int = 1,
) -> Tensor:
    """Return the Jacobian of the shared parameters times ``dim`` random signs, ``[S, dim]``.

    Direction k is a pure function of (seed, k), the same in every call, and the rows are divided by
    sqrt(dim): an average of sketches is the sketch of the average.

    Args:
        model: The model.
        batch: The nodes.
        losses: The tasks.
        dim: Number of directions K.
        meter: Counts the passes.
        seed: Seed of the directions.
        scale: Multiplies the gradients, as in ``probe``.
        chunk_size: Directions at once, by vmapping; more memory for fewer, wider passes.

    Cost: K forward-mode passes, about two forward passes each, whatever S is.
    """
    parameters = model.shared_parameters()
    found = []
    for start in range(0, dim, chunk_size):
        numbers = range(start, min(start + chunk_size, dim))
        signs = [random_signs(parameters, seed, k) for k in numbers]
        if scale is not None:
            signs = [[v * scale[p] for v, p in zip(one, parameters, strict=True)] for one in signs]
        found.append(directional(model, batch, losses, signs, meter))
    return torch.cat(found, dim=1) / dim**0.5


def random_signs(parameters: Sequence[nn.Parameter], seed: int, number: int) -> list[Tensor]:
    """Return direction ``number``: one of +-1 for every entry of every parameter."""
    size = sum(p.numel() for p in parameters)
    bits = generator(seed, "direction", number).integers(0, 2, size, dtype="int8")
    flat = torch.from_numpy(2 * bits - 1).to(parameters[0])
    pieces = flat.split([p.numel() for p in parameters])
    return [piece.view_as(p) for piece, p in zip(pieces, parameters, strict=True)]


def directional(
    model: LabelModel,
    batch: MiniBatch,
    losses: TaskLosses,
    directions: Sequence[Sequence[Tensor]],
    meter: CostMeter | None = None,
) -> Tensor:
    """Return the derivatives of the losses along directions of the shared parameters, ``[S, c]``.

    A task whose loss is not finite gets NaN.
    """
    names = [name for name, p in model.encoder.named_parameters() if p.requires_grad]
    values = [p.detach() for p in model.encoder.parameters() if p.requires_grad]

    def value(*shared: Tensor) -> Tensor:
        h = functional_call(model.encoder, dict(zip(names, shared, strict=True)), (batch,))
        return losses(model.heads(h, losses.tasks), batch)

    def along(*tangents: Tensor) -> Tensor:
        return jvp(value, tuple(values), tuple(tangents))[1]

    with frozen(model), torch.no_grad():
        if len(directions) == 1:
            found = along(*directions[0])[:, None]
        else:
            stacked = [torch.stack(entry) for entry in zip(*directions, strict=True)]
            found = vmap(along, out_dims=1)(*stacked)
    if meter is not None:
        meter.jvps += len(directions)
        meter.nodes += batch.batch_size
    return found.detach()
