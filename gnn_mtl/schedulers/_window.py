"""A window of the schedule, the order of the groups in it, and the report of how it was made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from gnn_mtl._core.seeding import generator
from gnn_mtl.tasks import Affinity

Groups = tuple[tuple[int, ...], ...]
Order = Literal["stalest_first", "creation", "random"]


@dataclass(frozen=True)
class Window:
    """Steps ``[start, stop)`` that share ``groups``; ``stop`` None = until the end."""

    start: int
    stop: int | None
    groups: Groups

    @cached_property
    def counts(self) -> Counter[int]:
        """Number of groups each task is in."""
        return Counter(task for group in self.groups for task in group)

    def covers(self, step: int) -> bool:
        """Return whether ``step`` lies inside."""
        return self.start <= step and (self.stop is None or step < self.stop)

    def to_dict(self) -> dict[str, Any]:
        """Return the window as JSON values."""
        groups = [list(group) for group in self.groups]
        return {"start": self.start, "stop": self.stop, "groups": groups}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Window:
        """Build what :meth:`to_dict` returned."""
        return cls(
            int(value["start"]),
            None if value["stop"] is None else int(value["stop"]),
            tuple(tuple(int(task) for task in group) for group in value["groups"]),
        )


@dataclass(frozen=True, eq=False)
class RefreshReport:
    """What was decided at one refresh, and on what grounds. None = does not apply or not known.

    Attributes:
        step: First step of the window.
        num_steps: Steps until the next refresh; None if there is none.
        groups: Active tasks of each slot, in the order they are scheduled.
        probed: Whether gradients were observed for it.
        tau: Tolerance of the conflict graph.
        num_edges: Conflicting pairs.
        density: Conflicting pairs over all pairs.
        churn: 1 - Jaccard index of the same-group pairs with those of the window before.
        negative_share: Share of the known pairs whose cosine is negative.
        in_group_conflict: The same among the pairs that share a group (tolerated conflict).
        max_wait: Most steps a task has waited since it was last active (0 = active just before).
        mean_wait: The mean of that over tasks.
        max_age: Most observations (refreshes, or steps where those are observed) since a task's
            gradient was last usable.
        num_supertasks: Super-tasks coloured instead of tasks, where colours were too many.
        moved: Tasks that changed their class since the colouring before.
        warnings: Sentences on what was wrong with this refresh.
        affinity: What the graph was drawn from.
    """

    step: int
    num_steps: int | None
    groups: Groups
    probed: bool = False
    tau: float | None = None
    num_edges: int | None = None
    density: float | None = None
    churn: float | None = None
    negative_share: float | None = None
    in_group_conflict: float | None = None
    max_wait: int = 0
    mean_wait: float = 0.0
    max_age: int | None = None
    num_supertasks: int | None = None
    moved: int | None = None
    warnings: tuple[str, ...] = ()
    affinity: Affinity | None = None

    @property
    def num_colors(self) -> int:
        """Number of groups."""
        return len(self.groups)

    def window(self) -> Window:
        """Return the window that it describes."""
        stop = None if self.num_steps is None else self.step + self.num_steps
        return Window(self.step, stop, self.groups)

    def to_record(self) -> dict[str, object]:
        """Return the plain values of one line of ``groupings.jsonl``, all but the affinity."""
        return {
            "kind": "refresh",
            "step": self.step,
            "num_steps": self.num_steps,
            "probed": self.probed,
            "tau": self.tau,
            "num_edges": self.num_edges,
            "density": self.density,
            "num_colors": self.num_colors,
            "groups": [list(group) for group in self.groups],
            "churn": self.churn,
            "negative_share": self.negative_share,
            "in_group_conflict": self.in_group_conflict,
            "max_wait": self.max_wait,
            "mean_wait": self.mean_wait,
            "max_age": self.max_age,
            "num_supertasks": self.num_supertasks,
            "moved": self.moved,
            "warnings": list(self.warnings),
        }


def ordered(
    groups: Sequence[tuple[int, ...]], order: Order, last_active: Sequence[int], seed: int
) -> Groups:
    """Return the groups in schedule order.

    Args:
        groups: Groups in creation order.
        order: ``"stalest_first"``: by the task that waited longest, then by the mean wait, then
            creation. ``"creation"``: as given. ``"random"``: shuffled.
        last_active: Step at which each task was last active, -1 = never.
        seed: Seed of this window's shuffle.
    """
    if order == "creation":
        return tuple(groups)
    if order == "random":
        shuffled = generator(seed, "order").permutation(len(groups))
        return tuple(groups[index] for index in shuffled)

    def freshness(group: tuple[int, ...]) -> tuple[int, float]:
        steps = [last_active[task] for task in group]
        return min(steps), float(np.mean(steps))

    return tuple(sorted(groups, key=freshness))
