"""``Aggregator``: from the gradients of several tasks to one direction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, NoReturn

import numpy as np
import torch
from torch import Tensor

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl._core.seeding import generator
from gnn_mtl.aggregation._norm import Norm, check_norm, rescaled
from gnn_mtl.aggregation._options import check_options

Promise = Literal[
    "permutation",
    "scaling",
    "task_scaling",
    "nonnegative",
    "non_conflicting",
    "stationary",
    "balanced",
    "sum_without_conflict",
]
"""What an aggregator guarantees, and the contract battery therefore checks; G is the Gramian, w the
weights before :data:`Norm` is applied.

- ``permutation``: tasks in another order get the same weights in that order;
- ``scaling``: the direction does not turn when all gradients are multiplied by one number;
- ``task_scaling``: nor when each is multiplied by a positive number of its own;
- ``nonnegative``: w >= 0;
- ``non_conflicting``: G w >= 0, no task's loss rises to first order;
- ``stationary``: the direction vanishes where a convex combination of the gradients does;
- ``balanced``: it vanishes where one with all weights positive does; weaker than stationary, since
  a task outside the balance may still make progress that harms no other;
- ``sum_without_conflict``: all w are equal where no two gradients conflict.
"""

DEAD = 1e-24
"""Squared norms below this share of the largest count as zero."""


class WeightsError(UsageError):
    """A method returned weights of another shape than it should, or that are not finite."""


class Aggregator(ABC):
    """Combines the gradients of the tasks that take part in an update.

    A schedule selects the tasks; an aggregator settles what the selected ones do to the shared
    parameters. Their number changes from step to step, so all state is kept by task id, in
    ``state``: tensors whose first dimension is the task.

    Args:
        num_tasks: Number of tasks T of the graph, not of an update.
        seed: Seed of random choices; each call has its own stream, so that resumed runs agree.

    Attributes:
        kind: Name on the command line.
        promises: What holds for any input; see :data:`Promise`.
    """

    kind: ClassVar[str]
    promises: ClassVar[frozenset[Promise]] = frozenset()

    def __init__(self, num_tasks: int, *, seed: int = 0) -> None:
        if num_tasks < 1:
            raise UsageError(f"An aggregator needs at least one task. Found {num_tasks}.")
        self.num_tasks, self.seed, self.calls = num_tasks, seed, 0
        self.state: dict[str, Tensor] = {}

    @abstractmethod
    def __call__(
        self,
        jacobian: Tensor,
        *,
        tasks: Sequence[int] | None = None,
        losses: Tensor | None = None,
    ) -> Tensor:
        """Return the direction ``[P]`` to descend against, from gradients ``[S, P]``.

        Args:
            jacobian: One row per task.
            tasks: Task id of every row; default 0, ..., S - 1.
            losses: Losses ``[S]``; default 1.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state: tensors and JSON values."""
        return {
            "kind": self.kind, "num_tasks": self.num_tasks, "calls": self.calls,
            **{name: value.clone() for name, value in self.state.items()},
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict` of an aggregator built with the same arguments.

        Raises:
            UsageError: If the state is of another aggregator or incomplete.
        """
        found = (state.get("kind"), state.get("num_tasks"))
        if found != (self.kind, self.num_tasks) or not self.state.keys() <= state.keys():
            raise UsageError(
                f"Expected the state of {self.kind!r} for {self.num_tasks} tasks with "
                f"{sorted(self.state)}. Found {found[0]!r} for {found[1]} with {sorted(state)}."
            )
        self.calls = int(state["calls"])
        for name, old in self.state.items():
            new = torch.as_tensor(state[name])
            if new.shape != old.shape:
                raise UsageError(
                    f"`{name}` should have shape {list(old.shape)}. Found {list(new.shape)}; "
                    "build the aggregator with the arguments it was saved with."
                )
            self.state[name] = new.to(old, copy=True)

    def _ids(self, tasks: Sequence[int] | None, size: int) -> Tensor:
        """The task ids as int64 ``[S]``, checked."""
        ids = torch.as_tensor(list(range(size) if tasks is None else tasks), dtype=torch.int64)
        if len(ids) != size or not size:
            raise ShapeError(f"`tasks` should name {size} tasks, at least one. Found {len(ids)}.")
        if int(ids.min()) < 0 or int(ids.max()) >= self.num_tasks or len(ids.unique()) < size:
            raise UsageError(
                f"`tasks` should be distinct ids below {self.num_tasks}. Found {ids.tolist()[:8]}."
            )
        return ids

    def _draw(self) -> np.random.Generator:
        """Return the random stream of this call."""
        return generator(self.seed, "aggregator", self.kind, self.calls)


class Weighting(Aggregator):
    r"""An aggregator whose direction is :math:`J^\top w`: it only has to find the weights w.

    A method of your own overrides ``_weights(tasks, losses, gramian)``, which returns the weights
    ``[S]`` of the tasks that take part, and ``needs`` and ``acts_on`` where these defaults do not
    fit. What it remembers goes into ``state``. A configuration whose ``build`` makes it trains.

    Example:
        >>> class Proportional(Weighting):
        ...     kind, needs, acts_on = "proportional", "losses", "losses"
        ...     def _weights(self, tasks, losses, gramian):
        ...         return losses / losses.mean()
        >>> Proportional(8).weights(losses=torch.tensor([1.0, 3.0])).tolist()
        [0.5, 1.5]

    Args:
        num_tasks: Number of tasks T.
        norm: How long the direction is made; see :data:`Norm`.
        seed: Seed of random choices.

    Attributes:
        needs: ``"losses"``: the weights depend on losses alone; ``"gramian"``: on the inner
            products of the gradients too.
        acts_on: ``"losses"``: the weights multiply the losses, heads included; ``"gradients"``:
            those of the shared parameters only, and heads learn from their own losses.
        looks_after: Whether :meth:`observe_after` wants the losses after the update.
    """

    needs: ClassVar[Literal["losses", "gramian"]] = "gramian"
    acts_on: ClassVar[Literal["losses", "gradients"]] = "gradients"
    looks_after: ClassVar[bool] = False

    def __init__(self, num_tasks: int, *, norm: Norm = "native", seed: int = 0) -> None:
        super().__init__(num_tasks, seed=seed)
        check_norm(norm)
        self.norm: Norm = norm

    def weights(
        self,
        gramian: Tensor | None = None,
        *,
        tasks: Sequence[int] | None = None,
        losses: Tensor | None = None,
    ) -> Tensor:
        """Return the tasks' weights, float64 ``[S]`` on the CPU; updates the state.

        Args:
            gramian: Inner products of the gradients ``[S, S]``, from any device; tasks whose row is
                zero (no gradient in this batch) take no part and get weight 1 (``acts_on`` losses)
                or 0. May be missing where ``needs`` is ``"losses"``.
            tasks: Task id of every row; default 0, ..., S - 1.
            losses: Losses ``[S]``, unweighted; default 1.

        Raises:
            ShapeError: If shapes do not fit together.
            UsageError: If the Gramian is missing, or anything is not finite: leave such tasks out;
                or if the method returns weights of another shape, or that are not finite.
        """
        if gramian is None and losses is None:
            raise UsageError("`weights` needs a Gramian or losses. Found neither.")
        if gramian is None and self.needs == "gramian":
            raise UsageError(f"{self.kind} needs the Gramian of the gradients. Found none.")
        size = len(losses) if gramian is None else len(gramian)  # type: ignore[arg-type]
        ids = self._ids(tasks, size)
        losses = _vector(losses, size)
        if gramian is None or self.needs == "losses":
            found = self._checked_weights(ids, losses, None)
        else:
            found = self._alive_weights(ids, losses, _square(gramian, size))
        self.calls += 1
        return found

    def _alive_weights(self, ids: Tensor, losses: Tensor, gramian: Tensor) -> Tensor:
        """Weights of the tasks with a gradient; the others take no part."""
        squares = gramian.diagonal()
        alive = squares > DEAD * squares.max()
        found = torch.full_like(losses, 1.0 if self.acts_on == "losses" else 0.0)
        if bool(alive.any()):
            within = gramian[alive][:, alive]
            weights = self._checked_weights(ids[alive], losses[alive], within)
            found[alive] = rescaled(weights, within, self.norm)
        return found

    def _checked_weights(self, tasks: Tensor, losses: Tensor, gramian: Tensor | None) -> Tensor:
        """The method's weights as float64 ``[S]`` on the CPU, or an error that names it."""
        given = self._weights(tasks, losses, gramian)
        try:
            found = torch.as_tensor(given)
            found = found.to("cpu", found.dtype if found.is_complex() else torch.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise WeightsError(
                f"{self.kind} should return a tensor of weights. Found {given!r}."
            ) from error
        if found.shape != losses.shape or found.is_complex():
            raise WeightsError(
                f"{self.kind} should return one real weight a task, shape [{len(losses)}]. "
                f"Found {found.dtype} of shape {list(found.shape)}."
            )
        if not bool(found.isfinite().all()):
            raise WeightsError(
                f"{self.kind} returned weights that are not finite, {found.tolist()[:4]}, for "
                f"{len(losses)} tasks with finite losses and gradients. Mend its formula (scales "
                "from 1e-10 to 1e10, equal and opposite gradients), or take another aggregator."
            )
        return found

    @abstractmethod
    def _weights(self, tasks: Tensor, losses: Tensor, gramian: Tensor | None) -> Tensor:
        """Return the weights ``[S]`` of at least one task; everything is finite, and float64.

        Args:
            tasks: Their ids, int64 ``[S]``.
            losses: Their losses ``[S]``.
            gramian: Inner products ``[S, S]`` with a positive diagonal, or None if not needed.
        """

    def observe_after(self, losses: Tensor, *, tasks: Sequence[int]) -> None:  # noqa: ARG002
        """Take in the losses of the same tasks on the same batch after the update."""
        raise UsageError(f"{self.kind} does not look at the losses after an update.")

    def __call__(
        self,
        jacobian: Tensor,
        *,
        tasks: Sequence[int] | None = None,
        losses: Tensor | None = None,
    ) -> Tensor:
        """Return ``weights(J J^T) @ J``; see :class:`Aggregator`."""
        rows = as_rows(jacobian).detach().double()
        given = torch.ones(len(rows)) if losses is None else losses
        weights = self.weights(rows @ rows.T, tasks=tasks, losses=given)
        return (weights.to(rows.device) @ rows).to(jacobian.dtype)


class RowAggregator(Aggregator):
    """An aggregator that needs the gradients themselves: its direction is no fixed combination.

    Attributes:
        rows_are_steps: Whether the rows are subtracted, times the learning rate, as they are, past
            the optimizer's own moments.
    """

    rows_are_steps: ClassVar[bool] = False

    def set_layout(self, sizes: Sequence[int]) -> None:
        """Learn how many of the P columns belong to each parameter; most do not care."""

    @abstractmethod
    def rows(self, jacobian: Tensor, *, tasks: Sequence[int] | None = None) -> Tensor:
        """Return what is summed instead of the gradients, ``[S, P]``; updates the state.

        Args:
            jacobian: Gradients ``[S, P]``, finite.
            tasks: Task id of every row; default 0, ..., S - 1.
        """

    def __call__(
        self,
        jacobian: Tensor,
        *,
        tasks: Sequence[int] | None = None,
        losses: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Return the sum of :meth:`rows`; see :class:`Aggregator`."""
        return self.rows(jacobian, tasks=tasks).sum(dim=0)


@dataclass(frozen=True, kw_only=True)
class AggregatorConfig(ABC):
    """Base of the configurations: frozen, checked when made, of JSON values only."""

    kind: ClassVar[str]

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def label(self) -> str:
        """Its name in the names of methods and folders."""
        return self.kind

    def __call__(self, *_: object, **__: object) -> NoReturn:
        """Refuse: this is a configuration, and what it builds combines gradients."""
        name = type(self).__name__
        raise UsageError(
            f"{name} is a configuration, not a function. To combine gradients write "
            f"{name}(...).build(num_tasks)(jacobian); to train, RunConfig(aggregator={name}(...))."
        )

    @abstractmethod
    def build(self, num_tasks: int, seed: int = 0) -> Aggregator:
        """Build the aggregator for ``num_tasks`` tasks; ``seed`` is the run's."""

    def to_dict(self) -> dict[str, object]:
        """Return ``{"kind": ..., field: value, ...}``."""
        return {"kind": self.kind, **asdict(self)}


def as_rows(jacobian: Tensor) -> Tensor:
    """Return the Jacobian if it is finite and ``[S, P]`` with at least one row; raise otherwise."""
    if jacobian.dim() != 2 or not len(jacobian):
        raise ShapeError(
            "`jacobian` should have one row a task, [S, P], and at least one. Found "
            f"{list(jacobian.shape)}."
        )
    if not bool(jacobian.isfinite().all()):
        raise UsageError("`jacobian` should be finite. Leave out the tasks whose gradient is not.")
    return jacobian


def _vector(losses: Tensor | None, size: int) -> Tensor:
    """Losses as float64 ``[S]`` on the CPU, checked."""
    if losses is None:
        return torch.ones(size, dtype=torch.float64)
    losses = losses.detach().to("cpu", torch.float64)
    if losses.shape != (size,):
        raise ShapeError(f"`losses` should have shape [{size}]. Found {list(losses.shape)}.")
    if not bool(losses.isfinite().all()):
        raise UsageError("`losses` should be finite. Leave out the tasks whose loss is not.")
    return losses


def _square(gramian: Tensor, size: int) -> Tensor:
    """The Gramian as symmetric float64 ``[S, S]`` on the CPU, checked."""
    gramian = gramian.detach().to("cpu", torch.float64)
    if gramian.shape != (size, size):
        raise ShapeError(f"`gramian` should be square. Found {list(gramian.shape)}.")
    if not bool(gramian.isfinite().all()):
        raise UsageError("`gramian` should be finite. Leave out the tasks whose gradient is not.")
    return (gramian + gramian.T) / 2
