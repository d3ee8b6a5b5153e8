"""Random groups of given sizes, the control of every grouping."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from gnn_mtl._core.errors import UsageError
from gnn_mtl._core.seeding import generator
from gnn_mtl.grouping import equal_sizes, random_groups
from gnn_mtl.schedulers._base import TaskScheduler
from gnn_mtl.schedulers._config import GroupOptions, check_refresh_period
from gnn_mtl.schedulers._window import RefreshReport


class RandomGroupsScheduler(TaskScheduler):
    """Draws random groups of given sizes at every refresh, and schedules one a step.

    With ``follow`` it is the matched control of another run: it refreshes at the same steps and
    each of its steps supervises exactly as many tasks as that run's, so both spend the same
    label-gradients; only who learns with whom is left to chance. Groups keep the order of their
    sizes for the same reason.

    Args:
        num_tasks: Number of tasks T.
        sizes: Size of each group, in schedule order; they add up to T, or to more where tasks
            repeat.
        follow: Instead of ``sizes``: pairs (step of a refresh, sizes from then on), from step 0.
            After the last, its sizes go on with ``refresh_period``.
        refresh_period: Steps until new groups are drawn, at least the number of groups; None = the
            first groups stay.
        seed: Seed of the draws; a draw depends on it and on the step only.
        **group_options: ``scale``, ``reweight`` (matters where tasks repeat), ``use`` and
            ``outer_lr`` of :class:`TaskScheduler`.

    Raises:
        UsageError: If sizes are impossible, or ``follow`` does not rise from step 0.
    """

    kind: ClassVar[str] = "random"

    def __init__(
        self,
        num_tasks: int,
        *,
        sizes: Sequence[int] = (),
        follow: Sequence[tuple[int, Sequence[int]]] = (),
        refresh_period: int | None = 32,
        seed: int = 0,
        **group_options: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(num_tasks, seed=seed, **group_options)
        check_refresh_period(refresh_period)
        if bool(sizes) == bool(follow):
            raise UsageError("Give either `sizes` or `follow` for random groups.")
        self._sizes = tuple(sizes)
        self._follow = _checked_follow(follow)
        for _, checked in self._follow or ((0, self._sizes),):
            random_groups(checked, num_tasks, generator=generator(seed))
        self._refresh_period = refresh_period
        self._seed = seed

    def _plan(self) -> RefreshReport:
        sizes, stop = self._sizes, None
        for step, followed in self._follow:
            if step > self.step:
                stop = step
                break
            sizes = followed
        drawn = random_groups(
            sizes, self._num_tasks, generator=generator(self._seed, "random_groups", self.step)
        )
        num_steps = None
        if stop is not None:
            num_steps = stop - self.step
        elif self._refresh_period is not None:
            num_steps = self._turns.length(self._refresh_period, len(sizes))
        return self._report(tuple(drawn), num_steps)

    def _arguments(self) -> dict[str, object]:
        return {
            "sizes": self._sizes,
            "follow": self._follow,
            "refresh_period": self._refresh_period,
            "seed": self._seed,
            **self._group_arguments(),
        }


@dataclass(frozen=True, kw_only=True)
class Random(GroupOptions):
    """Random groups of given sizes, drawn anew at every refresh; one group a step."""

    kind: ClassVar[str] = "random"

    num_groups: int = 4
    """Number of groups of equal size, if neither `sizes` nor `follow` is given."""

    sizes: tuple[int, ...] = ()
    """Size of each group."""

    follow: tuple[tuple[int, tuple[int, ...]], ...] = ()
    """Pairs (step, sizes): the refreshes of the run this one is the control of."""

    refresh_period: int | None = 32
    """Steps between refreshes; None = the first groups stay."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", tuple(self.sizes))
        object.__setattr__(self, "follow", _checked_follow(self.follow))
        super().__post_init__()
        check_refresh_period(self.refresh_period)
        if self.num_groups < 1:
            raise UsageError(f"`num_groups` should be at least 1. Found {self.num_groups}.")
        if self.sizes and self.follow:
            raise UsageError("Give either `sizes` or `follow` for random groups.")

    @classmethod
    def following(cls, refreshes: Iterable[Mapping[str, Any]], **options: Any) -> Random:  # noqa: ANN401
        """Return the control of a run, from the lines of its ``groupings.jsonl``.

        Args:
            refreshes: Records with ``step`` and ``groups``, in order.
            **options: Other fields, e.g. the ``scale`` and ``reweight`` of that run.
        """
        follow = tuple(
            (int(line["step"]), tuple(len(group) for group in line["groups"])) for line in refreshes
        )
        return cls(follow=follow, **options)

    def build(self, num_tasks: int, seed: int = 0) -> RandomGroupsScheduler:
        """Build the schedule; the groups drawn depend on ``seed``.

        Raises:
            UsageError: If the sizes do not fit ``num_tasks``.
        """
        given = self.sizes or self.follow
        return RandomGroupsScheduler(
            num_tasks,
            sizes=self.sizes if given else equal_sizes(self.num_groups, num_tasks),
            follow=self.follow,
            refresh_period=self.refresh_period,
            seed=seed,
            **self.group_options(),
        )


def _checked_follow(
    follow: Sequence[tuple[int, Sequence[int]]],
) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """Return ``follow`` as tuples; its steps must rise from 0."""
    checked = tuple((int(step), tuple(sizes)) for step, sizes in follow)
    steps = [step for step, _ in checked]
    if steps and (steps[0] != 0 or any(later <= earlier for earlier, later in pairwise(steps))):
        raise UsageError(f"The steps of `follow` should rise from 0. Found {steps[:8]}.")
    return checked
