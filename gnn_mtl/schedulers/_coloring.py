"""``ColoringScheduler``: SON-GOKU, one colour class of the conflict graph a step."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from gnn_mtl._core.errors import CoverageWarning, EmptyConflictGraphWarning, UsageError
from gnn_mtl._core.seeding import derive_seed
from gnn_mtl.affinity import ObservedGradients
from gnn_mtl.grouping import in_group_conflict, moved_tasks
from gnn_mtl.schedulers._base import TaskScheduler
from gnn_mtl.schedulers._classes import Classes, make_classes
from gnn_mtl.schedulers._coloring_options import ColoringOptions
from gnn_mtl.schedulers._running_affinity import RunningAffinity, running_affinity
from gnn_mtl.schedulers._window import RefreshReport, ordered
from gnn_mtl.tasks import Affinity, Grouping, conflict_graph


@dataclass(frozen=True, eq=False)
class _Draft:
    edges: NDArray[np.bool_]
    classes: Classes
    problems: dict[str, str]


class ColoringScheduler(TaskScheduler):
    r"""Supervises one group of compatible tasks a step, regrouped as their gradients turn.

    `SON-GOKU <https://arxiv.org/abs/2509.16959>`_ (§4): at a refresh the gradients of all tasks
    join their moving averages :math:`\tilde g`; tasks with
    :math:`\rho_{ij} = -\cos(\tilde g_i, \tilde g_j) > \tau` conflict; the colour classes of that
    graph take turns, one a step, until the next refresh. No two tasks that conflict in the graph
    are ever active together, and inside a window of m classes every task is active at least every
    m steps (across a refresh at least every m + m' - 1).

    Where the paper is silent, or its released code differs from it: a window lasts
    ``max(refresh_period, m)`` steps, so every class runs before classes change; the class with the
    longest waiting task goes first, where the code starts from the largest-degree class each time;
    coverage only joins a task to classes that are free of conflict with all their present members;
    averages are updated at refreshes only, from the probe (``ema_source``: from the active tasks of
    every step instead, or too); a class without a label in the batch at hand is advanced past.

    ``tau = 1`` leaves no edge, which is joint training. As no observation can matter to a graph
    without edges, refreshes at ``tau = 1`` ask for no probe, except the last of a warm-up: as many
    as the average remembers, so that the first graph rests on :math:`(1 + \beta) / (1 - \beta)`
    observations (19 at the default, one for ``ema_beta=0``) where the warm-up is that long.
    ``tau = -1`` makes every pair conflict that does not point the same way: one task a step.

    Args:
        num_tasks: Number of tasks T.
        seed: Seed of random orders, sketches and colouring searches; nothing else is random.
        **options: The fields of :class:`Coloring`, e.g. ``tau``, ``refresh_period``.

    Raises:
        UsageError: If an option is out of range; a log schedule needs ``tau`` above 0.
        TypeError: If there is no option of that name.

    Warns:
        EmptyConflictGraphWarning: Once, when the graph has no edge at the target ``tau`` below 1.
        CoverageWarning: Once, when ``min_coverage`` cannot be reached.
        NonFiniteWarning: The first time a task's gradient is not finite; that task is skipped.

    Memory:
        4 T P bytes for the averages, or what ``ema_of`` says.
    """

    kind: ClassVar[str] = "coloring"

    def __init__(self, num_tasks: int, *, seed: int = 0, **options: Any) -> None:  # noqa: ANN401
        self.config = Coloring(**options)
        super().__init__(num_tasks, seed=seed, **self.config.group_options())
        self.config.check_for(num_tasks)
        self._seed = seed
        self._rule = self.config.conflict_rule()
        self._tau = self.config.schedule_of_tau()
        self._ema = self._new_average()
        self._period = self.config.refresh_period
        self._edges: NDArray[np.bool_] | None = None  # kept for the hysteresis
        self._colors: list[tuple[int, ...]] | None = None  # kept for the warm start
        self._broken: set[int] = set()  # tasks with a broken gradient since the last refresh
        self._draft: _Draft | None = None  # what the report last made rests on
        self._warned: set[str] = set()

    def affinity(self) -> Affinity:
        """Return the cosines of the gradient averages as they stand."""
        return self._ema.affinity()

    def observe(self, gradients: ObservedGradients) -> None:
        """Average in the gradients of all tasks, colour the conflict graph and open a window.

        Args:
            gradients: Rows for exactly the tasks of :meth:`needs_probe`, unweighted; rows that are
                not valid leave those tasks' averages as they are.

        Raises:
            UsageError: If no probe is owed, or the tasks are not those.
            ShapeError: If the gradients have another width than before.
        """
        owed = self.needs_probe()
        found = tuple(sorted(gradients.tasks))
        if not owed:
            raise UsageError(
                f"No gradients are owed at step {self.step}. Call observe() only while "
                "needs_probe() is not empty: once a refresh, before active_tasks()."
            )
        if found != owed:
            absent = sorted(set(owed) - set(found))
            raise UsageError(
                f"`gradients` should hold each of the {len(owed)} tasks of needs_probe() once. "
                f"Found {len(found)} rows, tasks {absent[:8]} missing; give tasks without a "
                "gradient a row that is not valid."
            )
        self._average_in(gradients)
        self._open(self._colored())

    @property
    def observes_active(self) -> bool:
        """Whether gradients of active tasks are averaged in."""
        return self.config.ema_source != "probe"

    @property
    def needs_active_gradients(self) -> bool:
        """Whether :meth:`observe_active` wants the gradients of the active tasks at this step."""
        return self.observes_active and self._can_matter()

    def observe_active(self, gradients: ObservedGradients) -> None:
        """Average in gradients of the last active tasks; see :class:`TaskScheduler`."""
        if not self.needs_active_gradients:
            super().observe_active(gradients)
        active = {task for update in self.updates() for task in update.tasks}
        if other := sorted(set(gradients.tasks) - active):
            raise UsageError(
                f"`gradients` should be of active tasks only, {sorted(active)[:8]}. "
                f"Found {other[:8]}."
            )
        self._average_in(gradients)

    def needs_probe(self, step: int | None = None) -> tuple[int, ...]:
        """Return the tasks whose gradients :meth:`observe` wants before the next step."""
        if self.config.ema_source == "active":
            self._check_step(step)
            return ()
        return super().needs_probe(step)

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state: JSON values and the tensors of the averages and the graph."""
        return {
            **super().state_dict(),
            "ema": self._ema.state_dict(),
            "period": self._period,
            "edges": None if self._edges is None else torch.from_numpy(self._edges.copy()),
            "colors": None if self._colors is None else [list(group) for group in self._colors],
            "broken": sorted(self._broken),
            "warned": sorted(self._warned),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict` of a schedule built with the same arguments.

        Raises:
            UsageError: If the state is incomplete or of another kind of schedule.
        """
        self._check_state(state, "ema", "period", "edges", "colors", "broken", "warned")
        ema = self._new_average()
        ema.load_state_dict(state["ema"])
        colors = state["colors"]
        if colors is not None:
            Grouping.of(colors, self._num_tasks)
        super().load_state_dict(state)
        self._ema = ema
        self._period = int(state["period"])
        self._edges = None if state["edges"] is None else state["edges"].bool().cpu().numpy()
        self._colors = None if colors is None else [tuple(map(int, group)) for group in colors]
        self._broken = set(state["broken"])
        self._warned = set(state["warned"])

    def _new_average(self) -> RunningAffinity:
        return running_affinity(
            self.config.ema_of, self._num_tasks, beta=self.config.ema_beta,
            sketch_dim=self.config.sketch_dim, seed=self._seed,
        )  # fmt: skip

    def _average_in(self, gradients: ObservedGradients) -> None:
        before = list(self._ema.non_finite)
        self._ema.update(gradients)
        more = np.flatnonzero(np.array(self._ema.non_finite) > before)
        self._broken.update(more.tolist())

    def _colored(self) -> RefreshReport:
        """Return the window that the averages as they stand make; nothing changes but the draft."""
        affinity = self._ema.affinity()
        tau = self._tolerance(affinity)
        edges = self._rule.edges(affinity, tau, self._edges)
        classes = make_classes(
            affinity, edges, tau, self.config,
            previous=self._colors, seed=derive_seed(self._seed, "colors", self.step),
        )  # fmt: skip
        problems = self._problems(affinity, edges, tau, classes)
        self._draft = _Draft(edges, classes, problems)
        return self._refreshed(affinity, edges, tau, classes, tuple(problems.values()))

    def _open(self, report: RefreshReport) -> None:
        if report.affinity is not None and self._draft is not None:
            draft, self._draft = self._draft, None
            self._period = self._next_period(report.churn)
            self._edges = draft.edges if self.config.hysteresis else None
            self._colors = draft.classes.colors if self.config.warm_start else None
            self._broken.clear()
            super()._open(report)
            self._warn_once(draft.problems)
            return
        super()._open(report)

    def _plan(self) -> RefreshReport | None:
        if self._can_matter():
            return self._colored() if self.config.ema_source == "active" else None
        everyone = (tuple(range(self._num_tasks)),)
        tau = self._tau.at(self.step)
        return self._report(everyone, self.config.refresh_period, tau=tau, num_edges=0, density=0.0)

    def _can_matter(self) -> bool:
        """Return whether a graph now, or one that remembers this step, can have an edge."""
        beta = self.config.ema_beta
        memory = round((1.0 + beta) / (1.0 - beta))  # refreshes, this one included
        horizon = self.step + self.config.refresh_period * (memory - 1)
        # tau is monotone after the warm-up, so its ends decide
        lowest = min(self._tau.at(self.step), self._tau.at(horizon))
        finds_edges = self._rule.sets_tau and horizon >= self.config.warmup_steps
        return self._num_tasks > 1 and (lowest < 1.0 or finds_edges)

    def _tolerance(self, affinity: Affinity) -> float:
        """Return tau at this refresh: the schedule's, or after the warm-up the rule's own."""
        if self._rule.sets_tau and self.step >= self.config.warmup_steps:
            return self._rule.tau(affinity)
        return self._tau.at(self.step)

    def _next_period(self, churn: float | None) -> int:
        """Return the period after this refresh; it adapts once tau has settled."""
        settled = self._tau.is_settled(self.step)
        return self.config.next_period(self._period, churn) if settled else self._period

    def _refreshed(
        self,
        affinity: Affinity,
        edges: NDArray[np.bool_],
        tau: float,
        classes: Classes,
        problems: tuple[str, ...],
    ) -> RefreshReport:
        """Return the report of the window these classes make."""
        groups = ordered(
            classes.covered.groups,
            self.config.order,
            self._at.last_active,
            derive_seed(self._seed, "coloring", self.step),
        )
        pairs = self._num_tasks * (self._num_tasks - 1) // 2
        num_edges = int(edges.sum()) // 2
        negative = conflict_graph(affinity, 0.0)
        known = int(np.triu(affinity.known, k=1).sum())
        period = self._next_period(self._churn(groups))
        return self._report(
            groups,
            self._turns.length(period, len(groups)),
            probed=self.config.ema_source != "active",
            tau=tau,
            num_edges=num_edges,
            density=num_edges / pairs if pairs else 0.0,
            negative_share=int(negative.sum()) / 2 / known if known else None,
            in_group_conflict=in_group_conflict(groups, negative),
            max_age=max(self._ema.ages),
            num_supertasks=classes.num_supertasks,
            moved=None if self._colors is None else moved_tasks(self._colors, classes.colors),
            warnings=problems,
            affinity=affinity,
        )

    def _problems(
        self, affinity: Affinity, edges: NDArray[np.bool_], tau: float, classes: Classes
    ) -> dict[str, str]:
        """Return what is wrong with a refresh, as sentences by name."""
        problems = {}
        settled = tau < 1.0 and self._tau.is_settled(self.step)
        off_diagonal = affinity.values[~np.eye(self._num_tasks, dtype=np.bool_)]
        known = off_diagonal[~np.isnan(off_diagonal)]
        begins = self.config.ema_source == "active" and not known.size
        if settled and self._num_tasks > 1 and not edges.any() and not begins:
            lowest = f"{known.min():.3f}" if known.size else "unknown"
            problems["empty"] = (
                f"The conflict graph at step {self.step} should have edges at tau = {tau:g}. "
                f"Found none (lowest cosine {lowest}), so this window is joint training. Lower "
                "`tau`; noise shrinks cosines, so a larger probe or `ema_beta` helps too."
            )
        if self._broken:
            problems["non_finite"] = (
                f"Gradients of tasks {sorted(self._broken)} were not finite; skipped."
            )
        if classes.covered.uncovered:
            problems["coverage"] = classes.covered.message(self.config.min_coverage)
        if classes.num_supertasks is not None:
            problems["coarse"] = (
                f"The conflict graph needs {classes.num_colors_needed} groups, more than "
                f"max_colors = {self.config.max_colors}: the tasks were merged into "
                f"{classes.num_supertasks} super-tasks, and those merged may conflict."
            )
        return problems

    def _warn_once(self, problems: dict[str, str]) -> None:
        categories = {"empty": EmptyConflictGraphWarning, "coverage": CoverageWarning}
        new = {name: problems[name] for name in categories if name in problems}
        for name, message in new.items():
            if name not in self._warned:
                self._warned.add(name)
                warnings.warn(message, categories[name], stacklevel=4)

    def _arguments(self) -> dict[str, object]:
        return {**asdict(self.config), "seed": self._seed}


@dataclass(frozen=True, kw_only=True)
class Coloring(ColoringOptions):
    """SON-GOKU: groups of labels whose gradients do not conflict, one group a step."""

    kind: ClassVar[str] = "coloring"

    def build(self, num_tasks: int, seed: int = 0) -> ColoringScheduler:
        """Build the schedule; random orders, sketches and searches depend on ``seed``."""
        return ColoringScheduler(num_tasks, **asdict(self), seed=seed)
