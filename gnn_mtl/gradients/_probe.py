"""``probe``: the gradients of many tasks of one of our models, measured without a trace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from gnn_mtl._core.cost import CostMeter
from gnn_mtl.gradients._losses import TaskLosses
from gnn_mtl.gradients._parts import whole
from gnn_mtl.gradients._plan import Plan, ProbeMode, total_rows
from gnn_mtl.gradients._sample import ProbeSample
from gnn_mtl.gradients._task_gradients import TaskGradients, usable_rows
from gnn_mtl.graph import MiniBatch
from gnn_mtl.nn import LabelModel


def probe(
    model: LabelModel,
    batches: MiniBatch | Iterable[MiniBatch],
    *,
    tasks: Sequence[int] | None = None,
    mode: ProbeMode = "last_layer",
    pos_weight: Tensor | None = None,
    sample: ProbeSample | None = None,
    num_layers: int = 1,
    sketch_dim: int | None = None,
    scale: Mapping[Tensor, Tensor] | None = None,
    chunk_size: int | None = None,
    meter: CostMeter | None = None,
) -> TaskGradients:
    """Return every task's gradient of its mean loss over the observed nodes of the batches.

    Parameters, buffers, optimizer, stored gradients and random state stay bitwise as they were;
    dropout and batch normalisation are frozen.

    Args:
        model: The model.
        batches: One batch or several; several act as one (weighted by each task's observed nodes).
        tasks: The tasks to measure; default all.
        mode: Exact gradients of one layer, or in parentheses of all shared parameters:

            - ``"last_layer"``: the last shared layer (cheap; closed form where that layer is
              linear maps, backward passes through that layer alone elsewhere: attention and users'
              modules);
            - ``"full"``: all, by the best exact way: ``"layered"`` where it applies, else
              ``"batched"`` on a GPU and ``"loop"`` on a CPU;
            - ``"loop"``: (all) one backward pass per task;
            - ``"batched"``: (all) backward passes of many tasks at once;
            - ``"layered"``: (all) closed form for SAGE and GCN without layer norm.

            Linear sketches, the same in every call, so that averages over time are sketches of
            averages; rows are no gradients any more:

            - ``"last_layer_sketch"``: the last layer's inputs in 64 random directions, for a third
              of the cost (cosines are off by a fraction of what sampling the nodes does: ``bench
              schedule``; layers without closed form are not sketched);
            - ``"count_sketch"``: exact gradients of all shared parameters folded into 1024 numbers
              a task as they come, which bounds the memory of an average over time;
            - ``"jvp_sketch"``: all shared parameters along 256 random directions, one forward-mode
              pass each whatever the number of tasks.

            And ``"representation"``: by the seeds' representations, in closed form. One forward
            pass, but after training not a measure of conflict.
        pos_weight: Weights of the tasks' positives ``[T]``.
        sample: Where the batches hold the nodes of `draw_probe_nodes`: undoes their unequal
            probabilities. Rows are then unbiased estimates of the gradients over the whole split.
        num_layers: With ``"last_layer"``: that many last layers of an encoder of ours, their maps
            without norms.
        sketch_dim: Width of a sketch, instead of the widths above.
        scale: Multiplies the gradients entry by entry (`adam_scale`).
        chunk_size: Tasks (``"batched"``) or directions (``"jvp_sketch"``) at once.
        meter: Counts the work.

    Returns:
        Rows ``[S, P]``; tasks without an observed node, or with a non-finite gradient, are invalid.

    Raises:
        UsageError: On an unknown mode, an option the mode does not have, an empty task list or no
            batch.
    """
    ids = tuple(range(model.num_tasks)) if tasks is None else tuple(int(t) for t in tasks)
    losses = TaskLosses(ids, pos_weight, sample)
    plan = Plan(model, losses, mode, num_layers, sketch_dim, scale, chunk_size, meter)
    if isinstance(batches, MiniBatch):
        batches = [batches]
    jacobian, masses = total_rows(plan, batches, whole(plan.parameters()))
    valid = usable_rows(jacobian) & (masses.sum(dim=0) > 0)
    return TaskGradients(ids, jacobian, valid, len(ids) * len(masses))
