"""What Grad-TAG is judged by: every subset really trained, all of them side by side.

Models this small spend their time between the products, not in them. The K models of K subsets
are stacked, one more axis on every weight, and trained on the same batches; Adam acts entry by
entry, so each goes exactly where it would go alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, vmap
from torch.nn import functional

from gnn_mtl.graph import MiniBatch
from gnn_mtl.nn import LabelModel


@dataclass(frozen=True)
class Budget:
    """How long a model trains."""

    epochs: int
    lr: float
    batch_size: int = 300
    patience: int = 6


@dataclass(frozen=True, eq=False)
class Trained:
    """Models after training, each at its best epoch by the mean validation loss of its tasks.

    Attributes:
        scores: Minus the validation loss of the members, float64 ``[K, T]``; NaN for the others.
        weights: Stacked weights ``[K, ...]`` by name.
        epochs: Epochs each would have needed if it had stopped after ``patience`` epochs without
            improvement on its best one ``[K]``.
    """

    scores: NDArray[np.float64]
    weights: dict[str, Tensor]
    epochs: NDArray[np.float64]


def train_subsets(
    model: LabelModel,
    masks: NDArray[np.bool_],
    train: MiniBatch,
    valid: MiniBatch,
    budget: Budget,
    *,
    seed: int,
) -> Trained:
    """Train one copy of the model for every subset, on the mean loss of its tasks.

    Args:
        model: Where all start: a base model, or a fresh one; without dropout and batch norm.
        masks: Members, bool ``[K, T]``.
        train: All training nodes, every task observed.
        valid: All validation nodes, alike.
        budget: How long.
        seed: Seed of the order of the nodes, the same for all subsets.
    """
    share = torch.from_numpy(masks / masks.sum(axis=1, keepdims=True)).float()
    weights = {
        name: p.detach().expand(len(masks), *p.shape).clone().requires_grad_()
        for name, p in model.named_parameters()
    }
    optimizer = torch.optim.Adam(weights.values(), lr=budget.lr)

    def losses(batch: MiniBatch) -> Tensor:
        logits = vmap(lambda one: functional_call(model, one, (batch,)))(weights)
        y = batch.y.expand(logits.shape)
        cells = functional.binary_cross_entropy_with_logits(logits, y, reduction="none")
        return cells.mean(dim=1)

    rng = torch.Generator().manual_seed(seed)
    best = {name: w.detach().clone() for name, w in weights.items()}
    lowest, at = torch.full((len(masks),), torch.inf), torch.zeros(len(masks))
    found = torch.zeros(share.shape)
    for epoch in range(budget.epochs + 1):
        with torch.no_grad():
            reached = losses(valid)
            mean = (reached * share).sum(dim=1)
            better = mean < lowest
            lowest[better], found[better], at[better] = mean[better], reached[better], epoch
            for name, w in weights.items():
                best[name][better] = w[better]
        if epoch == budget.epochs:
            break
        for rows in torch.randperm(train.batch_size, generator=rng).split(budget.batch_size):
            optimizer.zero_grad()
            (losses(rows_of(train, rows)) * share).sum().backward()
            optimizer.step()
    scores = np.where(masks, -found.double().numpy(), np.nan)
    needed = (at + budget.patience).clamp(max=budget.epochs).double().numpy()
    return Trained(scores, best, needed)


def rows_of(batch: MiniBatch, rows: Tensor) -> MiniBatch:
    """Some nodes of a batch without blocks."""
    return replace(
        batch, n_id=batch.n_id[rows], batch_size=len(rows), x=batch.x[rows], y=batch.y[rows],
        observed=batch.observed[rows],
    )  # fmt: skip
