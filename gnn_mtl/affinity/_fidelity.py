"""How far an estimated affinity is from the exact one, and from the gain of trained groups."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.affinity._centred_spearman import centred, centred_spearman
from gnn_mtl.grouping import color_graph, in_group_conflict, pair_jaccard
from gnn_mtl.tasks import Affinity, conflict_graph


@dataclass(frozen=True)
class Fidelity:
    """One estimate of cosines against the exact ones.

    Attributes:
        cosine_mae: Mean absolute difference over the pairs known to both.
        cosine_max: The largest.
        pearson: Correlation over these pairs; None where one side does not vary.
        spread: Standard deviation of the exact cosines, to read the differences by.
        edges: Conflicting pairs of the estimate.
        exact_edges: Those of the exact matrix.
        edge_precision: Share of the estimate's edges that are exact; None without edges.
        edge_recall: Share of the exact edges that are found; None without any.
        edge_f1: Their harmonic mean; None where either graph is empty.
        edge_f1_as_many: F1 where the estimate's lowest cosines are taken, as many as there are
            exact edges (R-precision): what a rule by quantile draws, blind to a shift of all
            cosines.
        same_color_jaccard: Jaccard index of the pairs that share a colour in both colourings.
        in_group_conflict: Share of the estimate's same-colour pairs that conflict exactly.
        exact_in_group_conflict: That of one group of all tasks: what colouring starts from.
        noise: Median standard error over the spread, where the estimate has errors.
    """

    cosine_mae: float
    cosine_max: float
    pearson: float | None
    spread: float
    edges: int
    exact_edges: int
    edge_precision: float | None
    edge_recall: float | None
    edge_f1: float | None
    edge_f1_as_many: float | None
    same_color_jaccard: float
    in_group_conflict: float
    exact_in_group_conflict: float
    noise: float | None

    def to_dict(self) -> dict[str, float | int | None]:
        """Return the values by name."""
        return asdict(self)


def fidelity(estimate: Affinity, exact: Affinity, tau: float) -> Fidelity:
    """Return what an estimate gets right of the exact cosines and of their conflict graph.

    Pairs unknown to either side are left out of differences and correlation; in the graphs they are
    no edges, as in a schedule. Both graphs are coloured by the same heuristic.

    Args:
        estimate: Symmetric cosines ``[T, T]``.
        exact: The same of the whole split.
        tau: Tolerance: an edge is a cosine below ``-tau``, for both.

    Raises:
        ShapeError: If the matrices are not of the same tasks, or not symmetric.
        UsageError: If no pair is known to both.
    """
    if estimate.num_tasks != exact.num_tasks:
        raise ShapeError(
            "Both affinities should be of the same tasks. "
            f"Found {estimate.num_tasks} and {exact.num_tasks}."
        )
    found, truth = conflict_graph(estimate, tau), conflict_graph(exact, tau)
    pairs = np.triu_indices(exact.num_tasks, 1)
    a, b = estimate.values[pairs], exact.values[pairs]
    known = ~(np.isnan(a) | np.isnan(b))
    if not known.any():
        raise UsageError("The two affinities should share a known pair of tasks. Found none.")
    a, b = a[known], b[known]
    difference, spread = np.abs(a - b), float(b.std())
    hits = int((found & truth)[pairs].sum())
    edges, exact_edges = int(found[pairs].sum()), int(truth[pairs].sum())
    groups, exact_groups = color_graph(found, "dsatur"), color_graph(truth, "dsatur")
    everyone = [tuple(range(exact.num_tasks))]
    noise = None
    if estimate.stderr is not None and spread > 0:
        errors = estimate.stderr[pairs][known]
        noise = float(np.nanmedian(errors)) / spread if not np.isnan(errors).all() else None
    return Fidelity(
        cosine_mae=float(difference.mean()),
        cosine_max=float(difference.max()),
        pearson=float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and spread > 0 else None,
        spread=spread,
        edges=edges,
        exact_edges=exact_edges,
        edge_precision=hits / edges if edges else None,
        edge_recall=hits / exact_edges if exact_edges else None,
        edge_f1=2 * hits / (edges + exact_edges) if edges and exact_edges else None,
        edge_f1_as_many=_as_many(a, truth[pairs][known]),
        same_color_jaccard=pair_jaccard(groups, exact_groups),
        in_group_conflict=in_group_conflict(groups, truth),
        exact_in_group_conflict=in_group_conflict(everyone, truth),
        noise=noise,
    )


def _as_many(values: NDArray[np.float64], truth: NDArray[np.bool_]) -> float | None:
    """Share of the edges among as many lowest values; None without an edge."""
    number = int(truth.sum())
    lowest = np.argsort(values, kind="stable")[:number]
    return float(truth[lowest].mean()) if number else None


def edge_tau(exact: Affinity, share: float = 0.1) -> float:
    """Return the tolerance at which that share of the known pairs conflict.

    Raises:
        UsageError: If ``share`` is outside (0, 1), or no pair is known.
    """
    values = exact.values[np.triu_indices(exact.num_tasks, 1)]
    known = values[~np.isnan(values)]
    if not 0.0 < share < 1.0 or not known.size:
        raise UsageError(
            f"`share` should lie in (0, 1) and a pair be known. Found {share}, {known.size} pairs."
        )
    return -float(np.quantile(known, share))


@dataclass(frozen=True)
class GainFidelity:
    """An affinity against what training tasks together really did.

    Attributes:
        spearman: Rank correlation over all (group, member) cells.
        row_spearman: The same with each task's mean over its groups taken off both sides: which
            partners are good for a task, whatever its level. Tasks of one group are left out; None
            where nothing is left to rank.
        sign_agreement: Share of cells where predicted and real gains, each against the task's
            mean, have one sign, among those where neither is the mean.
        cells: Number of cells.
        pairs: How many of the groups are pairs.
    """

    spearman: float | None
    row_spearman: float | None
    sign_agreement: float | None
    cells: int
    pairs: int

    def to_dict(self) -> dict[str, float | int | None]:
        """Return the values by name."""
        return asdict(self)


def gain_fidelity(
    affinity: Affinity, trained: Mapping[Sequence[int], Sequence[float]]
) -> GainFidelity:
    """Compare an affinity with the scores of models really trained on subsets of the tasks.

    A member's predicted gain is the mean affinity it receives from the others of its group.

    Args:
        affinity: ``values[giver, recipient]``, positive where the giver helps.
        trained: For each subset of at least two tasks, the gain of each of its members in their
            order over training alone (or a score, from which the task's mean is taken off).

    Raises:
        UsageError: If there is no subset, one is too small, or scores are missing.
    """
    predicted, real, members, pairs = [], [], [], 0
    for subset, gains in trained.items():
        tasks = tuple(int(task) for task in subset)
        if len(tasks) < 2 or len(gains) != len(tasks):
            raise UsageError(
                "Each trained subset should hold at least two tasks and one gain for each. "
                f"Found {len(tasks)} tasks and {len(gains)} gains."
            )
        pairs += len(tasks) == 2
        for task, gain in zip(tasks, gains, strict=True):
            others = [other for other in tasks if other != task]
            predicted.append(float(np.mean(affinity.values[others, task])))
            real.append(float(gain))
            members.append(task)
    if not trained:
        raise UsageError("`trained` should hold at least one subset. Found none.")
    x, y, ids = np.array(predicted), np.array(real), np.array(members)
    good = np.isfinite(x) & np.isfinite(y)
    x, y, ids = x[good], y[good], ids[good]
    cx, cy = centred(x, ids), centred(y, ids)
    told = (cx != 0) & (cy != 0)
    by_task = centred_spearman(x, y, ids)
    return GainFidelity(
        _rank(x, y),
        None if math.isnan(by_task) else by_task,
        float((np.sign(cx) == np.sign(cy))[told].mean()) if told.any() else None,
        len(x),
        pairs,
    )


def _rank(x: NDArray[np.float64], y: NDArray[np.float64]) -> float | None:
    if len(x) < 3 or x.std() == 0 or y.std() == 0:
        return None
    return float(spearmanr(x, y).statistic)
