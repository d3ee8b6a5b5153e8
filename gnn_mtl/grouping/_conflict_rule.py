"""Which pairs of tasks count as conflicts: a tolerance, a share of the pairs, nearest enemies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.tasks import Affinity, conflict_graph, interference

RuleName = Literal["threshold", "quantile", "density", "knn"]


@dataclass(frozen=True, kw_only=True)
class ConflictRule:
    r"""From an affinity to a conflict graph, with :math:`\rho = -\cos` (SON-GOKU §7.3, ablations).

    - ``threshold``: the pairs with :math:`\rho > \tau`, the paper's rule.
    - ``quantile``: the ``edge_share`` of the known pairs with the largest :math:`\rho`, whatever
      its sign.
    - ``density``: the pairs with the largest :math:`\rho`, as many as that share of all pairs, but
      none whose cosine is not negative.
    - ``knn``: of the pairs with :math:`\rho > \tau`, those where one task is among the other's
      ``num_neighbors`` most conflicting. Ties go to the smaller index.

    The pairs tied at the cut of ``quantile`` and ``density`` all stay out, so that the share is
    never exceeded.

    Attributes:
        name: One of the above.
        edge_share: Share of the pairs, in [0, 1].
        num_neighbors: Number of most conflicting tasks.
        hysteresis: A pair enters the graph above :math:`\tau + \delta` and leaves it below
            :math:`\tau - \delta`, so that noise around the tolerance moves no task.

    Raises:
        UsageError: If a value is out of range.
    """

    name: RuleName = "threshold"
    edge_share: float = 0.1
    num_neighbors: int = 3
    hysteresis: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in get_args(RuleName):
            known = ", ".join(get_args(RuleName))
            raise UsageError(f"`rule` should be one of {known}. Found {self.name!r}.")
        if not 0.0 <= self.edge_share <= 1.0:
            raise UsageError(f"`edge_share` should lie in [0, 1]. Found {self.edge_share}.")
        if self.num_neighbors < 1:
            raise UsageError(f"`num_neighbors` should be at least 1. Found {self.num_neighbors}.")
        if not 0.0 <= self.hysteresis <= 1.0:
            raise UsageError(f"`hysteresis` should lie in [0, 1]. Found {self.hysteresis}.")

    @property
    def sets_tau(self) -> bool:
        """Whether the rule finds its tolerance itself."""
        return self.name in ("quantile", "density")

    def tau(self, affinity: Affinity) -> float:
        """Return the tolerance at which the graph has the share of edges asked for.

        Raises:
            UsageError: If this rule is given its tolerance.
        """
        if not self.sets_tau:
            raise UsageError(f"The rule {self.name!r} is given its tolerance.")
        pairs = interference(affinity)[np.triu_indices(affinity.num_tasks, k=1)]
        known = np.sort(pairs[~np.isnan(pairs)])[::-1]
        total = len(known) if self.name == "quantile" else len(pairs)
        wanted = int(self.edge_share * total + 1e-9)
        cut = float(known[wanted]) if wanted < len(known) else -1.0
        return max(cut, 0.0) if self.name == "density" else cut

    def edges(
        self, affinity: Affinity, tau: float, previous: NDArray[np.bool_] | None = None
    ) -> NDArray[np.bool_]:
        """Return the conflict graph, a symmetric boolean matrix ``[T, T]`` with False diagonal.

        Args:
            affinity: A symmetric affinity, positive = helps; unknown pairs never conflict.
            tau: The tolerance, given or from :meth:`tau`; no pair conflicts at 1 or above.
            previous: The graph before, for the hysteresis.

        Raises:
            ShapeError: If the affinity is not symmetric or the graph before is of another size.
            UsageError: If ``tau`` is out of range.
        """
        graph = conflict_graph(affinity, tau)
        if self.hysteresis and tau < 1.0:
            graph = conflict_graph(affinity, min(tau + self.hysteresis, 1.0))
            if previous is not None:
                if previous.shape != graph.shape:
                    raise ShapeError(
                        f"`previous` should be a graph of {len(graph)} tasks. "
                        f"Found shape {previous.shape}."
                    )
                graph |= previous & conflict_graph(affinity, max(tau - self.hysteresis, -1.0))
        if self.name == "knn":
            graph &= _nearest(interference(affinity), self.num_neighbors)
        return graph


def _nearest(rho: NDArray[np.float64], number: int) -> NDArray[np.bool_]:
    """Return the pairs where one is among the ``number`` largest of the other's row."""
    rho = np.where(np.isnan(rho), -np.inf, rho)
    np.fill_diagonal(rho, -np.inf)
    nearest = np.argsort(-rho, axis=1, kind="stable")[:, : min(number, len(rho) - 1)]
    chosen = np.zeros(rho.shape, dtype=np.bool_)
    np.put_along_axis(chosen, nearest, True, axis=1)
    return chosen | chosen.T
