"""Exact gradients by reverse mode: one backward pass per task, or chunks of them at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gnn_mtl._core.cost import CostMeter
from gnn_mtl._core.errors import UsageError
from gnn_mtl.gradients._frozen import frozen
from gnn_mtl.gradients._losses import TaskLosses
from gnn_mtl.gradients._parts import Part, columns
from gnn_mtl.graph import MiniBatch
from gnn_mtl.nn import LabelModel

BATCHED_BYTES = 1 << 30


def vjp_rows(
    model: LabelModel,
    batch: MiniBatch,
    losses: TaskLosses,
    parts: Sequence[Part],
    meter: CostMeter | None = None,
    *,
    batched: bool = False,
    chunk_size: int | None = None,
) -> Tensor:
    """Return the gradients ``[S, P]`` of the losses by the parts; works with any model.

    A task whose loss is not finite gets NaN and spoils no other.

    Args:
        model: The model.
        batch: The nodes.
        losses: The tasks.
        parts: What to differentiate by.
        meter: Counts the passes.
        batched: Differentiate ``chunk_size`` tasks at once, by vmapping the backward pass. Pays on
            GPUs; on a CPU the loop is faster (``bench refresh``).
        chunk_size: Tasks at once; by default as many as keep a copy each of what the forward pass
            saved within 1 GiB.

    Raises:
        UsageError: If the model has an operation that cannot be vmapped.
    """
    with frozen(model), torch.enable_grad():
        return _rows(model, batch, losses, parts, meter, batched, chunk_size)


def _rows(
    model: LabelModel,
    batch: MiniBatch,
    losses: TaskLosses,
    parts: Sequence[Part],
    meter: CostMeter | None,
    batched: bool,
    chunk_size: int | None,
) -> Tensor:
    saved = _Saved()
    with torch.autograd.graph.saved_tensors_hooks(saved.count, lambda tensor: tensor):
        values = losses(model(batch, losses.tasks), batch)
    if meter is not None:
        meter.forwards += 1
        meter.nodes += batch.batch_size
    finite = torch.isfinite(values.detach())
    if not bool(finite.all()):
        width = sum(part.width for part in parts)
        rows = values.detach().new_full((len(losses.tasks), width), torch.nan)
        if bool(finite.any()):
            good = losses.only(finite)
            rows[finite] = _rows(model, batch, good, parts, meter, batched, chunk_size)
        return rows
    if meter is not None:
        meter.backwards += len(values)
        meter.label_gradients += len(values)
    if not batched:
        return loop(values, parts)
    if chunk_size is None:
        chunk_size = max(1, BATCHED_BYTES // max(1, saved.bytes))
    return in_chunks(values, parts, chunk_size)


def loop(values: Tensor, parts: Sequence[Part], *, retain_graph: bool = False) -> Tensor:
    """Differentiate one value after the other."""
    rows = values.detach().new_empty((len(values), sum(part.width for part in parts)))
    for index in range(len(values)):
        keep = retain_graph or index < len(values) - 1
        grads = torch.autograd.grad(
            values[index], [p.parameter for p in parts], retain_graph=keep, allow_unused=True
        )
        stacked = [None if g is None else g[None] for g in grads]
        rows[index : index + 1] = columns(parts, stacked, 1)
    return rows


def in_chunks(
    values: Tensor, parts: Sequence[Part], chunk_size: int, *, retain_graph: bool = False
) -> Tensor:
    """Differentiate ``chunk_size`` values at a time."""
    pieces = [values.detach().new_empty((0, sum(part.width for part in parts)))]
    for start in range(0, len(values), chunk_size):
        stop = min(start + chunk_size, len(values))
        pick = torch.zeros(stop - start, len(values), dtype=values.dtype, device=values.device)
        pick[torch.arange(stop - start), torch.arange(start, stop)] = 1.0
        try:
            grads = torch.autograd.grad(
                values, [p.parameter for p in parts], grad_outputs=pick, is_grads_batched=True,
                retain_graph=retain_graph or stop < len(values), allow_unused=True,
            )  # fmt: skip
        except RuntimeError as error:
            raise UsageError(
                f"The model should allow vmapped backward passes. Found: {error}. Use mode 'loop'."
            ) from error
        pieces.append(columns(parts, grads, stop - start))
    return torch.cat(pieces)


class _Saved:
    """Bytes that a forward pass keeps for the backward pass, parameters aside."""

    def __init__(self) -> None:
        self.bytes = 0

    def count(self, tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            self.bytes += tensor.numel() * tensor.element_size()
        return tensor
