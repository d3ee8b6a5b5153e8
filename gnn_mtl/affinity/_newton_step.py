r"""One Newton step for every subset of tasks, and losses to second order, from sums alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from gnn_mtl._core.errors import UsageError
from gnn_mtl.affinity._group_gains import check_masks
from gnn_mtl.gradients import FeatureStatistics

Weighting = Literal["tasks", "pairs"]
CHUNK_BYTES = 128 << 20


def newton_step(
    statistics: FeatureStatistics,
    masks: ArrayLike,
    lam: float = 0.1,
    *,
    weighting: Weighting = "tasks",
) -> Tensor:
    r"""Return one Newton step of every subset from sums alone, float64 ``[d, m]``.

    .. math:: \hat u_S = -\Big(\sum_{t\in S} c_{S,t} H_t + \lambda I\Big)^{-1}
              \sum_{t\in S} c_{S,t} b_t

    the minimiser of the quadratic model, and the first step of :func:`fit_subsets`. One Cholesky
    factor of d x d a subset: 2,000 subsets of 500 tasks at d = 200 take seconds.

    Args:
        statistics: Sums over the training cells.
        masks: Members of each subset, bool ``[m, T]``.
        lam: Penalty on the scale of mean losses.
        weighting: See :func:`fit_subsets`.

    Raises:
        ShapeError: If ``masks`` does not have one column a task.
        UsageError: If ``lam`` is not positive or ``weighting`` unknown.
    """
    members = checked_members(masks, statistics.num_tasks, lam, weighting).to(
        statistics.gradient.device
    )
    gradient = statistics.gradient.double()
    found = []
    for shares, factor in subset_factors(statistics, members, lam, weighting):
        used = shares.any(dim=0)[:, None]
        slope = (shares @ torch.where(used, gradient, 0.0))[:, :, None]
        found.append(-torch.cholesky_solve(slope, factor)[:, :, 0].T)
    return torch.cat(found, dim=1)


def quadratic_losses(statistics: FeatureStatistics, u: Tensor, masks: ArrayLike) -> Tensor:
    r"""Return the members' mean losses :math:`(L_t + b_t \cdot u + u^\top H_t u / 2) / n_t`.

    Args:
        statistics: Sums over the cells to score.
        u: One column a subset ``[d, m]``.
        masks: Members of each subset, bool ``[m, T]``.

    Returns:
        Nats, float64 ``[m, T]``; NaN outside the subset and for tasks without a cell.

    Raises:
        ShapeError: If ``masks`` does not have one column a task.
    """
    members = torch.from_numpy(check_masks(masks, statistics.num_tasks)).to(u.device)
    found = torch.full(members.shape, torch.nan, dtype=torch.float64, device=u.device)
    for task in (statistics.weight > 0).nonzero()[:, 0].tolist():
        rows = members[:, task].nonzero()[:, 0]
        step = u[:, rows].double()
        bend = (step * (statistics.hessian[task].double() @ step)).sum(dim=0)
        total = statistics.loss[task] + statistics.gradient[task].double() @ step + bend / 2
        found[rows, task] = total / statistics.weight[task]
    return found


def subset_shares(members: Tensor, sums: Tensor, weighting: Weighting) -> Tensor:
    r"""Return the factors :math:`c_{S,t}` of the tasks' summed losses, float64 ``[m, T]``.

    They make a mean: over the subset's tasks of their means (``"tasks"``), or over its cells
    (``"pairs"``). Tasks without a cell have none.
    """
    known = sums > 0
    each = torch.ones_like(sums) if weighting == "pairs" else 1.0 / sums.clamp(min=1e-300)
    factors = members.to(sums.dtype) * torch.where(known, each, 0.0)
    mass = (factors * sums).sum(dim=1, keepdim=True)
    return factors / torch.where(mass > 0, mass, 1.0)


def subset_factors(
    statistics: FeatureStatistics, members: Tensor, lam: float, weighting: Weighting
) -> Iterator[tuple[Tensor, Tensor]]:
    """Factors ``[c, T]`` and lower Cholesky factors ``[c, d, d]`` of some subsets at a time.

    So many that their d x d matrices, the Hessians at u = 0, take about 128 MB; all in float64.
    """
    dim, shares = statistics.dim, subset_shares(members, statistics.weight, weighting)
    used = shares.any(dim=0)
    curvature = statistics.hessian[used].double().flatten(1)
    if not bool(curvature.isfinite().all()):
        raise UsageError(
            "The features' sums should be finite. Found NaN or infinity; look for non-finite "
            "weights of the model."
        )
    for part in shares.split(max(1, CHUNK_BYTES // (8 * dim * dim))):
        hessian = (part[:, used] @ curvature).view(-1, dim, dim)
        hessian.diagonal(dim1=1, dim2=2).add_(lam)
        yield part, torch.linalg.cholesky(hessian)


def checked_members(masks: ArrayLike, num_tasks: int, lam: float, weighting: Weighting) -> Tensor:
    """The subsets as a bool tensor ``[m, T]``, or ShapeError or UsageError."""
    if not lam > 0:
        raise UsageError(f"`lam` should be positive. Found {lam}.")
    if weighting not in get_args(Weighting):
        raise UsageError(
            f"`weighting` should be one of {get_args(Weighting)}. Found {weighting!r}."
        )
    return torch.from_numpy(check_masks(masks, num_tasks))
