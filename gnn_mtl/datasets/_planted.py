"""Planted graphs: communities that make the edges, latent factors that make groups of labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from gnn_mtl._core.errors import UsageError
from gnn_mtl._core.seeding import generator
from gnn_mtl.datasets._bits import BitMatrix
from gnn_mtl.datasets._build import warn_unlearnable
from gnn_mtl.datasets._draw import random_node_split, random_task_split
from gnn_mtl.datasets._planted_edges import draw_edges
from gnn_mtl.datasets._splits import Split
from gnn_mtl.datasets._targets import BitTargets, Observed
from gnn_mtl.datasets._task_graph import TaskGraph

NODES_AT_ONCE = 1 << 15
THRESHOLD_NODES = 1 << 17
STRATIFIED_CELLS = 50_000_000
AXES_PER_GROUP = 4


@dataclass(frozen=True)
class _Latent:
    """What labels and features are computed from."""

    members: sp.csr_matrix  # [N, C], rows sum to 1
    centres: NDArray[np.float32]  # [C, d]
    directions: NDArray[np.float32]  # [d, T], unit columns
    noise: float
    seed: int

    def chunk(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return the latent factors of some nodes, ``[B, d]``; a chunk starts at a fixed grid."""
        own = generator(self.seed, "latent", start).standard_normal(
            (stop - start, self.centres.shape[1]), dtype=np.float32
        )
        shared = self.members[start:stop] @ self.centres
        return np.sqrt(1 - self.noise) * shared + np.sqrt(self.noise) * own


def planted(
    num_nodes: int = 2_000,
    num_edges: int | None = None,
    num_tasks: int = 24,
    num_groups: int = 4,
    *,
    num_features: int = 32,
    num_communities: int | None = None,
    overlap: float = 0.3,
    mixing: float = 0.2,
    degree_exponent: float = 2.6,
    within: float = 0.8,
    conflict: float = 0.0,
    label_noise: float = 0.2,
    feature_noise: float = 2.0,
    prevalence: tuple[float, float] = (0.05, 0.25),
    labelled_share: float = 1.0,
    observed_share: float = 1.0,
    split: Literal["node", "task"] = "node",
    seed: int = 0,
) -> TaskGraph:
    r"""Generate a graph whose labels fall into known task groups.

    Nodes belong to one or more communities; edges mostly join members of one, chosen by power-law
    weights (:mod:`gnn_mtl.datasets._planted_edges`). Each community has a centre in a latent space,
    and a node's latent factors are

    .. math:: z_n = \sqrt{1 - \nu}\, c(n) + \sqrt{\nu}\, \varepsilon_n

    with :math:`c(n)` the scaled sum of its centres and :math:`\nu` the label noise. Task t of group
    g marks the nodes where :math:`z_n \cdot w_t` is among the highest. Group g has axes of its own
    and a direction :math:`v_g`; the cosine of two of its tasks' :math:`w_t` is ``within``, of tasks
    in unrelated groups 0. With ``conflict`` the groups 2k and 2k + 1 are opposed: the cosine of
    their directions is ``-conflict``. Features are a random projection of :math:`z_n` plus noise.

    Args:
        num_nodes: Number of nodes N.
        num_edges: Number of distinct undirected edges, 8 a node by default; met exactly up to a
            million edges and within about 0.5 % above.
        num_tasks: Number of tasks T.
        num_groups: Number of task groups, at most T; sizes differ by at most one.
        num_features: Number of feature columns; 0 for a graph without features.
        num_communities: Number of communities; by default such that one has about 4 mean degrees,
            and at least 40, members.
        overlap: Mean number of communities of a node beyond the first.
        mixing: Share of the edges that ignore communities.
        degree_exponent: Exponent of the power law of the expected degrees, above 2.
        within: Cosine of the directions of two tasks in a group, in [0, 1].
        conflict: Opposition of paired groups, in [0, 1].
        label_noise: Share of the variance of a latent factor that no neighbour knows, in [0, 1].
        feature_noise: Standard deviation of the noise on features, in units of their signal.
        prevalence: Smallest and largest share of positives of a task; shares are spread evenly in
            the logarithm.
        labelled_share: Share of the nodes that are labelled.
        observed_share: Share of the (node, task) cells known on labelled nodes.
        split: ``"node"`` for 60/20/20 of the labelled nodes; ``"task"`` for 20/20/60 of the
            positives and negatives of each task.
        seed: Seed; equal arguments give equal graphs.

    Returns:
        A graph with ``extras`` ``task_groups`` int64 ``[T]`` (the truth), ``community`` int32
        ``[N]`` (each node's first community) and ``planted`` (the arguments).

    Raises:
        UsageError: If an argument is out of its range, or the graph cannot hold that many edges.

    Complexity:
        O(N T d + E) time with d = 4 ``num_groups``; memory is the result plus about 1 GB at
        most. 1.2M nodes, 21M edges and 500 tasks take about 30 s and 1.7 GB on one core.

    Example:
        >>> graph = planted(300, num_tasks=6, num_groups=2, seed=1)
        >>> graph.num_tasks, sorted(np.bincount(graph.extras["task_groups"]).tolist())
        (6, [3, 3])
    """
    arguments = dict(locals())
    num_edges = 8 * num_nodes if num_edges is None else num_edges
    _check(**(arguments | {"num_edges": num_edges}))
    if num_communities is None:
        size = max(40, 4 * 2 * num_edges // num_nodes)
        num_communities = max(1, min(num_nodes // size, 20_000), min(8, num_nodes // 10))
    first, members = _memberships(num_nodes, num_communities, overlap, seed)
    csc = draw_edges(members, num_edges, mixing=mixing, degree_exponent=degree_exponent, seed=seed)
    groups = generator(seed, "groups").permutation(np.arange(num_tasks) % num_groups)
    axes = AXES_PER_GROUP * num_groups
    centres = generator(seed, "centres").standard_normal((num_communities, axes))
    scale = sp.diags(1.0 / np.sqrt(np.diff(members.indptr)))
    latent = _Latent(
        sp.csr_matrix(scale @ members, dtype=np.float32), centres.astype(np.float32),
        _directions(groups, within, conflict, seed), label_noise, seed,
    )  # fmt: skip
    shares = np.geomspace(*prevalence, num_tasks)
    shares = generator(seed, "prevalence").permutation(shares)
    positive, x = _labels_and_features(latent, shares, num_features, feature_noise)
    labels = BitTargets(
        positive, _observed(num_nodes, num_tasks, labelled_share, observed_share, seed)
    )
    parts: Split
    if split == "task":
        parts = random_task_split(labels, seed=seed)
    else:
        stratify = num_nodes * num_tasks <= STRATIFIED_CELLS
        parts = random_node_split(labels, stratify=stratify, seed=seed)
    width = len(str(num_tasks - 1))
    graph = TaskGraph(
        csc, labels, parts, x=x, name="planted", check_finite=False,
        label_names=[f"group{g}_task{t:0{width}d}" for t, g in enumerate(groups)],
        extras={
            "task_groups": groups.astype(np.int64), "community": first,
            "planted": arguments | {"prevalence": list(prevalence)},
        },
    )  # fmt: skip
    warn_unlearnable(graph)
    return graph


def _check(
    *,
    num_nodes: int,
    num_edges: int,
    num_tasks: int,
    num_groups: int,
    num_features: int,
    num_communities: int | None,
    overlap: float,
    mixing: float,
    degree_exponent: float,
    within: float,
    conflict: float,
    label_noise: float,
    feature_noise: float,
    prevalence: tuple[float, float],
    labelled_share: float,
    observed_share: float,
    split: str,
    seed: int,  # noqa: ARG001
) -> None:
    rules = {
        "num_nodes >= 10": num_nodes >= 10,
        "0 <= num_edges <= num_nodes * (num_nodes - 1) / 4": (
            0 <= num_edges <= num_nodes * (num_nodes - 1) // 4
        ),
        "1 <= num_groups <= num_tasks": 1 <= num_groups <= num_tasks,
        "num_features >= 0": num_features >= 0,
        "1 <= num_communities <= num_nodes": (
            num_communities is None or 1 <= num_communities <= num_nodes
        ),
        "overlap >= 0": overlap >= 0,
        "0 <= mixing <= 1": 0 <= mixing <= 1,
        "degree_exponent > 2": degree_exponent > 2,
        "0 <= within <= 1": 0 <= within <= 1,
        "0 <= conflict <= 1": 0 <= conflict <= 1,
        "0 <= label_noise <= 1": 0 <= label_noise <= 1,
        "feature_noise >= 0": feature_noise >= 0,
        "0 < prevalence[0] <= prevalence[1] < 1": 0 < prevalence[0] <= prevalence[1] < 1,
        "0 < labelled_share <= 1": 0 < labelled_share <= 1,
        "0 < observed_share <= 1": 0 < observed_share <= 1,
        "split is 'node' or 'task'": split in ("node", "task"),
    }
    broken = [rule for rule, holds in rules.items() if not holds]
    if broken:
        raise UsageError(f"A planted graph needs {'; '.join(broken)}. Change those arguments.")


def _memberships(
    num_nodes: int, num_communities: int, overlap: float, seed: int
) -> tuple[NDArray[np.int32], sp.csr_matrix]:
    """Return each node's first community and all memberships, 0/1 ``[N, C]``."""
    rng = generator(seed, "communities")
    weight = rng.pareto(1.5, num_communities) + 1.0  # sizes with tail exponent 2.5
    weight = np.minimum(weight, 10.0)
    number = 1 + np.minimum(rng.poisson(overlap, num_nodes), 7)
    chosen = np.searchsorted(np.cumsum(weight), rng.random(int(number.sum())) * weight.sum())
    chosen = np.minimum(chosen, num_communities - 1).astype(np.int32)
    indptr = np.concatenate([[0], np.cumsum(number)])
    first = chosen[indptr[:-1]].copy()
    members = sp.csr_matrix(
        (np.ones(len(chosen), dtype=np.float32), chosen, indptr),
        shape=(num_nodes, num_communities),
    )
    members.sum_duplicates()
    members.data[:] = 1.0
    return first, members


def _directions(
    groups: NDArray[np.int64], within: float, conflict: float, seed: int
) -> NDArray[np.float32]:
    """Return the unit direction of each task as columns, float32 ``[d, T]``."""
    num_groups = int(groups.max()) + 1
    rng = generator(seed, "directions")
    heads = np.zeros((num_groups, num_groups * AXES_PER_GROUP))
    for group in range(num_groups):
        heads[group, group * AXES_PER_GROUP] = 1.0
        if group % 2 == 1:
            heads[group] *= np.sqrt(1 - conflict**2)
            heads[group] -= conflict * heads[group - 1]
    directions = np.zeros((num_groups * AXES_PER_GROUP, len(groups)))
    for task, group in enumerate(groups):
        own = rng.standard_normal(AXES_PER_GROUP - 1)
        directions[:, task] = np.sqrt(within) * heads[group]
        axes = slice(group * AXES_PER_GROUP + 1, (group + 1) * AXES_PER_GROUP)
        directions[axes, task] += np.sqrt(1 - within) * own / np.linalg.norm(own)
    return directions.astype(np.float32)


def _labels_and_features(
    latent: _Latent, shares: NDArray[np.float64], num_features: int, feature_noise: float
) -> tuple[BitMatrix, NDArray[np.float32] | None]:
    """Return positives, ``[N, T]``, and features, ``[N, F]``, computed chunk by chunk."""
    num_nodes, axes = latent.members.shape[0], latent.centres.shape[1]
    starts = range(0, num_nodes, NODES_AT_ONCE)
    rng = generator(latent.seed, "projection")
    projection = (rng.standard_normal((axes, num_features)) / np.sqrt(axes)).astype(np.float32)
    positive = BitMatrix.zeros(num_nodes, len(shares))
    x = np.empty((num_nodes, num_features), dtype=np.float32) if num_features else None
    sample = [
        latent.chunk(start, min(start + NODES_AT_ONCE, num_nodes)) @ latent.directions
        for start in starts if start < THRESHOLD_NODES
    ]  # fmt: skip
    scores = np.concatenate(sample)
    rank = len(scores) - np.maximum(np.round(shares * len(scores)), 1).astype(np.int64)
    thresholds = np.array([np.partition(scores[:, t], r)[r] for t, r in enumerate(rank)])
    del sample, scores
    for start in starts:
        stop = min(start + NODES_AT_ONCE, num_nodes)
        z = latent.chunk(start, stop)
        positive.set_rows(slice(start, stop), z @ latent.directions >= thresholds)
        if x is not None:
            noise = generator(latent.seed, "features", start)
            x[start:stop] = noise.standard_normal((stop - start, num_features), dtype=np.float32)
            x[start:stop] *= feature_noise
            x[start:stop] += z @ projection
    return positive, x


def _observed(
    num_nodes: int, num_tasks: int, labelled_share: float, observed_share: float, seed: int
) -> Observed:
    """Return labelled nodes, bool ``[N]``, or known cells where only some are."""
    labelled = generator(seed, "labelled").random(num_nodes) < labelled_share
    if observed_share == 1.0:
        return labelled
    known = BitMatrix.zeros(num_nodes, num_tasks)
    for rows in known.row_slices():
        draw = generator(seed, "observed", rows.start).random(
            (rows.stop - rows.start, num_tasks), dtype=np.float32
        )
        known.set_rows(rows, (draw < observed_share) & labelled[rows, None])
    return known
