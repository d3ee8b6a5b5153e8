"""What is differentiated: each task's mean loss over a batch, and how batches add up to one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from gnn_mtl.gradients._sample import ProbeSample
from gnn_mtl.graph import MiniBatch
from gnn_mtl.nn import masked_bce


@dataclass(frozen=True, eq=False)
class TaskLosses:
    """The losses of some tasks on a batch.

    Attributes:
        tasks: The S tasks.
        pos_weight: Weights of the tasks' positives ``[T]``.
        sample: Where the nodes were drawn with unequal probabilities; its weights are inverse to
            them and sum to about 1 per task over all batches.
    """

    tasks: tuple[int, ...]
    pos_weight: Tensor | None = None
    sample: ProbeSample | None = None

    def __call__(self, logits: Tensor, batch: MiniBatch) -> Tensor:
        """Return the mean loss of each task ``[S]`` from its logits ``[B, S]``."""
        if self.sample is None:
            return masked_bce(
                logits, batch.y, batch.observed, self.tasks, pos_weight=self.pos_weight
            )
        weights = self._weights(batch).to(logits.dtype)
        y, observed = batch.y[:, self._ids(batch)], weights > 0
        pos_weight = None if self.pos_weight is None else self.pos_weight[self._ids(batch)]
        loss = functional.binary_cross_entropy_with_logits(
            logits, torch.where(observed, y, 0.0).to(logits.dtype),
            reduction="none", pos_weight=pos_weight,
        )  # fmt: skip
        total = torch.where(observed, loss * weights, 0.0).sum(dim=0)
        mass = weights.sum(dim=0)
        return total / torch.where(mass > 0, mass, 1.0)

    def mass(self, batch: MiniBatch) -> Tensor:
        """Return what each task's mean on this batch counts among several batches, ``[S]``."""
        if self.sample is None:
            return batch.observed[:, self._ids(batch)].sum(dim=0).to(batch.x.dtype)
        return self._weights(batch).sum(dim=0).to(batch.x.dtype)

    def normalizer(self, masses: Tensor) -> Tensor:
        """Return what the sum of mass times gradient is divided by, from all masses ``[K, S]``.

        A weighted sum is unbiased as it stands; dividing it by its random mass would bias it.
        """
        if self.sample is not None:
            return torch.ones_like(masses[0])
        return masses.sum(dim=0).clamp(min=1)

    def only(self, keep: Tensor) -> TaskLosses:
        """Return the losses of the tasks where bool ``[S]`` ``keep`` is set."""
        tasks = tuple(t for t, kept in zip(self.tasks, keep.tolist(), strict=True) if kept)
        return TaskLosses(tasks, self.pos_weight, self.sample)

    def _weights(self, batch: MiniBatch) -> Tensor:
        assert self.sample is not None  # noqa: S101
        return self.sample.weights(batch)[:, self._ids(batch)]

    def _ids(self, batch: MiniBatch) -> Tensor:
        return torch.as_tensor(self.tasks, dtype=torch.int64, device=batch.y.device)
