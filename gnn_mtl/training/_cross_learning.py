r"""Cross-learning: a model per group, none farther than a radius from a centre they share.

Cervino, Bazerque, Calvo-Fullana and Ribeiro, arXiv 2010.12993:

.. math:: \min \sum_m L_m(\theta_m) \quad\text{subject to}\quad \|\theta_m - g\| \le \epsilon

Radius 0 is one shared model, an infinite radius one model per group. After every step of the models
their trunks are projected back onto the constraint; heads are their own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gnn_mtl._core.cost import CostMeter
from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl._core.progress import Progress
from gnn_mtl._core.seeding import derive_seed
from gnn_mtl.datasets import TaskGraph
from gnn_mtl.metrics import Scores
from gnn_mtl.nn import LabelModel, exact_logits
from gnn_mtl.tasks import Grouping
from gnn_mtl.training._config import Train
from gnn_mtl.training._cost import Cost
from gnn_mtl.training._evaluate import scores_of
from gnn_mtl.training._optimizers import Optimizers, set_learning_rate
from gnn_mtl.training._rounds import batches_between, copied_state, step_options
from gnn_mtl.training._setup import choose_device, positive_weights, training_loader
from gnn_mtl.training._skipped import Skipped
from gnn_mtl.training._step import train_step

ITERATIONS = 10_000
TOLERANCE = 1e-12


@dataclass(frozen=True, kw_only=True)
class CrossLearning:
    """How far the groups' models may part."""

    radius: float = 0.3
    """Largest distance of a trunk from the centre, as share of the norm of the initial trunk; 0 is
    one trunk for all, inf no constraint."""
    every: int = 1
    """Steps between two projections."""

    def __post_init__(self) -> None:
        if not self.radius >= 0 or self.every < 1:
            raise UsageError(
                "`radius` should not be negative and `every` at least 1. Found "
                f"{self.radius} and {self.every}."
            )


@dataclass(frozen=True, eq=False)
class CrossLearned:
    """What :func:`cross_learn` found; the models passed in hold the best weights by validation.

    Attributes:
        best_step: Steps of each model when the best validation score was reached.
        valid: Macro validation scores there.
        distances: Distance of each trunk from the centre there ``[M]``, as share of the largest
            that is allowed (as it is where that is 0 or infinite).
        cost: What it took, all models together.
    """

    best_step: int
    valid: dict[str, float]
    distances: NDArray[np.float64]
    cost: Cost


def project_to_center(vectors: Tensor, center: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    r"""Return the nearest points and centre with every point within a radius of the centre.

    The Euclidean projection of :math:`(\theta_1, ..., \theta_M, g)` onto
    :math:`\{\|\theta_m - g\| \le \epsilon\}`. With :math:`w_m = \max(0, 1 - \epsilon / \|\theta_m -
    g^+\|)` it solves the paper's optimality conditions :math:`g^+ = (g + \sum w_m \theta_m) / (1 +
    \sum w_m)` and :math:`\theta_m^+ = \theta_m + w_m (g^+ - \theta_m)`; they are iterated on the
    Gramian, where the paper ascends the dual, which stalls at small radii.

    Args:
        vectors: Points ``[M, P]``.
        center: The centre ``[P]``.
        radius: Largest distance, not negative; may be infinite.

    Raises:
        ShapeError: If the shapes do not fit.
        UsageError: If the radius is negative.

    Cost: ``M^2 P`` multiplications; the iterations are of size M.
    """
    if vectors.dim() != 2 or center.shape != vectors.shape[1:]:
        raise ShapeError(
            "`vectors` should have shape [M, P] and `center` [P]. Found "
            f"{tuple(vectors.shape)} and {tuple(center.shape)}."
        )
    if not radius >= 0:
        raise UsageError(f"`radius` should not be negative. Found {radius}.")
    apart = (vectors - center).double()
    gram = (apart @ apart.T).cpu().numpy()
    if (np.diag(gram) <= radius**2).all():
        return vectors.clone(), center.clone()
    number, at = len(vectors), np.zeros(len(vectors))  # the centre is g + sum at_m apart_m
    pull = np.zeros(number)
    for _ in range(ITERATIONS):
        reach = at @ gram
        squares = np.diag(gram) - 2 * reach + at @ reach
        distances = np.sqrt(np.maximum(squares, 0.0))
        with np.errstate(divide="ignore", invalid="ignore"):
            pull = np.where(distances > radius, 1 - radius / distances, 0.0)
        new = (pull + (1 - pull).sum() * at) / (1 + number)
        moved, at = np.abs(new - at).max(), new
        if moved <= TOLERANCE:
            break
    moved_center = center.double() + torch.from_numpy(at).to(apart) @ apart
    weights = torch.from_numpy(pull).to(apart)[:, None]
    found = vectors.double() + weights * (moved_center - vectors.double())
    return found.to(vectors.dtype), moved_center.to(center.dtype)


def cross_learn(
    models: Sequence[LabelModel],
    graph: TaskGraph,
    groups: Grouping,
    config: Train,
    options: CrossLearning | None = None,
    *,
    seed: int = 0,
) -> CrossLearned:
    """Train one model per group side by side, their trunks held together.

    All models see the same batches. The centre starts as the mean of the trunks and moves only by
    projections. Running statistics of batch norms are each model's own.

    Args:
        models: One per group, with heads for all tasks of the graph; trained in place. They should
            start from the same weights.
        graph: The dataset; its test labels stay sealed.
        groups: The groups; a task in several is trained by all and scored by the first.
        config: Budget, batches, optimizer, ``eval_every`` and ``patience``.
        options: The radius.
        seed: Seed of batches and dropout.

    Returns:
        The best validation scores.

    Raises:
        ShapeError: If trunks differ in size.
        UsageError: If there is not one model per group, or a model lacks heads.

    Cost: M times that of a training; weights of 2 M + 1 models.
    """
    options = options or CrossLearning()
    _check_models(models, groups, graph.num_tasks)
    if len({sum(p.numel() for p in m.shared_parameters()) for m in models}) != 1:
        raise ShapeError("The models should have trunks of one shape. Found several.")
    started = time.perf_counter()
    graph, device = graph.sealed(), choose_device(config.device)
    for model in models:
        model.to(device).train()
    loader = training_loader(graph, models[0], config, seed=derive_seed(seed, "batches"))
    pos_weight = positive_weights(graph, config, device)
    optimizers = [Optimizers(model, config) for model in models]
    total, skipped, cost, meter = config.total_steps(len(loader)), Skipped(), Cost(), CostMeter()
    told = step_options(config, graph, pos_weight, skipped, meter)
    center = torch.stack([_trunk(model) for model in models]).mean(dim=0)
    radius = options.radius * float(center.norm())
    best, best_score = None, 0.0
    states = [copied_state(model) for model in models]
    stale = 0
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        Progress("cross-learning", total) as progress,
    ):
        torch.manual_seed(derive_seed(seed, "dropout"))
        for step, batch in batches_between(loader, 0, total):
            for model, group, optimizer in zip(models, groups.groups, optimizers, strict=True):
                set_learning_rate(optimizer, config, step, total)
                live, _ = train_step(model, batch, group, optimizer, **told)
                cost.steps += bool(live)
                cost.label_gradients += len(live)
            done = step + 1
            scored = done == total or done % (config.eval_every * len(loader)) == 0
            if scored or done % options.every == 0:
                center = _project(models, center, radius)
            progress.advance()
            if not scored:
                continue
            clock = time.perf_counter()
            scores = evaluate_groups(models, groups, graph, "valid", skipped=skipped)
            score = scores.mean(config.monitor)
            cost.eval_seconds += time.perf_counter() - clock
            stale += 1
            if best is None or score > best_score:
                apart = torch.stack([_trunk(model) - center for model in models]).norm(dim=1)
                unit = 1.0 if radius in (0.0, math.inf) else radius
                distances = (apart / unit).double().cpu().numpy()
                best, best_score = CrossLearned(done, dict(scores.macro), distances, cost), score
                states, stale = [copied_state(model) for model in models], 0
            if config.patience is not None and stale >= config.patience:
                break
    for model, state in zip(models, states, strict=True):
        model.load_state_dict(state)
    cost.count(meter)
    cost.count_skipped(skipped)
    cost.seconds = time.perf_counter() - started
    assert best is not None  # noqa: S101
    return best


def group_logits(
    models: Sequence[LabelModel],
    groups: Grouping,
    graph: TaskGraph,
    nodes: NDArray[np.integer],
) -> NDArray[np.float32]:
    """Return logits ``[B, T]``, each task's from the model of the first group that holds it.

    Args:
        models: One per group, with heads for all tasks.
        groups: The groups.
        graph: The dataset.
        nodes: Node ids ``[B]``.

    Raises:
        UsageError: If there is not one model per group, or a model lacks heads.

    Cost: one exact inference per model.
    """
    _check_models(models, groups, groups.num_tasks)
    owners = groups.first_of()
    out = np.empty((len(nodes), groups.num_tasks), dtype=np.float32)
    for number, model in enumerate(models):
        columns = np.flatnonzero(owners == number)
        if len(columns):
            device = next(model.parameters()).device
            out[:, columns] = exact_logits(model, graph, nodes, device=device)[:, columns]
    return out


def evaluate_groups(
    models: Sequence[LabelModel],
    groups: Grouping,
    graph: TaskGraph,
    split: str,
    *,
    skipped: Skipped | None = None,
) -> Scores:
    """Score one model per group on a split, each task by its own model; see ``group_logits``.

    As in :func:`evaluate_split`, a label whose logits are not finite has no score.

    Raises:
        TrainingStoppedError: If no label that could be scored has finite logits.
        UsageError: If there is not one model per group, or a model lacks heads.

    Warns:
        NonFiniteWarning: If a label's logits are not finite.
    """
    logits = group_logits(models, groups, graph, graph.split_idx[split])
    return scores_of(logits, graph, split, skipped=skipped)


def _check_models(models: Sequence[LabelModel], groups: Grouping, num_tasks: int) -> None:
    if len(models) != len(groups) or {m.num_tasks for m in models} != {num_tasks}:
        raise UsageError(
            f"Expected {len(groups)} models, one per group, each with {num_tasks} heads. "
            f"Found {len(models)} with {sorted({m.num_tasks for m in models})}."
        )


def _trunk(model: LabelModel) -> Tensor:
    """The shared parameters as one vector."""
    return torch.cat([p.detach().flatten() for p in model.shared_parameters()])


@torch.no_grad()
def _project(models: Sequence[LabelModel], center: Tensor, radius: float) -> Tensor:
    """Hold the trunks within the radius; return the new centre."""
    if radius == math.inf:
        return center
    vectors = torch.stack([_trunk(model) for model in models])
    found, center = project_to_center(vectors, center, radius)
    for model, vector in zip(models, found, strict=True):
        parameters = model.shared_parameters()
        pieces = vector.split([p.numel() for p in parameters])
        for parameter, piece in zip(parameters, pieces, strict=True):
            parameter.copy_(piece.view_as(parameter))
    return center
