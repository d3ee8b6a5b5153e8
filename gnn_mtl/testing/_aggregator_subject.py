"""``Subject``: an aggregator's configuration, run the same way again and again."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cache, cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gnn_mtl._core.seeding import generator
from gnn_mtl.aggregation import Aggregator, AggregatorConfig, RowAggregator, Weighting


class Outcome(NamedTuple):
    """What an aggregator did.

    The direction ``[P]``, the weights ``[S]`` if it has any, and the sum of the lengths of what was
    added up, with which the length of the direction is to be compared.
    """

    direction: Tensor
    weights: Tensor | None
    reach: float

    @property
    def share(self) -> float:
        """Length of the direction over the reach: 1 where nothing cancels, 0 where all does."""
        return float(self.direction.norm()) / self.reach if self.reach else 0.0


@dataclass(frozen=True)
class Subject:
    """A configuration under test.

    Attributes:
        config: The configuration.
        num_tasks: Number of tasks of the graph; None: a few more than take part.
        seed: Seed of the aggregator and of the inputs.
    """

    config: AggregatorConfig
    num_tasks: int | None = None
    seed: int = 0

    def native(self) -> Subject:
        """The same with the weights of the paper, not rescaled."""
        if any(field.name == "norm" for field in fields(self.config)):
            config: Any = self.config
            return replace(self, config=replace(config, norm="native"))
        return self

    @cached_property
    def remembers(self) -> bool:
        """Whether anything but the number of calls is kept from one call to the next."""
        aggregator = self.build(3)
        feed(aggregator, torch.eye(3, dtype=torch.float64), self.ids(3), self.losses(3))
        return len(aggregator.state_dict()) > 3

    def fits(self, size: int) -> bool:
        """Whether that many tasks can take part."""
        return self.num_tasks is None or size <= self.num_tasks

    def build(self, size: int) -> Aggregator:
        """A new aggregator for Jacobians of ``size`` tasks."""
        return self.config.build(self._total(size), self.seed)

    def ids(self, size: int) -> list[int]:
        """Distinct task ids in no order."""
        return list(_ids(self.seed, size, self._total(size)))

    def losses(self, size: int, step: int = 0) -> Tensor:
        """Losses ``[S]``, positive, all different, falling at their own rates."""
        return _losses(self.seed, size, step).clone()

    def earlier(self, jacobian: Tensor, step: int) -> Tensor:
        """Gradients of an earlier step: as long as these, and pointing elsewhere."""
        return _directions(self.seed, step, *jacobian.shape) * jacobian.norm(dim=1, keepdim=True)

    def warmed(self, jacobian: Tensor, steps: int) -> Aggregator:
        """An aggregator with some steps behind it, at most one if it does not remember."""
        aggregator, size = self.build(len(jacobian)), len(jacobian)
        for step in range(steps if self.remembers else min(steps, 1)):
            feed(
                aggregator, self.earlier(jacobian, step), self.ids(size), self.losses(size, step),
                after=self.losses(size, step + 1),
            )  # fmt: skip
        return aggregator

    def run(
        self,
        jacobian: Tensor,
        *,
        order: Tensor | None = None,
        factor: Tensor | float = 1.0,
        steps: int = 0,
    ) -> Outcome:
        """What comes out after ``steps`` others.

        Args:
            jacobian: Gradients ``[S, P]``.
            order: The order in which the tasks are given in the last step.
            factor: Number by which all gradients ever seen are multiplied, or ``[S, 1]``.
            steps: Number of steps before.
        """
        size = len(jacobian)
        aggregator = self.warmed(jacobian * factor, steps)
        order = torch.arange(size) if order is None else order
        ids = torch.tensor(self.ids(size))[order].tolist()
        return feed(aggregator, (jacobian * factor)[order], ids, self.losses(size, steps)[order])

    def _total(self, size: int) -> int:
        return self.num_tasks or size + 3


@cache
def _ids(seed: int, size: int, total: int) -> list[int]:
    return generator(seed, "testing", "ids").permutation(total)[:size].tolist()


@lru_cache(1024)
def _losses(seed: int, size: int, step: int) -> Tensor:
    draw = generator(seed, "testing", "losses", size)
    start, rate = draw.uniform(0.1, 3.0, size), draw.uniform(0.02, 0.2, size)
    noise = generator(seed, "testing", "noise", size, step).uniform(0.95, 1.05, size)
    return torch.from_numpy(start * np.exp(-rate * step) * noise)


@lru_cache(1024)
def _directions(seed: int, step: int, size: int, width: int) -> Tensor:
    """Unit vectors ``[size, width]``."""
    rows = torch.from_numpy(generator(seed, "testing", step).standard_normal((size, width)))
    return torch.nn.functional.normalize(rows, dim=1)


def feed(
    aggregator: Aggregator,
    jacobian: Tensor,
    tasks: list[int],
    losses: Tensor,
    *,
    after: Tensor | None = None,
) -> Outcome:
    """One step of the aggregator; with ``after``, the losses after it, if it wants them."""
    lengths = jacobian.norm(dim=1)
    weights = None
    if isinstance(aggregator, Weighting):
        weights = aggregator.weights(jacobian @ jacobian.T, tasks=tasks, losses=losses)
        direction, reach = weights @ jacobian, float(weights.abs() @ lengths)
        if after is not None and aggregator.looks_after:
            aggregator.observe_after(after, tasks=tasks)
    elif isinstance(aggregator, RowAggregator):
        rows = aggregator.rows(jacobian, tasks=tasks)
        direction, reach = rows.sum(dim=0), float(rows.norm(dim=1).sum())
    else:
        direction = aggregator(jacobian, tasks=tasks, losses=losses)
        reach = float(lengths.sum())
    return Outcome(direction, weights, reach)
