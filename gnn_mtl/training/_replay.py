"""Several forward passes on one batch that differ in the weights alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from gnn_mtl.nn import LabelModel


class Replay:
    """Gives several forward passes the same random numbers, and buffers that move once."""

    def __init__(self, model: LabelModel) -> None:
        self.model = model
        self.buffers = list(model.buffers())
        parameter = next(model.parameters())
        self.device = parameter.device if parameter.device.type == "cuda" else None
        self.before = self._random_state()
        self.after: list[Tensor] | None = None
        self.moved: list[Tensor] = []

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Replay the random numbers of the first forward pass in the block."""
        self._set_random_state(self.before)
        yield
        if self.after is None:
            self.after = self._random_state()
            self.moved = [buffer.detach().clone() for buffer in self.buffers]

    def put_buffers_back(self) -> None:
        """Set the buffers to what the first forward pass left; only after the backward pass."""
        with torch.no_grad():
            for buffer, value in zip(self.buffers, self.moved, strict=True):
                buffer.copy_(value)

    def finish(self) -> None:
        """Leave buffers and random state as one forward pass does."""
        self.put_buffers_back()
        if self.after is not None:
            self._set_random_state(self.after)

    def _random_state(self) -> list[Tensor]:
        state = [torch.get_rng_state()]
        if self.device is not None:
            state.append(torch.cuda.get_rng_state(self.device))
        return state

    def _set_random_state(self, state: list[Tensor]) -> None:
        torch.set_rng_state(state[0])
        if self.device is not None:
            torch.cuda.set_rng_state(state[1], self.device)
