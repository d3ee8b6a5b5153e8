r"""Nystrom approximation of the Gramian from a few mixtures of tasks.

With random mixtures :math:`\Omega` ``[S, K]`` of the tasks and :math:`Y = G \Omega`, the Gramian is
approximated by :math:`Y (\Omega^\top Y)^+ Y^\top`. G is never formed: :math:`J^\top \Omega` takes K
backward passes, and J times those K directions takes K forward-mode passes, whatever S is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from gnn_mtl._core.errors import UsageError
from gnn_mtl._core.seeding import generator
from gnn_mtl.gradients._forward_mode import directional
from gnn_mtl.gradients._frozen import frozen
from gnn_mtl.gradients._plan import SKETCH_SEED, Plan
from gnn_mtl.graph import MiniBatch

RELATIVE_RANK = 1e-7


def nystrom_gramian(
    plan: Plan, again: Callable[[], Iterator[MiniBatch]], dim: int
) -> tuple[Tensor, Tensor]:
    """Return the approximate Gramian, float64 ``[S, S]``, and the masses ``[K, S]``.

    A task whose loss is not finite gets NaN and takes no part in the mixtures.
    """
    if dim < 1:
        raise UsageError(f"`sketch_dim` should be at least 1. Found {dim}.")
    losses, parameters = plan.losses, plan.model.shared_parameters()
    masses = torch.stack([losses.mass(batch) for batch in again()])
    size = len(losses.tasks)
    dim = min(dim, size)
    finite = torch.ones(size, dtype=torch.bool, device=masses.device)
    for batch in again():
        with torch.no_grad(), frozen(plan.model):
            finite &= torch.isfinite(losses(plan.model(batch, losses.tasks), batch))
    mixtures = torch.from_numpy(generator(SKETCH_SEED, "nystrom").standard_normal((size, dim)))
    mixtures = torch.where(finite[:, None], mixtures.to(masses.device), 0.0)
    good = losses.only(finite)
    if not good.tasks:
        return masses.new_full((size, size), torch.nan, dtype=torch.float64), masses
    share = (masses / losses.normalizer(masses))[:, finite]  # [batches, S']
    directions = [[torch.zeros_like(p) for p in parameters] for _ in range(dim)]
    for number, batch in enumerate(again()):
        with frozen(plan.model), torch.enable_grad():
            values = good(plan.model(batch, good.tasks), batch)
            weights = (mixtures[finite] * share[number, :, None]).to(values.dtype)
            for k in range(dim):
                grads = torch.autograd.grad(
                    values, parameters, weights[:, k], retain_graph=k < dim - 1, allow_unused=True
                )
                for total, grad in zip(directions[k], grads, strict=True):
                    if grad is not None:
                        total += grad
        if plan.meter is not None:
            plan.meter.forwards += 1
            plan.meter.backwards += dim
            plan.meter.nodes += batch.batch_size
    if plan.scale is not None:
        for one in directions:
            for total, parameter in zip(one, parameters, strict=True):
                total *= plan.scale[parameter].square()
    products = masses.new_zeros((len(good.tasks), dim), dtype=torch.float64)
    for number, batch in enumerate(again()):
        for k in range(dim):
            along = directional(plan.model, batch, good, [directions[k]], plan.meter)
            products[:, k] += (along[:, 0] * share[number].to(along.dtype)).double()
    core = mixtures[finite].T.double() @ products
    values64, vectors = torch.linalg.eigh((core + core.T) / 2)
    kept = values64 > RELATIVE_RANK * values64.max().clamp(min=0)
    root = products @ (vectors[:, kept] / values64[kept].sqrt())
    gramian = masses.new_full((size, size), torch.nan, dtype=torch.float64)
    gramian[finite[:, None] & finite] = (root @ root.T).flatten()
    return gramian, masses
