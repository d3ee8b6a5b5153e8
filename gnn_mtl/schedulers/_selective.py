"""``SelectiveScheduler``: groups that learn one after another, found by what their updates did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from gnn_mtl._core.errors import UsageError
from gnn_mtl._core.seeding import generator
from gnn_mtl.affinity import ProximalAffinity
from gnn_mtl.grouping import equal_sizes, exemplars, random_groups, similarities
from gnn_mtl.schedulers._base import TaskScheduler
from gnn_mtl.schedulers._config import GroupOptions, check_choice, check_refresh_period
from gnn_mtl.schedulers._group_use import GroupUse
from gnn_mtl.schedulers._window import Groups, RefreshReport
from gnn_mtl.tasks import Affinity, Grouping

WarmUp = Literal["random", "singletons"]
Within = Literal["split_on_disagreement", "plain"]
Credit = Literal["own_update", "previous_losses"]


class SelectiveScheduler(TaskScheduler):
    """Updates groups one after another on every batch and learns the groups from that.

    Selective Task Group Updates (Jeong & Yoon, ICLR 2025, arXiv 2502.11986). The losses around
    each update, which the sequence of updates computes anyway, say what the group did to every task
    (:class:`gnn_mtl.affinity.ProximalAffinity`); affinity propagation of the averages gives the
    next groups, as many as it finds (:func:`gnn_mtl.grouping.affinity_propagation`).

    The paper starts from single-task groups and regroups at every batch. T updates a batch are not
    affordable at a hundred tasks, so the warm-up here draws random groups anew for every batch:
    in expectation the credits of a column then rise with the true ones, so that rankings survive;
    and groups are found again every ``regroup_period`` steps only. Groups that stay cannot be told
    apart inside, except by the rule ``within="split_on_disagreement"``.

    A batch costs M updates and M + 1 forward passes for M groups; compare with joint training at
    equal label-gradients and seconds, not at equal batches.

    Args:
        num_tasks: Number of tasks T.
        seed: Seed of random groups and orders.
        **options: The fields of :class:`Selective`.

    Raises:
        UsageError: If an option is out of range.
        TypeError: If there is no option of that name.

    Memory:
        O(T^2).
    """

    kind: ClassVar[str] = "selective"

    def __init__(self, num_tasks: int, *, seed: int = 0, **options: Any) -> None:  # noqa: ANN401
        self.config = Selective(**options)
        super().__init__(num_tasks, seed=seed, **self.config.group_options())
        self._seed = seed
        self._credits = self._new_credits()

    @property
    def needs_losses(self) -> bool:
        """Whether :meth:`observe_losses` wants every task's loss before each update."""
        return self._num_tasks > 1

    @property
    def needs_last_losses(self) -> bool:
        """Whether it also wants the losses after the last update (one forward pass more)."""
        return self.needs_losses and self.config.credit_last

    def affinity(self) -> Affinity:
        """Return what updates did to losses so far; cells never credited are NaN."""
        return self._credits.affinity()

    def needs_probe(self, step: int | None = None) -> tuple[int, ...]:
        """Return no task: nothing but losses is needed."""
        self._check_step(step)
        return ()

    def observe_losses(self, losses: NDArray[np.float64]) -> None:
        """Credit the last updates with what they did; see :class:`TaskScheduler`."""
        super().observe_losses(losses)
        finite = np.where(np.isfinite(losses), losses, np.nan)
        self._credits.update([update.tasks for update in self.updates()], finite)

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state: JSON values and the tensors of the averages."""
        return {**super().state_dict(), "credits": self._credits.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict` of a schedule built with the same arguments.

        Raises:
            UsageError: If the state is incomplete or of another kind of schedule.
        """
        self._check_state(state, "credits")
        credits = self._new_credits()
        credits.load_state_dict(
            {k: v.cpu().numpy() if torch.is_tensor(v) else v for k, v in state["credits"].items()}
        )
        super().load_state_dict(state)
        self._credits = credits

    def _new_credits(self) -> ProximalAffinity:
        config = self.config
        return ProximalAffinity(
            self._num_tasks, beta=config.ema_beta, within=config.within, credit=config.credit
        )

    def _plan(self) -> RefreshReport:
        if self._num_tasks == 1:
            return self._report(((0,),), None)
        if self.step < self.config.warmup_steps:
            return self._warm_up()
        affinity = self._credits.affinity()
        groups, problem = self._found(affinity)
        known = int(affinity.known.sum())
        return self._report(
            groups,
            self._turns.length(self.config.regroup_period, len(groups)),
            negative_share=float((affinity.values < 0).sum()) / known if known else None,
            warnings=() if problem is None else (problem,),
            affinity=affinity,
        )

    def _warm_up(self) -> RefreshReport:
        """Return single tasks until the warm-up ends, or random groups for one batch or cycle."""
        if self.config.warmup_groups == "singletons":
            singles = tuple((task,) for task in range(self._num_tasks))
            left = self.config.warmup_steps - self.step
            return self._report(singles, self._turns.length(left, self._num_tasks))
        number = max(2, -(-self._num_tasks // self.config.warmup_group_size))
        drawn = random_groups(
            equal_sizes(number, self._num_tasks), self._num_tasks,
            generator=generator(self._seed, "selective_warm_up", self.step),
        )  # fmt: skip
        return self._report(tuple(drawn), self._turns.length(1, number))

    def _found(self, affinity: Affinity) -> tuple[Groups, str | None]:
        """Return the groups of the affinity, or those before and why there are none."""
        similarity = similarities(affinity)
        exemplar = None
        if similarity is not None:
            exemplar = exemplars(
                similarity, preference=self.config.preference, damping=self.config.damping,
                seed=self._seed,
            )  # fmt: skip
        if exemplar is not None:
            return Grouping.from_assignments(exemplar.tolist()).groups, None
        reason = "no task's own update lowered its loss" if similarity is None else "no exemplar"
        window = self._at.window
        groups = window.groups if window else (tuple(range(self._num_tasks)),)
        return groups, f"There is nothing to group by ({reason}); the groups before are kept."

    def _arguments(self) -> dict[str, object]:
        return {**asdict(self.config), "seed": self._seed}


@dataclass(frozen=True, kw_only=True)
class Selective(GroupOptions):
    """Selective Task Group Updates: groups found by what their own updates did to every loss."""

    kind: ClassVar[str] = "selective"

    use: GroupUse = "all_groups_per_batch"
    """Each group makes an update of its own on every batch (the paper); or groups take turns."""

    regroup_period: int = 50
    """Steps between two groupings (the paper regroups at every batch)."""

    warmup_steps: int = 100
    """Steps before the first grouping."""

    warmup_groups: WarmUp = "random"
    """Groups of the warm-up: random ones drawn anew for every batch, or single labels (the paper;
    as many updates a batch as there are labels)."""

    warmup_group_size: int = 8
    """Largest size of a random group; there are at least two, as one group of all labels would tell
    nothing of any of them."""

    ema_beta: float = 0.999
    """Share of the old average kept at each credit of a label; in [0, 1). The paper's decay rate is
    1 minus it."""

    within: Within = "split_on_disagreement"
    """How a group's members are credited with each other: pushed apart where one gains and another
    loses, or all alike."""

    credit: Credit = "own_update"
    """A change of losses belongs to the update that made it. previous_losses reproduces the
    released code, which credits the group after it."""

    credit_last: bool = True
    """Also measure what the last update of a batch did: one forward pass more."""

    preference: float | None = None
    """Similarity of a label with itself; larger gives more groups. Default: the median."""

    damping: float = 0.5
    """Share of the old messages of affinity propagation kept; in [0.5, 1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_refresh_period(self.regroup_period, "regroup_period")
        check_choice("warmup_groups", self.warmup_groups, get_args(WarmUp))
        check_choice("within", self.within, get_args(Within))
        check_choice("credit", self.credit, get_args(Credit))
        if self.warmup_steps < 0 or self.warmup_group_size < 1:
            raise UsageError(
                "`warmup_steps` should be 0 or more and `warmup_group_size` at least 1. "
                f"Found {self.warmup_steps} and {self.warmup_group_size}."
            )
        if not 0.0 <= self.ema_beta < 1.0:
            raise UsageError(f"`ema_beta` should lie in [0, 1). Found {self.ema_beta}.")
        if not 0.5 <= self.damping < 1.0:
            raise UsageError(f"`damping` should lie in [0.5, 1). Found {self.damping}.")
        if self.use == "group_weights":
            raise UsageError(
                "A selective schedule measures what each group's own update did; with "
                "use='group_weights' there is one update of all tasks. Choose another `use`."
            )
        alone = self.use != "all_groups_per_batch"
        if alone and (not self.credit_last or self.credit != "own_update"):
            raise UsageError(
                f"With use={self.use!r} a batch has one update, which only credit='own_update' "
                "with credit_last=True can measure."
            )

    def build(self, num_tasks: int, seed: int = 0) -> SelectiveScheduler:
        """Build the schedule; random groups and orders depend on ``seed``."""
        return SelectiveScheduler(num_tasks, **asdict(self), seed=seed)
