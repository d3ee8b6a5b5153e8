"""``GradientEMA``: a running mean of each task's gradient, and the cosines between those."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gnn_mtl._core.errors import NonFiniteWarning, ShapeError, UsageError
from gnn_mtl.affinity._ema_errors import EMAErrors
from gnn_mtl.affinity._gradient_cosine import gradient_cosine
from gnn_mtl.tasks import Affinity

CHUNK_BYTES = 1 << 21
"""Size of the copy of one block of columns, which stays in cache."""


class ObservedGradients(Protocol):
    """Gradients of some tasks, as ``gnn_mtl.gradients.TaskGradients`` holds them."""

    @property
    def tasks(self) -> tuple[int, ...]:
        """Task of each row."""

    @property
    def jacobian(self) -> Tensor:
        """Gradients of the shared parameters, ``[len(tasks), P]``."""

    @property
    def valid(self) -> Tensor:
        """Boolean ``[len(tasks)]``: False where a task had no observed label or no finite loss."""


class GradientEMA:
    r"""Exponential moving average of task gradients, SON-GOKU (arXiv 2509.16959) Eq. 7.

    .. math:: \tilde g_k \leftarrow \beta\,\tilde g_k + (1 - \beta)\,g_k

    with Adam's bias correction, so that the first observation counts in full. A task without a
    usable gradient (not observed, exactly zero, or not finite) keeps its average and grows older;
    nothing decays towards zero. It effectively averages :math:`(1 + \beta) / (1 - \beta)`
    observations, 19 at the default. Averages shrink cosines towards 0 by noise until then, so too
    little history shows as a conflict graph without edges, not as a noisy one.

    Args:
        num_tasks: Number of tasks T.
        beta: Share of the old average kept at each observation, in [0, 1); 0 = the last gradient.
        label_names: One name a task, for warnings and the affinity.

    Raises:
        UsageError: If ``num_tasks`` is below 1 or ``beta`` outside [0, 1).

    Attributes:
        counts: Observations averaged so far, for each task.
        ages: Calls of :meth:`update` since the last observation, for each task.
        skipped: Calls of :meth:`update` that offered a row of the task that could not be used.
        non_finite: Those of ``skipped`` where the row held a NaN or an infinity.

    Memory:
        4 T P bytes, allocated by the first update on the device of the gradients.

    Complexity:
        An update takes O(S T P) for S rows, and O(T^2 P) more where no affinity was read since the
        last one; an affinity O(T^2 P).
    """

    def __init__(
        self, num_tasks: int, *, beta: float = 0.9, label_names: tuple[str, ...] | None = None
    ) -> None:
        if num_tasks < 1:
            raise UsageError(f"An average needs at least one task. Found {num_tasks}.")
        if not 0.0 <= beta < 1.0:
            raise UsageError(f"`beta` should lie in [0, 1). Found {beta}.")
        if label_names is not None and len(label_names) != num_tasks:
            raise ShapeError(
                f"`label_names` should hold {num_tasks} names. Found {len(label_names)}."
            )
        self.num_tasks = num_tasks
        self.beta = beta
        self.label_names = label_names
        self.counts = [0] * num_tasks
        self.ages = [0] * num_tasks
        self.skipped = [0] * num_tasks
        self.non_finite = [0] * num_tasks
        self._average: Tensor | None = None  # [T, P] float32, not bias corrected
        self._errors = EMAErrors(num_tasks, beta)
        self._cosine: Affinity | None = None  # of the average as it stands

    def __repr__(self) -> str:
        names = "" if self.label_names is None else f", label_names={self.label_names!r}"
        return f"GradientEMA({self.num_tasks}, beta={self.beta!r}{names})"

    @torch.no_grad()
    def update(self, gradients: ObservedGradients) -> tuple[int, ...]:
        """Average in the usable rows of ``gradients``; return the tasks that were updated.

        Args:
            gradients: Rows for any of the tasks, each at most once. Unweighted: a task weight that
                changes over time would turn the average.

        Raises:
            ShapeError: If the rows do not fit the tasks, or P is not that of earlier updates.
            UsageError: If a task is repeated or outside ``[0, T)``.

        Warns:
            NonFiniteWarning: The first time a task's gradient is not finite.
        """
        tasks = tuple(int(task) for task in gradients.tasks)
        jacobian = gradients.jacobian.detach()
        self._check(tasks, jacobian, gradients.valid)
        jacobian = jacobian.float()
        if self._average is None:
            self._average = torch.zeros(
                self.num_tasks, jacobian.shape[1], dtype=torch.float32, device=jacobian.device
            )
        elif self._average.device != jacobian.device:
            self._average = self._average.to(jacobian.device)
        largest = torch.linalg.vector_norm(jacobian, ord=torch.inf, dim=1).tolist()
        valid = gradients.valid.tolist()
        self.ages = [age + 1 for age in self.ages]
        usable = [ok and 0.0 < size < float("inf") for ok, size in zip(valid, largest, strict=True)]
        self._learn_errors(tasks, jacobian, usable)
        self._cosine = None
        updated: list[int] = []
        newly_broken: list[int] = []
        for row, task in enumerate(tasks):
            if usable[row]:
                self._average[task].mul_(self.beta).add_(jacobian[row], alpha=1.0 - self.beta)
                self.counts[task] += 1
                self.ages[task] = 0
                updated.append(task)
                continue
            self.skipped[task] += 1
            if not np.isfinite(largest[row]):
                self.non_finite[task] += 1
                if self.non_finite[task] == 1:
                    newly_broken.append(task)
        if newly_broken:
            warnings.warn(self._non_finite_message(newly_broken), NonFiniteWarning, stacklevel=2)
        return tuple(updated)

    def mean(self) -> Tensor:
        """Return the bias-corrected averages, float32 ``[T, P]``; rows never observed are zero.

        Raises:
            UsageError: Before the first update, when P is not known.
        """
        if self._average is None:
            raise UsageError("There is no gradient to average yet; call update() first.")
        weight = [1.0 - self.beta**count if count else 1.0 for count in self.counts]
        return self._average / torch.tensor(weight, device=self._average.device)[:, None]

    def affinity(self) -> Affinity:
        """Return the cosines of the averages; cells of tasks never observed are NaN.

        ``counts`` of the affinity are the observations of the less observed task of each pair.
        ``stderr`` says how far the noise of the observations that are averaged moves a cosine,
        from how far they lie around the average (infinitesimal jackknife, independent
        observations); known from a task's second observation on, good after some ten. It is of the
        spread only: the shrinkage towards 0 is no part of it.
        """
        counts = np.array(self.counts)
        return replace(
            self._cosines(),
            method="gradient_cosine_ema",
            counts=np.minimum.outer(counts, counts),
            stderr=self._errors.standard_errors(counts),
            label_names=self.label_names,
            details={"ema_beta": self.beta, "ages": list(self.ages)},
        )

    def state_dict(self) -> dict[str, Any]:
        """Return everything :meth:`load_state_dict` needs: plain values and one tensor or None."""
        return {
            "num_tasks": self.num_tasks,
            "beta": self.beta,
            "counts": list(self.counts),
            "ages": list(self.ages),
            "skipped": list(self.skipped),
            "non_finite": list(self.non_finite),
            "average": None if self._average is None else self._average.clone(),
            "errors": self._errors.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict` of an average of the same tasks and ``beta``.

        Raises:
            UsageError: If the state is incomplete or of another average; nothing is changed then.
        """
        names = ("counts", "ages", "skipped", "non_finite")
        missing = sorted({"num_tasks", "beta", "average", "errors", *names} - state.keys())
        if missing:
            raise UsageError(f"The state of a GradientEMA should hold {missing}; it does not.")
        found = (state["num_tasks"], state["beta"])
        average = state["average"]
        if found != (self.num_tasks, self.beta):
            raise UsageError(
                f"Expected the state of {self!r}. "
                f"Found one of {found[0]} tasks with beta {found[1]}."
            )
        if any(len(state[name]) != self.num_tasks for name in names) or (
            average is not None and (average.ndim != 2 or len(average) != self.num_tasks)
        ):
            raise UsageError(f"The state of {self!r} should hold one entry a task throughout.")
        errors = EMAErrors(self.num_tasks, self.beta)
        errors.load_state_dict(state["errors"])
        for name in names:
            setattr(self, name, [int(value) for value in state[name]])
        self._average = None if average is None else average.detach().clone().float()
        self._errors, self._cosine = errors, None

    def _cosines(self) -> Affinity:
        """Return the cosines of the averages as they stand, computed once."""
        if self._average is None:
            unknown = np.full((self.num_tasks, self.num_tasks), np.nan)
            return Affinity(unknown, "gradient_cosine", "cosine")
        if self._cosine is None:  # a cosine does not see the bias correction
            self._cosine = gradient_cosine(self._average)
        return self._cosine

    def _learn_errors(self, tasks: tuple[int, ...], jacobian: Tensor, usable: list[bool]) -> None:
        """Tell the errors how the usable rows deviate from the averages before them."""
        ids, counts = np.array(tasks)[usable], np.array(self.counts)
        if not len(ids):
            return
        cosine = np.full((self.num_tasks, self.num_tasks), np.nan)
        products = cosine[ids]
        if counts[ids].any():
            cosine = self._cosines().values
            products = self._products(ids, jacobian if all(usable) else jacobian[usable])
            with np.errstate(invalid="ignore"):  # rows without an average yet
                products = products * (1.0 - self.beta ** counts[ids])[:, None] - cosine[ids]
        self._errors.update(ids, products, cosine, counts)

    def _products(self, ids: NDArray[np.int64], rows: Tensor) -> NDArray[np.float64]:
        """Return <g_i, a_j> / (|a_i| |a_j|) of rows g and the averages a, not bias corrected."""
        average = self._average
        assert average is not None  # noqa: S101 - allocated by the first update
        scale = torch.linalg.vector_norm(average, ord=torch.inf, dim=1, keepdim=True)
        scale = torch.where(scale > 0, scale, torch.ones_like(scale)).reciprocal()
        products = scale.new_zeros((len(ids), self.num_tasks), dtype=torch.float64)
        squares = scale.new_zeros(self.num_tasks, dtype=torch.float64)
        width = max(1, CHUNK_BYTES // (4 * self.num_tasks))
        for part, new in zip(average.split(width, 1), rows.split(width, 1), strict=True):
            scaled = part * scale
            products += (new * scale[ids]) @ scaled.T
            squares += scaled.square_().sum(dim=1)
        norms = squares.sqrt()
        return (products / norms[ids, None] / norms).cpu().numpy()

    def _check(self, tasks: tuple[int, ...], jacobian: Tensor, valid: Tensor) -> None:
        rows = len(tasks)
        if jacobian.ndim != 2 or 0 in jacobian.shape or {len(jacobian), *valid.shape} != {rows}:
            raise ShapeError(
                f"`jacobian` should have shape [{rows}, P] and `valid` [{rows}], one row a task, "
                f"P >= 1. Found {tuple(jacobian.shape)} and {tuple(valid.shape)}."
            )
        if len(set(tasks)) < len(tasks) or not all(0 <= task < self.num_tasks for task in tasks):
            raise UsageError(
                f"`tasks` should be distinct ids in [0, {self.num_tasks}). Found {tasks}."
            )
        if self._average is not None and jacobian.shape[1] != self._average.shape[1]:
            raise ShapeError(
                f"Gradients should have {self._average.shape[1]} entries, as those before. "
                f"Found {jacobian.shape[1]}; start a new GradientEMA for other parameters."
            )

    def _non_finite_message(self, tasks: Sequence[int]) -> str:
        named = ", ".join(
            str(task) if self.label_names is None else f"{task} ({self.label_names[task]})"
            for task in tasks[:8]
        )
        more = f" and {len(tasks) - 8} more" if len(tasks) > 8 else ""
        return (
            f"Gradients should be finite. Found NaN or infinity for tasks {named}{more}; their "
            "averages are kept as they were. Look at these labels' losses, or lower the rate."
        )
