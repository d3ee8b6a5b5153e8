"""What several processes agree on when each trains on a batch of its own, without a wrapper.

The loss of a task is then its mean over the observed nodes of all batches. With the share of them
that a process holds as a factor of its loss, gradients simply add up, and so do the rows of a
Jacobian: every process takes the same step. One process: nothing happens.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, distributed


def world_size() -> int:
    """Return the number of processes of the initialised group; 1 without one."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return 1


def summed(value: Tensor) -> Tensor:
    """Return the sum over the processes; the tensor itself where there is one."""
    if world_size() == 1:
        return value
    total = value.detach().clone()
    distributed.all_reduce(total)
    return total


def agreed(flags: Tensor) -> Tensor:
    """Return which flags are set in every process."""
    if world_size() == 1:
        return flags
    return summed(flags.to(torch.int32)) == world_size()


def labelled(observed: Tensor) -> list[bool]:
    """Return which tasks have an observed node in the batch of any process."""
    if world_size() == 1:
        return observed.any(dim=0).tolist()
    return (summed(observed.any(dim=0).to(torch.int32)) > 0).tolist()


def shares(observed: Tensor) -> Tensor | None:
    """Return the share of each task's observed nodes that lies here ``[T]``; None = all."""
    if world_size() == 1:
        return None
    here = observed.sum(dim=0).double()
    return here / summed(here).clamp(min=1)


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Add up the gradients of the processes, in one message; one that is missing counts as 0."""
    if world_size() == 1:
        return
    held = list(parameters)
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in held])
    distributed.all_reduce(flat)
    for parameter, piece in zip(held, flat.split([p.numel() for p in held]), strict=True):
        parameter.grad = piece.view_as(parameter).clone()
