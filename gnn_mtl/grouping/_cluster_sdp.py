"""The clustering SDP by a first-order method, with a certified gap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.grouping._density import Members, Objective, objective
from gnn_mtl.grouping._pair_values import check_num_groups
from gnn_mtl.grouping._rounding import round_embedding
from gnn_mtl.grouping._sdp_bound import (
    Certificate,
    certificate,
    from_complement,
    relative_gap,
    to_complement,
)
from gnn_mtl.grouping._sdp_primal import capped_simplex, feasible_matrix, partition_matrix
from gnn_mtl.tasks import Affinity

CHECK_EVERY = 20
RELAXATION = 1.6
FIRST_STEP = 3.0
"""First penalty parameter of ADMM, in units of the affinity's norm on the complement."""


@dataclass(frozen=True, eq=False)
class SDPClusters:
    """A feasible X and a proven bound on the best one.

    Attributes:
        X: Feasible, ``[T, T]``: positive semidefinite, not negative, rows that sum to 1.
        value: ``<A, X>``, less ``penalty`` times its trace if there is a penalty.
        upper_bound: No feasible X, hence no partition, is worth more.
        gap: ``(upper_bound - value) / |upper_bound|``.
        num_groups: Trace of X that was asked for; None with a penalty.
        penalty: Price of a group; None with a number of groups.
        groups: The best partition seen on the way, into about as many groups as X has trace.
        iterations: Eigen-decompositions made.
        converged: Whether the gap is within the tolerance.
        goal: The density that was maximised, its matrix and what was imputed.
        certificate: Bounds for other numbers of groups.
        multipliers: Those of X >= 0 that prove the bound, ``[T, T]``.
        state: Where the method stopped, for a warm start.
    """

    X: NDArray[np.float64]
    value: float
    upper_bound: float
    gap: float
    num_groups: int | None
    penalty: float | None
    groups: tuple[tuple[int, ...], ...]
    iterations: int
    converged: bool
    goal: Objective
    certificate: Certificate
    multipliers: NDArray[np.float64]
    state: tuple[NDArray[np.float64], NDArray[np.float64], float]

    @property
    def trace(self) -> float:
        """Number of groups that X stands for; whole where X is a partition."""
        return float(np.trace(self.X))


def cluster_sdp(
    affinity: Affinity,
    num_groups: int | None = None,
    penalty: float | None = None,
    *,
    tolerance: float = 1e-3,
    max_iterations: int = 2000,
    keep_diagonal: bool = False,
    start: SDPClusters | None = None,
    seed: int = 0,
) -> SDPClusters:
    r"""Maximise the average density over a convex set that holds all partitions.

    .. math:: \max \langle A, X\rangle \quad X \succeq 0,\; X \ge 0,\; X\mathbf 1 = \mathbf 1,\;
              \operatorname{tr} X = k

    (Grad-TAG, arXiv 2409.06091), or with :math:`-\lambda \operatorname{tr} X` in the goal instead
    of the last constraint. ADMM between the matrices with the right eigenvalues and those that are
    not negative: on the complement of the constant vector the equalities and the cone together only
    clip eigenvalues, so that a step is one eigen-decomposition. Every 20 steps
    :func:`certificate` turns the multipliers into a bound, the iterate is made feasible
    (:func:`feasible_matrix`), and its embedding is rounded to a partition, which is
    feasible too; the gap lies between the best of each.

    Args:
        affinity: Symmetric or directed (only the mean of both directions matters); unknown pairs
            count as the median of the known ones.
        num_groups: Groups k; or
        penalty: price of a group, in the affinity's unit times tasks.
        tolerance: Relative gap at which to stop.
        max_iterations: Steps after which to stop anyway; the bound holds nonetheless.
        keep_diagonal: Let self-affinities count; see :func:`pair_values`.
        start: A solution for the same number of tasks, e.g. of another k or penalty.
        seed: Seed of the rounding on the way.

    Raises:
        UsageError: If not exactly one of ``num_groups`` and ``penalty`` is given, or an option is
            out of range.
        ShapeError: If ``start`` is of another number of tasks.

    Complexity:
        O(T^3) a step and ten matrices of memory; ``bench sdp`` has times.

    Note:
        The released code holds T dense constraint matrices and hands asymmetric input to the
        solver; its result is the same where both converge.
    """
    if (num_groups is None) == (penalty is None):
        raise UsageError("Give either `num_groups` or `penalty` for the clustering SDP.")
    if tolerance < 0 or max_iterations < 1:
        raise UsageError(
            "`tolerance` should not be negative and `max_iterations` be at least 1. "
            f"Found {tolerance} and {max_iterations}."
        )
    if penalty is not None and not np.isfinite(penalty):
        raise UsageError(f"`penalty` should be finite. Found {penalty}.")
    if num_groups is not None:
        check_num_groups(num_groups, affinity.num_tasks)
    if start is not None and len(start.X) != affinity.num_tasks:
        raise ShapeError(
            f"`start` should be a solution for {affinity.num_tasks} tasks. Found {len(start.X)}."
        )
    goal = objective(affinity, "density", keep_diagonal=keep_diagonal)
    return _Solver(goal, num_groups, penalty, seed).run(tolerance, max_iterations, start)


class _Solver:
    """ADMM and the best bound, matrix and partition it has met."""

    def __init__(
        self, goal: Objective, num_groups: int | None, penalty: float | None, seed: int
    ) -> None:
        self.goal, self.num_groups, self.penalty, self.seed = goal, num_groups, penalty, seed
        self.values = goal.values
        self.number = len(goal.values)
        self.scale = float(np.abs(self.values).max()) * self.number
        self.upper, self.value = np.inf, -np.inf
        self.X = np.eye(self.number)
        self.groups: Members = [(task,) for task in range(self.number)]
        self.groups_value = -np.inf
        self.rounded: set[tuple[tuple[int, ...], ...]] = set()

    def run(self, tolerance: float, max_iterations: int, start: SDPClusters | None) -> SDPClusters:
        """Iterate until the gap is small enough."""
        reduced = to_complement(self.values)
        norm = float(np.abs(np.linalg.eigvalsh(reduced)).max(initial=0.0))
        rho = FIRST_STEP * norm if norm > 0 else 1.0
        free = np.full((self.number, self.number), 1.0 / self.number)
        scaled = np.zeros_like(free)  # multipliers over rho, never positive
        if start is not None:
            free, scaled, rho = start.state[0], -start.state[1] / start.state[2], start.state[2]
        self._bound(np.zeros_like(free))
        iteration = 0
        while True:
            iteration += 1
            roots, vectors = np.linalg.eigh(to_complement(free - scaled + self.values / rho))
            clipped = self._clip(roots, rho)
            used = clipped > 0
            factor = from_complement(vectors[:, used] * np.sqrt(clipped[used]))
            X = factor @ factor.T + 1.0 / self.number
            before = free
            free = RELAXATION * X + (1.0 - RELAXATION) * free + scaled
            free, scaled = np.maximum(free, 0.0), np.minimum(free, 0.0)
            last = iteration >= max_iterations
            if iteration % CHECK_EVERY and iteration != CHECK_EVERY // 2 and not last:
                continue
            self._bound(-rho * scaled)
            self._repair(X, factor)
            gap = relative_gap(self.upper, self.value, self.scale)
            if gap <= tolerance or last:
                break
            primal = np.linalg.norm(X - free) / (np.linalg.norm(X) + 1e-30)
            dual = np.linalg.norm(free - before) / (np.linalg.norm(scaled) + 1e-30)
            ratio = float(np.clip(np.sqrt(primal / (dual + 1e-30)), 1 / 3, 3.0))
            if not 1 / 1.5 < ratio < 1.5:
                rho, scaled = rho * ratio, scaled / ratio
        return SDPClusters(
            self.X, self.value, self.upper, gap, self.num_groups, self.penalty,
            tuple(sorted(tuple(group) for group in self.groups)), iteration, gap <= tolerance,
            self.goal, self.certificate, self.multipliers, (free, -rho * scaled, rho),
        )  # fmt: skip

    def _clip(self, roots: NDArray[np.float64], rho: float) -> NDArray[np.float64]:
        """The eigenvalues of the nearest matrix with eigenvalues in [0, 1] and the right trace."""
        if self.penalty is not None:
            return np.clip(roots - self.penalty / rho, 0.0, 1.0)
        assert self.num_groups is not None  # noqa: S101 - one of the two
        return capped_simplex(roots, self.num_groups - 1)

    def _bound(self, multipliers: NDArray[np.float64]) -> None:
        found = certificate(self.values, multipliers)
        upper = found.bound(self.num_groups, self.penalty)
        if upper < self.upper:
            self.upper, self.certificate, self.multipliers = upper, found, multipliers

    def _repair(self, X: NDArray[np.float64], factor: NDArray[np.float64]) -> None:
        """Make the iterate feasible, and round it; keep what is worth most."""
        self._offer(feasible_matrix(X, self.num_groups))
        trace = float(np.trace(X))
        number = min(max(round(trace), 1), self.number)
        columns = max(number - 1, 1)
        points = factor[:, -columns:] if factor.shape[1] else np.zeros((self.number, 1))
        groups = tuple(round_embedding(points, self.goal, number, restarts=1, seed=self.seed))
        if groups in self.rounded:
            return
        self.rounded.add(groups)
        worth = self.goal.of(groups) - (self.penalty or 0.0) * len(groups)
        if worth > self.groups_value:
            self.groups, self.groups_value = groups, worth
        if worth > self.value:
            self._offer(partition_matrix(groups, self.number))

    def _offer(self, X: NDArray[np.float64]) -> None:
        value = float((self.values * X).sum()) - (self.penalty or 0.0) * float(np.trace(X))
        if value > self.value:
            self.X, self.value = X, value
