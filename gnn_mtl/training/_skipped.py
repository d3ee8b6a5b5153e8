"""What was left out of the updates because it was not finite."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

from gnn_mtl._core.errors import NonFiniteWarning, TrainingStoppedError

MAX_SKIPPED_IN_A_ROW = 10


@dataclass
class Skipped:
    """What was left out of the updates because it was not finite, by task."""

    losses: dict[int, int] = field(default_factory=dict)
    updates: int = 0
    in_a_row: int = 0

    def count_update(self) -> None:
        """Count an update that was left out; warn the first time, stop at the tenth in a row.

        Raises:
            TrainingStoppedError: If ten updates in a row were not finite.
        """
        self.updates += 1
        self.in_a_row += 1
        if self.in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise TrainingStoppedError(
                f"Expected finite gradients. Found {self.in_a_row} steps in a row without one: "
                "training diverged. Lower --lr, or set --train.grad-clip 1."
            )
        if self.updates == 1:
            warnings.warn(
                "The gradient of the shared parameters is not finite though every loss is. Such "
                "updates are left out and counted in the summary; lower --lr or set "
                "--train.grad-clip 1.",
                NonFiniteWarning,
                stacklevel=3,
            )

    def count(self, tasks: Sequence[int], names: Sequence[str] | None, what: str = "loss") -> None:
        """Count a skipped loss (or gradient) of each task; warn the first time a task is met."""
        new = [task for task in tasks if task not in self.losses]
        for task in tasks:
            self.losses[task] = self.losses.get(task, 0) + 1
        if new:
            shown = [names[task] if names else str(task) for task in new[:8]]
            warnings.warn(
                f"The {what} of {len(new)} task(s) is not finite: {shown}. They are left out while "
                "it lasts and counted in the summary; lower --lr or look at their features.",
                NonFiniteWarning,
                stacklevel=3,
            )
