"""``SchedulerConfig``: the plain values a schedule is built from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from gnn_mtl._core.errors import UsageError
from gnn_mtl.schedulers._base import TaskScheduler
from gnn_mtl.schedulers._group_use import GroupUse, Scale, check_group_options


@dataclass(frozen=True, kw_only=True)
class SchedulerConfig(ABC):
    """Base of the configurations: frozen, checked when made, of JSON values only."""

    kind: ClassVar[str]

    @abstractmethod
    def build(self, num_tasks: int, seed: int = 0) -> TaskScheduler:
        """Build the schedule for ``num_tasks`` tasks; ``seed`` is the run's."""

    def to_dict(self) -> dict[str, object]:
        """Return ``{"kind": ..., field: value, ...}``."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class GroupOptions(SchedulerConfig):
    """What every schedule of groups can do with them: see :class:`TaskScheduler`."""

    scale: Scale = "sum"
    """Factor of the losses of an update: 1, 1 / active tasks, or tasks / active tasks."""

    reweight: bool = False
    """Divide a label's loss by the number of groups it is in."""

    use: GroupUse = "one_group_per_batch"
    """Groups take turns; or each makes an update of its own on every batch; or they only share
    weights; or each cycle through them ends with a step back (Sequential Reptile)."""

    outer_lr: float = 0.5
    """Share of a cycle's way that inner_outer keeps; in (0, 1]."""

    def __post_init__(self) -> None:
        check_group_options(self.scale, self.use, self.outer_lr)

    def group_options(self) -> dict[str, Any]:
        """Return these options as keyword arguments."""
        return {
            "scale": self.scale,
            "reweight": self.reweight,
            "use": self.use,
            "outer_lr": self.outer_lr,
        }


def check_refresh_period(refresh_period: int | None, name: str = "refresh_period") -> None:
    """Raise UsageError if a period is below 1."""
    if refresh_period is not None and refresh_period < 1:
        raise UsageError(f"`{name}` should be at least 1 step. Found {refresh_period}.")


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raise UsageError if ``value`` is none of ``choices``."""
    if value not in choices:
        raise UsageError(f"`{name}` should be one of {', '.join(choices)}. Found {value!r}.")
