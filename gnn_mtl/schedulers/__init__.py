"""Floor 5: which tasks are supervised at each step.

``TaskScheduler`` is the contract: ``active_tasks`` answers for one step after the other, ``peek``
looks ahead, and where ``needs_probe`` is not empty ``observe`` wants gradients first. Its members
differ only in where a window's groups come from: one group of all tasks (``JointScheduler``), a
given grouping (``StaticScheduler``), chance (``RandomGroupsScheduler``, the control), or the
colours of the gradients' conflict graph (``ColoringScheduler``, SON-GOKU).

Each has a configuration of plain values (``Joint``, ``Static``, ``Random``, ``Coloring``) whose
``build`` makes it; ``Single``, one model a label, is a configuration only.
"""

from gnn_mtl.schedulers._base import Scale, TaskScheduler
from gnn_mtl.schedulers._coloring import Coloring, ColoringScheduler
from gnn_mtl.schedulers._config import SchedulerConfig
from gnn_mtl.schedulers._joint import Joint, JointScheduler
from gnn_mtl.schedulers._random_groups import Random, RandomGroupsScheduler
from gnn_mtl.schedulers._single import Single
from gnn_mtl.schedulers._static import Static, StaticScheduler
from gnn_mtl.schedulers._tau_schedule import TauSchedule
from gnn_mtl.schedulers._window import RefreshReport

__all__ = [
    "Coloring",
    "ColoringScheduler",
    "Joint",
    "JointScheduler",
    "Random",
    "RandomGroupsScheduler",
    "RefreshReport",
    "Scale",
    "SchedulerConfig",
    "Single",
    "Static",
    "StaticScheduler",
    "TaskScheduler",
    "TauSchedule",
]
