"""Cosines with the error that the number of nodes leaves in them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gnn_mtl._core.errors import UsageError
from gnn_mtl.gradients._gramian import task_gramian
from gnn_mtl.graph import MiniBatch
from gnn_mtl.linalg import jackknife_cosine
from gnn_mtl.nn import LabelModel


@dataclass(frozen=True, eq=False)
class CosineEstimate:
    """Cosines between the gradients of the whole split, estimated from some of its nodes.

    Attributes:
        tasks: Task id of every row.
        cosine: float64 ``[S, S]``; NaN where unknown.
        standard_error: What another draw of as many nodes would change, float64 ``[S, S]``.
        num_blocks: Blocks of nodes the errors rest on.
        label_gradients: Task gradients measured, for the books.
    """

    tasks: tuple[int, ...]
    cosine: Tensor
    standard_error: Tensor
    num_blocks: int
    label_gradients: int


def estimate_cosines(
    model: LabelModel,
    batches: Iterable[MiniBatch],
    *,
    unbiased: bool = True,
    **options: Any,  # noqa: ANN401
) -> CosineEstimate:
    """Return cosines and their standard errors from random disjoint blocks of nodes.

    Each batch is a block. The noise of a few nodes inflates every gradient's norm and so shrinks
    every cosine: too few nodes show as no conflict at all. Products between different blocks are
    free of that (SON-GOKU's noise, ``unbiased_gramian``), at the price of more spread; with
    ``unbiased=False`` all nodes are taken as one batch. Errors are the jackknife's over the blocks:
    4 to 16 blocks are enough, more cost memory.

    Args:
        model: The model.
        batches: At least 3 random disjoint batches (2 if not ``unbiased``), for example
            ``NeighborLoader(graph, batch_size=num_nodes // 8, input_nodes=num_nodes random ones)``.
        unbiased: Free the norms of noise.
        **options: Of :func:`task_gramian`: ``tasks``, ``mode``, ``sample``, ...

    Returns:
        The estimate. A task is unknown where its noise drowns it, or it is invalid.

    Raises:
        UsageError: If there are too few batches; and as :func:`task_gramian`.

    Cost: that of the probe; products ``(K S)^2 P`` for K blocks.
    """
    found = task_gramian(model, batches, per_batch=True, **options)
    blocks, least = len(found.masses), 3 if unbiased else 2
    if blocks < least:
        raise UsageError(
            f"`batches` should hold at least {least} blocks of nodes. Found {blocks}; use a "
            "smaller batch_size for the same nodes."
        )
    assert found.cross is not None  # noqa: S101
    cosine, error = jackknife_cosine(found.cross, found.masses, unbiased=unbiased)
    known = found.valid[:, None] & found.valid
    cosine = torch.where(known, cosine, torch.nan)
    error = torch.where(known, error, torch.nan)
    return CosineEstimate(found.tasks, cosine, error, blocks, found.label_gradients)
