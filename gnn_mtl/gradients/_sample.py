"""Which nodes a probe should read when labels are rare: unequal probabilities, undone by weights.

Of a thousand random nodes a label of a thousandth of them has one positive, and a gradient without
positives says nothing about it. Here a node's probability grows with the rareness of its labels;
each cell then counts inversely to that probability, so every task's loss is still estimated without
bias (Horvitz & Thompson, 1952).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gnn_mtl._core.errors import UsageError
from gnn_mtl._core.seeding import generator
from gnn_mtl.graph import MiniBatch, TargetSource

NODES_AT_ONCE = 1 << 15


@dataclass(frozen=True, eq=False)
class ProbeSample:
    """Nodes drawn with known probabilities.

    Attributes:
        nodes: Node ids, int64 ``[n]``, in random order: any slices of it are random blocks.
        inclusion: Probability with which each was drawn, float64 ``[n]``.
        observed_counts: Observed nodes of each task in the whole split, int64 ``[T]``.
    """

    nodes: NDArray[np.int64]
    inclusion: NDArray[np.float64]
    observed_counts: NDArray[np.int64]

    def weights(self, batch: MiniBatch) -> Tensor:
        """Return what each cell of a batch of these nodes counts, ``[B, T]``; 0 if not observed.

        Over all nodes of the sample a task's weights sum to 1 in expectation, and the weighted sum
        of its losses is an unbiased estimate of its mean loss over the split.

        Raises:
            UsageError: If a seed is not of the sample.
        """
        order = np.argsort(self.nodes)
        seeds = batch.seeds.cpu().numpy()
        place = np.searchsorted(self.nodes, seeds, sorter=order).clip(max=len(order) - 1)
        found = order[place]
        if not np.array_equal(self.nodes[found], seeds):
            raise UsageError(
                "The batches should hold nodes of the sample only. Found others; load them with "
                "NeighborLoader(..., input_nodes=sample.nodes)."
            )
        share = torch.from_numpy(1.0 / self.inclusion[found]).to(batch.x)
        counts = torch.from_numpy(self.observed_counts.clip(min=1)).to(batch.x)
        return torch.where(batch.observed, share[:, None] / counts, 0.0)


def draw_probe_nodes(
    source: TargetSource,
    num_nodes: int,
    *,
    split: str = "train",
    rare_share: float = 0.5,
    seed: int = 0,
) -> ProbeSample:
    r"""Draw nodes so that rare labels have positives among them.

    A node's probability is proportional to

    .. math:: p_n = (1 - \rho) / N + \rho\, \frac{1}{T} \sum_{t : y_{nt} = 1} 1 / P_t

    (a uniform node, or a uniform positive of a uniform task), capped at 1 with the rest scaled up.
    The draw is systematic, of fixed size, along the nodes ordered by their rarest label: about
    :math:`\rho\, n / T` nodes or more are drawn for every task that has them, or all of them.

    Args:
        source: The dataset.
        num_nodes: Nodes n to draw; at least as many as the split has gives all of them.
        split: Whose nodes.
        rare_share: :math:`\rho` in [0, 1); 0 is uniform.
        seed: Seed of the draw.

    Returns:
        The sample; give it to ``probe(..., sample=...)`` with batches of its ``nodes``.

    Raises:
        UsageError: If ``num_nodes`` is below 1 or ``rare_share`` outside [0, 1).

    Cost: two passes over the split's targets, in chunks.
    """
    if num_nodes < 1 or not 0.0 <= rare_share < 1.0:
        raise UsageError(
            "`num_nodes` should be at least 1 and `rare_share` in [0, 1). "
            f"Found {num_nodes} and {rare_share}."
        )
    nodes = np.asarray(source.split_idx[split], dtype=np.int64)
    rng = generator(seed, "probe nodes")
    nodes = nodes[rng.permutation(len(nodes))]
    positives, observed_counts = _counts(source, nodes, split)
    size = np.full(len(nodes), (1.0 - rare_share) / len(nodes))
    rarest = np.full(len(nodes), np.inf)
    each = np.where(positives > 0, 1.0 / positives.clip(min=1), 0.0)
    tasks = max(1, int((positives > 0).sum()))
    for start in range(0, len(nodes), NODES_AT_ONCE):
        part = slice(start, start + NODES_AT_ONCE)
        y, observed = source.targets(nodes[part], split)
        positive = observed & (y > 0)
        size[part] += rare_share * (positive @ each) / tasks
        rarest[part] = np.where(positive, positives, np.inf).min(axis=1, initial=np.inf)
    inclusion = _capped(size, min(num_nodes, len(nodes)))
    order = np.argsort(rarest, kind="stable")  # ties stay in random order
    steps = np.floor(inclusion[order].cumsum() + rng.random() - 1e-9)
    drawn = order[np.diff(steps, prepend=0.0) > 0]
    drawn = drawn[rng.permutation(len(drawn))]
    return ProbeSample(nodes[drawn], inclusion[drawn], observed_counts)


def _counts(
    source: TargetSource, nodes: NDArray[np.int64], split: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positives and observed nodes of every task."""
    positives = observed_counts = np.zeros(0, dtype=np.int64)
    for start in range(0, len(nodes), NODES_AT_ONCE):
        y, observed = source.targets(nodes[start : start + NODES_AT_ONCE], split)
        chunk = (observed & (y > 0)).sum(axis=0), observed.sum(axis=0)
        positives = chunk[0] if start == 0 else positives + chunk[0]
        observed_counts = chunk[1] if start == 0 else observed_counts + chunk[1]
    return positives, observed_counts


def _capped(size: NDArray[np.float64], total: int) -> NDArray[np.float64]:
    """Probabilities proportional to ``size`` but at most 1, that sum to ``total``."""
    certain = np.zeros(len(size), dtype=bool)
    while True:
        rest = size[~certain].sum()
        room = total - int(certain.sum())
        chance = np.where(certain, 1.0, size * (room / rest) if rest > 0 else 0.0)
        above = ~certain & (chance >= 1.0 - 1e-12)
        if not above.any():
            return chance
        certain |= above
