"""``AdaTask``: every task has Adam moments of its own, so that none drowns the others'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.aggregation._base import AggregatorConfig, Promise, RowAggregator, as_rows
from gnn_mtl.aggregation._loss_balance import check_positive, debias, put

Moments = Literal["auto", "exact", "layer"]


def adatask_step(
    gradient: Tensor, moments: Tensor, count: int, betas: tuple[float, float], eps: float
) -> Tensor:
    """Return Adam's step ``[P]`` of one task; updates its moments in place.

    Args:
        gradient: ``[P]``.
        moments: First and second ``[2, P]``.
        count: Steps of this task, this one included.
        betas: Their decays.
        eps: Added to the root of the second.
    """
    first, second = moments
    first.lerp_(gradient, 1 - betas[0])
    second.mul_(betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])
    root = second.sqrt().div_((1 - betas[1] ** count) ** 0.5).add_(eps)
    return (first / (1 - betas[0] ** count)).div_(root)


class AdaTaskRows(RowAggregator):
    """Turns gradients of tasks into steps of their own; see :class:`AdaTask`.

    Args:
        config: The options.
        num_tasks: Number of tasks T.
        seed: Not used.

    Attributes:
        rows_are_steps: True with exact moments, False by layer; under ``"auto"`` it is settled by
            :meth:`set_layout` or the first call, whichever comes first.
    """

    kind: ClassVar[str] = "adatask"
    promises: ClassVar[frozenset[Promise]] = frozenset({"permutation"})

    def __init__(self, config: AdaTask, num_tasks: int, *, seed: int = 0) -> None:
        super().__init__(num_tasks, seed=seed)
        self.config = config
        self.state = {
            "steps": torch.zeros(num_tasks, dtype=torch.int64),
            "updates": torch.zeros(num_tasks, dtype=torch.float64),
        }
        self._moments: dict[int, Tensor] = {}  # [2, P] of the tasks seen, exact only
        self._sizes: list[int] = []
        self._choose(None if config.moments == "auto" else config.moments)

    def set_layout(self, sizes: Sequence[int]) -> None:
        """State how many of the P columns belong to each parameter tensor, in order.

        Without it all P count as one tensor. It also lets a lack of memory show before the first
        step.

        Raises:
            ShapeError: If gradients, or a state, of another layout were seen.
            UsageError: If a size is not positive, or exact moments do not fit.
        """
        if not sizes or min(sizes) < 1:
            raise UsageError(f"`sizes` should hold positive numbers. Found {list(sizes)[:8]}.")
        self._settle([int(size) for size in sizes], torch.float32)

    def rows(self, jacobian: Tensor, *, tasks: Sequence[int] | None = None) -> Tensor:
        """Return steps ``[S, P]``, or gradients over their root mean squares by layer.

        A row of zeros (no gradient in this batch) stays, and so does that task's state.

        Args:
            jacobian: Gradients ``[S, P]``, finite.
            tasks: Task id of every row; default 0, ..., S - 1.

        Raises:
            ShapeError: If shapes do not fit together, or P is not what it was.
            UsageError: If anything is not finite, or exact moments do not fit into memory.
        """
        jacobian = as_rows(jacobian).detach()
        ids = self._ids(tasks, len(jacobian))
        exact = torch.promote_types(jacobian.dtype, torch.float32)
        self._settle(self._sizes or [jacobian.shape[1]], exact, found=jacobian.shape[1])
        alive = (jacobian != 0).any(dim=1)
        seen = ids[alive.cpu()]
        steps = self.state["steps"][seen] + 1
        make = self._exact_rows if self._chosen == "exact" else self._layer_rows
        rows = torch.zeros_like(jacobian, dtype=exact)
        rows[alive] = make(jacobian[alive].to(exact), seen, steps)
        put(self.state, "steps", seen, steps)
        squares = rows[alive].square().mean(dim=1).to("cpu", torch.float64)
        put(self.state, "updates", seen, self._averaged(self.state["updates"][seen], squares))
        self.calls += 1
        return rows.to(jacobian.dtype)

    def dominance(self) -> Tensor:
        """Return every task's share of the squared updates, float64 ``[T]``; NaN: never seen.

        The paper's average of squared updates (AU), over all shared parameters: the mean squared
        row, averaged over a task's own visits with the decay of the second moments and
        bias-corrected; here divided by its sum over the tasks.
        """
        average = self.state["updates"] / debias(self.config.beta2, self.state["steps"])
        return average / average.nansum()

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state; exact moments as ``moments.TASK`` ``[2, P]``."""
        moments = {f"moments.{task}": kept.clone() for task, kept in self._moments.items()}
        return {**super().state_dict(), "chosen": self._chosen, "sizes": [*self._sizes], **moments}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`, whether or not gradients have been seen already.

        Raises:
            UsageError: If the state is of another aggregator, of other moments, or incomplete.
            ShapeError: If it is of another layout of the parameters.
        """
        chosen, sizes = state.get("chosen"), [int(size) for size in state.get("sizes", [])]
        if chosen not in {None, self.config.moments} and self.config.moments != "auto":
            raise UsageError(
                f"Expected a state with `moments` {self.config.moments!r}. Found {chosen!r}; "
                "build the aggregator with the options it was saved with."
            )
        if sizes and self._sizes and sizes != self._sizes:
            raise ShapeError(_other_layout(self._sizes, sizes))
        self.state.pop("second", None)
        if "second" in state:
            self.state["second"] = torch.zeros(self.num_tasks, len(sizes), dtype=torch.float64)
        super().load_state_dict(state)
        self._choose(chosen if self.config.moments == "auto" else self.config.moments)
        self._sizes = sizes or self._sizes
        self._moments = {
            int(name.removeprefix("moments.")): torch.as_tensor(kept).clone()
            for name, kept in state.items()
            if name.startswith("moments.")
        }

    def _choose(self, chosen: str | None) -> None:
        self._chosen = chosen
        self.rows_are_steps = chosen != "layer"  # type: ignore[misc]

    def _settle(self, sizes: list[int], dtype: torch.dtype, found: int | None = None) -> None:
        """Fix the layout, and with it P and the kind of moments."""
        if (self._sizes and sizes != self._sizes) or found not in {None, sum(sizes)}:
            raise ShapeError(_other_layout(self._sizes, sizes if found is None else [found]))
        if not self._sizes or self._chosen is None:
            megabytes = 2 * self.num_tasks * sum(sizes) * dtype.itemsize / 2**20
            fits = megabytes <= self.config.max_memory_mb
            if self._chosen == "exact" and not fits:
                raise UsageError(
                    f"Adam moments of {self.num_tasks} tasks for {sum(sizes)} shared parameters "
                    f"take {megabytes:.0f} MB. Found `max_memory_mb` {self.config.max_memory_mb}; "
                    "raise it, train fewer labels or a smaller encoder, or say `moments` 'layer' "
                    "(one number a task and parameter tensor) or 'auto'."
                )
            if self._chosen is None:
                self._choose("exact" if fits else "layer")
            self._sizes = sizes
        if self._chosen == "layer" and "second" not in self.state:
            self.state["second"] = torch.zeros(self.num_tasks, len(sizes), dtype=torch.float64)

    def _averaged(self, old: Tensor, new: Tensor) -> Tensor:
        return self.config.beta2 * old + (1 - self.config.beta2) * new

    def _exact_rows(self, jacobian: Tensor, tasks: Tensor, steps: Tensor) -> Tensor:
        betas, rows = (self.config.beta1, self.config.beta2), torch.empty_like(jacobian)
        for i, (task, count) in enumerate(zip(tasks.tolist(), steps.tolist(), strict=True)):
            moments = self._moments.get(task)
            if moments is None:
                moments = jacobian.new_zeros(2, jacobian.shape[1])
            self._moments[task] = moments = moments.to(jacobian)
            rows[i] = adatask_step(jacobian[i], moments, count, betas, self.config.eps)
        return rows

    def _layer_rows(self, jacobian: Tensor, tasks: Tensor, steps: Tensor) -> Tensor:
        layers = jacobian.split(self._sizes, dim=1)
        squares = torch.stack([layer.square().mean(dim=1) for layer in layers], dim=1)
        second = self._averaged(self.state["second"][tasks], squares.to("cpu", torch.float64))
        put(self.state, "second", tasks, second)
        corrected = second / debias(self.config.beta2, steps)[:, None]
        scale = 1 / (corrected.sqrt() + self.config.eps).to(jacobian)
        return torch.cat([layer * scale[:, i, None] for i, layer in enumerate(layers)], dim=1)

    def __repr__(self) -> str:
        return f"{self.config!r}.build({self.num_tasks})"


@dataclass(frozen=True, kw_only=True)
class AdaTask(AggregatorConfig):
    r"""AdaTask: an Adam of its own for every task on the shared parameters, their steps summed.

    Yang, Pan, Wang, Yu, Shen, Chen, Xiao, Jiang and Guo, "AdaTask: A Task-Aware Adaptive Learning
    Rate Approach to Multi-Task Learning", AAAI 2023, arXiv 2211.15055, its form of Adam:

    .. math:: \theta \leftarrow \theta - \eta \sum_t \frac{m_t / (1 - \beta_1^{n_t})}
              {\sqrt{v_t / (1 - \beta_2^{n_t})} + \epsilon},

    with moments :math:`m_t, v_t` of the gradient of task t alone, which has had :math:`n_t` steps.
    With one Adam for all tasks, those with large gradients set the learning rate of every
    parameter. With one task it is Adam; multiplying a task's loss by a number changes nothing (up
    to epsilon). The heads keep the optimizer of the run.

    ``moments`` says what is kept:

    - ``exact``: the formula above, 2 T P numbers. The rows are steps: the run's own moments, and
      clipping, are passed by.
    - ``layer`` (ours, not in the paper): the gradient of task t by parameter tensor l, divided by
      the root of :math:`v_{t,l}`, a moving mean of its mean square; T numbers a tensor, and no
      first moment. The rows are gradients of comparable size; their sum goes through the run's
      optimizer, which brings momentum and the steps of single parameters.

    What differs from the authors' code: steps are counted by task, so that a task which a schedule
    brings in late gets its own bias correction; a task without a gradient in the batch stays as it
    is. Needs the Jacobian. Time and memory are linear in S P.
    """

    kind: ClassVar[str] = "adatask"

    moments: Moments = "auto"
    """Exact, one second moment by layer, or exact if it fits into memory."""

    max_memory_mb: float = 2048.0
    """Most memory that exact moments may take, in MB."""

    beta1: float = 0.9
    """Decay of the first moment."""

    beta2: float = 0.999
    """Decay of the second moment."""

    eps: float = 1e-8
    """Added to the root of the second moment."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.moments not in get_args(Moments):
            raise UsageError(
                f"`moments` should be one of {', '.join(get_args(Moments))}. "
                f"Found {self.moments!r}."
            )
        for name, value in (("beta1", self.beta1), ("beta2", self.beta2)):
            if not 0 <= value < 1:
                raise UsageError(f"`{name}` should lie in [0, 1). Found {value}.")
        check_positive(max_memory_mb=self.max_memory_mb, eps=self.eps)

    def build(self, num_tasks: int, seed: int = 0) -> AdaTaskRows:
        """Build the aggregator; it has no randomness."""
        return AdaTaskRows(self, num_tasks, seed=seed)


def _other_layout(known: list[int], found: list[int]) -> str:
    return (
        f"Expected gradients by {sum(known)} parameters, tensors: {len(known)}. Found "
        f"{sum(found)} parameters, tensors: {len(found)}; use one aggregator a model."
    )
