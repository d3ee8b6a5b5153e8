"""How the tolerance tau falls from its warm-up value to its target."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from gnn_mtl._core.errors import UsageError
from gnn_mtl.schedulers._config import check_choice

TauKind = Literal["constant", "log", "linear", "cosine"]
TAU_KINDS = ("constant", "log", "linear", "cosine")


@dataclass(frozen=True, kw_only=True)
class TauSchedule:
    r"""The tolerance at each step; only its values at refreshes matter (SON-GOKU §4.4).

    :math:`\tau_0` for ``warmup_steps``, then towards :math:`\tau^*` over ``anneal_steps``; with
    :math:`p \in [0, 1]` the share of those steps done:

    - ``constant``: :math:`\tau^*` at once;
    - ``log``: :math:`\tau_0 (\tau^* / \tau_0)^p`, the paper's, needs both above 0;
    - ``linear``: :math:`\tau_0 + (\tau^* - \tau_0) p`;
    - ``cosine``: :math:`\tau_0 + (\tau^* - \tau_0)(1 - \cos \pi p) / 2`.

    Attributes:
        kind: Shape of the way to the target.
        initial: Warm-up value :math:`\tau_0`; 1 = no edge, joint training.
        target: Final value :math:`\tau^*`.
        warmup_steps: Steps at the initial value.
        anneal_steps: Steps from there to the target; 0 = jump.

    Raises:
        UsageError: If a value is out of range, ``log`` is asked for with a value that is not
            positive, or ``constant`` with steps to anneal over.
    """

    kind: TauKind = "constant"
    initial: float = 1.0
    target: float = 0.25
    warmup_steps: int = 0
    anneal_steps: int = 0

    def __post_init__(self) -> None:
        check_choice("tau_schedule", self.kind, TAU_KINDS)
        for name, value in (("tau", self.target), ("tau_initial", self.initial)):
            if not -1.0 <= value <= 1.0:
                raise UsageError(f"`{name}` should lie in [-1, 1]. Found {value}.")
        for name, steps in (
            ("warmup_steps", self.warmup_steps),
            ("anneal_steps", self.anneal_steps),
        ):
            if steps < 0:
                raise UsageError(f"`{name}` should be 0 or more. Found {steps}.")
        if self.kind == "log" and min(self.target, self.initial) <= 0:
            raise UsageError(
                "A log schedule multiplies tau by a constant factor, so `tau` and `tau_initial` "
                f"should be above 0. Found {self.target} and {self.initial}; "
                'use tau_schedule="linear".'
            )
        if self.kind == "constant" and self.anneal_steps:
            raise UsageError(
                f"A constant schedule does not anneal. Found anneal_steps={self.anneal_steps}; "
                'use tau_schedule="log" (or "linear", "cosine").'
            )

    def at(self, step: int) -> float:
        """Return tau at ``step``."""
        if step < self.warmup_steps:
            return self.initial
        if self.is_settled(step):
            return self.target
        p = (step - self.warmup_steps) / self.anneal_steps
        if self.kind == "log":
            return self.initial * (self.target / self.initial) ** p
        if self.kind == "cosine":
            p = (1.0 - math.cos(math.pi * p)) / 2.0
        return self.initial + (self.target - self.initial) * p

    def is_settled(self, step: int) -> bool:
        """Return whether tau has reached its target by ``step``."""
        return step >= self.warmup_steps + self.anneal_steps
