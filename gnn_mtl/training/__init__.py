"""Floor 6: one training, from batches to the best model by validation.

``fit`` is the loop; ``train_step`` one step of it, ``group_updates`` several on one batch;
``Optimizers`` pairs torch's Adam on shared parameters (or ``GroupAdam``, with moments of its own
for every group) with ``TaskRowAdam`` on head rows; ``StepHooks`` is where gradient surgery, loss
balancing and moments per task act on the active tasks; ``evaluate_split`` scores with exact
inference; checkpoints are safetensors with JSON. Test labels are sealed off for the whole of
``fit``.
"""

from gnn_mtl.training._checkpoint import (
    checkpoint_values,
    load_state,
    load_weights,
    save_state,
    save_weights,
)
from gnn_mtl.training._config import Train
from gnn_mtl.training._cost import Cost, peak_rss_mb
from gnn_mtl.training._evaluate import evaluate_split, labels_per_node
from gnn_mtl.training._group_adam import GroupAdam
from gnn_mtl.training._group_updates import GroupUpdates, group_updates
from gnn_mtl.training._hooks import StepHooks
from gnn_mtl.training._loop import Fit, fit
from gnn_mtl.training._optimizers import Optimizers, lr_factor, set_learning_rate
from gnn_mtl.training._setup import choose_device, positive_weights, training_loader
from gnn_mtl.training._skipped import Skipped
from gnn_mtl.training._step import train_step
from gnn_mtl.training._task_row_adam import TaskRowAdam

__all__ = [
    "Cost",
    "Fit",
    "GroupAdam",
    "GroupUpdates",
    "Optimizers",
    "Skipped",
    "StepHooks",
    "TaskRowAdam",
    "Train",
    "checkpoint_values",
    "choose_device",
    "evaluate_split",
    "fit",
    "group_updates",
    "labels_per_node",
    "load_state",
    "load_weights",
    "lr_factor",
    "peak_rss_mb",
    "positive_weights",
    "save_state",
    "save_weights",
    "set_learning_rate",
    "train_step",
    "training_loader",
]
