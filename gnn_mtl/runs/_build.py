"""From a configuration to the objects it names: dataset with features, model, schedule."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gnn_mtl._core.errors import FeatureError, RecordError, UsageError
from gnn_mtl._core.seeding import derive_seed
from gnn_mtl.aggregation import PreferenceMethod, Sum
from gnn_mtl.datasets import TaskGraph, cached_features, load_dataset, with_label_inputs
from gnn_mtl.nn import SIGN, LabelModel, propagate
from gnn_mtl.runs._config import RunConfig
from gnn_mtl.training import AggregatorHooks, load_weights


def build_graph(config: RunConfig) -> TaskGraph:
    """Return the dataset of a run with everything the model sees."""
    return with_inputs(load_dataset(config.dataset, config.root), config)


def with_inputs(graph: TaskGraph, config: RunConfig) -> TaskGraph:
    """Return the graph with the configured features and, if asked for, labels as inputs.

    Raises:
        FeatureError: If the graph's own features are asked for and it has none.
        UsageError: If labels are asked for with features that are propagated ahead of training.
    """
    if not config.features.labels:
        return with_features(graph, config)
    if isinstance(config.encoder, SIGN):
        raise UsageError(
            "Labels as inputs need an encoder that samples neighbours. Found sign, whose features "
            "are propagated once: a node's own label would come back to it. Choose --encoder.kind "
            "sage or leave out --features.labels."
        )
    return with_label_inputs(with_features(graph, config))


def with_features(graph: TaskGraph, config: RunConfig) -> TaskGraph:
    """Return the graph with the configured features; propagated ones for SIGN.

    Structural features are standardised, read no label, are the same for every seed, and are
    kept on disk (:func:`gnn_mtl.datasets.cached_features`). Labels as inputs are no features; see
    :func:`with_inputs`.

    Raises:
        FeatureError: If the graph's own features are asked for and it has none.
    """
    use = config.features.use
    if graph.x is None and use == "own":
        raise FeatureError(
            f"{graph.name} has no features of its own; use --features.use structural."
        )
    parts: list[Any] = []
    if graph.x is not None and use != "structural":
        parts.append(graph.features(np.arange(graph.num_nodes)))
    if use in ("structural", "both", "auto") or graph.x is None:
        dim = min(config.features.dim, graph.num_nodes)
        parts.append(cached_features(graph, dim=dim, method=config.features.method))
    x = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    if isinstance(config.encoder, SIGN):
        x = propagate(graph.csc, np.asarray(x, dtype=np.float32), config.encoder.hops)
    return graph if x is graph.x else graph.with_features(x)


def build_model(config: RunConfig, graph: TaskGraph) -> LabelModel:
    """Return the untrained model; its initial weights depend on the run's seed only."""
    edge_channels = None if graph.edge_attr is None else int(graph.edge_attr.shape[1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "init"))
        encoder = config.encoder.build(graph.num_features, edge_channels)
        return LabelModel(encoder, config.head.build(encoder.out_channels, graph.num_tasks))


def build_hooks(
    config: RunConfig, graph: TaskGraph, tasks: Sequence[int] | None = None
) -> AggregatorHooks | None:
    """Return the aggregator of a model of some of the graph's tasks; None for the plain sum.

    Args:
        config: What is run.
        graph: The dataset, with all tasks.
        tasks: Those of the model; default all.

    Raises:
        ShapeError: If it was told something for another number of tasks.
    """
    aggregator = config.aggregator
    if isinstance(aggregator, Sum):
        return None
    size = graph.num_tasks if tasks is None else len(tasks)
    if isinstance(aggregator, PreferenceMethod) and aggregator.preference and tasks is not None:
        aggregator.build(graph.num_tasks)  # refuses a preference of another length
        preference = tuple(aggregator.preference[task] for task in tasks)
        aggregator = replace(aggregator, preference=preference)
    built = aggregator.build(size, derive_seed(config.seed, "aggregator"))
    return AggregatorHooks(built, mode=config.train.gramian, every=config.train.gramian_every)


def load_trained(folder: str | os.PathLike[str]) -> tuple[RunConfig, TaskGraph, LabelModel]:
    """Return the configuration, the dataset and the model with the best weights of a run.

    Raises:
        RecordError: If the folder holds no run, or one of several models.
    """
    weights = Path(folder) / "checkpoints" / "best.safetensors"
    if not weights.exists():
        raise RecordError(
            f"{folder} should hold checkpoints/best.safetensors of one trained model. Found none "
            "(single-task runs hold one model per label, separate ones one per group); train a "
            "shared model first."
        )
    config = RunConfig.load(folder)
    graph = build_graph(config)
    model = build_model(config, graph)
    load_weights(weights, model)
    return config, graph, model


def load_base(folder: str | os.PathLike[str], config: RunConfig, graph: TaskGraph) -> LabelModel:
    """Return the best model of a run of all tasks, for a run of ``config`` to begin with.

    Args:
        folder: The run folder.
        config: What is to be trained from it.
        graph: The dataset with the inputs of ``config``.

    Raises:
        RecordError: If the folder holds no run of one model.
        UsageError: If encoder, heads or features differ.
        FileFormatError: If the weights are of another number of tasks.
    """
    weights = Path(folder) / "checkpoints" / "best.safetensors"
    if not weights.exists():
        raise RecordError(
            f"{folder} should hold checkpoints/best.safetensors of one model of all tasks to begin "
            "with. Found none; train one with --scheduler.kind joint."
        )
    base = RunConfig.load(folder)
    names = ("encoder", "head", "features")
    if changed := [name for name in names if getattr(base, name) != getattr(config, name)]:
        raise UsageError(
            f"The base run should have the same {', '.join(names)}. {folder} differs in "
            f"{', '.join(changed)}; take its configuration: gnn-mtl train {folder} "
            "--scheduler.kind separate ..."
        )
    model = build_model(config, graph)
    load_weights(weights, model)
    return model
