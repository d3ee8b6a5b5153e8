"""Pieces of the shared parameters: the columns of a Jacobian, and how few fit into memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Part:
    """Rows ``start:stop`` of a parameter along its first dimension (its output units)."""

    parameter: Tensor
    start: int
    stop: int

    @property
    def width(self) -> int:
        """Number of columns."""
        return (self.stop - self.start) * (self.parameter.numel() // units(self.parameter))

    def of(self, gradient: Tensor) -> Tensor:
        """Return the piece of gradients ``[S, *parameter.shape]`` as ``[S, width]``."""
        rows = gradient.reshape(len(gradient), units(self.parameter), -1)
        return rows[:, self.start : self.stop].flatten(1)


def units(parameter: Tensor) -> int:
    """Length of the first dimension; 1 for a scalar or an empty parameter."""
    return max(1, len(parameter)) if parameter.dim() else 1


def whole(parameters: Iterable[Tensor]) -> list[Part]:
    """Return one part per trainable parameter."""
    return [Part(p, 0, units(p)) for p in parameters if p.requires_grad]


def split(parameters: Iterable[Tensor], max_width: int) -> list[list[Part]]:
    """Cut the trainable parameters into groups of at most ``max_width`` columns.

    A group holds at least one unit, however wide that is.
    """
    groups: list[list[Part]] = [[]]
    room = max_width
    for parameter in (p for p in parameters if p.requires_grad):
        each = max(1, parameter.numel() // units(parameter))
        start = 0
        while start < units(parameter):
            take = min(units(parameter) - start, room // each)
            if take <= 0 and groups[-1]:
                groups.append([])
                room = max_width
                continue
            take = max(take, 1)
            groups[-1].append(Part(parameter, start, start + take))
            start += take
            room -= take * each
    return [group for group in groups if group]


def columns(parts: Sequence[Part], gradients: Sequence[Tensor | None], rows: int) -> Tensor:
    """Concatenate the parts' pieces of gradients ``[rows, *shape]`` (None: no dependence)."""
    pieces = []
    for part, gradient in zip(parts, gradients, strict=True):
        if gradient is None:
            pieces.append(part.parameter.new_zeros((rows, part.width)))
        else:
            pieces.append(part.of(gradient))
    return torch.cat(pieces, dim=1).detach()
