"""A fixed grouping, one group a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from gnn_mtl._core.errors import UsageError
from gnn_mtl.schedulers._base import TaskScheduler
from gnn_mtl.schedulers._config import GroupOptions
from gnn_mtl.schedulers._window import RefreshReport
from gnn_mtl.tasks import Grouping


class StaticScheduler(TaskScheduler):
    """Cycles through the groups of a grouping that never changes.

    Args:
        num_tasks: Number of tasks T.
        grouping: The groups; they may overlap.
        order: Indices into ``grouping.groups``, each once, in the order to schedule them; None =
            the order of the grouping, which is sorted.
        seed: See :class:`TaskScheduler`.
        **group_options: ``scale``, ``reweight`` (matters for overlapping groups), ``use`` and
            ``outer_lr`` of :class:`TaskScheduler`.

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
        seed: int = 0,
        **group_options: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(num_tasks, seed=seed, **group_options)
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
            "seed": self._turns.seed,
            **self._group_arguments(),
        }


@dataclass(frozen=True, kw_only=True)
class Static(GroupOptions):
    """A fixed grouping, from a file or spelt out; one group a step."""

    kind: ClassVar[str] = "static"

    file: str | None = None
    """Grouping file (JSON) written by `gnn-mtl group` or `Grouping.save`."""

    groups: tuple[tuple[int, ...], ...] = ()
    """The groups themselves, instead of a file."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", tuple(tuple(group) for group in self.groups))
        super().__post_init__()
        if (self.file is None) == (not self.groups):
            raise UsageError("Give either `file` or `groups` for a static grouping.")

    def build(self, num_tasks: int, seed: int = 0) -> StaticScheduler:
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
        return StaticScheduler(num_tasks, grouping, seed=seed, **self.group_options())
