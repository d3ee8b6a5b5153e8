"""``ProximalAffinity``: what each group's own update did to every loss, averaged over training.

Selective Task Group Updates, Jeong & Yoon, ICLR 2025 (arXiv 2502.11986). The losses are those a
group-wise training computes anyway: before and after each update, on one batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.affinity._cell_mean import load_square
from gnn_mtl.affinity._look_ahead import LOSS_FLOOR, loss_change
from gnn_mtl.tasks import Affinity

Within = Literal["split_on_disagreement", "plain"]
Credit = Literal["own_update", "previous_losses"]


def proximal_credits(
    group: Sequence[int], change: ArrayLike, *, within: Within = "split_on_disagreement"
) -> NDArray[np.float64]:
    r"""Return what one group's update adds to its members' rows.

    With :math:`a_k = P_{G\to k} / |G|`, outside the group every row gets :math:`a_k`. Inside,
    ``"plain"`` does the same; ``"split_on_disagreement"`` writes :math:`a_i` on the diagonal only
    if it is not negative, and where member i gains while k loses, or the other way round, -max(a_i,
    a_k) into the pair's cells, so that they are likely to part.

    Args:
        group: The tasks that were updated together.
        change: Relative change of every loss ``[T]``, positive = fell; NaN where unknown.
        within: Rule for cells inside the group.

    Returns:
        Credits ``[len(group), T]``; NaN = nothing to write.

    Raises:
        UsageError: If the rule is unknown.
    """
    if within not in ("split_on_disagreement", "plain"):
        raise UsageError(f"`within` should be split_on_disagreement or plain. Found {within!r}.")
    members = np.array(group, dtype=np.int64)
    share = np.asarray(change, dtype=np.float64) / len(members)
    credits = np.repeat(share[None], len(members), axis=0)
    if within == "plain":
        return credits
    own = share[members]
    inside = np.broadcast_to(own, (len(members), len(members))).copy()
    apart = own[:, None] * own < 0
    inside[apart] = -np.maximum(own[:, None], own)[apart]
    np.fill_diagonal(inside, np.where(own >= 0, own, np.nan))
    credits[:, members] = inside
    return credits


class ProximalAffinity:
    r"""Exponential average of proximal inter-task affinities, bias-corrected cell by cell.

    .. math:: P_{G\to k} = 1 - L_k(\theta_s', \theta_k') / L_k(\theta_s, \theta_k)

    is measured, not predicted: the update of group G has been made, with its own heads. Row i,
    i in G, takes in :math:`P_{G\to k} / |G|` (:func:`proximal_credits`). Dividing by the size makes
    it an average: members of a group that is never redrawn cannot be told apart.

    Args:
        num_tasks: Number of tasks T.
        beta: Share of the old average kept at each credit, in [0, 1). The paper's decay rate is
            1 - beta: 1e-3 at 4 and 5 tasks, 1e-4 at 11. An average remembers about 1 / (1 - beta)
            credits of its row, so on full batches choose less.
        within: Rule for cells inside a group.
        credit: ``"own_update"``: a change belongs to the group whose update made it.
            ``"previous_losses"`` reproduces the authors' released code, which writes it to the
            group updated *next*, gives the first group of a batch nothing and never sees what the
            last one did. With single-task groups in random order that matrix falls where the true
            one rises; use it for nothing else.
        relative: Divide by the loss before; False averages plain differences.
        label_names: One name a task.

    Raises:
        UsageError: If an option is out of range.

    Attributes:
        counts: Credits of each cell, int64 ``[T, T]``.
    """

    def __init__(
        self,
        num_tasks: int,
        *,
        beta: float = 0.999,
        within: Within = "split_on_disagreement",
        credit: Credit = "own_update",
        relative: bool = True,
        label_names: tuple[str, ...] | None = None,
    ) -> None:
        if num_tasks < 1:
            raise UsageError(f"An average needs at least one task. Found {num_tasks}.")
        if not 0.0 <= beta < 1.0:
            raise UsageError(f"`beta` should lie in [0, 1). Found {beta}.")
        if credit not in ("own_update", "previous_losses"):
            raise UsageError(f"`credit` should be own_update or previous_losses. Found {credit!r}.")
        proximal_credits([0], [0.0], within=within)
        self.num_tasks, self.beta, self.within, self.credit = num_tasks, beta, within, credit
        self.relative, self.label_names = relative, label_names
        shape = (num_tasks, num_tasks)
        self.counts: NDArray[np.int64] = np.zeros(shape, dtype=np.int64)
        self._mean, self._square = np.zeros(shape), np.zeros(shape)  # not bias corrected
        self._loss, self._seen = np.zeros(num_tasks), np.zeros(num_tasks, dtype=np.int64)

    def __repr__(self) -> str:
        return (
            f"ProximalAffinity({self.num_tasks}, beta={self.beta!r}, within={self.within!r}, "
            f"credit={self.credit!r}, relative={self.relative!r}, label_names={self.label_names!r})"
        )

    def update(self, groups: Sequence[Sequence[int]], losses: ArrayLike) -> None:
        """Take in one batch on which the groups were updated one after the other.

        Args:
            groups: The U groups, in the order of their updates.
            losses: All tasks' losses before each update, and after the last: ``[U + 1, T]``. With
                ``[U, T]`` the last update gets no credit. NaN where a task has no label in the
                batch: it takes no part. The batch and all randomness must be the same throughout.

        Raises:
            ShapeError: If the shape is another.
            UsageError: If a group is empty or names a task twice or outside ``[0, T)``.
        """
        losses = np.asarray(losses, dtype=np.float64)
        if losses.shape not in {(len(groups), self.num_tasks), (len(groups) + 1, self.num_tasks)}:
            raise ShapeError(
                f"`losses` should have shape [{len(groups)} or {len(groups) + 1}, "
                f"{self.num_tasks}]. Found {losses.shape}."
            )
        for group in groups:
            inside = all(0 <= task < self.num_tasks for task in group)
            if not group or not inside or len(set(group)) < len(group):
                raise UsageError(
                    f"A group should hold distinct tasks in [0, {self.num_tasks}). Found {group}."
                )
        late = self.credit == "previous_losses"
        for number in range(len(losses) - 1):
            before, after = losses[number], losses[number + 1]
            floor = self._floor(before)
            change = loss_change(before, after, floor=floor, relative=self.relative)
            if late and number + 1 >= len(groups):
                continue
            group = [task for task in groups[number + late] if np.isfinite(before[task])]
            if group:
                self._write(group, proximal_credits(group, change, within=self.within))

    def affinity(self, *, min_count: int = 1) -> Affinity:
        """Return the averages; cells with fewer than ``min_count`` credits are unknown.

        Standard errors take the credits of a cell as independent.
        """
        weight = np.where(self.counts > 0, 1.0 - self.beta**self.counts, 1.0)
        mean, square = self._mean / weight, self._square / weight
        known = self.counts >= max(1, min_count)
        independent = effective_samples(self.beta, self.counts)
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.sqrt(np.maximum(square - mean**2, 0.0) / (independent - 1.0))
        return Affinity(
            np.where(known, mean, np.nan), "proximal",
            "relative_loss" if self.relative else "nats", False, self.counts,
            np.where(known & (independent > 1.0 + 1e-9), error, np.nan), self.label_names,
            {"ema_beta": self.beta, "within": self.within, "credit": self.credit},
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Return everything :meth:`load_state_dict` needs: plain values and tensors."""
        arrays = {
            "counts": self.counts, "mean": self._mean, "square": self._square,
            "loss": self._loss, "seen": self._seen,
        }  # fmt: skip
        return {
            "settings": repr(self),
            **{name: torch.from_numpy(array.copy()) for name, array in arrays.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict` of an average with the same settings.

        Raises:
            UsageError: If the state is incomplete or of another average; nothing is changed then.
        """
        if state.get("settings") != repr(self):
            raise UsageError(f"Expected the state of {self!r}. Found {state.get('settings')}.")
        arrays = load_square(state, ("counts", "mean", "square"), self.num_tasks)
        if any(np.shape(state.get(name, 0)) != (self.num_tasks,) for name in ("loss", "seen")):
            raise UsageError(f"The state of {self!r} should hold `loss` and `seen`, one a task.")
        self.counts = arrays["counts"].astype(np.int64)
        self._mean, self._square = arrays["mean"], arrays["square"]
        self._loss = np.asarray(state["loss"], dtype=np.float64).copy()
        self._seen = np.asarray(state["seen"], dtype=np.int64).copy()

    def _write(self, group: Sequence[int], credits: NDArray[np.float64]) -> None:
        rows, known = np.array(group), np.isfinite(credits)
        filled = np.where(known, credits, 0.0)
        for average, value in ((self._mean, filled), (self._square, filled**2)):
            old = average[rows]
            average[rows] = np.where(known, self.beta * old + (1.0 - self.beta) * value, old)
        self.counts[rows] += known

    def _floor(self, losses: NDArray[np.float64]) -> NDArray[np.float64]:
        """Take in losses and return the smallest denominators, a share of their mean so far."""
        known = np.isfinite(losses)
        self._seen += known
        step = np.maximum(1.0 - self.beta, 1.0 / np.maximum(self._seen, 1))
        self._loss += np.where(known, step * (np.where(known, losses, 0.0) - self._loss), 0.0)
        return LOSS_FLOOR * self._loss


def effective_samples(beta: float, counts: ArrayLike) -> NDArray[np.float64]:
    r"""Return how many equal observations an average of n weighted ones is worth.

    .. math:: n_{\text{eff}} = \frac{(\sum w)^2}{\sum w^2}
              = \frac{(1 + \beta)(1 - \beta^n)}{(1 - \beta)(1 + \beta^n)}

    Args:
        beta: Share of the old average kept, in [0, 1).
        counts: Observations n, any shape.

    Raises:
        UsageError: If ``beta`` lies outside [0, 1).
    """
    if not 0.0 <= beta < 1.0:
        raise UsageError(f"`beta` should lie in [0, 1). Found {beta}.")
    counts = np.asarray(counts, dtype=np.float64)
    left = np.where(counts > 0, beta**counts, 1.0)
    return (1.0 + beta) * (1.0 - left) / ((1.0 - beta) * (1.0 + left))
