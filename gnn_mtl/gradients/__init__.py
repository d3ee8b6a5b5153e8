"""Floor 3: per-task gradients.

``task_gradients`` differentiates any vector of losses by any parameters; ``probe`` does it for a
``LabelModel`` on mini-batches without leaving a trace (``frozen``), either by all shared parameters
or for the exact block of the last shared layer, which needs no backward pass per task.
"""

from gnn_mtl.gradients._frozen import frozen
from gnn_mtl.gradients._last_layer import last_layer_jacobian
from gnn_mtl.gradients._probe import ProbeMode, probe
from gnn_mtl.gradients._task_gradients import TaskGradients, task_gradients

__all__ = [
    "ProbeMode",
    "TaskGradients",
    "frozen",
    "last_layer_jacobian",
    "probe",
    "task_gradients",
]
