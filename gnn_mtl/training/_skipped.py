"""What was left out of updates and evaluations because it was not finite."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

from gnn_mtl._core.errors import NonFiniteWarning, TrainingStoppedError

MAX_SKIPPED_IN_A_ROW = 10


@dataclass
class Skipped:
    """What was left out because it was not finite.

    Attributes:
        losses: Losses (or gradients) left out of updates, by task.
        updates: Updates left out.
        in_a_row: Those since the last one that was made.
        scores: Evaluations that a task was left out of, by task.
    """

    losses: dict[int, int] = field(default_factory=dict)
    updates: int = 0
    in_a_row: int = 0
    scores: dict[int, int] = field(default_factory=dict)

    def count_update(self, tasks: Sequence[int] = (), names: Sequence[str] | None = None) -> None:
        """Count an update that was left out; warn the first time, stop at the tenth in a row.

        Args:
            tasks: The tasks it was of.
            names: Names of all tasks.

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
                "The gradient of the shared parameters is not finite though every loss is"
                f"{f' (tasks {_named(tasks, names)})' if tasks else ''}. Such steps are left out "
                "and counted in the summary; lower --lr or give --train.grad-clip 1.",
                NonFiniteWarning,
                stacklevel=3,
            )

    def count(self, tasks: Sequence[int], names: Sequence[str] | None, what: str = "loss") -> None:
        """Count a skipped loss (gradient, score) of each task; warn when a task is new to it."""
        counts = self.scores if what == "score" else self.losses
        new = [task for task in tasks if task not in counts]
        for task in tasks:
            counts[task] = counts.get(task, 0) + 1
        if new:
            warnings.warn(
                f"The {what} of {len(new)} task(s) is not finite: {_named(new, names)}. They are "
                "left out while it lasts and counted in the summary; lower --lr or look at their "
                "features.",
                NonFiniteWarning,
                stacklevel=3,
            )


def _named(tasks: Sequence[int], names: Sequence[str] | None) -> list[str]:
    return [names[task] if names else str(task) for task in tasks[:8]]
