"""What is done with the groups of a window: how many of them learn from one batch, and how."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl._core.seeding import generator
from gnn_mtl.schedulers._group_weights import GroupWeights
from gnn_mtl.schedulers._window import Window

GroupUse = Literal["one_group_per_batch", "all_groups_per_batch", "group_weights", "inner_outer"]
USES = get_args(GroupUse)
Scale = Literal["sum", "mean", "tasks_over_active"]
SCALES = get_args(Scale)


@dataclass(frozen=True)
class Update:
    """One update of the parameters: the tasks whose losses are summed, and their weights."""

    tasks: tuple[int, ...]
    weights: tuple[float, ...]


class Turns:
    """Says which updates a step of a window makes.

    Args:
        num_tasks: Number of tasks T.
        scale: See :class:`TaskScheduler`.
        reweight: See :class:`TaskScheduler`.
        use: See :class:`TaskScheduler`.
        outer_lr: See :class:`TaskScheduler`.
        seed: Seed of the random orders.

    Raises:
        UsageError: If an option is unknown or out of range.
    """

    def __init__(
        self,
        num_tasks: int,
        *,
        scale: Scale = "sum",
        reweight: bool = False,
        use: GroupUse = "one_group_per_batch",
        outer_lr: float = 0.5,
        seed: int = 0,
    ) -> None:
        check_group_options(scale, use, outer_lr)
        self.num_tasks = num_tasks
        self.scale: Scale = scale
        self.reweight = reweight
        self.use: GroupUse = use
        self.outer_lr = outer_lr
        self.seed = seed
        self.weights = GroupWeights(num_tasks) if use == "group_weights" else None

    @property
    def one_by_one(self) -> bool:
        """Whether one group is active a step."""
        return self.use in ("one_group_per_batch", "inner_outer")

    def length(self, period: int, num_groups: int) -> int:
        """Return the steps of a window: every group has its turn before groups change."""
        return max(period, num_groups) if self.one_by_one else period

    def group_at(self, window: Window, slot: int) -> tuple[int, ...]:
        """Return the tasks that are active at a slot of the window."""
        if not self.one_by_one:
            return tuple(sorted(window.counts))
        cycle, place = divmod(slot, len(window.groups))
        if self.use == "inner_outer":
            order = generator(self.seed, "cycle", window.start, cycle)
            place = int(order.permutation(len(window.groups))[place])
        return window.groups[place]

    def next_slot(self, window: Window, slot: int, available: Collection[int] | None) -> int:
        """Return the first slot from ``slot`` on with an available task, or ``slot`` itself."""
        if available is None or not self.one_by_one:
            return slot
        has_label = set(available)
        ahead = range(slot, slot + 2 * len(window.groups))  # a reordered cycle may hold it last
        return next((s for s in ahead if not has_label.isdisjoint(self.group_at(window, s))), slot)

    def updates_at(
        self, window: Window, slot: int, step: int, available: Collection[int] | None
    ) -> tuple[Update, ...]:
        """Return the updates of a slot, one after the other."""
        if self.use != "all_groups_per_batch":
            return (self._update(window, self.group_at(window, slot)),)
        order = generator(self.seed, "batch", step).permutation(len(window.groups))
        groups = [window.groups[place] for place in order]
        if available is not None:
            has_label = set(available)
            groups = [group for group in groups if not has_label.isdisjoint(group)] or groups
        return tuple(self._update(window, group) for group in groups)

    def _update(self, window: Window, tasks: tuple[int, ...]) -> Update:
        factor = 1.0
        if self.scale != "sum":
            factor = (1.0 if self.scale == "mean" else self.num_tasks) / len(tasks)
        if self.weights is not None:
            shared = self.weights.of(window.groups)
            return Update(tasks, tuple(factor * shared[task] for task in tasks))
        if self.reweight:
            return Update(tasks, tuple(factor / window.counts[task] for task in tasks))
        return Update(tasks, (factor,) * len(tasks))


def check_group_options(scale: str, use: str, outer_lr: float) -> None:
    """Raise UsageError if an option every schedule of groups has is unknown or out of range."""
    for name, value, known in (("scale", scale, SCALES), ("use", use, USES)):
        if value not in known:
            raise UsageError(f"`{name}` should be one of {', '.join(known)}. Found {value!r}.")
    if not 0.0 < outer_lr <= 1.0:
        raise UsageError(f"`outer_lr` should lie in (0, 1]. Found {outer_lr}.")


def check_losses(losses: NDArray[np.float64], num_updates: int, num_tasks: int) -> None:
    """Raise ShapeError unless ``losses`` are those before, or around, that many updates."""
    if losses.ndim != 2 or losses.shape not in {
        (num_updates, num_tasks),
        (num_updates + 1, num_tasks),
    }:
        raise ShapeError(
            f"`losses` should have shape [{num_updates} or {num_updates + 1}, {num_tasks}]. "
            f"Found {losses.shape}."
        )
