"""``EMTL``: every task's loss is made as large as its gradient says it should be. Experimental."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from gnn_mtl.aggregation._base import AggregatorConfig
from gnn_mtl.aggregation._loss_balance import TINY, LossBalance, check_nonnegative, checked_losses


def emtl_weights(gramian: Tensor, losses: Tensor, strength: float = 1.0) -> Tensor:
    """Return weights ``[S]``, 0 or more, that sum to S.

    Args:
        gramian: Inner products of the gradients ``[S, S]``; only the diagonal is used.
        losses: ``[S]``, 0 or more.
        strength: Weight of the variance (lambda), a pure number.
    """
    norms = gramian.diagonal().sqrt()
    norms = norms / norms.mean()
    contribution = losses / (losses.mean() + TINY) / norms
    away = contribution - contribution.mean()
    weights = (1 + 2 * strength / len(losses) * away / norms).clamp(min=0)
    return weights * (len(losses) / weights.sum())


class EMTLWeighting(LossBalance):
    """Remembers nothing; see :class:`EMTL`.

    Args:
        config: The options.
        num_tasks: Number of tasks T.
        seed: Not used.
    """

    kind: ClassVar[str] = "emtl"
    needs = "gramian"

    def __init__(self, config: EMTL, num_tasks: int, *, seed: int = 0) -> None:
        super().__init__(num_tasks, seed=seed)
        self.config = config

    def _weights(self, tasks: Tensor, losses: Tensor, gramian: Tensor | None) -> Tensor:  # noqa: ARG002
        assert gramian is not None  # noqa: S101
        return emtl_weights(gramian, checked_losses(self.kind, losses), self.config.strength)


@dataclass(frozen=True, kw_only=True)
class EMTL(AggregatorConfig):
    r"""Experimental: makes the tasks' losses proportional to the norms of their gradients.

    After Yuan and Zhang, "Equitable Multi-task Learning", 2023, arXiv 2306.09373, which brings the
    tasks' relative contributions :math:`c_t = L_t / \lVert \nabla L_t \rVert` together by adding
    their variance to the losses:

    .. math:: \sum_t L_t + \lambda\, \mathrm{Var}_t\, c_t, \qquad
              w_t \propto \max\Big(0,\ 1 + \frac{2 \lambda}{S}
              \frac{c_t - \bar c}{\lVert \nabla L_t \rVert}\Big).

    The formula of the weights was inferred from the abstract, there being no public code: the norms
    are held constant, negative weights are cut off, and the rest is rescaled to sum to S. Do not
    report it as that paper's method before its section 4 has been read.

    Losses and norms are in units of their means, so that the direction does not depend on either's
    scale and lambda is a pure number. A task with a very small gradient can take all the weight.
    Losses have to be 0 or more. Costs no more than the diagonal of the Gramian.
    """

    kind: ClassVar[str] = "emtl"

    strength: float = 1.0
    """Weight of the variance (lambda in the paper); 0: the plain sum."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_nonnegative(strength=self.strength)

    def build(self, num_tasks: int, seed: int = 0) -> EMTLWeighting:
        """Build the aggregator; it has no randomness."""
        return EMTLWeighting(self, num_tasks, seed=seed)
