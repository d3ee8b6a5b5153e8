"""``TaskScheduler``: says which tasks are supervised at each step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import UsageError
from gnn_mtl.affinity import ObservedGradients
from gnn_mtl.grouping import pair_jaccard
from gnn_mtl.schedulers._group_use import GroupUse, Scale, Turns, Update, check_losses
from gnn_mtl.schedulers._place import KEYS, Place
from gnn_mtl.schedulers._window import Groups, RefreshReport


class TaskScheduler(ABC):
    """Which tasks are supervised at each step of a training; a step is one batch.

    The schedule is a sequence of windows; inside one the active tasks cycle through its groups, one
    group a step. A new window is a refresh. Some need gradients first::

        if schedule.needs_probe():
            schedule.observe(task_gradients(..., tasks=schedule.needs_probe()))
        tasks = schedule.active_tasks()

    The schedule is a pure function of its arguments and of what was observed: no global random
    state, and :meth:`state_dict` taken between any two steps continues it exactly.

    Args:
        num_tasks: Number of tasks T.
        scale: What the losses of an update are multiplied by, next to reweighting: ``"sum"`` 1,
            ``"mean"`` 1 / active tasks, ``"tasks_over_active"`` T / active tasks (so that steps
            with few tasks move the shared parameters as far as joint ones).
        reweight: Divide the loss of a task by the number of groups of the window it is in, so that
            one cycle sums to every task once.
        use: What is done with the groups. ``"one_group_per_batch"``: they take turns.
            ``"all_groups_per_batch"``: every batch, each group in turn makes an update of its own,
            in random order (:meth:`updates`). ``"group_weights"``: all tasks in one update; those
            of a group share a weight (:class:`GroupWeights`). ``"inner_outer"``: they take turns in
            an order drawn anew for each cycle, and each cycle ends by moving the shared parameters
            back towards where it began (Sequential Reptile on groups; :attr:`outer_lr`).
        outer_lr: Share of a cycle's way that ``"inner_outer"`` keeps, in (0, 1].
        seed: Seed of the random orders of ``use``.

    Raises:
        UsageError: If ``num_tasks`` is below 1, or an option is unknown or out of range.
    """

    kind: ClassVar[str]

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
        if num_tasks < 1:
            raise UsageError(f"A schedule needs at least one task. Found {num_tasks}.")
        self._num_tasks = num_tasks
        self._turns = Turns(
            num_tasks, scale=scale, reweight=reweight, use=use, outer_lr=outer_lr, seed=seed
        )
        self._at = Place(num_tasks)
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
        return self._at.step

    @property
    def use(self) -> GroupUse:
        """What is done with the groups of a window."""
        return self._turns.use

    @property
    def groups(self) -> Groups:
        """The groups of the current window that make updates of their own; none before it opens."""
        window = self._at.window
        if window is None:
            return ()
        if self._turns.use == "group_weights":
            return (self._turns.group_at(window, 0),)
        return window.groups

    @property
    def outer_lr(self) -> float | None:
        """The share of a cycle's way that is kept, or None where there is no outer step."""
        return self._turns.outer_lr if self._turns.use == "inner_outer" else None

    @property
    def begins_cycle(self) -> bool:
        """Whether the last :meth:`active_tasks` began a cycle: the time of an outer step."""
        return self._at.begins_cycle

    @property
    def needs_losses(self) -> bool:
        """Whether :meth:`observe_losses` wants every task's loss before each update."""
        return self._turns.weights is not None

    @property
    def needs_last_losses(self) -> bool:
        """Whether it also wants the losses after the last update (one forward pass more)."""
        return False

    @property
    def observes_active(self) -> bool:
        """Whether :attr:`needs_active_gradients` may ever hold."""
        return False

    @property
    def needs_active_gradients(self) -> bool:
        """Whether :meth:`observe_active` wants the gradients of the active tasks at this step."""
        return False

    def active_tasks(
        self, step: int | None = None, *, available: Collection[int] | None = None
    ) -> tuple[int, ...]:
        """Return the tasks supervised at the next step, and move the schedule one step forward.

        Args:
            step: The step asked for, as a check: it must be :attr:`step`.
            available: The tasks with a label in the batch at hand. A group with none of them is
                advanced past and loses this turn; where that holds for all, the first is kept.
                None = all tasks.

        Returns:
            Sorted task ids. Those without a label are among them where others of the group have
            one.

        Raises:
            UsageError: If a probe is owed, or ``step`` is not the schedule's next.
        """
        self._check_step(step)
        if not self._at.is_open:
            plan = self._plan()
            if plan is None:
                raise UsageError(
                    f"A refresh is due at step {self.step} and needs gradients of the tasks in "
                    "needs_probe(). Call observe(gradients) first, then active_tasks()."
                )
            self._open(plan)
        return self._at.advance(self._turns, available)

    def peek(self, n: int) -> list[tuple[int, ...]]:
        """Return what the next calls of :meth:`active_tasks` will answer, changing nothing.

        For loops that prepare data ahead, e.g. draw seeds labelled for the coming groups. ``fit``
        does not use it: the labels of a batch of 1,024 seeds are gathered in 0.1 ms (112 tasks) or
        0.3 ms (500) of the batch's 21 ms, those of a quarter of the tasks in no less, and every
        label is needed to advance past groups without one.

        Args:
            n: How many steps to look ahead.

        Returns:
            At most ``n`` tuples; fewer where the window ends before, none if a probe is owed. Holds
            as long as every batch has labels for its group.

        Raises:
            UsageError: If ``n`` is negative.
        """
        if n < 0:
            raise UsageError(f"`n` should be a number of steps. Found {n}.")
        plan = None if self._at.is_open else self._plan()
        return self._at.peek(self._turns, n, None if plan is None else plan.window())

    def updates(self) -> tuple[Update, ...]:
        """Return the updates of the last :meth:`active_tasks`, to be made one after the other.

        One, unless the schedule uses all groups on every batch. A group without an available task
        makes none.

        Raises:
            UsageError: If no step of the current window was asked for yet.
        """
        if not self._at.updates:
            raise UsageError(
                "Updates and weights belong to the active tasks; call active_tasks() first."
            )
        return self._at.updates

    def task_weights(self) -> tuple[float, ...]:
        """Return what to multiply the losses of the last :meth:`active_tasks` by, in their order.

        All 1 unless ``scale``, ``reweight`` or ``use`` says otherwise; summed over the updates
        where a step makes several.

        Raises:
            UsageError: If no step of the current window was asked for yet.
        """
        total: dict[int, float] = {}
        for update in self.updates():
            for task, weight in zip(update.tasks, update.weights, strict=True):
                total[task] = total.get(task, 0.0) + weight
        return tuple(total[task] for task in sorted(total))

    def needs_probe(self, step: int | None = None) -> tuple[int, ...]:
        """Return the tasks whose gradients :meth:`observe` wants before the next step.

        Empty except at a refresh of a schedule that depends on gradients.

        Raises:
            UsageError: If ``step`` is given and not the schedule's next.
        """
        self._check_step(step)
        if self._at.is_open or self._plan() is not None:
            return ()
        return tuple(range(self._num_tasks))

    def observe(self, gradients: ObservedGradients) -> None:  # noqa: ARG002
        """Take in the gradients of the tasks in :meth:`needs_probe` and refresh the schedule.

        Raises:
            UsageError: If no probe is owed, or tasks are missing.
        """
        raise UsageError(
            f"{type(self).__name__} never needs gradients. Call observe() only while needs_probe() "
            "is not empty."
        )

    def observe_active(self, gradients: ObservedGradients) -> None:  # noqa: ARG002
        """Take in gradients of the last active tasks, if :attr:`needs_active_gradients`.

        Args:
            gradients: Unweighted rows of any of them, on their batch, before the update.

        Raises:
            UsageError: If none are wanted, or of a task that is not active.
        """
        raise UsageError(
            f"{type(self).__name__} with these options never needs gradients of active tasks. "
            "Call observe_active() only where needs_active_gradients says so."
        )

    def observe_losses(self, losses: NDArray[np.float64]) -> None:
        """Take in the losses of all tasks around the last updates, if :attr:`needs_losses`.

        Args:
            losses: ``[U, T]`` before each of the U updates, or ``[U + 1, T]`` with those after the
                last; on the same batch with the same randomness, NaN where a task has no label.

        Raises:
            UsageError: If no losses are wanted.
            ShapeError: If the shape is another.
        """
        if not self.needs_losses:
            raise UsageError(f"{type(self).__name__} with these options never needs losses.")
        check_losses(losses, len(self.updates()), self._num_tasks)
        if self._turns.weights is not None:
            self._turns.weights.observe(losses[0])

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
        weights = self._turns.weights
        return {
            "kind": self.kind,
            "num_tasks": self._num_tasks,
            **self._at.state_dict(),
            "group_weights": None if weights is None else weights.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict` of a schedule built with the same arguments.

        Raises:
            UsageError: If the state is incomplete or of another kind of schedule.
        """
        self._check_state(state, *KEYS, "group_weights")
        at = Place.of_state(state, self._num_tasks)
        if (self._turns.weights is None) != (state["group_weights"] is None):
            raise UsageError("The state is of a schedule with another `use` of its groups.")
        if self._turns.weights is not None:
            self._turns.weights.load_state_dict(state["group_weights"])
        self._at = at
        self._reports = []

    def __repr__(self) -> str:
        arguments = "".join(f", {name}={value!r}" for name, value in self._arguments().items())
        return f"{type(self).__name__}(num_tasks={self._num_tasks}{arguments})"

    def _group_arguments(self) -> dict[str, object]:
        """Return the arguments every schedule of groups has."""
        return {
            "scale": self._turns.scale,
            "reweight": self._turns.reweight,
            "use": self._turns.use,
            "outer_lr": self._turns.outer_lr,
        }

    def _report(self, groups: Groups, num_steps: int | None, **findings: Any) -> RefreshReport:  # noqa: ANN401
        """Return the report of a window of ``num_steps`` steps from now on."""
        waits = self._at.waits
        return RefreshReport(
            step=self.step,
            num_steps=num_steps,
            groups=groups,
            churn=self._churn(groups),
            max_wait=max(waits),
            mean_wait=sum(waits) / len(waits),
            **findings,
        )

    def _churn(self, groups: Groups) -> float | None:
        """Return how much of the window before has changed; None if there is none."""
        window = self._at.window
        return None if window is None else 1.0 - pair_jaccard(window.groups, groups)

    def _open(self, report: RefreshReport) -> None:
        """Start the window that ``report`` describes."""
        self._at.open(report.window())
        self._reports = [*(replace(old, affinity=None) for old in self._reports), report]

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
        if step is not None and step != self.step:
            raise UsageError(
                f"The schedule is at step {self.step}. Found step {step}; call active_tasks() "
                "once a step, in order (peek() looks ahead), or load the state of that step."
            )
