"""``Grouping``: which tasks learn together, as a value (frozen, sorted, hashable)."""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import FileFormatError, UsageError
from gnn_mtl._core.files import write_json

FORMAT = "gnn-mtl/grouping"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Grouping:
    """Groups of tasks that cover all ``num_tasks`` tasks; they may overlap.

    Two groupings with the same groups are equal and hash alike, whatever the order they were given
    in: groups are kept sorted, and each group is a sorted tuple of distinct task ids.

    Attributes:
        groups: Tuple of sorted tuples of task ids.
        num_tasks: Number of tasks T; ids run from 0 to T - 1.
        method: How the groups were found; not part of equality.

    Example:
        >>> Grouping.of([[2, 0], [1]], 3)
        Grouping(groups=((0, 2), (1,)), num_tasks=3, method='')
    """

    groups: tuple[tuple[int, ...], ...]
    num_tasks: int
    method: str = ""

    def __post_init__(self) -> None:
        try:
            cleaned = sorted(
                tuple(sorted({operator.index(task) for task in group})) for group in self.groups
            )
        except TypeError as error:
            raise UsageError(f"Groups should hold whole task ids. Found: {error}.") from error
        if self.num_tasks < 1:
            raise UsageError(f"A grouping needs at least one task. Found {self.num_tasks}.")
        if any(not group for group in cleaned):
            raise UsageError("Every group should hold at least one task. Found an empty group.")
        members = {task for group in cleaned for task in group}
        outside = sorted(task for task in members if not 0 <= task < self.num_tasks)
        missing = sorted(set(range(self.num_tasks)) - members)
        if outside:
            raise UsageError(
                f"Task ids should lie in [0, {self.num_tasks}), one for each label. Found "
                f"{outside[:8]}; are these groups of another dataset?"
            )
        if missing:
            raise UsageError(
                f"The groups should cover all {self.num_tasks} tasks. Tasks {missing[:8]}"
                f"{' and more' if len(missing) > 8 else ''} are in no group."
            )
        object.__setattr__(self, "groups", tuple(cleaned))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Grouping):
            return NotImplemented
        return self.groups == other.groups and self.num_tasks == other.num_tasks

    def __hash__(self) -> int:
        return hash((self.groups, self.num_tasks))

    @classmethod
    def of(cls, groups: Iterable[Iterable[int]], num_tasks: int, method: str = "") -> Grouping:
        """Build a grouping from any nested iterable of task ids."""
        return cls(tuple(tuple(group) for group in groups), num_tasks, method)

    @classmethod
    def from_assignments(cls, assignments: Sequence[int], method: str = "") -> Grouping:
        """Build a disjoint grouping from one group number per task."""
        groups: dict[int, list[int]] = {}
        for task, group in enumerate(assignments):
            groups.setdefault(int(group), []).append(task)
        return cls.of(groups.values(), len(assignments), method)

    @property
    def is_disjoint(self) -> bool:
        """Whether every task is in exactly one group."""
        return sum(self.sizes) == self.num_tasks

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of tasks of each group."""
        return tuple(len(group) for group in self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def memberships(self) -> NDArray[np.bool_]:
        """Return the matrix ``[M, T]``: True where group m holds task t."""
        matrix = np.zeros((len(self.groups), self.num_tasks), dtype=np.bool_)
        for row, group in enumerate(self.groups):
            matrix[row, list(group)] = True
        return matrix

    def first_of(self) -> NDArray[np.int64]:
        """Return the number of the first group that holds each task, int64 ``[T]``."""
        return self.memberships().argmax(axis=0).astype(np.int64)

    def to_dict(self, label_names: Sequence[str] | None = None) -> dict[str, object]:
        """Return the JSON form; with ``label_names`` the groups are also spelt out by name."""
        value: dict[str, object] = {
            "format": FORMAT, "version": FORMAT_VERSION, "num_tasks": self.num_tasks,
            "method": self.method, "groups": [list(group) for group in self.groups],
        }  # fmt: skip
        if label_names is not None:
            value["label_names"] = [[label_names[task] for task in group] for group in self.groups]
        return value

    def save(
        self, path: str | os.PathLike[str], *, label_names: Sequence[str] | None = None
    ) -> None:
        """Write the grouping as JSON, atomically."""
        write_json(path, self.to_dict(label_names))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Grouping:
        """Read a grouping written by :meth:`save`.

        Raises:
            FileFormatError: If the file is not JSON of that layout or its groups are invalid.
        """
        try:
            value = json.loads(Path(path).read_text(encoding="utf-8"))
            if value["format"] != FORMAT or value["version"] > FORMAT_VERSION:
                raise ValueError(f"{value['format']}, version {value['version']}")
            return cls.of(value["groups"], int(value["num_tasks"]), str(value.get("method", "")))
        except FileNotFoundError:
            raise
        except (ValueError, KeyError, TypeError, OSError) as error:
            found = f"a file without {error}" if isinstance(error, KeyError) else str(error)
            raise FileFormatError(
                f"{path} should be a grouping written by Grouping.save, JSON with `num_tasks` and "
                f"`groups` that cover every task. Found: {found}"
            ) from error
