"""``GeometricMean``: the product of the losses in place of their sum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from gnn_mtl.aggregation._base import AggregatorConfig
from gnn_mtl.aggregation._loss_balance import TINY, LossBalance, checked_losses


def geometric_mean_weights(losses: Tensor) -> Tensor:
    """Return the derivatives of the geometric mean of ``losses`` ``[S]``, which are 0 or more."""
    logs = (losses + TINY).log()
    return (logs.mean() - logs).exp() / len(losses)


class GeometricMeanWeighting(LossBalance):
    """Remembers nothing; see :class:`GeometricMean`."""

    kind: ClassVar[str] = "geometric_mean"

    def _weights(self, tasks: Tensor, losses: Tensor, gramian: Tensor | None) -> Tensor:  # noqa: ARG002
        return geometric_mean_weights(checked_losses(self.kind, losses))


@dataclass(frozen=True, kw_only=True)
class GeometricMean(AggregatorConfig):
    r"""Geometric loss strategy (GLS): minimises the geometric mean of the losses.

    Chennupati, Sistu, Yogamani and Rawashdeh, "MultiNet++: Multi-Stream Feature Aggregation and
    Geometric Loss Strategy for Multi-Task Learning", CVPR workshops 2019, arXiv 1904.08492:

    .. math:: L = \Big(\prod_t L_t\Big)^{1/S}, \qquad w_t = \partial L / \partial L_t = L / (S L_t).

    Every weighted loss is the same, so multiplying one loss by a number only multiplies the whole
    direction. A loss close to 0 takes a large weight: 1e-8 is added to each. Losses have to be 0 or
    more. No options, no state. Free.
    """

    kind: ClassVar[str] = "geometric_mean"

    def build(self, num_tasks: int, seed: int = 0) -> GeometricMeanWeighting:
        """Build the aggregator; it has no randomness."""
        return GeometricMeanWeighting(num_tasks, seed=seed)
