"""Per-task gradients of shared parameters of any model: one row per task, exact."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.gradients._parts import whole
from gnn_mtl.gradients._vjp import in_chunks, loop


@dataclass(frozen=True, eq=False)
class TaskGradients:
    """Gradients of some tasks' losses by the same parameters.

    Attributes:
        tasks: Task id of every row.
        jacobian: Gradients ``[S, P]``, one row per task.
        valid: bool ``[S]``: False where the task had no observed label or its row is not finite;
            such a row must not be used.
        label_gradients: How many single-task backward passes this cost, for the books.
    """

    tasks: tuple[int, ...]
    jacobian: Tensor
    valid: Tensor
    label_gradients: int = 0

    def __post_init__(self) -> None:
        rows = (len(self.tasks),)
        if self.jacobian.dim() != 2 or self.jacobian.shape[:1] != rows or self.valid.shape != rows:
            raise ShapeError(
                f"`jacobian` should have shape [{len(self.tasks)}, P] and `valid` "
                f"[{len(self.tasks)}]. Found {tuple(self.jacobian.shape)} and "
                f"{tuple(self.valid.shape)}."
            )


def task_gradients(
    losses: Tensor,
    parameters: Iterable[Tensor],
    *,
    tasks: Sequence[int] | None = None,
    retain_graph: bool = False,
    chunk_size: int | None = None,
) -> TaskGradients:
    """Differentiate every loss by the shared parameters.

    Works with any model and any loss. Parameters a loss does not depend on count as gradient 0.
    Leave out losses that are not finite: where losses share a graph, as the columns of one loss
    function do, autograd multiplies 0 by NaN and spoils the other rows too.

    Args:
        losses: One loss per task ``[S]``, with their graph.
        parameters: The shared parameters; never those of a head.
        tasks: Task id of every loss; default 0, ..., S - 1.
        retain_graph: Keep the graph for another backward pass afterwards.
        chunk_size: Losses differentiated at once, by vmapping the backward pass; default one after
            the other, which is faster on a CPU.

    Returns:
        Rows ``[S, P]`` in the order of ``losses``; rows that are zero (no label in the batch) or
        not finite are marked invalid.

    Raises:
        ShapeError: If ``losses`` is not a vector or ``tasks`` has another length.
        UsageError: If there is no parameter to differentiate by, ``chunk_size`` is below 1, or an
            operation cannot be vmapped.

    Cost: S backward passes, S * P numbers.
    """
    shared = [p for p in parameters if p.requires_grad]
    if losses.dim() != 1:
        raise ShapeError(f"`losses` should be one loss per task, [S]. Found {tuple(losses.shape)}.")
    ids = tuple(range(len(losses))) if tasks is None else tuple(int(t) for t in tasks)
    if len(ids) != len(losses):
        raise ShapeError(f"`tasks` should name {len(losses)} tasks. Found {len(ids)}.")
    if chunk_size is not None and chunk_size < 1:
        raise UsageError(f"`chunk_size` should be at least 1. Found {chunk_size}.")
    if not shared:
        raise UsageError("`parameters` should hold at least one trainable tensor. Found none.")
    parts = whole(shared)
    if chunk_size is None or chunk_size == 1:
        jacobian = loop(losses, parts, retain_graph=retain_graph)
    else:
        jacobian = in_chunks(losses, parts, chunk_size, retain_graph=retain_graph)
    return TaskGradients(ids, jacobian.detach(), usable_rows(jacobian), len(ids))


def usable_rows(jacobian: Tensor) -> Tensor:
    """Return bool ``[S]``: rows that are finite and not zero."""
    norms = torch.linalg.vector_norm(jacobian.detach(), dim=1)
    return torch.isfinite(norms) & (norms > 0)
