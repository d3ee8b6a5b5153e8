"""Single-task training as a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gnn_mtl._core.errors import UsageError
from gnn_mtl._core.seeding import generator
from gnn_mtl.schedulers._base import TaskScheduler
from gnn_mtl.schedulers._config import SchedulerConfig


@dataclass(frozen=True, kw_only=True)
class Single(SchedulerConfig):
    """One model a label: nothing is shared, so nothing is scheduled.

    A run of this kind trains several models, which no schedule of one model can express; it is a
    configuration like the others so that recipes and tables can name it. Each of its models is
    trained jointly on its only task.
    """

    kind: ClassVar[str] = "single"

    tasks: tuple[int, ...] = ()
    """Labels to train a model for; none = all of them, or a sample of `num_sampled`."""

    num_sampled: int | None = None
    """Train models for this many labels, drawn by the seed, where all would take too long."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tuple(sorted(set(self.tasks))))
        if self.tasks and self.num_sampled is not None:
            raise UsageError("Give either `tasks` or `num_sampled` for single-task models.")
        if self.num_sampled is not None and self.num_sampled < 1:
            raise UsageError(f"`num_sampled` should be at least 1. Found {self.num_sampled}.")

    def chosen_tasks(self, num_tasks: int, seed: int = 0) -> tuple[int, ...]:
        """Return the labels to train a model for, sorted.

        Raises:
            UsageError: If a label is outside ``[0, num_tasks)``.
        """
        if self.tasks:
            if not 0 <= self.tasks[0] <= self.tasks[-1] < num_tasks:
                raise UsageError(f"`tasks` should lie in [0, {num_tasks}). Found {self.tasks}.")
            return self.tasks
        if self.num_sampled is None or self.num_sampled >= num_tasks:
            return tuple(range(num_tasks))
        drawn = generator(seed, "single_tasks").permutation(num_tasks)[: self.num_sampled]
        return tuple(sorted(drawn.tolist()))

    def build(self, num_tasks: int, seed: int = 0) -> TaskScheduler:  # noqa: ARG002
        """Raise: one model a label is a set of runs, not a schedule of one.

        Raises:
            UsageError: Always.
        """
        raise UsageError(
            'A "single" run trains one model a label and has no task scheduler. Train it as a run '
            "(`gnn-mtl train --scheduler.kind single`), or loop over chosen_tasks() yourself."
        )
