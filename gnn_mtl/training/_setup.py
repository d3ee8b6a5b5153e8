"""What a training starts from: its batches, its device, the weights of positives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gnn_mtl._core.errors import UsageError
from gnn_mtl.datasets import TaskGraph
from gnn_mtl.graph import LabelInputs, NeighborLoader
from gnn_mtl.nn import LabelModel
from gnn_mtl.training._config import Train


def training_loader(
    graph: TaskGraph,
    model: LabelModel,
    config: Train,
    *,
    seed: int,
    **options: Any,  # noqa: ANN401
) -> NeighborLoader:
    """Return the loader of training batches that a configuration asks for.

    Args:
        graph: The dataset.
        model: Says how many hops to sample and on which device it lives.
        config: Batch size, fan-outs, threads.
        seed: Seed of shuffling and sampling.
        **options: Arguments of :class:`NeighborLoader` that replace the configured ones.

    Raises:
        UsageError: If labels are inputs and a batch holds every training node, so that none is
            left to be read.
    """
    arguments: dict[str, Any] = {
        "num_neighbors": config.fan_outs(model.encoder.num_hops), "replace": config.replace,
        "batch_size": config.batch_size, "num_workers": config.num_workers,
        "device": next(model.parameters()).device,
    }  # fmt: skip
    arguments |= options
    available = len(graph.split_idx["train"])
    if isinstance(graph, LabelInputs) and arguments["batch_size"] >= available:
        raise UsageError(
            "Labels as inputs need batches smaller than the training set: those of a batch are "
            f"hidden. Found batches of {arguments['batch_size']} of {available} nodes; lower "
            "--train.batch-size."
        )
    return NeighborLoader(graph, "train", seed=seed, **arguments)


def choose_device(name: str) -> torch.device:
    """Return the device that ``--device`` names; ``auto`` is CUDA where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"`device` should be auto, cpu or cuda. Found {name!r}.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"`device` is {name!r} but torch finds no CUDA here; use --device auto.")
    return device


def positive_weights(
    graph: TaskGraph, config: Train, device: torch.device | None = None
) -> Tensor | None:
    """Return the weight of each task's positives ``[T]`` that the configuration asks for."""
    if config.pos_weight == "none":
        return None
    positives = torch.from_numpy(graph.positives("train")).double()
    negatives = torch.from_numpy(graph.observed_counts("train")).double() - positives
    ratio = negatives / positives.clamp(min=1)
    if config.pos_weight == "sqrt":
        ratio = ratio.sqrt()
    return ratio.clamp(min=1, max=100).float().to(device)
