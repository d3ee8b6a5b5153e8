"""What can be got out of the same number of nodes: drawn unequally, or freed of their noise."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gnn_mtl._core.seeding import generator
from gnn_mtl.affinity import gradient_cosine
from gnn_mtl.gradients import ProbeSample, frozen
from gnn_mtl.graph import NeighborLoader
from gnn_mtl.linalg import cosine_of_gramian
from gnn_mtl.nn import LabelModel
from gnn_mtl.tasks import Affinity


class Blocks:
    """Gradients of some of the batches a split falls into, and their products within a batch.

    Args:
        population: Batches of the whole split.
        products: Whether the products are kept, which freeing from noise needs.
    """

    def __init__(self, population: int, *, products: bool = True) -> None:
        self.population, self.products, self.number = population, products, 0
        self.rows = self.within = torch.zeros(())

    def add(self, rows: Tensor) -> None:
        """Add the rows ``[T, P]`` of one batch, each times its weight in the whole."""
        self.number += 1
        self.rows = self.rows + rows
        if self.products:
            wide = rows.double()
            self.within = self.within + wide @ wide.T

    def cosines(self, shift: Tensor | None = None) -> Affinity:
        """Return the cosines of the sum as it is, or of the mean beside known rows."""
        return gradient_cosine(self.rows if shift is None else self.rows / self.number + shift)

    def gramian(self, shift: Tensor | None = None) -> Tensor:
        r"""Return the inner products of the mean, free of the noise that sampling batches left.

        The mean's product less its variance under drawing K of N batches without replacement,
        :math:`\bar g \bar g^\top - (1 - K / N) V / K`, V the sample covariance: unbiased for the
        mean over all N. Known rows may be added to the mean first.
        """
        mean = self.rows.double() / self.number
        spread = (self.within - self.number * mean @ mean.T) / (self.number - 1)
        moved = mean if shift is None else mean + shift.double()
        rest = 1.0 - self.number / self.population
        return moved @ moved.T - rest * spread / self.number

    def debiased(self, shift: Tensor | None = None) -> Affinity:
        """Return the cosines of :meth:`gramian`; unknown where noise drowns a task."""
        return Affinity(cosine_of_gramian(self.gramian(shift)).numpy(), "debiased", "cosine")


@torch.no_grad()
def residual_sizes(
    model: LabelModel, loader: NeighborLoader
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return all nodes of a loader and the norms of their residuals over all tasks.

    Each task's residuals (chance minus label) are scaled to mean square 1 first, as cosines are
    blind to the length of a task's gradient.
    """
    nodes, residuals = [], []
    with frozen(model):
        for batch in loader.epoch_batches(0):
            found = torch.where(batch.observed, torch.sigmoid(model(batch)) - batch.y, 0.0)
            nodes.append(batch.seeds.cpu().numpy())
            residuals.append(found)
    stacked = torch.cat(residuals).double()
    scale = stacked.square().mean(dim=0).sqrt()
    sizes = (stacked / torch.where(scale > 0, scale, 1.0)).norm(dim=1)
    return np.concatenate(nodes), sizes.numpy()


def draw_by_size(
    nodes: NDArray[np.int64],
    sizes: NDArray[np.float64],
    observed_counts: NDArray[np.int64],
    wanted: int,
) -> ProbeSample:
    """Draw about that many nodes with probabilities in proportion to sizes, at most 1."""
    rng = generator(5, "nodes by size")
    order = rng.permutation(len(nodes))
    inclusion = np.minimum(1.0, sizes[order] * (wanted / sizes.sum()))
    steps = np.floor(inclusion.cumsum() + rng.random() - 1e-9)
    drawn = np.diff(steps, prepend=0.0) > 0
    return ProbeSample(nodes[order][drawn], inclusion[drawn], observed_counts)
