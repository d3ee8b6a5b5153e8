"""The outer step of Reptile: move back towards where a cycle of updates began."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class OuterStep:
    r"""Keeps where the shared parameters stood when a cycle began.

    At the end of a cycle :math:`\phi \leftarrow \phi_0 + \eta\,(\phi - \phi_0)`. To second order in
    the inner rate that raises the inner products of the gradients of the cycle's groups
    (Sequential Reptile, Lee et al., ICLR 2022); heads are not moved back.

    Args:
        parameters: The shared parameters.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.start: list[Tensor] | None = None

    @torch.no_grad()
    def begin_cycle(self, outer_lr: float) -> None:
        """End the cycle that runs, if any, with a step of ``outer_lr``, and begin one here."""
        if self.start is not None:
            for parameter, start in zip(self.parameters, self.start, strict=True):
                if outer_lr < 1.0:
                    parameter.copy_(torch.lerp(start, parameter, outer_lr))
        self.start = [parameter.detach().clone() for parameter in self.parameters]

    def state_dict(self) -> dict[str, Tensor]:
        """Return where the cycle began as a flat mapping of tensors; empty before the first."""
        return {str(index): tensor for index, tensor in enumerate(self.start or [])}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.start = None
        if state:
            self.start = [
                state[str(index)].to(parameter, copy=True)
                for index, parameter in enumerate(self.parameters)
            ]
