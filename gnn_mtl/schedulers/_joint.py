"""Joint training: every task at every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gnn_mtl.schedulers._base import TaskScheduler
from gnn_mtl.schedulers._config import SchedulerConfig, check_choice
from gnn_mtl.schedulers._group_use import SCALES, Scale
from gnn_mtl.schedulers._window import RefreshReport


class JointScheduler(TaskScheduler):
    """Every task is active at every step: plain multi-task training, the first baseline.

    Args:
        num_tasks: Number of tasks T.
        scale: See :class:`TaskScheduler`.
    """

    kind: ClassVar[str] = "joint"

    def __init__(self, num_tasks: int, *, scale: Scale = "sum") -> None:
        super().__init__(num_tasks, scale=scale)

    def _plan(self) -> RefreshReport:
        return self._report((tuple(range(self._num_tasks)),), None)

    def _arguments(self) -> dict[str, object]:
        return {"scale": self._turns.scale}


@dataclass(frozen=True, kw_only=True)
class Joint(SchedulerConfig):
    """All labels at every step."""

    kind: ClassVar[str] = "joint"

    scale: Scale = "sum"
    """Factor of the active losses: 1, 1 / active tasks, or tasks / active tasks."""

    def __post_init__(self) -> None:
        check_choice("scale", self.scale, SCALES)

    def build(self, num_tasks: int, seed: int = 0) -> JointScheduler:  # noqa: ARG002
        """Build the schedule; it has no randomness."""
        return JointScheduler(num_tasks, scale=self.scale)
