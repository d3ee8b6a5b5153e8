"""``ColoringScheduler``: SON-GOKU, one colour class of the conflict graph a step."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import CoverageWarning, EmptyConflictGraphWarning, UsageError
from gnn_mtl._core.seeding import derive_seed
from gnn_mtl.affinity import GradientEMA, ObservedGradients
from gnn_mtl.grouping import Coverage, color_graph, in_group_conflict, minimum_coverage
from gnn_mtl.schedulers._base import SCALES, Scale, TaskScheduler
from gnn_mtl.schedulers._config import SchedulerConfig, check_choice, check_refresh_period
from gnn_mtl.schedulers._tau_schedule import TauKind, TauSchedule
from gnn_mtl.schedulers._window import Order, RefreshReport, ordered
from gnn_mtl.tasks import Affinity, conflict_graph

ColoringName = Literal["welsh_powell", "dsatur"]
COLORING_NAMES = ("welsh_powell", "dsatur")
ORDERS = ("stalest_first", "creation", "random")


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
    averages are updated at refreshes only, from the probe.

    ``tau = 1`` leaves no edge, which is joint training. As no observation can matter to a graph
    without edges, refreshes at ``tau = 1`` ask for no probe, except the last of a warm-up: as many
    as the average remembers, so that the first graph rests on :math:`(1 + \beta) / (1 - \beta)`
    observations (19 at the default, one for ``ema_beta=0``) where the warm-up is that long.
    ``tau = -1`` makes every pair conflict that does not point the same way: one task a step.

    Args:
        num_tasks: Number of tasks T.
        refresh_period: Steps R between refreshes.
        tau: Tolerance (target value), in [-1, 1].
        ema_beta: Share of the old average kept at a refresh, in [0, 1).
        tau_schedule: ``"constant"``, ``"log"`` (the paper's), ``"linear"`` or ``"cosine"``:
            :class:`TauSchedule`.
        tau_initial: Tolerance during warm-up.
        warmup_steps: Steps at ``tau_initial``; ends with the refresh at or after it.
        anneal_steps: Steps from ``tau_initial`` to ``tau`` after the warm-up.
        coloring: ``"welsh_powell"`` (the paper's) or ``"dsatur"`` (fewer groups).
        min_coverage: Groups each task should be in, where it meets no conflict.
        reweight: Divide a task's loss by the number of groups it is in.
        order: ``"stalest_first"``, ``"creation"`` (largest degrees first) or ``"random"``.
        scale: See :class:`TaskScheduler`.
        seed: Seed of the random order; nothing else is random.

    Raises:
        UsageError: If an argument is out of range; a log schedule needs ``tau`` above 0.

    Warns:
        EmptyConflictGraphWarning: Once, when the graph has no edge at the target ``tau`` below 1.
        CoverageWarning: Once, when ``min_coverage`` cannot be reached.
        NonFiniteWarning: The first time a task's gradient is not finite; that task is skipped.

    Memory:
        4 T P bytes for the averages.
    """

    kind: ClassVar[str] = "coloring"

    def __init__(
        self,
        num_tasks: int,
        *,
        refresh_period: int = 32,
        tau: float = 0.25,
        ema_beta: float = 0.9,
        tau_schedule: TauKind = "constant",
        tau_initial: float = 1.0,
        warmup_steps: int = 0,
        anneal_steps: int = 0,
        coloring: ColoringName = "welsh_powell",
        min_coverage: int = 1,
        reweight: bool = False,
        order: Order = "stalest_first",
        scale: Scale = "sum",
        seed: int = 0,
    ) -> None:
        super().__init__(num_tasks, scale=scale, reweight=reweight)
        self.config = Coloring(
            refresh_period=refresh_period,
            tau=tau,
            ema_beta=ema_beta,
            tau_schedule=tau_schedule,
            tau_initial=tau_initial,
            warmup_steps=warmup_steps,
            anneal_steps=anneal_steps,
            coloring=coloring,
            min_coverage=min_coverage,
            reweight=reweight,
            order=order,
            scale=scale,
        )
        self._seed = seed
        self._tau = self.config.schedule_of_tau()
        self._ema = GradientEMA(num_tasks, beta=ema_beta)
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
                f"No gradients are owed at step {self._step}. Call observe() only while "
                "needs_probe() is not empty: once a refresh, before active_tasks()."
            )
        if found != owed:
            absent = sorted(set(owed) - set(found))
            raise UsageError(
                f"`gradients` should hold each of the {len(owed)} tasks of needs_probe() once. "
                f"Found {len(found)} rows, tasks {absent[:8]} missing; give tasks without a "
                "gradient a row that is not valid."
            )
        broken_before = list(self._ema.non_finite)
        self._ema.update(gradients)
        broken = np.flatnonzero(np.array(self._ema.non_finite) > broken_before).tolist()

        affinity = self._ema.affinity()
        tau = self._tau.at(self._step)
        edges = conflict_graph(affinity, tau)
        covered = minimum_coverage(
            color_graph(edges, self.config.coloring), edges, self.config.min_coverage
        )
        problems = self._problems(affinity, edges, tau, covered)
        if broken:
            problems["non_finite"] = f"Gradients of tasks {broken} were not finite; skipped."
        self._open(self._refreshed(affinity, edges, tau, covered, tuple(problems.values())))
        self._warn_once(problems)

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state: JSON values, and one tensor ``["ema"]["average"]`` or None."""
        return {
            **super().state_dict(),
            "ema": self._ema.state_dict(),
            "warned": sorted(self._warned),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict` of a schedule built with the same arguments.

        Raises:
            UsageError: If the state is incomplete or of another kind of schedule.
        """
        self._check_state(state, "ema", "warned")
        ema = GradientEMA(self._num_tasks, beta=self.config.ema_beta)
        ema.load_state_dict(state["ema"])
        super().load_state_dict(state)
        self._ema = ema
        self._warned = set(state["warned"])

    def _plan(self) -> RefreshReport | None:
        if self._is_probed():
            return None
        everyone = (tuple(range(self._num_tasks)),)
        tau = self._tau.at(self._step)
        return self._report(everyone, self.config.refresh_period, tau=tau, num_edges=0, density=0.0)

    def _is_probed(self) -> bool:
        """Return whether a graph at this refresh, or one that remembers it, can have an edge."""
        beta = self.config.ema_beta
        memory = round((1.0 + beta) / (1.0 - beta))  # refreshes, this one included
        horizon = self._step + self.config.refresh_period * (memory - 1)
        # tau is monotone after the warm-up, so its ends decide
        lowest = min(self._tau.at(self._step), self._tau.at(horizon))
        return self._num_tasks > 1 and lowest < 1.0

    def _refreshed(
        self,
        affinity: Affinity,
        edges: NDArray[np.bool_],
        tau: float,
        covered: Coverage,
        problems: tuple[str, ...],
    ) -> RefreshReport:
        """Return the report of the window these classes make."""
        groups = ordered(
            covered.groups,
            self.config.order,
            self._last_active,
            derive_seed(self._seed, "coloring", self._step),
        )
        pairs = self._num_tasks * (self._num_tasks - 1) // 2
        num_edges = int(edges.sum()) // 2
        negative = conflict_graph(affinity, 0.0)
        known = int(np.triu(affinity.known, k=1).sum())
        return self._report(
            groups,
            max(self.config.refresh_period, len(groups)),
            probed=True,
            tau=tau,
            num_edges=num_edges,
            density=num_edges / pairs if pairs else 0.0,
            negative_share=int(negative.sum()) / 2 / known if known else None,
            in_group_conflict=in_group_conflict(groups, negative),
            max_age=max(self._ema.ages),
            warnings=problems,
            affinity=affinity,
        )

    def _problems(
        self, affinity: Affinity, edges: NDArray[np.bool_], tau: float, covered: Coverage
    ) -> dict[str, str]:
        """Return what is wrong with a refresh, as sentences by name."""
        problems = {}
        settled = tau < 1.0 and self._tau.is_settled(self._step)
        if settled and self._num_tasks > 1 and not edges.any():
            off_diagonal = affinity.values[~np.eye(self._num_tasks, dtype=np.bool_)]
            known = off_diagonal[~np.isnan(off_diagonal)]
            lowest = f"{known.min():.3f}" if known.size else "unknown"
            problems["empty"] = (
                f"The conflict graph at step {self._step} should have edges at tau = {tau:g}. "
                f"Found none (lowest cosine {lowest}), so this window is joint training. Lower "
                "`tau`; noise shrinks cosines, so a larger probe or `ema_beta` helps too."
            )
        if covered.uncovered:
            problems["coverage"] = covered.message(self.config.min_coverage)
        return problems

    def _warn_once(self, problems: dict[str, str]) -> None:
        categories = {"empty": EmptyConflictGraphWarning, "coverage": CoverageWarning}
        new = {name: problems[name] for name in categories if name in problems}
        for name, message in new.items():
            if name not in self._warned:
                self._warned.add(name)
                warnings.warn(message, categories[name], stacklevel=3)

    def _arguments(self) -> dict[str, object]:
        return {**asdict(self.config), "seed": self._seed}


@dataclass(frozen=True, kw_only=True)
class Coloring(SchedulerConfig):
    """SON-GOKU: groups of labels whose gradients do not conflict, one group a step."""

    kind: ClassVar[str] = "coloring"

    refresh_period: int = 32
    """Steps between two measurements of the conflicts (at least the number of groups)."""

    tau: float = 0.25
    """Two labels conflict where the cosine of their gradients is below -tau; in [-1, 1]."""

    ema_beta: float = 0.9
    """Share of the old gradient average kept at a measurement; in [0, 1)."""

    tau_schedule: TauKind = "constant"
    """How tau goes from its warm-up value to its target: constant = at once."""

    tau_initial: float = 1.0
    """tau during the warm-up; 1 = joint training."""

    warmup_steps: int = 0
    """Steps of warm-up."""

    anneal_steps: int = 0
    """Steps from the warm-up value to the target."""

    coloring: ColoringName = "welsh_powell"
    """Colouring of the conflict graph; dsatur finds fewer groups."""

    min_coverage: int = 1
    """Groups each label should be in, where it meets no conflict."""

    reweight: bool = False
    """Divide a label's loss by the number of groups it is in."""

    order: Order = "stalest_first"
    """Order of the groups after a measurement."""

    scale: Scale = "sum"
    """Factor of the active losses: 1, 1 / active tasks, or tasks / active tasks."""

    def __post_init__(self) -> None:
        check_refresh_period(self.refresh_period)
        check_choice("coloring", self.coloring, COLORING_NAMES)
        check_choice("order", self.order, ORDERS)
        check_choice("scale", self.scale, SCALES)
        if not 0.0 <= self.ema_beta < 1.0:
            raise UsageError(f"`ema_beta` should lie in [0, 1). Found {self.ema_beta}.")
        if self.min_coverage < 1:
            raise UsageError(f"`min_coverage` should be at least 1. Found {self.min_coverage}.")
        self.schedule_of_tau()

    def schedule_of_tau(self) -> TauSchedule:
        """Return the tolerance as a function of the step."""
        return TauSchedule(
            kind=self.tau_schedule,
            initial=self.tau_initial,
            target=self.tau,
            warmup_steps=self.warmup_steps,
            anneal_steps=self.anneal_steps,
        )

    def build(self, num_tasks: int, seed: int = 0) -> ColoringScheduler:
        """Build the schedule; only the random order depends on ``seed``."""
        return ColoringScheduler(num_tasks, **asdict(self), seed=seed)
