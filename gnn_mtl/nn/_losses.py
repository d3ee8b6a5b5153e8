"""Masked multi-label losses: one mean per task, over that task's observed nodes only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from gnn_mtl._core.errors import ShapeError


def masked_bce(
    logits: Tensor,
    y: Tensor,
    observed: Tensor,
    tasks: Sequence[int] | None = None,
    *,
    pos_weight: Tensor | None = None,
) -> Tensor:
    r"""Return the binary cross-entropy of every supervised task.

    .. math:: L_t = \frac{1}{|O_t|} \sum_{b \in O_t}
              \mathrm{BCE}(\sigma(z_{bt}), y_{bt})

    with :math:`O_t` the batch's nodes where task t is observed. Each task weighs the same however
    few labels it has; a task with no observed node in the batch has loss 0 and no gradient. Values
    of ``y`` where ``observed`` is False are never read, not even when NaN.

    Args:
        logits: ``[B, T]``, or ``[B, len(tasks)]`` for the given tasks only.
        y: Targets in {0, 1}, ``[B, T]``.
        observed: Which targets count, bool ``[B, T]``.
        tasks: The supervised tasks; None for all. Logits with one column per task of the graph are
            read in the order of the graph unless ``tasks`` names as many, then in that order.
        pos_weight: Optional weight ``[T]`` of each task's positives.

    Returns:
        Losses in nats, float ``[len(tasks)]``, in the order of ``tasks``. Sum them for SON-GOKU's
        objective (arXiv 2509.16959 Eq. 6).

    Raises:
        ShapeError: If the shapes do not fit together.
    """
    if y.dim() != 2 or y.shape != observed.shape or logits.shape[:1] != y.shape[:1]:
        raise ShapeError(
            "`y` and `observed` should have shape [B, T] and `logits` as many rows. Found "
            f"{tuple(y.shape)}, {tuple(observed.shape)} and {tuple(logits.shape)}."
        )
    num_tasks = y.shape[1]
    if tasks is not None:
        columns = torch.as_tensor(list(tasks), dtype=torch.int64, device=y.device)
        y, observed = y[:, columns], observed[:, columns]
        if pos_weight is not None:
            pos_weight = pos_weight[columns]
        if logits.shape[1] == num_tasks and len(columns) != num_tasks:
            logits = logits[:, columns]
    if logits.shape != y.shape:
        raise ShapeError(
            f"`logits` should have one column per task, {y.shape[1]} or all {num_tasks}. "
            f"Found {logits.shape[1]}."
        )
    target = torch.where(observed, y, 0.0).to(logits.dtype)
    loss = functional.binary_cross_entropy_with_logits(
        logits, target, reduction="none", pos_weight=pos_weight
    )
    count = observed.sum(dim=0).clamp(min=1)
    return torch.where(observed, loss, 0.0).sum(dim=0) / count
