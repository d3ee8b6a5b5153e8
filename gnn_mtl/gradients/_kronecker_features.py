r"""Projected gradients along rank-one directions, by reverse mode, for encoders without neighbours.

Where nodes do not read each other, the gradient of a logit by a linear map factors into its input
and the logit's derivative by its output, :math:`G = \delta a^\top`. Along a direction
:math:`u v^\top` of signs its derivative is :math:`(\delta \cdot u)(a \cdot v)`: neither the
gradient nor the direction is ever a matrix.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gnn_mtl._core.cost import CostMeter
from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl._core.seeding import generator
from gnn_mtl.gradients._directions import moved
from gnn_mtl.gradients._frozen import frozen
from gnn_mtl.gradients._output_features import OutputFeatures
from gnn_mtl.graph import MiniBatch
from gnn_mtl.nn import LabelModel, LinearHeads

OUTPUTS_AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class _Factors:
    """Signs of all directions for one map."""

    out: Tensor  # [O, d]
    inner: Tensor  # [I, d], of the inputs
    bias: Tensor | None  # [d], of the constant input


def kronecker_features(
    model: LabelModel,
    batch: MiniBatch,
    dim: int = 200,
    *,
    seed: int = 0,
    meter: CostMeter | None = None,
) -> OutputFeatures:
    r"""Return the features of all linear maps of the encoder along rank-one directions.

    Inner products of features are unbiased as with dense directions, but spread more: a direction
    is a product of two draws, so the variance of a squared norm is up to 4 times as large for a
    single map. Over the five maps of a SIGN model errors were a tenth larger than along dense
    directions, at a third to three quarters of the time (``bench gradtag``). Norms' scales and
    shifts do not move; the matching move of the weights is :func:`kronecker_displaced`.

    Args:
        model: A model whose encoder reads the seeds' own rows only (SIGN, MLP).
        batch: The nodes; their labels are not read.
        dim: Number of directions d.
        seed: Seed of the directions; column k is a pure function of (seed, k).
        meter: Counts the passes.

    Returns:
        Features ``[B, T, d]`` and logits ``[B, T]``.

    Raises:
        UsageError: If the encoder reads neighbours or has no linear map, or ``dim`` is below 1.

    Cost: min(T, D) adjoints of all activations for linear heads, T otherwise, without weight
    gradients; 2 * B * min(T, D) * d operations for every output of a map, and for linear heads
    2 * B * T * D * d more if D < T.
    """
    if dim < 1:
        raise UsageError(f"`dim` should be at least 1. Found {dim}.")
    maps = _maps(model)
    factors = {name: _factors(maps[name], name, dim, seed) for name in maps}
    heads = model.heads
    by_units = isinstance(heads, LinearHeads) and model.encoder.out_channels < heads.num_tasks
    with frozen(model), torch.enable_grad():
        inputs, outputs, hidden = _traced(model, batch, maps)
        logits = heads(hidden)
        targets = hidden if by_units else logits
        phi = targets.new_zeros((*targets.shape, dim))
        for part in torch.arange(targets.shape[1]).split(OUTPUTS_AT_ONCE):
            adjoints = _adjoints(targets, list(outputs.values()), part)
            with torch.no_grad():
                for name, delta in zip(outputs, adjoints, strict=True):
                    known = factors[name]
                    read = inputs[name] @ known.inner
                    if known.bias is not None:
                        read += known.bias
                    phi[:, part] += ((delta @ known.out) * read).transpose(0, 1)
    with torch.no_grad():
        if isinstance(heads, LinearHeads) and by_units:
            phi = torch.matmul(heads.weight, phi)
        phi /= dim**0.5
    if meter is not None:
        meter.forwards += 1
        meter.backwards += targets.shape[1]
        meter.nodes += batch.batch_size
    return OutputFeatures(phi, logits.detach())


@contextlib.contextmanager
def kronecker_displaced(model: LabelModel, u: Tensor, *, seed: int = 0) -> Iterator[LabelModel]:
    """Move the encoder's linear maps by coordinates ``[d]`` in the block; bitwise back after.

    Args:
        model: The model the features were taken of.
        u: Coordinates along the directions of :func:`kronecker_features`.
        seed: Its ``seed``.

    Raises:
        ShapeError: If ``u`` is not one vector, or d is 0.
        UsageError: If the encoder is not of linear maps that read no neighbour.

    Cost: 2 * p * d operations, one product of two thin matrices a map.
    """
    if u.dim() != 1 or len(u) == 0:
        raise ShapeError(f"`u` should be one vector [d]. Found {tuple(u.shape)}.")
    deltas: dict[str, Tensor] = {}
    for name, linear in _maps(model).items():
        known = _factors(linear, name, len(u), seed)
        weighted = known.out * (u.detach().to(known.out) / len(u) ** 0.5)
        deltas[f"{name}.weight"] = weighted @ known.inner.T
        if known.bias is not None:
            deltas[f"{name}.bias"] = weighted @ known.bias
    moving = {n: p for n, p in model.named_parameters() if p.requires_grad and n in deltas}
    row = torch.cat([deltas[name].flatten() for name in moving])
    with moved(model, row, moving.__contains__):
        yield model


def _maps(model: LabelModel) -> dict[str, nn.Linear]:
    """The encoder's trainable linear maps by name in the model."""
    found = {
        f"encoder.{name}": module
        for name, module in model.encoder.named_modules()
        if isinstance(module, nn.Linear) and module.weight.requires_grad
    }
    if model.encoder.num_hops or not found:
        raise UsageError(
            "Rank-one directions need an encoder of linear maps that reads no neighbour (SIGN, "
            f"MLP). Found {type(model.encoder).__name__}; use output_features."
        )
    return found


def _factors(linear: nn.Linear, name: str, dim: int, seed: int) -> _Factors:
    has_bias = linear.bias is not None and linear.bias.requires_grad
    rows = linear.out_features + linear.in_features + has_bias
    drawn = torch.empty((rows, dim), dtype=linear.weight.dtype)
    for k in range(dim):
        bits = generator(seed, "rank-one direction", name, k).integers(0, 2, rows, dtype="int8")
        drawn[:, k] = torch.from_numpy(2 * bits - 1)
    drawn = drawn.to(linear.weight.device)
    out, inner = drawn[: linear.out_features], drawn[linear.out_features :]
    return _Factors(out, inner[: linear.in_features], inner[-1] if has_bias else None)


def _traced(
    model: LabelModel, batch: MiniBatch, maps: dict[str, nn.Linear]
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Inputs and outputs of every map, and the representations."""
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def keep(name: str, taken: tuple[Tensor, ...], made: Tensor) -> None:
        if name in inputs or taken[0].shape[:-1] != (batch.batch_size,):
            raise UsageError(
                f"Rank-one directions need each map to be applied once to [B, I]. Found {name} on "
                f"{tuple(taken[0].shape)}; use output_features."
            )
        inputs[name], outputs[name] = taken[0].detach(), made

    with contextlib.ExitStack() as hooks:
        for name, linear in maps.items():
            handle = linear.register_forward_hook(
                lambda _module, taken, made, name=name: keep(name, taken, made)
            )
            hooks.callback(handle.remove)
        hidden = model.encoder(batch)
    return inputs, outputs, hidden


def _adjoints(targets: Tensor, outputs: list[Tensor], part: Tensor) -> tuple[Tensor, ...]:
    """Derivatives of some columns of the targets by every output, ``[c, B, O]`` each."""
    seeds = targets.new_zeros((len(part), *targets.shape))
    seeds[torch.arange(len(part)), :, part] = 1.0
    return torch.autograd.grad(targets, outputs, seeds, retain_graph=True, is_grads_batched=True)
