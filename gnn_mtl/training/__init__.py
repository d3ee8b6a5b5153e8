"""Floor 6: one training, from batches to the best model by validation.

``fit`` is the loop; ``train_step`` one step of it, ``group_updates`` several on one batch;
``Optimizers`` pairs torch's Adam on shared parameters (or ``GroupAdam``, with moments of its own
for every group) with ``TaskRowAdam`` on head rows; ``evaluate_split`` scores with exact inference;
checkpoints are safetensors with JSON. Test labels are sealed off for the whole of ``fit``.
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
from gnn_mtl.training._loop import Fit, choose_device, fit, training_loader
from gnn_mtl.training._optimizer import TaskRowAdam, lr_factor
from gnn_mtl.training._step import Optimizers, Skipped, set_learning_rate, train_step

__all__ = [
    "Cost",
    "Fit",
    "GroupAdam",
    "GroupUpdates",
    "Optimizers",
    "Skipped",
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
    "save_state",
    "save_weights",
    "set_learning_rate",
    "train_step",
    "training_loader",
]
