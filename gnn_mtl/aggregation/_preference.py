"""Numbers that a user gives for every label of the graph."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gnn_mtl._core.errors import ShapeError, UsageError


def check_preference(preference: Sequence[float]) -> None:
    """Raise UsageError if a number is not positive and finite."""
    if not all(
        isinstance(value, int | float) and math.isfinite(value) and value > 0
        for value in preference
    ):
        raise UsageError(
            f"`preference` should hold positive numbers. Found {tuple(preference[:8])}."
        )


def by_task(name: str, given: Sequence[float], num_tasks: int, default: float = 1.0) -> Tensor:
    """Return ``given`` as float64 ``[T]``, or ``default`` for all tasks if it is empty.

    Raises:
        ShapeError: If it holds another number of values.
    """
    if given and len(given) != num_tasks:
        raise ShapeError(
            f"`{name}` should hold one number a task, {num_tasks}. Found {len(given)}."
        )
    return torch.tensor(given or [default] * num_tasks, dtype=torch.float64)
