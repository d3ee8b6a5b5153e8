"""``estimate_affinity``: one call from a model and data to an affinity matrix, by any method."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import islice
from typing import Any, get_args

import numpy as np

from gnn_mtl._core.errors import UsageError
from gnn_mtl._core.seeding import generator
from gnn_mtl.affinity._batch_cosine import cosine_affinity
from gnn_mtl.affinity._cooccurrence import label_cooccurrence
from gnn_mtl.affinity._gradtag import gradtag_affinity
from gnn_mtl.affinity._linear_look_ahead import tag_linear_affinity
from gnn_mtl.affinity._look_ahead import tag_affinity
from gnn_mtl.datasets import TaskGraph
from gnn_mtl.gradients import ProbeMode
from gnn_mtl.graph import MiniBatch, NeighborLoader
from gnn_mtl.nn import LabelModel
from gnn_mtl.tasks import Affinity

MODEL_METHODS: Mapping[str, Callable[..., Affinity]] = {
    **{mode: partial(cosine_affinity, mode=mode) for mode in get_args(ProbeMode)},
    "tag": tag_affinity,
    "tag_linear": tag_linear_affinity,
}
"""Methods that need a model: called with it, the batches, and options."""

SUBSET_METHODS: Mapping[str, Callable[..., Affinity]] = {"gradtag": gradtag_affinity}
"""Methods that score whole subsets on validation nodes: called alike, and with ``valid``."""

LABEL_METHODS: Mapping[str, Callable[..., Affinity]] = {
    "cooccurrence": partial(label_cooccurrence, measure="phi"),
    "jaccard": partial(label_cooccurrence, measure="jaccard"),
    "lift": partial(label_cooccurrence, measure="lift"),
}
"""Methods that read training labels only: called with the graph."""


def estimate_affinity(
    model: LabelModel | None,
    batches: Iterable[MiniBatch] | TaskGraph,
    *,
    method: str = "last_layer",
    max_batches: int | None = None,
    label_names: tuple[str, ...] | None = None,
    **options: Any,  # noqa: ANN401
) -> Affinity:
    """Return how the tasks affect each other, by the method of that name.

    Gradients are those of each task's mean loss over all observed nodes of the batches, as if they
    were one batch; look-aheads are made on each batch. The model and every random state stay as
    they were.

    Args:
        model: The model, trained or not; after training is when it decides. None will do for
            methods that read labels only.
        batches: Mini-batches, e.g. a ``NeighborLoader``, whose epoch stays as it is; more nodes
            mean less noise. For methods that read labels only, the graph or a loader of it.
        method: Cosines of gradients (:func:`cosine_affinity`), by the gradients taken:
            ``"last_layer"``, ``"last_layer_sketch"``, ``"full"`` or another mode of
            :func:`gnn_mtl.gradients.probe`. TAG's look-ahead: ``"tag"`` by explicit steps
            (:func:`tag_affinity`), ``"tag_linear"`` to first order (:func:`tag_linear_affinity`).
            ``"gradtag"`` predicts trainings of subsets (:func:`gradtag_affinity`); it scores on
            validation nodes, which a loader's graph provides, else pass them as ``valid``.
            Labels only (:func:`label_cooccurrence`): ``"cooccurrence"``, the phi coefficient,
            ``"jaccard"``, ``"lift"``.
        max_batches: Stop after this many batches; default all of the iterable.
        label_names: One name per task; default those of the loader's graph.
        **options: Options of that method.

    Returns:
        The affinity: unit, symmetry, counts and errors are the method's. Tasks without an observed
        node are NaN.

    Raises:
        UsageError: If there is no batch, no method of that name, an option it does not have, or no
            model where one is needed.
    """
    if max_batches is not None and max_batches < 1:
        raise UsageError(f"`max_batches` should be at least 1. Found {max_batches}.")
    call = _method(method, options)
    graph = batches if isinstance(batches, TaskGraph) else getattr(batches, "graph", None)
    if method in LABEL_METHODS:
        if not isinstance(graph, TaskGraph):
            raise UsageError(
                f"{method!r} counts labels of a whole graph. Pass the TaskGraph, or a loader of it."
            )
        return call(graph, **options)
    if model is None or isinstance(batches, TaskGraph):
        raise UsageError(
            f"{method!r} needs a model and mini-batches. Pass both; methods that read labels only: "
            f"{', '.join(LABEL_METHODS)}."
        )
    names = label_names or getattr(graph, "label_names", None)
    if method in SUBSET_METHODS and "valid" not in options and isinstance(batches, NeighborLoader):
        options["valid"] = valid_batches(batches, max_batches)
    if isinstance(batches, NeighborLoader):  # its epoch stays as it is
        batches = batches.epoch_batches(batches.epoch)
    elif isinstance(batches, MiniBatch):
        batches = [batches]
    return call(model, islice(batches, max_batches), label_names=names, **options)


def valid_batches(loader: NeighborLoader, max_batches: int | None = None) -> NeighborLoader:
    """Return a loader of validation nodes that samples as one of training nodes does.

    Args:
        loader: The loader of training nodes.
        max_batches: At most so many batches, of nodes drawn at random.
    """
    nodes = loader.graph.split_idx["valid"]
    if max_batches is not None and len(nodes) > max_batches * loader.batch_size:
        drawn = generator(loader.seed, "valid nodes").permutation(nodes)
        nodes = np.sort(drawn[: max_batches * loader.batch_size])
    replace = loader.sampler is not None and loader.sampler.replace
    return NeighborLoader(
        loader.graph, "valid", num_neighbors=loader.num_neighbors, batch_size=loader.batch_size,
        seed=loader.seed, input_nodes=nodes, shuffle=False, replace=replace,
        num_workers=loader.num_workers, prefetch=loader.prefetch, device=loader.device,
    )  # fmt: skip


def _method(name: str, options: Mapping[str, object]) -> Callable[..., Affinity]:
    """The method of that name, if it has the options; else UsageError with what there is."""
    known = {**MODEL_METHODS, **SUBSET_METHODS, **LABEL_METHODS}
    if name not in known:
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise UsageError(f"`method` should be one of {', '.join(known)}. Found {name!r}.{hint}")
    call = known[name]
    fixed = set(call.keywords) if isinstance(call, partial) else set()
    keywords = [
        p.name
        for p in inspect.signature(call).parameters.values()
        if p.kind is p.KEYWORD_ONLY and p.name not in {*fixed, "label_names"}
    ]
    unknown = sorted(options.keys() - set(keywords))
    if unknown:
        raise UsageError(
            f"{name!r} has no option {', '.join(unknown)}. It has: {', '.join(keywords) or 'none'}."
        )
    return call
