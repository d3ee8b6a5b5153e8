r"""DMTG: groups learned with the model, by weights between tasks and trunks.

Gao et al., "DMTG: One-Shot Differentiable Multi-Task Grouping", ICML 2024, arXiv 2407.05082. K
trunks, each with a head for every task, are trained at once. Task t's loss is the mean of its
losses on the trunks, weighed by memberships drawn for every batch,

.. math:: L = \sum_t \sum_k P_{tk}\, \ell_{tk}, \qquad
          P = \mathrm{softmax}\bigl((\alpha + \text{Gumbel noise}) / \tau\bigr)

so that :math:`\partial L / \partial \alpha_{tk} = P_{tk} (\ell_{tk} - \sum_j P_{tj} \ell_{tj}) /
\tau`: a trunk that does worse than the others at a task loses it. The best trunk of each task makes
the groups, and :func:`gnn_mtl.nn.prune` the model.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gnn_mtl._core.cost import CostMeter
from gnn_mtl._core.errors import TrainingStoppedError, UsageError
from gnn_mtl._core.progress import Progress
from gnn_mtl._core.seeding import derive_seed
from gnn_mtl.datasets import TaskGraph
from gnn_mtl.graph import MiniBatch
from gnn_mtl.nn import BuildsEncoder, LabelModel, TrunkHeads, masked_bce, trunk_model
from gnn_mtl.tasks import Grouping
from gnn_mtl.training._config import Train
from gnn_mtl.training._cost import Cost
from gnn_mtl.training._optimizers import Optimizers, set_learning_rate
from gnn_mtl.training._rounds import batches_between
from gnn_mtl.training._setup import choose_device, positive_weights, training_loader
from gnn_mtl.training._skipped import Skipped


@dataclass(frozen=True, kw_only=True)
class DMTG:
    """How groups are learned together with a model of several trunks."""

    num_groups: int = 4
    """Trunks K; at most so many groups come out."""
    shared_layers: int = 0
    """First layers that all trunks share."""
    temperature: float = 2.5
    """The paper's tau, constant: 2.5 or 4 there; lower draws memberships nearer to 0 and 1."""
    noise: float = 0.0
    """First logits between trunks are 1 plus uniform noise up to this; the paper's is 0."""
    entropy: float = 0.0
    """Weight in the loss of the entropy of the memberships without noise: makes tasks decide."""
    regulate: bool = False
    """Scale gradients by 1/sqrt(K) from trunks into the stem and 1/sqrt(T) from heads into
    trunks."""

    def __post_init__(self) -> None:
        if self.num_groups < 2:
            raise UsageError(f"`num_groups` should be at least 2. Found {self.num_groups}.")
        if not self.temperature > 0:
            raise UsageError(f"`temperature` should be positive. Found {self.temperature}.")
        if not (self.noise >= 0 and self.entropy >= 0):
            raise UsageError(
                "`noise` and `entropy` should not be negative. Found "
                f"{self.noise} and {self.entropy}."
            )

    def build(
        self,
        encoder: BuildsEncoder,
        in_channels: int,
        num_tasks: int,
        edge_channels: int | None = None,
    ) -> LabelModel:
        """Build the model of all trunks.

        Raises:
            UsageError: If the encoder is not convolutional or has no layer left for trunks.
        """
        return trunk_model(
            encoder, in_channels, num_tasks, self.num_groups,
            shared_layers=self.shared_layers, edge_channels=edge_channels, noise=self.noise,
            regulate=self.regulate,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class LearnedGroups:
    """What :func:`learn_groups` found; the model passed in holds the last weights.

    Attributes:
        memberships: Weights of every task on the trunks without noise, ``softmax(alpha / tau)``,
            float64 ``[T, K]``; rows sum to 1.
        grouping: Tasks by their best trunk; trunks that are nobody's best are no groups.
        cost: What it took.
    """

    memberships: NDArray[np.float64]
    grouping: Grouping
    cost: Cost


def sample_memberships(alpha: Tensor, temperature: float) -> Tensor:
    """Draw memberships ``[T, K]`` around logits: one Gumbel-softmax draw, not rounded.

    Args:
        alpha: Logits ``[T, K]``.
        temperature: At 0+ every row is 0 but for one 1, column k with probability
            ``softmax(alpha)[k]``.
    """
    uniform = torch.rand_like(alpha).clamp(min=torch.finfo(alpha.dtype).tiny)
    gumbel = -(-uniform.log()).clamp(min=torch.finfo(alpha.dtype).tiny).log()
    return ((alpha + gumbel) / temperature).softmax(dim=1)


def trunk_losses(
    model: LabelModel,
    batch: MiniBatch,
    tasks: tuple[int, ...],
    *,
    pos_weight: Tensor | None = None,
    autocast: bool = False,
) -> Tensor:
    """Return the losses of some tasks on every trunk, ``[S, K]``, with their graph.

    Raises:
        UsageError: If the model is not one of :func:`gnn_mtl.nn.trunk_model`.
    """
    heads = model.heads
    if not isinstance(heads, TrunkHeads):
        raise UsageError(
            "Groups are learned by a model of several trunks (trunk_model, DMTG.build). Found "
            f"heads {type(heads).__name__}."
        )
    with torch.autocast(batch.x.device.type, dtype=torch.bfloat16, enabled=autocast):
        logits = heads.all_logits(model.encoder(batch), tasks).float()
    return torch.stack(
        [
            masked_bce(part, batch.y, batch.observed, tasks, pos_weight=pos_weight)
            for part in logits.unbind(dim=2)
        ],
        dim=1,
    )


def dmtg_step(
    model: LabelModel,
    batch: MiniBatch,
    optimizers: Optimizers,
    options: DMTG,
    *,
    pos_weight: Tensor | None = None,
    grad_clip: float | None = None,
    autocast: bool = False,
    skipped: Skipped | None = None,
    meter: CostMeter | None = None,
) -> tuple[tuple[int, ...], Tensor]:
    """Do one optimizer step on trunks, heads and logits between trunks.

    Memberships are drawn once, from torch's random state. A task without an observed label in the
    batch takes no part.

    Args:
        model: The model, in training mode.
        batch: The batch, on the model's device.
        optimizers: What updates the parameters.
        options: Temperature and weight of the entropy.
        pos_weight: Weights of the tasks' positives ``[T]``.
        grad_clip: Largest norm of the gradient of the trunks.
        autocast: Run the forward pass in bfloat16.
        skipped: Counts an update that is not finite and is left out.
        meter: Counts the passes; all trunks together count as one.

    Returns:
        The tasks that took part and their mixed losses ``[S]``, detached.

    Raises:
        TrainingStoppedError: If a loss is not finite.
        UsageError: If the model is not one of several trunks.

    Cost: K forwards and backwards of a trunk; K T heads.
    """
    live = tuple(torch.nonzero(batch.observed.any(dim=0)).flatten().tolist())
    if not live:
        return (), torch.zeros(0)
    own = trunk_losses(model, batch, live, pos_weight=pos_weight, autocast=autocast)
    if not bool(torch.isfinite(own.detach()).all()):
        raise TrainingStoppedError(
            "Expected finite losses on all trunks. Found NaN or infinity. Lower --train.lr, or set "
            "--train.grad-clip 1."
        )
    alpha: Tensor = model.heads.alpha  # type: ignore[assignment]
    memberships = sample_memberships(alpha, options.temperature)[list(live)]
    losses = (memberships * own).sum(dim=1)
    total = losses
    if options.entropy:
        clean = (alpha[list(live)] / options.temperature).softmax(dim=1)
        total = losses + options.entropy * torch.special.entr(clean).sum(dim=1)
    optimizers.zero_grad()
    total.sum().backward()
    if meter is not None:
        meter.forwards += 1
        meter.backwards += 1
        meter.nodes += batch.batch_size
    shared = optimizers.shared_parameters
    norm = torch.nn.utils.get_total_norm([p.grad for p in shared if p.grad is not None])
    if not bool(torch.isfinite(norm)):
        if skipped is not None:
            skipped.count_update()
        return (), losses.detach()[:0]
    if grad_clip is not None:
        torch.nn.utils.clip_grads_with_norm_(shared, grad_clip, norm)
    optimizers.step(live)
    if meter is not None:
        meter.optimizer_steps += 1
        meter.label_gradients += len(live)
    if skipped is not None:
        skipped.in_a_row = 0
    return live, losses.detach()


def learn_groups(
    model: LabelModel,
    graph: TaskGraph,
    config: Train,
    options: DMTG,
    *,
    seed: int = 0,
) -> LearnedGroups:
    """Train a model of several trunks and return which tasks chose which.

    The whole budget is used: there is no early stopping, as the validation score of the best
    trunks says little of the loss in training. Test labels stay sealed.

    Args:
        model: As ``options.build`` makes it; trained in place. :func:`gnn_mtl.nn.prune` makes the
            grouped model of it, which :func:`fit` may train further.
        graph: The dataset.
        config: Budget, batches, optimizer.
        options: What DMTG adds.
        seed: Seed of batches, dropout and Gumbel noise.

    Returns:
        Memberships and groups.

    Raises:
        TrainingStoppedError: If a loss is not finite.
        UsageError: If the model is not one of several trunks, or not of the graph's tasks.
    """
    if not isinstance(model.heads, TrunkHeads) or model.num_tasks != graph.num_tasks:
        raise UsageError(
            f"Expected a model of several trunks (DMTG.build) for {graph.num_tasks} tasks. Found "
            f"heads {type(model.heads).__name__} for {model.num_tasks}."
        )
    started = time.perf_counter()
    graph = graph.sealed()
    device = choose_device(config.device)
    model.to(device).train()
    pos_weight = positive_weights(graph, config, device)
    loader = training_loader(graph, model, config, seed=derive_seed(seed, "batches"))
    optimizers, skipped, cost, meter = Optimizers(model, config), Skipped(), Cost(), CostMeter()
    total = config.total_steps(len(loader))
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        Progress("learning groups", total) as progress,
    ):
        torch.manual_seed(derive_seed(seed, "dropout"))
        for step, batch in batches_between(loader, 0, total):
            set_learning_rate(optimizers, config, step, total)
            live, _ = dmtg_step(
                model, batch, optimizers, options, pos_weight=pos_weight,
                grad_clip=config.grad_clip, autocast=config.autocast == "bf16",
                skipped=skipped, meter=meter,
            )  # fmt: skip
            cost.steps += bool(live)
            cost.label_gradients += len(live)
            progress.advance()
    cost.count(meter)
    cost.count_skipped(skipped)
    cost.seconds = time.perf_counter() - started
    alpha = model.heads.alpha.detach().double()
    return LearnedGroups(
        (alpha / options.temperature).softmax(dim=1).cpu().numpy(),
        Grouping.from_assignments(model.heads.trunk_of(), "dmtg"),
        cost,
    )
