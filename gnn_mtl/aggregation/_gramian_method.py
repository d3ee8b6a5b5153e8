"""``GramianMethod``: the base of methods that are one formula from a Gramian to weights."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from gnn_mtl.aggregation._base import AggregatorConfig, Promise, Weighting
from gnn_mtl.aggregation._norm import Norm, check_norm
from gnn_mtl.aggregation._preference import by_task, check_preference


@dataclass(frozen=True, kw_only=True)
class GradientOptions(AggregatorConfig):
    """What every method that combines gradients of the shared parameters can be told."""

    norm: Norm = "sum"
    """Length of the direction: of the plain sum, as the paper has it, weights that sum to the
    number of tasks, or 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_norm(self.norm)


@dataclass(frozen=True, kw_only=True)
class GramianMethod(GradientOptions):
    """A configuration that is the whole method: it remembers nothing from call to call."""

    promises: ClassVar[frozenset[Promise]] = frozenset()

    @abstractmethod
    def solve(self, gramian: Tensor, *, preference: Tensor, draw: np.random.Generator) -> Tensor:
        """Return the weights ``[S]``; methods take the keywords they need, ``**_`` the rest.

        Args:
            gramian: Inner products, float64 ``[S, S]``, finite, with a positive diagonal.
            preference: Importance of the tasks ``[S]``, positive, of mean 1.
            draw: For methods that choose at random.
        """

    def build(self, num_tasks: int, seed: int = 0) -> GramianWeighting:
        """Build the aggregator."""
        return GramianWeighting(self, num_tasks, seed=seed)


@dataclass(frozen=True, kw_only=True)
class PreferenceMethod(GramianMethod):
    """A method that can be told which labels matter more."""

    preference: tuple[float, ...] = ()
    """Importance of every label of the graph, positive; none: all the same."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_preference(self.preference)


class GramianWeighting(Weighting):
    """A :class:`GramianMethod` as a weighting; its state is the number of calls.

    Args:
        method: The method.
        num_tasks: Number of tasks T.
        seed: Seed of random choices.
    """

    def __init__(self, method: GramianMethod, num_tasks: int, *, seed: int = 0) -> None:
        super().__init__(num_tasks, norm=method.norm, seed=seed)
        given = method.preference if isinstance(method, PreferenceMethod) else ()
        self.preference = by_task("preference", given, num_tasks)
        self.method = method
        self.kind = method.kind  # type: ignore[misc]
        unequal: frozenset[Promise] = frozenset({"sum_without_conflict"} if given else ())
        self.promises = method.promises - unequal  # type: ignore[misc]

    def _weights(self, tasks: Tensor, losses: Tensor, gramian: Tensor | None) -> Tensor:  # noqa: ARG002
        assert gramian is not None  # noqa: S101
        preference = self.preference[tasks]
        return self.method.solve(
            gramian, preference=preference / preference.mean(), draw=self._draw()
        )

    def __repr__(self) -> str:
        return f"{self.method!r}.build({self.num_tasks})"
