"""``AggregatorHooks``: an aggregator inside the active group of any schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gnn_mtl._core.errors import UsageError
from gnn_mtl.aggregation import Aggregator, RowAggregator, Weighting
from gnn_mtl.gradients import GramianMode
from gnn_mtl.training._hooks import StepHooks


@dataclass(frozen=True, eq=False)
class _Known:
    """Weights of a set of tasks, and how many updates they served."""

    weights: Tensor
    updates: int


class AggregatorHooks(StepHooks):
    """Lets an aggregator settle what the active tasks do to the shared parameters.

    A weighting costs one Gramian and one backward pass however many tasks are active, and only the
    Gramian where it is needed; a Jacobian is formed for a :class:`RowAggregator` alone, and where a
    gradient is not finite.

    Args:
        aggregator: The aggregator, for all tasks of the graph.
        mode: The gradients behind the Gramian. What aggregators promise (no conflict, for one)
            holds for these gradients: for all shared parameters only with ``"full"``. Runs pass
            ``Train.gramian`` here, and ``Train.gramian_every`` as ``every``; :func:`fit` does not
            read these two.
        every: Updates of the same set of tasks that share one Gramian's weights. They weigh the
            losses as the schedule weighs them at each update.

    Raises:
        UsageError: If ``every`` is below 1, or ``aggregator`` is not one, as a configuration that
            was not built is not.
    """

    def __init__(
        self, aggregator: Aggregator, *, mode: GramianMode = "last_layer", every: int = 1
    ) -> None:
        if not isinstance(aggregator, Aggregator):
            raise UsageError(
                "`aggregator` should be built for the tasks, like UPGrad().build(num_tasks). "
                f"Found {type(aggregator).__name__}."
            )
        if every < 1:
            raise UsageError(f"`every` should be at least 1 update. Found {every}.")
        self.aggregator, self.mode, self.every = aggregator, mode, every
        self._known: dict[tuple[int, ...], _Known] = {}  # the latest last
        self._asked: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """What checkpoints call it."""
        return f"aggregator {self.aggregator.kind}"

    @property
    def rows_are_steps(self) -> bool:  # type: ignore[override]
        """See :class:`RowAggregator`."""
        return isinstance(self.aggregator, RowAggregator) and self.aggregator.rows_are_steps

    @property
    def weighs_heads(self) -> bool:  # type: ignore[override]
        """Whether the weights are of the losses, heads included."""
        return isinstance(self.aggregator, Weighting) and self.aggregator.acts_on == "losses"

    @property
    def looks_after(self) -> bool:  # type: ignore[override]
        """Whether the losses after the update are asked for."""
        return isinstance(self.aggregator, Weighting) and self.aggregator.looks_after

    def weigh_losses(self, step: int, tasks: tuple[int, ...], losses: Tensor) -> Tensor | None:  # noqa: ARG002
        """Return the weights of an aggregator that reads losses only."""
        if not isinstance(self.aggregator, Weighting) or self.aggregator.needs != "losses":
            return None
        self._asked = tasks
        return self.aggregator.weights(tasks=tasks, losses=losses)

    def gramian_mode(self, step: int) -> GramianMode | None:  # noqa: ARG002
        """Return which gradients' Gramian is needed, or None."""
        needs = isinstance(self.aggregator, Weighting) and self.aggregator.needs == "gramian"
        return self.mode if needs else None

    def known_weights(self, step: int, tasks: tuple[int, ...]) -> Tensor | None:  # noqa: ARG002
        """Return the weights of these tasks' last Gramian, if it is young enough."""
        known = self._known.get(tasks)
        if known is None or known.updates >= self.every:
            return None
        self._known[tasks] = replace(known, updates=known.updates + 1)
        return known.weights

    def weigh_gradients(
        self,
        step: int,  # noqa: ARG002
        tasks: tuple[int, ...],
        losses: Tensor,
        gramian: Tensor,
    ) -> Tensor:
        """Return the aggregator's weights ``[S]``."""
        assert isinstance(self.aggregator, Weighting)  # noqa: S101
        self._asked = tasks
        weights = self.aggregator.weights(gramian, tasks=tasks, losses=losses)
        if self.every > 1:
            self._known.pop(tasks, None)
            self._known[tasks] = _Known(weights, 1)
            if len(self._known) > self.aggregator.num_tasks:
                del self._known[next(iter(self._known))]
        return weights

    def wants_gradients(self, step: int) -> bool:  # noqa: ARG002
        """Return whether the aggregator needs the gradients themselves."""
        return isinstance(self.aggregator, RowAggregator)

    def combine(self, step: int, tasks: tuple[int, ...], jacobian: Tensor) -> Tensor | None:  # noqa: ARG002
        """Return the rows of a :class:`RowAggregator`."""
        assert isinstance(self.aggregator, RowAggregator)  # noqa: S101
        return self.aggregator.rows(jacobian, tasks=tasks)

    def set_layout(self, sizes: list[int]) -> None:
        """Tell the aggregator where one parameter ends and the next begins."""
        if isinstance(self.aggregator, RowAggregator):
            self.aggregator.set_layout(sizes)

    def observe_after(self, step: int, tasks: tuple[int, ...], losses: Tensor) -> None:  # noqa: ARG002
        """Give it the losses after the update; NaN of those it had weighed that took no part."""
        assert isinstance(self.aggregator, Weighting)  # noqa: S101
        found = dict(zip(tasks, losses.tolist(), strict=True))
        every = torch.tensor([found.get(t, math.nan) for t in self._asked], dtype=torch.float64)
        self.aggregator.observe_after(every, tasks=self._asked)

    def state_dict(self) -> dict[str, Any]:
        """Return the aggregator's state and the weights that are reused."""
        known = [
            {"tasks": list(tasks), "weights": one.weights, "updates": one.updates}
            for tasks, one in self._known.items()
        ]
        return {"aggregator": self.aggregator.state_dict(), "known": known}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self.aggregator.load_state_dict(state["aggregator"])
        self._known = {
            tuple(one["tasks"]): _Known(one["weights"], one["updates"]) for one in state["known"]
        }
