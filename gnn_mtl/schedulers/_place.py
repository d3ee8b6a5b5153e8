"""Where a schedule stands: its step, its window and the place in it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from gnn_mtl._core.errors import UsageError
from gnn_mtl.schedulers._group_use import Turns, Update
from gnn_mtl.schedulers._window import Window
from gnn_mtl.tasks import Grouping

KEYS = ("step", "slot", "begins_cycle", "updates", "last_active", "window")


class Place:
    """Moves through one window after the other, a step at a time.

    Args:
        num_tasks: Number of tasks T.

    Attributes:
        step: The step that comes next; counted from 0.
        window: The window of the last step, or the one just opened; None before the first.
        updates: Updates of the last step; none where the window has just been opened.
        begins_cycle: Whether the last step began a cycle through the groups.
        last_active: Step at which each task was last active, -1 = never.
    """

    def __init__(self, num_tasks: int) -> None:
        self.step = 0
        self.window: Window | None = None
        self.updates: tuple[Update, ...] = ()
        self.begins_cycle = False
        self.last_active = [-1] * num_tasks
        self._slot = -1  # of the window, that was active last

    @property
    def is_open(self) -> bool:
        """Whether the window goes on at the next step."""
        return self.window is not None and self.window.covers(self.step)

    @property
    def waits(self) -> list[int]:
        """Steps since each task was last active; 0 = active just before."""
        return [self.step - 1 - last for last in self.last_active]

    def open(self, window: Window) -> None:
        """Stand at the beginning of a window."""
        self.window = window
        self._slot, self.updates = -1, ()

    def advance(self, turns: Turns, available: Collection[int] | None) -> tuple[int, ...]:
        """Make one step through the open window and return its active tasks, sorted."""
        window = self.window
        assert window is not None  # noqa: S101 - a schedule opens one first
        slot = turns.next_slot(window, self._slot + 1, available)
        self.begins_cycle = slot // len(window.groups) != self._slot // len(window.groups)
        self.updates = turns.updates_at(window, slot, self.step, available)
        self._slot = slot
        tasks = tuple(sorted({task for update in self.updates for task in update.tasks}))
        for task in tasks:
            self.last_active[task] = self.step
        self.step += 1
        return tasks

    def peek(self, turns: Turns, n: int, planned: Window | None) -> list[tuple[int, ...]]:
        """Return the active tasks of at most the next ``n`` steps, to the end of the window.

        Args:
            turns: Says whose turn it is.
            n: How many steps.
            planned: The window that opens now, where none is open.
        """
        window, slot = (self.window, self._slot + 1) if self.is_open else (planned, 0)
        if window is None:
            return []
        stop = self.step + n if window.stop is None else min(self.step + n, window.stop)
        return [turns.group_at(window, slot + n) for n in range(stop - self.step)]

    def state_dict(self) -> dict[str, Any]:
        """Return the place as JSON values."""
        return {
            "step": self.step,
            "slot": self._slot,
            "begins_cycle": self.begins_cycle,
            "updates": [[list(u.tasks), list(u.weights)] for u in self.updates],
            "last_active": list(self.last_active),
            "window": None if self.window is None else self.window.to_dict(),
        }

    @classmethod
    def of_state(cls, state: Mapping[str, Any], num_tasks: int) -> Place:
        """Build what :meth:`state_dict` returned.

        Raises:
            UsageError: If it is of another number of tasks.
        """
        if len(state["last_active"]) != num_tasks:
            raise UsageError(f"`last_active` should hold {num_tasks} steps.")
        place = cls(num_tasks)
        if state["window"] is not None:
            Grouping.of(state["window"]["groups"], num_tasks)
            place.window = Window.from_dict(state["window"])
        place.step, place._slot = int(state["step"]), int(state["slot"])
        place.begins_cycle = bool(state["begins_cycle"])
        place.updates = tuple(
            Update(tuple(map(int, tasks)), tuple(map(float, weights)))
            for tasks, weights in state["updates"]
        )
        place.last_active = [int(step) for step in state["last_active"]]
        return place
