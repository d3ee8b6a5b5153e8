"""``RandomWeights``: weights drawn anew at every step, the litmus test of loss balancing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from gnn_mtl._core.errors import UsageError
from gnn_mtl.aggregation._base import AggregatorConfig, Promise
from gnn_mtl.aggregation._loss_balance import LossBalance, check_positive

Distribution = Literal["normal", "dirichlet"]


def random_weights(
    draw: np.random.Generator,
    num_tasks: int,
    tasks: Tensor,
    distribution: Distribution = "normal",
    concentration: float = 1.0,
) -> Tensor:
    """Return positive weights ``[S]`` that sum to 1.

    One number is drawn for each of the ``num_tasks`` tasks, whoever takes part: a task's luck does
    not depend on the order or the company it comes in.

    Args:
        draw: The random stream of this step.
        num_tasks: Number of tasks T.
        tasks: Ids of those that take part, int64 ``[S]``.
        distribution: ``"normal"``: softmax of normal numbers; ``"dirichlet"``.
        concentration: Of the Dirichlet distribution.
    """
    if distribution == "normal":
        numbers = torch.from_numpy(draw.standard_normal(num_tasks))
        return torch.softmax(numbers[tasks], dim=0)
    tiny = 1e-300  # a small concentration draws numbers that round to 0, at worst all of them
    numbers = torch.from_numpy(draw.standard_gamma(concentration, num_tasks))[tasks] + tiny
    return numbers / numbers.sum()


class RandomWeighting(LossBalance):
    """Weights drawn by the run's seed and the number of the call.

    Args:
        config: The options.
        num_tasks: Number of tasks T.
        seed: Seed of the draws.
    """

    kind: ClassVar[str] = "random_weights"
    promises: ClassVar[frozenset[Promise]] = frozenset({"nonnegative"})

    def __init__(self, config: RandomWeights, num_tasks: int, *, seed: int = 0) -> None:
        super().__init__(num_tasks, seed=seed)
        self.config = config

    def _weights(self, tasks: Tensor, losses: Tensor, gramian: Tensor | None) -> Tensor:  # noqa: ARG002
        return random_weights(
            self._draw(),
            self.num_tasks,
            tasks,
            self.config.distribution,
            self.config.concentration,
        )


@dataclass(frozen=True, kw_only=True)
class RandomWeights(AggregatorConfig):
    r"""Random loss weights at every step: a method that does not beat it has not shown anything.

    Lin, Ye, Zhang and Tsang, "Reasonable Effectiveness of Random Weighting: A Litmus Test for
    Multi-Task Learning", TMLR 2022, arXiv 2111.10603, Algorithm 1 (RLW, heads included):

    .. math:: w = \mathrm{softmax}(z), \quad z \sim N(0, I),

    or w from a Dirichlet distribution; both are in the paper, the first is its default. The weights
    sum to 1. They are drawn anew for every update, over the tasks that take part. Free.
    """

    kind: ClassVar[str] = "random_weights"

    distribution: Distribution = "normal"
    """Softmax of normal numbers, or a Dirichlet distribution."""

    concentration: float = 1.0
    """Of the Dirichlet distribution: 1 is uniform on the simplex, more is closer to equal weights,
    less is closer to one task at a time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.distribution not in get_args(Distribution):
            raise UsageError(
                f"`distribution` should be one of {', '.join(get_args(Distribution))}. "
                f"Found {self.distribution!r}."
            )
        check_positive(concentration=self.concentration)

    def build(self, num_tasks: int, seed: int = 0) -> RandomWeighting:
        """Build the aggregator."""
        return RandomWeighting(self, num_tasks, seed=seed)
