"""Sum and mean: plain multi-task training, the baseline every other aggregator has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gnn_mtl.aggregation._base import AggregatorConfig, Promise, Weighting

PROMISES: frozenset[Promise] = frozenset(
    {"permutation", "scaling", "nonnegative", "sum_without_conflict"}
)


class SumWeighting(Weighting):
    """Every weight is 1."""

    kind: ClassVar[str] = "sum"
    needs = "losses"
    acts_on = "losses"
    promises = PROMISES

    def _weights(self, tasks: Tensor, losses: Tensor, gramian: Tensor | None) -> Tensor:  # noqa: ARG002
        return torch.ones_like(losses)


class MeanWeighting(Weighting):
    """Every weight is 1 / S, with S the tasks that take part."""

    kind: ClassVar[str] = "mean"
    needs = "losses"
    acts_on = "losses"
    promises = PROMISES

    def _weights(self, tasks: Tensor, losses: Tensor, gramian: Tensor | None) -> Tensor:  # noqa: ARG002
        return torch.full_like(losses, 1 / len(losses))


@dataclass(frozen=True, kw_only=True)
class Sum(AggregatorConfig):
    """The sum of the losses (unitary scalarization: Kurin et al., NeurIPS 2022, arXiv 2201.04122).

    Tuned as carefully, it is often as good as anything else.
    """

    kind: ClassVar[str] = "sum"

    def build(self, num_tasks: int, seed: int = 0) -> SumWeighting:
        """Build the aggregator; it has no randomness."""
        return SumWeighting(num_tasks, seed=seed)


@dataclass(frozen=True, kw_only=True)
class Mean(AggregatorConfig):
    """The mean of the losses of the tasks that take part."""

    kind: ClassVar[str] = "mean"

    def build(self, num_tasks: int, seed: int = 0) -> MeanWeighting:
        """Build the aggregator; it has no randomness."""
        return MeanWeighting(num_tasks, seed=seed)
