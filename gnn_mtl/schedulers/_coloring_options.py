"""The options of SON-GOKU's schedule, and what makes them wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from gnn_mtl._core.errors import UsageError
from gnn_mtl.grouping import MAX_EXACT_TASKS, ColoringName, ConflictRule, RuleName
from gnn_mtl.schedulers._config import GroupOptions, check_choice, check_refresh_period
from gnn_mtl.schedulers._running_affinity import EMAOf
from gnn_mtl.schedulers._tau_schedule import TauKind, TauSchedule
from gnn_mtl.schedulers._window import Order

EMASource = Literal["probe", "active", "both"]


@dataclass(frozen=True, kw_only=True)
class ColoringOptions(GroupOptions):
    """Plain values; see the fields."""

    refresh_period: int = 32
    """Steps between two measurements of the conflicts (at least the number of groups)."""

    max_refresh_period: int | None = None
    """Let that period double after a measurement that changed little, up to this; and halve after
    one that changed much, down to refresh_period."""

    low_churn: float = 0.1
    """Share of same-group pairs that changed up to which a measurement changed little."""

    high_churn: float = 0.5
    """Share from which it changed much."""

    tau: float = 0.25
    """Two labels conflict where the cosine of their gradients is below -tau; in [-1, 1]."""

    rule: RuleName = "threshold"
    """Which pairs conflict: those below -tau; the worst share of the known pairs (quantile), or of
    all pairs but with negative cosines only (density); a label's worst few below -tau (knn)."""

    edge_share: float = 0.1
    """Share of the pairs for quantile and density."""

    num_neighbors: int = 3
    """Number of worst labels for knn."""

    hysteresis: float = 0.0
    """A conflict begins beyond tau + hysteresis and ends within tau - hysteresis."""

    ema_source: EMASource = "probe"
    """Gradients that are averaged: at measurements, of all labels on a probe batch; at every step,
    of the active labels on its batch (more history, no probes; not with streamed probes); or both.
    """

    ema_of: EMAOf = "gradient"
    """Average gradients, count sketches of them (less memory), or their products (least)."""

    ema_beta: float = 0.9
    """Share of the old gradient average kept at a measurement; in [0, 1)."""

    sketch_dim: int = 256
    """Size of a sketch."""

    tau_schedule: TauKind = "constant"
    """How tau goes from its warm-up value to its target: constant = at once."""

    tau_initial: float = 1.0
    """tau during the warm-up; 1 = joint training."""

    warmup_steps: int = 0
    """Steps of warm-up."""

    anneal_steps: int = 0
    """Steps from the warm-up value to the target."""

    coloring: ColoringName = "welsh_powell"
    """Colouring of the conflict graph; dsatur, iterated_greedy and tabu find fewer groups each,
    equitable ones of equal size, exact the fewest for at most 24 labels."""

    coloring_iterations: int | None = None
    """Budget of iterated_greedy and tabu; default theirs."""

    warm_start: bool = False
    """Colour from the groups before, so that few labels change theirs."""

    max_group_size: int | None = None
    """Largest number of labels of a group; may force more groups."""

    max_colors: int | None = None
    """Where more groups than this are needed, alike labels are merged before colouring; conflicts
    between merged labels are then tolerated."""

    min_coverage: int = 1
    """Groups each label should be in, where it meets no conflict."""

    fill: bool = False
    """Let labels join every group they have no conflict in."""

    order: Order = "stalest_first"
    """Order of the groups after a measurement."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_refresh_period(self.refresh_period)
        check_choice("coloring", self.coloring, get_args(ColoringName))
        check_choice("order", self.order, get_args(Order))
        check_choice("ema_source", self.ema_source, get_args(EMASource))
        check_choice("ema_of", self.ema_of, get_args(EMAOf))
        if self.ema_source == "active" and self.ema_of == "gramian":
            raise UsageError(
                "Products of labels that are never active together are never seen with "
                "ema_source='active'. Found ema_of='gramian'; use 'gradient' or 'sketch'."
            )
        if not 0.0 <= self.ema_beta < 1.0:
            raise UsageError(f"`ema_beta` should lie in [0, 1). Found {self.ema_beta}.")
        longest = self.max_refresh_period
        if longest is not None and longest < self.refresh_period:
            raise UsageError(
                "`max_refresh_period` should be at least `refresh_period`. "
                f"Found {longest} and {self.refresh_period}."
            )
        if not 0.0 <= self.low_churn <= self.high_churn <= 1.0:
            raise UsageError(
                "`low_churn` and `high_churn` should lie in [0, 1] in that order. "
                f"Found {self.low_churn} and {self.high_churn}."
            )
        positive = {
            "min_coverage": self.min_coverage,
            "sketch_dim": self.sketch_dim,
            "max_group_size": self.max_group_size,
            "max_colors": self.max_colors,
        }
        for name, value in positive.items():
            if value is not None and value < 1:
                raise UsageError(f"`{name}` should be at least 1. Found {value}.")
        if self.coloring_iterations is not None:
            if self.coloring not in ("iterated_greedy", "tabu"):
                raise UsageError(
                    "`coloring_iterations` is a budget of iterated_greedy and tabu. "
                    f"Found coloring={self.coloring!r}."
                )
            if self.coloring_iterations < 0:
                raise UsageError(
                    f"`coloring_iterations` should be 0 or more. Found {self.coloring_iterations}."
                )
        if self.conflict_rule().sets_tau and self.anneal_steps:
            raise UsageError(
                f"The rule {self.rule!r} finds tau itself and has nothing to anneal to. "
                f"Found anneal_steps={self.anneal_steps}; use rule='threshold'."
            )
        self.schedule_of_tau()

    def check_for(self, num_tasks: int) -> None:
        """Raise UsageError if the options cannot hold for so many tasks."""
        if self.coloring == "exact" and num_tasks > MAX_EXACT_TASKS:
            raise UsageError(
                f"Exact colouring is for at most {MAX_EXACT_TASKS} tasks. Found {num_tasks}; "
                'use coloring="tabu".'
            )
        colors, size = self.max_colors, self.max_group_size
        if colors is not None and size is not None and colors * size < num_tasks:
            raise UsageError(
                f"At most {colors} groups (`max_colors`) of at most {size} tasks "
                f"(`max_group_size`) cannot hold {num_tasks} tasks. Raise one of them."
            )

    def schedule_of_tau(self) -> TauSchedule:
        """Return the tolerance as a function of the step."""
        return TauSchedule(
            kind=self.tau_schedule,
            initial=self.tau_initial,
            target=self.tau,
            warmup_steps=self.warmup_steps,
            anneal_steps=self.anneal_steps,
        )

    def conflict_rule(self) -> ConflictRule:
        """Return what decides which pairs conflict."""
        return ConflictRule(
            name=self.rule,
            edge_share=self.edge_share,
            num_neighbors=self.num_neighbors,
            hysteresis=self.hysteresis,
        )

    def coloring_options(self, seed: int) -> dict[str, Any]:
        """Return the options of the colouring itself."""
        if self.coloring not in ("iterated_greedy", "tabu"):
            return {}
        budget = self.coloring_iterations
        return {"seed": seed} if budget is None else {"seed": seed, "iterations": budget}

    def next_period(self, period: int, churn: float | None) -> int:
        """Return the steps until the next measurement, given how much this one changed."""
        if self.max_refresh_period is None or churn is None:
            return period
        if churn <= self.low_churn:
            return min(2 * period, self.max_refresh_period)
        if churn >= self.high_churn:
            return max(period // 2, self.refresh_period)
        return period
