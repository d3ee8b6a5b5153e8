"""Data maps: how surely each task is learned at each of some nodes, followed over a training.

Tasks that find the same nodes easy and the same nodes ambiguous are grouped (STG-MTL, Sherif et
al., 2023), at the price of one evaluation an epoch and no backward pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from torch import Tensor

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl._core.seeding import derive_seed, generator
from gnn_mtl.datasets import TaskGraph
from gnn_mtl.nn import LabelModel, exact_logits
from gnn_mtl.schedulers import JointScheduler, TaskScheduler
from gnn_mtl.training._config import Train
from gnn_mtl.training._hooks import StepHooks
from gnn_mtl.training._loop import fit
from gnn_mtl.training._setup import training_loader


class DataMaps:
    """Mean and spread over epochs of the probability of the true class, per node and task.

    Confidence and variability of Swayamdipta et al., "Dataset Cartography", EMNLP 2020, arXiv
    2009.10795.

    Args:
        y: True classes of the probe nodes ``[n, T]``.
        observed: Which of them are known, bool ``[n, T]``.

    Attributes:
        epochs: Epochs seen.
    """

    def __init__(self, y: ArrayLike, observed: ArrayLike) -> None:
        self.y = np.asarray(y, dtype=np.float64)
        self.observed = np.asarray(observed, dtype=np.bool_)
        if self.y.ndim != 2 or self.y.shape != self.observed.shape:
            raise ShapeError(
                "`y` and `observed` should both have shape [n, T]. Found "
                f"{self.y.shape} and {self.observed.shape}."
            )
        self.epochs = 0
        self._mean = np.zeros(self.y.shape)
        self._squares = np.zeros(self.y.shape)

    def add(self, probabilities: ArrayLike) -> None:
        """Count one epoch, by Welford's update.

        Args:
            probabilities: Of class 1, ``[n, T]``.

        Raises:
            ShapeError: If they are not ``[n, T]``.
        """
        p = np.asarray(probabilities, dtype=np.float64)
        if p.shape != self.y.shape:
            raise ShapeError(f"`probabilities` should have shape {self.y.shape}. Found {p.shape}.")
        confidence = np.where(self.y > 0.5, p, 1 - p)
        self.epochs += 1
        delta = confidence - self._mean
        self._mean += delta / self.epochs
        self._squares += delta * (confidence - self._mean)

    def mean(self) -> NDArray[np.float64]:
        """Return the mean true-class probability ``[n, T]``; NaN where the class is not known.

        Raises:
            UsageError: Before the first epoch.
        """
        return self._known(self._mean)

    def std(self) -> NDArray[np.float64]:
        """Return its standard deviation over the epochs ``[n, T]``; NaN where it is not known.

        Raises:
            UsageError: Before the first epoch.
        """
        return self._known(np.sqrt(self._squares / max(1, self.epochs)))

    def features(self) -> NDArray[np.float64]:
        """Return one row per task for clustering, ``[T, 2n]``: its means, then its spreads.

        An unknown cell takes the mean of the tasks known at that node, so that it speaks for no
        group; a node without any known task becomes 0.

        Raises:
            UsageError: Before the first epoch.
        """
        counts = self.observed.sum(axis=1, keepdims=True)
        parts = []
        for values in (self.mean(), self.std()):
            known = np.where(self.observed, values, 0.0)
            filler = known.sum(axis=1, keepdims=True) / np.maximum(counts, 1)
            parts.append(np.where(self.observed, known, filler))
        return np.concatenate(parts, axis=0).T

    def state_dict(self) -> dict[str, Any]:
        """Return what was seen so far."""
        return {
            "epochs": self.epochs,
            "mean": torch.from_numpy(self._mean.copy()),
            "squares": torch.from_numpy(self._squares.copy()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self.epochs = int(state["epochs"])
        self._mean = state["mean"].numpy().copy()
        self._squares = state["squares"].numpy().copy()

    def _known(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.epochs == 0:
            raise UsageError("Data maps need at least one epoch. Found none; call add() first.")
        return np.where(self.observed, values, np.nan)


class DataMapHooks(StepHooks):
    """Collects :class:`DataMaps` while :func:`fit` trains; changes no bit of the training.

    The probe nodes are training nodes and only their training labels are read. At the first step
    of every epoch but the first the model is scored on them with exact inference, so the state
    after the last epoch is the only one left out.

    Args:
        model: The model that ``fit`` trains.
        graph: The dataset.
        config: What ``fit`` is given; says how many steps an epoch has.
        num_nodes: Probe nodes, at most.
        every: Epochs between two records.
        seed: Seed of the choice of nodes.

    Raises:
        UsageError: If ``num_nodes`` or ``every`` is below 1.

    Attributes:
        nodes: The probe nodes, int64 ``[n]``, sorted.
        maps: What was collected.

    Cost: one exact inference every ``every`` epochs.
    """

    def __init__(
        self,
        model: LabelModel,
        graph: TaskGraph,
        config: Train,
        *,
        num_nodes: int = 1000,
        every: int = 1,
        seed: int = 0,
    ) -> None:
        if num_nodes < 1 or every < 1:
            raise UsageError(
                f"`num_nodes` and `every` should be at least 1. Found {num_nodes} and {every}."
            )
        self.model, self.graph = model, graph.sealed()
        train = graph.split_idx["train"]
        chosen = generator(seed, "data maps").permutation(len(train))[:num_nodes]
        self.nodes: NDArray[np.int64] = np.sort(train[chosen])
        self.maps = DataMaps(*self.graph.targets(self.nodes, "train"))
        loader = training_loader(self.graph, model, config, seed=seed, num_workers=0)
        self.steps = len(loader) * every
        self.due = self.steps

    def weigh_losses(
        self,
        step: int,
        tasks: tuple[int, ...],  # noqa: ARG002
        losses: Tensor,  # noqa: ARG002
    ) -> None:
        """Look at the model when an epoch has ended; leave the losses alone."""
        if step >= self.due:
            self.record()
            self.due = (step // self.steps + 1) * self.steps

    def record(self) -> None:
        """Count the model as it is now."""
        device = next(self.model.parameters()).device
        self.maps.add(expit(exact_logits(self.model, self.graph, self.nodes, device=device)))

    def state_dict(self) -> dict[str, Any]:
        """Return what was seen so far, for a resumed training."""
        return {"due": self.due, "maps": self.maps.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self.due = int(state["due"])
        self.maps.load_state_dict(state["maps"])


def data_maps(
    model: LabelModel,
    graph: TaskGraph,
    config: Train,
    *,
    scheduler: TaskScheduler | None = None,
    num_nodes: int = 1000,
    every: int = 1,
    seed: int = 0,
) -> DataMaps:
    """Train the model once and return the data maps of that training.

    Args:
        model: Trained in place.
        graph: The dataset; its test labels stay sealed.
        config: Budget, optimizer; two epochs at least.
        scheduler: Which tasks are supervised; default: all of them.
        num_nodes: See :class:`DataMapHooks`.
        every: See :class:`DataMapHooks`.
        seed: Seed of the training and of the probe nodes.

    Raises:
        UsageError: If the training is too short to be looked at once.
    """
    hooks = DataMapHooks(
        model, graph, config, num_nodes=num_nodes, every=every, seed=derive_seed(seed, "probe")
    )
    fit(model, graph, scheduler or JointScheduler(graph.num_tasks), config, seed=seed, hooks=hooks)
    if hooks.maps.epochs == 0:
        raise UsageError(
            f"Data maps look at the model every {every} epoch(s), after the first ones. Found a "
            "training that ended before; raise --epochs."
        )
    return hooks.maps
