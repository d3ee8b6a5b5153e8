"""One model per group: the grouping decides what is trained together, nothing is scheduled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from gnn_mtl._core.errors import UsageError
from gnn_mtl.schedulers._base import TaskScheduler
from gnn_mtl.schedulers._config import check_choice
from gnn_mtl.tasks import Grouping


@dataclass(frozen=True, kw_only=True)
class Separate:
    """One model per group of tasks, each like a joint run on its group alone.

    What TAG, higher-order affinities and Grad-TAG do with their groups. A run of this kind trains
    several models, which no schedule of one model can express; it is a configuration like the
    others so that recipes and tables can name it. Where groups overlap, a task is served by the
    model that does best on it in validation.
    """

    kind: ClassVar[str] = "separate"

    file: str | None = None
    """Grouping file (JSON) written by `gnn-mtl group` or `Grouping.save`."""

    groups: tuple[tuple[int, ...], ...] = ()
    """The groups themselves, instead of a file."""

    init: Literal["scratch", "base"] = "scratch"
    """What each model begins with: fresh weights, or those of the run `base`."""

    base: str | None = None
    """Folder of a finished joint run on the same tasks with the same network, to fine-tune from."""

    heads: Literal["copied", "fresh"] = "copied"
    """With `init` base: take over its heads of the group's tasks, or begin with fresh ones."""

    control: bool = False
    """The groups are random, of the sizes of other groups: reports hold those against them."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", tuple(tuple(group) for group in self.groups))
        if (self.file is None) == (not self.groups):
            raise UsageError("Give either `file` or `groups` for separate models.")
        check_choice("init", self.init, ("scratch", "base"))
        check_choice("heads", self.heads, ("copied", "fresh"))
        if (self.init == "base") != (self.base is not None):
            raise UsageError(
                "Fine-tuning needs init='base' and the folder of the run in `base`; training from "
                f"scratch neither. Found init={self.init!r} and base={self.base!r}."
            )
        if self.init == "scratch" and self.heads == "fresh":
            raise UsageError("`heads` fresh is for init='base': from scratch all heads are fresh.")

    def grouping(self, num_tasks: int) -> Grouping:
        """Return the groups; reads the file if there is one.

        Raises:
            FileNotFoundError: If there is no such file.
            FileFormatError: If the file is not a grouping.
            UsageError: If the grouping does not cover the tasks.
        """
        if self.file is None:
            return Grouping.of(self.groups, num_tasks, "given")
        grouping = Grouping.load(self.file)
        if grouping.num_tasks != num_tasks:
            raise UsageError(
                f"The grouping should be of the {num_tasks} tasks of the dataset. "
                f"Found one of {grouping.num_tasks} tasks."
            )
        return grouping

    def build(self, num_tasks: int, seed: int = 0) -> TaskScheduler:  # noqa: ARG002
        """Raise: one model a group is a set of runs, not a schedule of one.

        Raises:
            UsageError: Always.
        """
        raise UsageError(
            'A "separate" run trains one model a group and has no task scheduler. Train it as a '
            "run (`gnn-mtl train --scheduler.kind separate --groups FILE`)."
        )
