"""The clustering SDP by cvxpy: the reference that :func:`cluster_sdp` is checked against."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import UsageError
from gnn_mtl._core.optional import require
from gnn_mtl.grouping._density import objective
from gnn_mtl.grouping._pair_values import check_num_groups
from gnn_mtl.grouping._sdp_bound import certificate
from gnn_mtl.tasks import Affinity


@dataclass(frozen=True, eq=False)
class OracleSolution:
    """What cvxpy's solver returned; X is feasible up to its tolerance only.

    Attributes:
        X: ``[T, T]``.
        value: ``<A, X>``, less the penalty on its trace.
        upper_bound: Proven by the solver's own multipliers of X >= 0; None if it gave none.
        status: cvxpy's word.
        iterations: The solver's own count.
        cpu_seconds: CPU time of all.
        solver_seconds: Time the solver says it took, without cvxpy's part; None if it does not say.
    """

    X: NDArray[np.float64]
    value: float
    upper_bound: float | None
    status: str
    iterations: int | None
    cpu_seconds: float
    solver_seconds: float | None


def cvxpy_sdp(
    affinity: Affinity,
    num_groups: int | None = None,
    penalty: float | None = None,
    *,
    solver: str = "SCS",
    accuracy: float = 1e-5,
    time_limit: float | None = None,
    keep_diagonal: bool = False,
) -> OracleSolution:
    """Solve the SDP of :func:`cluster_sdp` by cvxpy, with one row-sum constraint.

    Args:
        affinity: See :func:`cluster_sdp`.
        num_groups: Groups k; or
        penalty: price of a group.
        solver: ``"SCS"``, or ``"CLARABEL"`` (interior point; some 30 tasks).
        accuracy: The solver's absolute and relative tolerance.
        time_limit: Wall-clock seconds after which SCS stops.
        keep_diagonal: Let self-affinities count.

    Raises:
        MissingExtraError: If cvxpy is not installed.
        UsageError: If not exactly one of ``num_groups`` and ``penalty`` is given, or it is out of
            range.
    """
    cvxpy: Any = require("cvxpy", extra="sdp", purpose="The reference of the clustering SDP")
    if (num_groups is None) == (penalty is None):
        raise UsageError("Give either `num_groups` or `penalty` for the clustering SDP.")
    values = objective(affinity, "density", keep_diagonal=keep_diagonal).values
    number = len(values)
    options: dict[str, Any] = {"eps_abs": accuracy, "eps_rel": accuracy, "max_iters": 10**6}
    if solver == "CLARABEL":
        options = {"tol_gap_abs": accuracy, "tol_gap_rel": accuracy, "tol_feas": accuracy}
    elif time_limit is not None:
        options["time_limit_secs"] = time_limit
    started = time.process_time()
    X = cvxpy.Variable((number, number), PSD=True)
    positive = X >= 0
    limits = [positive, cvxpy.sum(X, axis=1) == 1]
    worth = cvxpy.sum(cvxpy.multiply(values, X))
    if num_groups is not None:
        limits.append(cvxpy.trace(X) == check_num_groups(num_groups, number))
    else:
        worth = worth - penalty * cvxpy.trace(X)
    problem = cvxpy.Problem(cvxpy.Maximize(worth), limits)
    problem.solve(solver=solver, **options)
    seconds = time.process_time() - started
    found = np.array(X.value, dtype=np.float64)
    upper = None
    if positive.dual_value is not None:
        multipliers = np.maximum(np.array(positive.dual_value, dtype=np.float64), 0.0)
        multipliers = (multipliers + multipliers.T) / 2
        upper = certificate(values, multipliers).bound(num_groups, penalty)
    value = float((values * found).sum()) - (penalty or 0.0) * float(np.trace(found))
    stats = problem.solver_stats
    return OracleSolution(
        found, value, upper, str(problem.status), stats.num_iters, seconds, stats.solve_time
    )
