"""Floor 3: per-task gradients.

``task_gradients`` differentiates any vector of losses by any parameters. For a ``LabelModel`` on
mini-batches, and without leaving a trace (``frozen``):

- ``probe`` returns the gradients, ``task_gramian`` their inner products without ever holding them;
  both in every mode: exact (``last_layer``, ``full`` = ``layered`` | ``batched`` | ``loop``),
  sketched (``last_layer_sketch``, ``count_sketch``, ``jvp_sketch``), ``representation``.
- ``estimate_cosines`` measures on disjoint blocks of nodes: cosines freed of the noise's own norm,
  and standard errors.
- ``draw_probe_nodes`` picks nodes among which rare labels have positives, with the weights that
  keep the gradients unbiased; ``adam_scale`` turns gradients into the optimizer's steps.
- ``StreamedGradients`` sums up over the training steps what they leave behind, and reads from it
  the gradients of all tasks by the last layer and the norms.

The loop in float64 is the oracle all modes are tested against.
"""

from gnn_mtl.gradients._adam import adam_scale
from gnn_mtl.gradients._estimate import CosineEstimate, estimate_cosines
from gnn_mtl.gradients._frozen import frozen
from gnn_mtl.gradients._gramian import GramianMode, TaskGramian, task_gramian
from gnn_mtl.gradients._last_layer import last_layer_jacobian
from gnn_mtl.gradients._plan import ProbeMode
from gnn_mtl.gradients._probe import probe
from gnn_mtl.gradients._sample import ProbeSample, draw_probe_nodes
from gnn_mtl.gradients._streamed import StreamedGradients
from gnn_mtl.gradients._task_gradients import TaskGradients, task_gradients

__all__ = [
    "CosineEstimate",
    "GramianMode",
    "ProbeMode",
    "ProbeSample",
    "StreamedGradients",
    "TaskGradients",
    "TaskGramian",
    "adam_scale",
    "draw_probe_nodes",
    "estimate_cosines",
    "frozen",
    "last_layer_jacobian",
    "probe",
    "task_gradients",
    "task_gramian",
]
