"""``SchedulerConfig``: the plain values a schedule is built from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import ClassVar

from gnn_mtl._core.errors import UsageError
from gnn_mtl.schedulers._base import TaskScheduler


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


def check_refresh_period(refresh_period: int | None) -> None:
    """Raise UsageError if ``refresh_period`` is below 1."""
    if refresh_period is not None and refresh_period < 1:
        raise UsageError(f"`refresh_period` should be at least 1 step. Found {refresh_period}.")


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raise UsageError if ``value`` is none of ``choices``."""
    if value not in choices:
        raise UsageError(f"`{name}` should be one of {', '.join(choices)}. Found {value!r}.")
