"""A fixed grouping, one group a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from gnn_mtl._core.errors import UsageError
from gnn_mtl.schedulers._base import SCALES, Scale, TaskScheduler
from gnn_mtl.schedulers._config import SchedulerConfig, check_choice
from gnn_mtl.schedulers._window import RefreshReport
from gnn_mtl.tasks import Grouping


class StaticScheduler(TaskScheduler):
    """Cycles through the groups of a grouping that never changes.

    Args:
        num_tasks: Number of tasks T.
        grouping: The groups; they may overlap.
        order: Indices into ``grouping.groups``, each once, in the order to schedule them; None =
            the order of the grouping, which is sorted.
        scale: See :class:`TaskScheduler`.
        reweight: See :class:`TaskScheduler`; matters for overlapping groups.

    Raises:
        UsageError: If the grouping is of another number of tasks, or ``order`` is not a
            permutation of its groups.
    """

    kind: ClassVar[str] = "static"

    def __init__(
        self,
        num_tasks: int,
        grouping: Grouping,
        *,
        order: Sequence[int] | None = None,
        scale: Scale = "sum",
        reweight: bool = False,
    ) -> None:
        super().__init__(num_tasks, scale=scale, reweight=reweight)
        if grouping.num_tasks != num_tasks:
            raise UsageError(
                f"The grouping should be of the {num_tasks} tasks of this schedule. "
                f"Found one of {grouping.num_tasks} tasks."
            )
        if order is not None and sorted(order) != list(range(len(grouping))):
            raise UsageError(
                f"`order` should hold each group index from 0 to {len(grouping) - 1} once. "
                f"Found {list(order)}."
            )
        self._grouping = grouping
        self._order = None if order is None else tuple(order)

    def _plan(self) -> RefreshReport:
        order = range(len(self._grouping)) if self._order is None else self._order
        return self._report(tuple(self._grouping.groups[index] for index in order), None)

    def _arguments(self) -> dict[str, object]:
        return {
            "grouping": self._grouping,
            "order": self._order,
            "scale": self._scale,
            "reweight": self._reweight,
        }


@dataclass(frozen=True, kw_only=True)
class Static(SchedulerConfig):
    """A fixed grouping, from a file or spelt out; one group a step."""

    kind: ClassVar[str] = "static"

    file: str | None = None
    """Grouping file (JSON) written by `gnn-mtl group` or `Grouping.save`."""

    groups: tuple[tuple[int, ...], ...] = ()
    """The groups themselves, instead of a file."""

    scale: Scale = "sum"
    """Factor of the active losses: 1, 1 / active tasks, or tasks / active tasks."""

    reweight: bool = False
    """Divide a label's loss by the number of groups it is in."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", tuple(tuple(group) for group in self.groups))
        check_choice("scale", self.scale, SCALES)
        if (self.file is None) == (not self.groups):
            raise UsageError("Give either `file` or `groups` for a static grouping.")

    def build(self, num_tasks: int, seed: int = 0) -> StaticScheduler:  # noqa: ARG002
        """Build the schedule; reads the file if there is one.

        Raises:
            FileNotFoundError: If there is no such file.
            FileFormatError: If the file is not a grouping.
            UsageError: If the grouping does not cover the tasks.
        """
        if self.file is not None:
            grouping = Grouping.load(self.file)
        else:
            grouping = Grouping.of(self.groups, num_tasks, "given")
        return StaticScheduler(num_tasks, grouping, scale=self.scale, reweight=self.reweight)
