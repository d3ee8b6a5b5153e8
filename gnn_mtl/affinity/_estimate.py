"""``estimate_affinity``: one call from a model and data to an affinity matrix."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice

from gnn_mtl._core.errors import UsageError
from gnn_mtl.affinity._gradient_cosine import gradient_cosine
from gnn_mtl.gradients import ProbeMode, probe
from gnn_mtl.graph import MiniBatch, NeighborLoader
from gnn_mtl.nn import LabelModel
from gnn_mtl.tasks import Affinity


def estimate_affinity(
    model: LabelModel,
    batches: Iterable[MiniBatch],
    *,
    method: ProbeMode = "last_layer",
    max_batches: int | None = None,
    label_names: tuple[str, ...] | None = None,
) -> Affinity:
    """Return the cosine between the tasks' gradients over some batches.

    The gradients are those of each task's mean loss over all observed nodes of the batches, as if
    they were one batch. The model and every random state stay as they were.

    Args:
        model: The model, trained or not; cosines after training are the ones that decide.
        batches: Mini-batches, e.g. a ``NeighborLoader``; more nodes mean less noise.
        method: ``"last_layer"``, ``"last_layer_sketch"`` or ``"full"``; see
            :func:`gnn_mtl.gradients.probe`.
        max_batches: Stop after this many batches; default all of the iterable.
        label_names: One name per task.

    Returns:
        A symmetric affinity with unit ``"cosine"``; tasks without an observed node are NaN.

    Raises:
        UsageError: If there is no batch, or ``method`` is unknown.
    """
    if max_batches is not None and max_batches < 1:
        raise UsageError(f"`max_batches` should be at least 1. Found {max_batches}.")
    if isinstance(batches, NeighborLoader):  # its epoch stays as it is
        batches = batches.epoch_batches(batches.epoch)
    gradients = probe(model, islice(batches, max_batches), mode=method)
    jacobian = gradients.jacobian.clone()
    jacobian[~gradients.valid] = float("nan")
    cosine = gradient_cosine(jacobian, label_names=label_names)
    return replace(cosine, details={"gradients": method, "measured": gradients.label_gradients})
