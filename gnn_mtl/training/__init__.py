"""Floor 6: one training, from batches to the best model by validation.

``fit`` is the loop; ``train_step`` one step of it, ``group_updates`` several on one batch;
``Optimizers`` pairs torch's Adam on shared parameters (or ``GroupAdam``, with moments of its own
for every group) with ``TaskRowAdam`` on head rows; ``StepHooks`` is where gradient surgery, loss
balancing and moments per task act on the active tasks, ``AggregatorHooks`` what puts any aggregator
there; ``evaluate_split`` scores with exact inference; checkpoints are safetensors with JSON. Test
labels are sealed off for the whole of ``fit``. ``train_subset`` is its short sibling for trainings
by the hundred, a few tasks each.

Groups in models: ``learn_groups`` finds them with the weights (DMTG), ``data_maps`` by following a
training (STG-MTL); ``fork_merge`` and ``cross_learn`` train a model per group that meet again, or
stay near; ``merge_models`` makes one of them (``average_states``, ``ties_states``,
``low_rank_states``, ``refresh_batch_norm``), and ``inference_cost`` says what that saves.
"""

from gnn_mtl.training._aggregate import AggregatorHooks
from gnn_mtl.training._checkpoint import (
    checkpoint_values,
    load_state,
    load_weights,
    save_state,
    save_weights,
)
from gnn_mtl.training._config import Train
from gnn_mtl.training._cost import Cost, peak_rss_mb
from gnn_mtl.training._cross_learning import (
    CrossLearned,
    CrossLearning,
    cross_learn,
    evaluate_groups,
    group_logits,
    project_to_center,
)
from gnn_mtl.training._data_maps import DataMapHooks, DataMaps, data_maps
from gnn_mtl.training._dmtg import DMTG, LearnedGroups, dmtg_step, learn_groups, sample_memberships
from gnn_mtl.training._evaluate import evaluate_split, labels_per_node
from gnn_mtl.training._fork_merge import (
    ForkMerge,
    ForkMerged,
    MergeRound,
    fork_merge,
    merge_branches,
    search_merge,
)
from gnn_mtl.training._group_adam import GroupAdam
from gnn_mtl.training._group_updates import GroupUpdates, group_updates
from gnn_mtl.training._hooks import StepHooks
from gnn_mtl.training._inference_cost import InferenceCost, count_flops, inference_cost
from gnn_mtl.training._loop import Fit, fit
from gnn_mtl.training._merge_states import average_states, low_rank_states, ties_states
from gnn_mtl.training._merge_weights import (
    MERGE_METHODS,
    MergeMethod,
    merge_models,
    refresh_batch_norm,
)
from gnn_mtl.training._optimizers import Optimizers, lr_factor, set_learning_rate
from gnn_mtl.training._setup import choose_device, positive_weights, training_loader
from gnn_mtl.training._skipped import Skipped
from gnn_mtl.training._step import train_step
from gnn_mtl.training._subset_training import (
    SUBSET_METRICS,
    SubsetMetric,
    SubsetScores,
    task_model,
    train_subset,
)
from gnn_mtl.training._task_row_adam import TaskRowAdam

__all__ = [
    "DMTG",
    "MERGE_METHODS",
    "SUBSET_METRICS",
    "AggregatorHooks",
    "Cost",
    "CrossLearned",
    "CrossLearning",
    "DataMapHooks",
    "DataMaps",
    "Fit",
    "ForkMerge",
    "ForkMerged",
    "GroupAdam",
    "GroupUpdates",
    "InferenceCost",
    "LearnedGroups",
    "MergeMethod",
    "MergeRound",
    "Optimizers",
    "Skipped",
    "StepHooks",
    "SubsetMetric",
    "SubsetScores",
    "TaskRowAdam",
    "Train",
    "average_states",
    "checkpoint_values",
    "choose_device",
    "count_flops",
    "cross_learn",
    "data_maps",
    "dmtg_step",
    "evaluate_groups",
    "evaluate_split",
    "fit",
    "fork_merge",
    "group_logits",
    "group_updates",
    "inference_cost",
    "labels_per_node",
    "learn_groups",
    "load_state",
    "load_weights",
    "low_rank_states",
    "lr_factor",
    "merge_branches",
    "merge_models",
    "peak_rss_mb",
    "positive_weights",
    "project_to_center",
    "refresh_batch_norm",
    "sample_memberships",
    "save_state",
    "save_weights",
    "search_merge",
    "set_learning_rate",
    "task_model",
    "ties_states",
    "train_step",
    "train_subset",
    "training_loader",
]
