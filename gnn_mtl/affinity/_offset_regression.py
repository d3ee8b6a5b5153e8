r"""What training on a subset does to the linearised network: logistic regressions with an offset.

With :math:`W = \theta^* + P u` the logits are :math:`f + \phi \cdot u`, so training on the tasks S
is, up to the linearisation, the convex problem

.. math:: \hat u_S = \arg\min_u \sum_{t \in S} c_{S,t} \sum_v w_{vt}\,
          \mathrm{BCE}(f_{vt} + \phi_{vt} \cdot u,\; y_{vt}) + \frac{\lambda}{2} |u|^2

(Grad-TAG, arXiv 2409.06091 §3): logistic regression whose offset is the base model's logit and
that has no intercept. All subsets are fitted together.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional

from gnn_mtl._core.errors import GnnMtlWarning, ShapeError, UsageError
from gnn_mtl.affinity._group_gains import check_masks
from gnn_mtl.affinity._newton_step import (
    Weighting,
    checked_members,
    subset_factors,
)
from gnn_mtl.gradients import FeatureStore

HISTORY = 10
HALVINGS = 30


def feature_cells(
    features: Tensor,
    logits: Tensor,
    y: Tensor,
    weights: Tensor,
    tasks: Tensor | None = None,
    *,
    num_tasks: int | None = None,
) -> FeatureStore:
    """Return features of one's own as the cells that :func:`fit_subsets` reads.

    Args:
        features: Projected gradients of blocks of nodes ``[B, T, d]``, or of listed cells
            ``[n, d]``.
        logits: Base logits ``[B, T]`` or ``[n]``.
        y: Targets, same shape; not read where the weight is 0.
        weights: What each cell counts, same shape; a mask will do. 0 leaves the cell out.
        tasks: Task of each listed cell, int64 ``[n]``; None for blocks.
        num_tasks: Number of tasks T; needed for listed cells only.

    Raises:
        ShapeError: If the shapes do not fit.
        UsageError: If a task is not in [0, T), or a weight is negative.
    """
    if features.shape[:-1] != logits.shape or not logits.shape == y.shape == weights.shape:
        raise ShapeError(
            "`features` should be [B, T, d] or [n, d], and `logits`, `y` and `weights` the same "
            f"without d. Found {tuple(features.shape)}, {tuple(logits.shape)}, {tuple(y.shape)} "
            f"and {tuple(weights.shape)}."
        )
    if bool((weights < 0).any()):
        raise UsageError("`weights` should not be negative. Found one that is.")
    if logits.dim() == 2 and tasks is None:
        num_tasks = logits.shape[1]
        node, task = weights.nonzero(as_tuple=True)
        picked: tuple[Tensor, ...] = (node, task)
    elif logits.dim() == 1 and tasks is not None and tasks.shape == logits.shape and num_tasks:
        (node,) = weights.nonzero(as_tuple=True)
        task, picked = tasks[node], (node,)
    else:
        raise ShapeError(
            "Blocks [B, T, d] should come without `tasks`, listed cells [n, d] with `tasks` [n] "
            f"and `num_tasks`. Found logits {tuple(logits.shape)}."
        )
    if len(task) and not 0 <= int(task.min()) <= int(task.max()) < num_tasks:
        raise UsageError(f"`tasks` should lie in [0, {num_tasks}). Found other ids.")
    order = torch.argsort(task, stable=True)
    counts = torch.bincount(task, minlength=num_tasks)
    rows = tuple(index[order] for index in picked)
    return FeatureStore(
        features[rows], logits[rows], y[rows].to(logits.dtype), weights[rows].to(logits.dtype),
        node[order], torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
    )  # fmt: skip


def fit_subsets(
    cells: FeatureStore,
    masks: ArrayLike,
    lam: float = 0.1,
    *,
    weighting: Weighting = "tasks",
    tolerance: float = 1e-9,
    max_iterations: int = 100,
) -> Tensor:
    """Return the minimisers of all subsets, float64 ``[d, m]``.

    The first step of every column is the Newton step at u = 0; L-BFGS in the coordinates of that
    Hessian corrects it, so a handful of passes over the cells suffice. Each task's cells meet only
    the subsets that hold it, in two matrix products a pass.

    Args:
        cells: Training cells (:func:`gnn_mtl.gradients.store_features`, :func:`feature_cells`).
        masks: Members of each subset, bool ``[m, T]``.
        lam: Penalty on the scale of mean losses.
        weighting: ``"tasks"``: every task of the subset counts alike, as ``masked_bce`` trains
            them; ``"pairs"``: every cell does (the paper's).
        tolerance: A column is done when half its squared Newton decrement, the nats still to gain,
            is below it.
        max_iterations: Passes; a warning names how many subsets were not done by then.

    Raises:
        ShapeError: If ``masks`` does not have one column a task.
        UsageError: If ``lam`` is not positive or ``weighting`` unknown.

    Cost: iterations x cells x (subsets holding their task) x 4 d operations, T d^2 numbers, and one
    d x d factor a subset, a hundred MB of them at a time. In the features' precision, half lifted
    to single; sums are float64.
    """
    members = checked_members(masks, cells.num_tasks, lam, weighting).to(cells.phi.device)
    tasks = [_Task.of(cells, task) for task in range(cells.num_tasks)]
    found, left = [], 0
    for shares, factor in subset_factors(cells.statistics(), members, lam, weighting):
        problem = _Problem(tasks, shares, lam)
        u, done = _minimise(problem, factor, tolerance, max_iterations)
        left += int((~done).sum())
        found.append(u)
    if left:
        warnings.warn(
            f"Subsets should be fitted to within {tolerance:g} nats in {max_iterations} passes. "
            f"{left} of {len(members)} are not; raise `lam` or `max_iterations`.",
            GnnMtlWarning,
            stacklevel=2,
        )
    return torch.cat(found, dim=1)


def linearised_losses(cells: FeatureStore, u: Tensor, masks: ArrayLike) -> Tensor:
    """Return the members' mean losses at the linearised logits.

    Args:
        cells: Cells to score.
        u: One column a subset ``[d, m]``.
        masks: Members of each subset, bool ``[m, T]``.

    Returns:
        Nats, float64 ``[m, T]``; NaN outside the subset and for tasks without a cell.

    Raises:
        ShapeError: If ``masks`` does not have one column a task.
    """
    members = torch.from_numpy(check_masks(masks, cells.num_tasks)).to(u.device)
    found = torch.full(members.shape, torch.nan, dtype=torch.float64, device=u.device)
    for task in range(cells.num_tasks):
        each, rows = _Task.of(cells, task), members[:, task].nonzero()[:, 0]
        total = each.weight.sum(dtype=torch.float64)
        if len(rows) and total > 0:
            found[rows, task] = each.loss(each.at(u[:, rows])) / total
    return found


@dataclass(frozen=True, eq=False)
class _Task:
    """The cells of one task; features kept in half precision are lifted for each product."""

    phi: Tensor  # [n, d]
    logits: Tensor  # [n, 1], as the next two
    y: Tensor
    weight: Tensor

    @classmethod
    def of(cls, cells: FeatureStore, task: int) -> _Task:
        part = cells.of(task)
        used = torch.promote_types(cells.phi.dtype, torch.float32)
        columns = (cells.logits[part], cells.y[part], cells.weight[part])
        return cls(cells.phi[part], *(column[:, None].to(used) for column in columns))

    @property
    def lifted(self) -> Tensor:
        return self.phi.to(self.logits.dtype)

    def at(self, u: Tensor) -> Tensor:
        """Logits ``[n, c]`` at ``u`` ``[d, c]``."""
        return self.logits + self.lifted @ u.to(self.logits.dtype)

    def loss(self, logits: Tensor) -> Tensor:
        """Summed losses, float64 ``[c]``."""
        loss = self.weight * (functional.softplus(logits) - self.y * logits)
        return loss.sum(dim=0, dtype=torch.float64)

    def slope(self, logits: Tensor) -> Tensor:
        """Their gradients, float64 ``[d, c]``."""
        return (self.lifted.T @ (self.weight * (torch.sigmoid(logits) - self.y))).double()


@dataclass(frozen=True, eq=False)
class _Problem:
    """The objectives of some subsets."""

    tasks: list[_Task]
    shares: Tensor
    lam: float

    def __call__(self, u: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Values ``[c]`` and gradients ``[d, c]`` of the subsets ``columns`` at their ``u``."""
        value = 0.5 * self.lam * (u * u).sum(dim=0)
        gradient = self.lam * u
        shares = self.shares[columns]
        for task, each in enumerate(self.tasks):
            rows = shares[:, task].nonzero()[:, 0]
            if len(rows):
                share, logits = shares[rows, task], each.at(u[:, rows])
                value[rows] += share * each.loss(logits)
                gradient[:, rows] += share * each.slope(logits)
        return value, gradient


def _minimise(
    problem: _Problem, factor: Tensor, tolerance: float, max_iterations: int
) -> tuple[Tensor, Tensor]:
    """L-BFGS of every column in the coordinates where its first Hessian is the identity."""
    number, dim = factor.shape[:2]
    u = torch.zeros(dim, number, dtype=torch.float64, device=factor.device)
    everyone = torch.arange(number, device=u.device)
    value, gradient = problem(u, everyone)
    slope = _whitened(factor, gradient)
    steps: list[Tensor] = []
    turns: list[Tensor] = []
    noise = torch.finfo(problem.tasks[0].logits.dtype).eps
    done = 0.5 * (slope * slope).sum(dim=0) <= tolerance
    for _ in range(max_iterations):
        active = (~done).nonzero()[:, 0]
        if len(active) == 0:
            break
        way = -_two_loop(slope, steps, turns)
        down = (way * slope).sum(dim=0)
        bad = down >= 0
        way[:, bad], down[bad] = -slope[:, bad], -(slope[:, bad] ** 2).sum(dim=0)
        move = _coloured(factor, way)
        length = torch.ones(number, dtype=torch.float64, device=u.device)
        before, trying = slope.clone(), active
        stepped = torch.zeros_like(slope)
        for _ in range(HALVINGS):
            new = u[:, trying] + length[trying] * move[:, trying]
            reached, turned = problem(new, trying)
            wanted = value[trying] + 1e-4 * length[trying] * down[trying]
            good = reached <= wanted + 4 * noise * value[trying].abs()
            taken = trying[good]
            stepped[:, taken] = length[taken] * way[:, taken]
            u[:, taken], value[taken] = new[:, good], reached[good]
            slope[:, taken] = _whitened(factor[taken], turned[:, good])
            trying = trying[~good]
            if len(trying) == 0:
                break
            length[trying] /= 2
        done[trying] = True  # no descent left to be seen at this precision
        steps.append(stepped)
        turns.append(slope - before)
        del steps[:-HISTORY], turns[:-HISTORY]
        done |= 0.5 * (slope * slope).sum(dim=0) <= tolerance
    return u, done


def _two_loop(slope: Tensor, steps: list[Tensor], turns: list[Tensor]) -> Tensor:
    """The inverse Hessian of L-BFGS times the slopes, column by column; starts from identity."""
    found = slope.clone()
    weights = []
    for step, turn in zip(reversed(steps), reversed(turns), strict=True):
        curve = (step * turn).sum(dim=0)
        inverse = torch.where(curve > 0, 1.0 / curve.clamp(min=1e-300), 0.0)
        weight = inverse * (step * found).sum(dim=0)
        found -= weight * turn
        weights.append((inverse, weight))
    for (inverse, weight), step, turn in zip(reversed(weights), steps, turns, strict=True):
        found += (weight - inverse * (turn * found).sum(dim=0)) * step
    return found


def _whitened(factor: Tensor, gradient: Tensor) -> Tensor:
    solved = torch.linalg.solve_triangular(factor, gradient.T[:, :, None], upper=False)
    return solved[:, :, 0].T


def _coloured(factor: Tensor, way: Tensor) -> Tensor:
    solved = torch.linalg.solve_triangular(factor.mT, way.T[:, :, None], upper=True)
    return solved[:, :, 0].T
