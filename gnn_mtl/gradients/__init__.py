"""Floor 3: per-task gradients.

``task_gradients`` differentiates any vector of losses by any parameters. For a ``LabelModel`` on
mini-batches, and without leaving a trace (``frozen``):

- ``probe`` returns the gradients, ``task_gramian`` their inner products without ever holding them;
  both in every mode: exact (``last_layer``, ``full`` = ``layered`` | ``batched`` | ``loop``),
  sketched (``last_layer_sketch``, ``count_sketch``, ``jvp_sketch``), ``representation``.
- ``tapped`` takes the last layer's Gramian from a training step's own forward pass, as it was.
- ``estimate_cosines`` measures on disjoint blocks of nodes: cosines freed of the noise's own norm,
  and standard errors.
- ``draw_probe_nodes`` picks nodes among which rare labels have positives, with the weights that
  keep the gradients unbiased; ``adam_scale`` turns gradients into the optimizer's steps.
- ``control_variate`` corrects gradients of few nodes by exact ones of older weights (SVRG).
- ``StreamedGradients`` sums up over the training steps what they leave behind, and reads from it
  the gradients of all tasks by the last layer and the norms.

Gradients of the logits instead of the losses, for Grad-TAG: ``output_features`` projects those of
all (node, task) pairs on random directions and ``displaced`` moves the model along them;
``kronecker_features`` and ``kronecker_displaced`` do so along rank-one directions,
``per_sample_features`` by backward passes. ``FeatureStatistics`` (``feature_statistics``) sums up
what fits of task subsets need, ``FeatureStore`` (``store_features``) keeps pairs.

The loop in float64 is the oracle all modes are tested against.
"""

from gnn_mtl.gradients._adam import adam_scale
from gnn_mtl.gradients._control_variate import control_variate
from gnn_mtl.gradients._directions import (
    ParameterFilter,
    chosen_parameters,
    displaced,
    displacements,
)
from gnn_mtl.gradients._estimate import CosineEstimate, estimate_cosines
from gnn_mtl.gradients._feature_statistics import FeatureStatistics, feature_statistics
from gnn_mtl.gradients._feature_store import FeatureStore, negative_shares, store_features
from gnn_mtl.gradients._frozen import frozen
from gnn_mtl.gradients._gramian import GramianMode, TaskGramian, task_gramian
from gnn_mtl.gradients._kronecker_features import kronecker_displaced, kronecker_features
from gnn_mtl.gradients._last_layer import last_layer_jacobian
from gnn_mtl.gradients._output_features import OutputFeatures, output_features
from gnn_mtl.gradients._per_sample_features import per_sample_features, per_sample_gradients
from gnn_mtl.gradients._plan import ProbeMode
from gnn_mtl.gradients._probe import probe
from gnn_mtl.gradients._sample import ProbeSample, draw_probe_nodes
from gnn_mtl.gradients._streamed import StreamedGradients
from gnn_mtl.gradients._tapped import LastLayerTap, tapped
from gnn_mtl.gradients._task_gradients import TaskGradients, task_gradients

__all__ = [
    "CosineEstimate",
    "FeatureStatistics",
    "FeatureStore",
    "GramianMode",
    "LastLayerTap",
    "OutputFeatures",
    "ParameterFilter",
    "ProbeMode",
    "ProbeSample",
    "StreamedGradients",
    "TaskGradients",
    "TaskGramian",
    "adam_scale",
    "chosen_parameters",
    "control_variate",
    "displaced",
    "displacements",
    "draw_probe_nodes",
    "estimate_cosines",
    "feature_statistics",
    "frozen",
    "kronecker_displaced",
    "kronecker_features",
    "last_layer_jacobian",
    "negative_shares",
    "output_features",
    "per_sample_features",
    "per_sample_gradients",
    "probe",
    "store_features",
    "tapped",
    "task_gradients",
    "task_gramian",
]
