r"""Projected gradients of every logit, by forward mode: the features of Grad-TAG.

The feature of node v and task t is :math:`\phi_{v,t} = P^\top \nabla_W f_W(v, t)`, and its k-th
entry the derivative of the logit along column k of P. One forward-mode pass along that column
gives it for every node and every task at once; d passes replace a backward pass per (node, task)
and the product with P.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.func import functional_call, jvp, vmap

from gnn_mtl._core.cost import CostMeter
from gnn_mtl._core.errors import UsageError
from gnn_mtl.gradients._directions import ParameterFilter, chosen_parameters, sign_tangents
from gnn_mtl.gradients._frozen import frozen
from gnn_mtl.graph import MiniBatch
from gnn_mtl.nn import LabelModel

NO_RULE = ("forward", "jvp", "vmap", "functorch", "setup_context")


@dataclass(frozen=True, eq=False)
class OutputFeatures:
    r"""The linear model of the logits around the weights they were taken at.

    At :math:`\theta^* + P u` the logits are, to first order, ``logits + phi @ u``.

    Attributes:
        phi: Projected gradients ``[B, T, d]``.
        logits: Logits at the weights, in evaluation mode, ``[B, T]``.
    """

    phi: Tensor
    logits: Tensor

    def at(self, u: Tensor) -> Tensor:
        """Return the linearised logits ``[B, T]`` at coordinates ``[d]``."""
        return self.logits + self.phi @ u.to(self.phi)


def output_features(
    model: LabelModel,
    batch: MiniBatch,
    dim: int = 200,
    *,
    seed: int = 0,
    parameters: ParameterFilter = "shared",
    chunk_size: int = 16,
    dtype: torch.dtype | None = None,
    meter: CostMeter | None = None,
) -> OutputFeatures:
    r"""Return the projected gradients of all logits of a batch.

    The model is frozen (evaluation mode, no trace). Directions are those of
    :func:`displaced` with the same ``seed``, ``dim`` and ``parameters``.

    Args:
        model: The model.
        batch: The nodes; their labels are not read.
        dim: Number of directions d.
        seed: Seed of the directions.
        parameters: What moves: ``"shared"``, ``"all"`` or a predicate on names.
        chunk_size: Directions pushed through the network at once.
        dtype: Of the network's arithmetic, say ``torch.bfloat16`` (products still sum in float32);
            default the model's. Features are then float32 and logits those of the model's dtype.
        meter: Counts the passes.

    Returns:
        Features ``[B, T, d]`` and logits ``[B, T]``.

    Raises:
        UsageError: If ``dim`` or ``chunk_size`` is below 1, no parameter is chosen, or the network
            has an operation without a forward-mode rule.

    Cost: d forward-mode passes of about two forwards each whatever T is, and 2 * B * T * D * d
    operations for linear heads; memory B * T * d numbers plus ``chunk_size`` times the activations.
    """
    if dim < 1 or chunk_size < 1:
        raise UsageError(
            f"`dim` and `chunk_size` should be at least 1. Found {dim} and {chunk_size}."
        )
    chosen = chosen_parameters(model, parameters)
    used = dtype or next(iter(chosen.values())).dtype
    state = {
        name: value.to(used) if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    inputs = _cast(batch, used)
    with frozen(model), torch.no_grad():
        logits = model(batch)
        phi = logits.new_empty((*logits.shape, dim), dtype=_wide(used))
        for start in range(0, dim, chunk_size):
            numbers = range(start, min(start + chunk_size, dim))
            tangents = sign_tangents(chosen, seed, numbers, used)
            phi[:, :, numbers.start : numbers.stop] = _along(
                model, inputs, state, dict(zip(chosen, tangents, strict=True))
            )
        phi /= dim**0.5
    if meter is not None:
        meter.forwards += 1
        meter.jvps += dim
        meter.nodes += batch.batch_size
    return OutputFeatures(phi, logits)


def _along(
    model: LabelModel,
    batch: MiniBatch,
    state: Mapping[str, Tensor],
    tangents: Mapping[str, Tensor],
) -> Tensor:
    """Derivatives of the logits along several tangents ``[c, *shape]``: ``[B, T, c]``."""
    names = list(tangents)

    def value(*moving: Tensor) -> Tensor:
        return functional_call(model, {**state, **dict(zip(names, moving, strict=True))}, (batch,))

    def along(*tangent: Tensor) -> Tensor:
        return jvp(value, tuple(state[name] for name in names), tangent)[1]

    try:
        return vmap(along, out_dims=2)(*tangents.values())
    except (RuntimeError, NotImplementedError) as error:
        if not any(word in str(error) for word in NO_RULE):
            raise
        raise UsageError(
            f"The network should have a forward-mode derivative. Found {type(error).__name__}: "
            f"{str(error).splitlines()[0]} Use per_sample_features, one backward pass per "
            "(node, task)."
        ) from error


def _cast(batch: MiniBatch, dtype: torch.dtype) -> MiniBatch:
    """The batch with features of nodes and edges of that dtype."""
    if batch.x.dtype == dtype:
        return batch
    blocks = tuple(copy.copy(block) for block in batch.blocks)
    for block in blocks:
        block.edge_attr = None if block.edge_attr is None else block.edge_attr.to(dtype)
    return replace(batch, x=batch.x.to(dtype), blocks=blocks)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """What features of that arithmetic are kept in."""
    return torch.promote_types(dtype, torch.float32)
