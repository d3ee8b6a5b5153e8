"""``TaskScheduler``: says which tasks are supervised at each step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from gnn_mtl._core.errors import UsageError
from gnn_mtl.affinity import ObservedGradients
from gnn_mtl.grouping import pair_jaccard
from gnn_mtl.schedulers._window import Groups, RefreshReport, Window
from gnn_mtl.tasks import Grouping

Scale = Literal["sum", "mean", "tasks_over_active"]
SCALES = ("sum", "mean", "tasks_over_active")


class TaskScheduler(ABC):
    """Which tasks are supervised at each step of a training.

    The schedule is a sequence of windows; inside one the active tasks cycle through its groups, one
    group a step. A new window is a refresh. Some need gradients first::

        if schedule.needs_probe():
            schedule.observe(task_gradients(..., tasks=schedule.needs_probe()))
        tasks = schedule.active_tasks()

    The schedule is a pure function of its arguments and of what was observed: no global random
    state, and :meth:`state_dict` taken between any two steps continues it exactly.

    Args:
        num_tasks: Number of tasks T.
        scale: What the active losses are multiplied by, next to reweighting: ``"sum"`` 1,
            ``"mean"`` 1 / active tasks, ``"tasks_over_active"`` T / active tasks (so that steps
            with few tasks move the shared parameters as far as joint ones).
        reweight: Divide the loss of a task by the number of groups of the window it is in, so that
            one cycle sums to every task once.

    Raises:
        UsageError: If ``num_tasks`` is below 1, or ``scale`` unknown.
    """

    kind: ClassVar[str]

    def __init__(self, num_tasks: int, *, scale: Scale = "sum", reweight: bool = False) -> None:
        if num_tasks < 1:
            raise UsageError(f"A schedule needs at least one task. Found {num_tasks}.")
        if scale not in SCALES:
            raise UsageError(f"`scale` should be one of {', '.join(SCALES)}. Found {scale!r}.")
        self._num_tasks = num_tasks
        self._scale = scale
        self._reweight = reweight
        self._step = 0
        self._last_active = [-1] * num_tasks
        self._window: Window | None = None
        self._reports: list[RefreshReport] = []

    @abstractmethod
    def _plan(self) -> RefreshReport | None:
        """Return the window that starts at the current step, or None if it needs a probe first.

        Changes nothing, so that :meth:`peek` may ask too.
        """

    @abstractmethod
    def _arguments(self) -> dict[str, object]:
        """Return the keyword arguments, next to ``num_tasks``, that build this schedule again."""

    @property
    def num_tasks(self) -> int:
        """Number of tasks T."""
        return self._num_tasks

    @property
    def step(self) -> int:
        """The step :meth:`active_tasks` answers for next; counted from 0."""
        return self._step

    def active_tasks(self, step: int | None = None) -> tuple[int, ...]:
        """Return the tasks supervised at the next step, and move the schedule one step forward.

        Args:
            step: The step asked for, as a check: it must be :attr:`step`.

        Returns:
            Sorted task ids.

        Raises:
            UsageError: If a probe is owed, or ``step`` is not the schedule's next.
        """
        self._check_step(step)
        if not self._is_open():
            plan = self._plan()
            if plan is None:
                raise UsageError(
                    f"A refresh is due at step {self._step} and needs gradients of the tasks in "
                    "needs_probe(). Call observe(gradients) first, then active_tasks()."
                )
            self._open(plan)
        assert self._window is not None  # noqa: S101 - set by _open
        tasks = self._window.tasks_at(self._step)
        for task in tasks:
            self._last_active[task] = self._step
        self._step += 1
        return tasks

    def peek(self, n: int) -> list[tuple[int, ...]]:
        """Return what the next calls of :meth:`active_tasks` will answer, changing nothing.

        Args:
            n: How many steps to look ahead.

        Returns:
            At most ``n`` tuples; fewer where the window ends before, none if a probe is owed.

        Raises:
            UsageError: If ``n`` is negative.
        """
        if n < 0:
            raise UsageError(f"`n` should be a number of steps. Found {n}.")
        window = self._window
        if not self._is_open():
            plan = self._plan()
            window = None if plan is None else _window_of(plan)
        if window is None:
            return []
        stop = self._step + n if window.stop is None else min(self._step + n, window.stop)
        return [window.tasks_at(step) for step in range(self._step, stop)]

    def needs_probe(self, step: int | None = None) -> tuple[int, ...]:
        """Return the tasks whose gradients :meth:`observe` wants before the next step.

        Empty except at a refresh of a schedule that depends on gradients.

        Raises:
            UsageError: If ``step`` is given and not the schedule's next.
        """
        self._check_step(step)
        if self._is_open() or self._plan() is not None:
            return ()
        return tuple(range(self._num_tasks))

    def observe(self, gradients: ObservedGradients) -> None:  # noqa: ARG002
        """Take in the gradients of the tasks in :meth:`needs_probe` and refresh the schedule.

        Raises:
            UsageError: If no probe is owed, or tasks are missing.
        """
        raise UsageError(
            f"{type(self).__name__} never needs gradients. Call observe() only while "
            "needs_probe() is not empty."
        )

    def task_weights(self) -> tuple[float, ...]:
        """Return what to multiply the losses of the last :meth:`active_tasks` by, in their order.

        All 1 unless ``scale`` or ``reweight`` says otherwise.

        Raises:
            UsageError: If no step of the current window was asked for yet.
        """
        window = self._window
        if window is None or not window.covers(self._step - 1):
            raise UsageError("Weights belong to the active tasks; call active_tasks() first.")
        tasks = window.tasks_at(self._step - 1)
        factor = {
            "sum": 1.0,
            "mean": 1.0 / len(tasks),
            "tasks_over_active": self._num_tasks / len(tasks),
        }[self._scale]
        if not self._reweight:
            return (factor,) * len(tasks)
        return tuple(factor / window.counts[task] for task in tasks)

    def pop_reports(self) -> list[RefreshReport]:
        """Return the reports of the refreshes since the last call, and forget them.

        A report still here at the next refresh loses its affinity, so that a loop that never asks
        holds no more than one matrix.
        """
        reports, self._reports = self._reports, []
        return reports

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state: JSON values, and tensors where gradients are averaged.

        Reports not yet popped are not part of it.
        """
        window = self._window
        return {
            "kind": self.kind,
            "num_tasks": self._num_tasks,
            "step": self._step,
            "last_active": list(self._last_active),
            "window": None
            if window is None
            else {
                "start": window.start,
                "stop": window.stop,
                "groups": [list(group) for group in window.groups],
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict` of a schedule built with the same arguments.

        Raises:
            UsageError: If the state is incomplete or of another kind of schedule.
        """
        self._check_state(state, "step", "last_active", "window")
        if len(state["last_active"]) != self._num_tasks:
            raise UsageError(f"`last_active` should hold {self._num_tasks} steps.")
        window = state["window"]
        if window is not None:
            Grouping.of(window["groups"], self._num_tasks)
        self._step = int(state["step"])
        self._last_active = [int(step) for step in state["last_active"]]
        self._window = (
            None
            if window is None
            else Window(
                int(window["start"]),
                None if window["stop"] is None else int(window["stop"]),
                tuple(tuple(int(task) for task in group) for group in window["groups"]),
            )
        )
        self._reports = []

    def __repr__(self) -> str:
        arguments = "".join(f", {name}={value!r}" for name, value in self._arguments().items())
        return f"{type(self).__name__}(num_tasks={self._num_tasks}{arguments})"

    def _report(self, groups: Groups, num_steps: int | None, **findings: Any) -> RefreshReport:  # noqa: ANN401
        """Return the report of a window of ``num_steps`` steps from now on."""
        waits = [self._step - 1 - last for last in self._last_active]
        previous = None if self._window is None else self._window.groups
        return RefreshReport(
            step=self._step,
            num_steps=num_steps,
            groups=groups,
            churn=None if previous is None else 1.0 - pair_jaccard(previous, groups),
            max_wait=max(waits),
            mean_wait=sum(waits) / len(waits),
            **findings,
        )

    def _open(self, report: RefreshReport) -> None:
        """Start the window that ``report`` describes."""
        self._window = _window_of(report)
        self._reports = [*(replace(old, affinity=None) for old in self._reports), report]

    def _is_open(self) -> bool:
        return self._window is not None and self._window.covers(self._step)

    def _check_state(self, state: Mapping[str, Any], *keys: str) -> None:
        """Raise UsageError unless ``state`` is of this schedule and has ``keys``."""
        found = (state.get("kind"), state.get("num_tasks"))
        if found != (self.kind, self._num_tasks):
            raise UsageError(
                f"Expected the state of a {self.kind!r} schedule of {self._num_tasks} tasks. "
                f"Found {found[0]!r} of {found[1]} tasks."
            )
        if missing := sorted(set(keys) - state.keys()):
            raise UsageError(
                f"The state of {type(self).__name__} should hold {missing}; it does not. "
                "Load what state_dict() returned."
            )

    def _check_step(self, step: int | None) -> None:
        if step is not None and step != self._step:
            raise UsageError(
                f"The schedule is at step {self._step}. Found step {step}; call active_tasks() "
                "once a step, in order (peek() looks ahead), or load the state of that step."
            )


def _window_of(report: RefreshReport) -> Window:
    stop = None if report.num_steps is None else report.step + report.num_steps
    return Window(report.step, stop, report.groups)
