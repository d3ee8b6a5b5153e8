"""Floor 5: which tasks are supervised at each step.

``TaskScheduler`` is the contract: ``active_tasks`` answers for one step after the other, ``peek``
looks ahead, and where ``needs_probe`` is not empty ``observe`` wants gradients first. Its members
differ only in where a window's groups come from: one group of all tasks (``JointScheduler``), a
given grouping (``StaticScheduler``), chance (``RandomGroupsScheduler``, the control), the colours
of the gradients' conflict graph (``ColoringScheduler``, SON-GOKU), or what the groups' own updates
did to every loss (``SelectiveScheduler``). What is done with the groups is another choice, the same
for all (``GroupUse``): they take turns, each makes an update on every batch (``updates``), they
only share weights, or each cycle ends with a step back.

Each has a configuration of plain values (``Joint``, ``Static``, ``Random``, ``Coloring``,
``Selective``) whose ``build`` makes it; ``Single``, one model a label, and ``Separate``, one a
group, are configurations only.
"""

from gnn_mtl.schedulers._base import TaskScheduler
from gnn_mtl.schedulers._coloring import Coloring, ColoringScheduler
from gnn_mtl.schedulers._config import SchedulerConfig
from gnn_mtl.schedulers._group_use import GroupUse, Scale, Update
from gnn_mtl.schedulers._joint import Joint, JointScheduler
from gnn_mtl.schedulers._random_groups import Random, RandomGroupsScheduler
from gnn_mtl.schedulers._selective import Selective, SelectiveScheduler
from gnn_mtl.schedulers._separate import Separate
from gnn_mtl.schedulers._single import Single
from gnn_mtl.schedulers._static import Static, StaticScheduler
from gnn_mtl.schedulers._tau_schedule import TauSchedule
from gnn_mtl.schedulers._window import RefreshReport

__all__ = [
    "Coloring",
    "ColoringScheduler",
    "GroupUse",
    "Joint",
    "JointScheduler",
    "Random",
    "RandomGroupsScheduler",
    "RefreshReport",
    "Scale",
    "SchedulerConfig",
    "Selective",
    "SelectiveScheduler",
    "Separate",
    "Single",
    "Static",
    "StaticScheduler",
    "TaskScheduler",
    "TauSchedule",
    "Update",
]
