"""Spectral clustering of tasks: plain, of targets and helpers together, and co-clustering."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import UsageError
from gnn_mtl.grouping._choose_number import number_by_eigengap
from gnn_mtl.grouping._greedy_coloring import classes_of
from gnn_mtl.grouping._k_means import k_means
from gnn_mtl.grouping._pair_values import check_num_groups, directed_values, pair_values
from gnn_mtl.tasks import Affinity, Grouping

TransformName = Literal["exp", "shift", "none"]


def spectral_groups(
    affinity: Affinity,
    *,
    num_groups: int | None = None,
    transform: TransformName = "exp",
    temperature: float | None = None,
    restarts: int = 20,
    seed: int = 0,
) -> Grouping:
    r"""Cluster tasks by the eigenvectors of the normalised affinity (Ng, Jordan & Weiss 2002).

    k-means of the rows, scaled to length 1, of the k leading eigenvectors of
    :math:`D^{-1/2} W D^{-1/2}`; W is the transformed mean of both directions with a zero diagonal.
    It relaxes the normalised association, PTG's goal up to degrees.

    Args:
        affinity: Symmetric or directed (symmetrised); unknown pairs count as the median of the
            known ones. A constant affinity has no best groups; the answer is then any.
        num_groups: Groups k; default where the eigenvalues fall most.
        transform: How negative affinity becomes a weight: ``"exp"`` of the affinity over the
            temperature, ``"shift"`` by the smallest, or ``"none"``: none may be negative.
        temperature: Default the standard deviation of the pairs.
        restarts: Starts of k-means.
        seed: Seed of the starts.

    Raises:
        UsageError: If an option is out of range, or a weight would be negative.
    """
    pairs = pair_values(affinity)
    roots, vectors = _eigen(_weights(pairs.values, transform, temperature))
    number = _number(num_groups, roots, affinity.num_tasks)
    labels = _cluster(vectors[:, -number:], number, restarts, seed)
    said = f"spectral(num_groups={number}, transform={transform}, imputed={pairs.num_imputed})"
    return Grouping.of([group for group in classes_of(labels) if group], affinity.num_tasks, said)


def extended_spectral_groups(
    affinity: Affinity,
    *,
    num_groups: int | None = None,
    transform: TransformName = "exp",
    temperature: float | None = None,
    restarts: int = 20,
    seed: int = 0,
) -> Grouping:
    r"""Cluster every task twice, as target and as helper; groups may overlap (KDD 2023).

    With :math:`\Theta_{ij}` what helper j gives target i, k + 1 spectral clusters of
    :math:`\begin{pmatrix} (\Theta + \Theta^\top)/2 & \Theta \\ \Theta^\top & 0 \end{pmatrix}`
    (Li et al., arXiv 2306.14009): a group is the targets of a cluster and their helpers; clusters
    without a target are dropped.

    Args:
        affinity: Directed or symmetric, ``values[giver, recipient]``; a cell unknown both ways
            counts as the median of the known pairs.
        num_groups: k of the k + 1 clusters; default by the eigengap.
        transform: See :func:`spectral_groups`.
        temperature: See :func:`spectral_groups`.
        restarts: Starts of k-means.
        seed: Seed of the starts.

    Raises:
        UsageError: If an option is out of range, or a weight would be negative.
    """
    values, imputed = directed_values(affinity)
    number = affinity.num_tasks
    helps = _weights(values, transform, temperature).T  # rows are targets
    block = np.block([[(helps + helps.T) / 2, helps], [helps.T, np.zeros_like(helps)]])
    roots, vectors = _eigen(block)
    wanted = _number(num_groups, roots, number)
    clusters = min(wanted + 1, 2 * number)
    labels = _cluster(vectors[:, -clusters:], clusters, restarts, seed)
    return _targets_and_helpers(
        labels[:number], labels[number:], f"extended_spectral(num_groups={wanted}, "
        f"transform={transform}, imputed={imputed})",
    )  # fmt: skip


def cocluster_groups(
    affinity: Affinity,
    *,
    num_groups: int | None = None,
    transform: TransformName = "exp",
    temperature: float | None = None,
    helpers: bool = True,
    restarts: int = 20,
    seed: int = 0,
) -> Grouping:
    r"""Cluster targets and helpers by the singular vectors of what helpers give (Dhillon 2001).

    k-means of both sides' rows of the :math:`\lceil \log_2 k \rceil` singular vectors after the
    first of :math:`D_1^{-1/2} \Theta D_2^{-1/2}`.

    Args:
        affinity: Directed or symmetric, ``values[giver, recipient]``; a cell unknown both ways
            counts as the median of the known pairs.
        num_groups: Groups k, as few as have targets; default by the gap of the singular values.
        transform: See :func:`spectral_groups`.
        temperature: See :func:`spectral_groups`.
        helpers: A group is the targets of a cluster and its helpers, which may be targets of other
            groups; else the targets only, and groups are disjoint.
        restarts: Starts of k-means.
        seed: Seed of the starts.

    Raises:
        UsageError: If an option is out of range, or a weight would be negative.
    """
    values, imputed = directed_values(affinity)
    number = affinity.num_tasks
    helps = _weights(values, transform, temperature).T
    rows, columns = _inverse_root(helps.sum(axis=1)), _inverse_root(helps.sum(axis=0))
    left, roots, right = np.linalg.svd(rows[:, None] * helps * columns)
    wanted = _number(num_groups, roots, number)
    used = slice(1, 1 + int(np.ceil(np.log2(wanted)))) if wanted > 1 else slice(0, 1)
    points = np.concatenate([rows[:, None] * left[:, used], columns[:, None] * right[used].T])
    labels = k_means(points, wanted, restarts=_restarts(restarts), seed=seed)
    said = f"cocluster(num_groups={wanted}, transform={transform}, imputed={imputed})"
    targets, sources = labels[:number], labels[number:]
    if not helpers:
        return Grouping.from_assignments(targets.tolist(), said)
    return _targets_and_helpers(targets, sources, said)


def _weights(
    values: NDArray[np.float64], transform: str, temperature: float | None
) -> NDArray[np.float64]:
    """Weights that are not negative, with a zero diagonal."""
    weights = _transformed(values, transform, temperature)
    np.fill_diagonal(weights, 0.0)
    return weights


def _transformed(
    values: NDArray[np.float64], transform: str, temperature: float | None
) -> NDArray[np.float64]:
    pairs = values[~np.eye(len(values), dtype=np.bool_)]
    if temperature is not None and not 0 < temperature < np.inf:
        raise UsageError(f"`temperature` should be positive. Found {temperature}.")
    if pairs.size == 0:
        return np.zeros_like(values)
    if transform == "exp":
        scale = float(pairs.std()) if temperature is None else temperature
        if not scale > 1e-12 * float(np.abs(pairs).max()):
            return np.ones_like(values)
        # A common factor cancels; the diagonal, not read, may exceed all pairs.
        return np.exp(np.minimum(values - pairs.max(), 0.0) / scale)
    if transform == "shift":
        return values - pairs.min() if pairs.max() > pairs.min() else np.ones_like(values)
    if transform != "none":
        raise UsageError(f"`transform` should be exp, shift or none. Found {transform!r}.")
    if pairs.min() < 0:
        raise UsageError(
            f"Spectral weights should not be negative. Found {pairs.min():g}; use transform exp "
            "or shift."
        )
    return values.copy()


def _eigen(weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eigenvalues, rising, and eigenvectors of symmetric weights normalised by their degrees."""
    scale = _inverse_root(weights.sum(axis=1))
    roots, vectors = np.linalg.eigh(scale[:, None] * weights * scale)
    return roots, vectors


def _inverse_root(degree: NDArray[np.float64]) -> NDArray[np.float64]:
    """``degree**-0.5``, 0 for a task without any weight."""
    root = np.sqrt(np.maximum(degree, 0.0))
    return np.divide(1.0, root, out=np.zeros_like(root), where=root > 0)


def _number(num_groups: int | None, roots: NDArray[np.float64], num_tasks: int) -> int:
    if num_groups is None:
        return number_by_eigengap(roots, max(num_tasks // 2, 1))
    return check_num_groups(num_groups, num_tasks)


def _restarts(restarts: int) -> int:
    if restarts < 1:
        raise UsageError(f"`restarts` should be at least 1. Found {restarts}.")
    return restarts


def _cluster(
    vectors: NDArray[np.float64], number: int, restarts: int, seed: int
) -> NDArray[np.int64]:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    points = np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 1e-12)
    return k_means(points, number, restarts=_restarts(restarts), seed=seed)


def _targets_and_helpers(
    targets: NDArray[np.int64], helpers: NDArray[np.int64], said: str
) -> Grouping:
    groups = {
        tuple(np.flatnonzero((targets == label) | (helpers == label)).tolist())
        for label in set(targets.tolist())
    }
    return Grouping.of(sorted(groups), len(targets), said)
