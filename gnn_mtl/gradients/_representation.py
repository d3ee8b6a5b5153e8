r"""Gradients by the representations, in closed form: free, and not what conflict is about.

With linear heads W and residuals R (derivatives of the losses by the logits, masks and weights
included) the gradient of task t by the representations is :math:`r_t w_t^\top`, and the Gramian of
all tasks is :math:`(R^\top R) \circ (W W^\top)`. It costs one forward pass. After training its
cosines have little to do with those of the shared parameters (.23 to -.34 correlation measured on
two-layer SAGE): use it to screen, never to decide which tasks conflict.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gnn_mtl._core.cost import CostMeter
from gnn_mtl.gradients._frozen import frozen
from gnn_mtl.gradients._losses import TaskLosses
from gnn_mtl.graph import MiniBatch
from gnn_mtl.nn import LabelModel, LinearHeads

CHUNK_BYTES = 16 << 20


def representation_rows(
    model: LabelModel, batch: MiniBatch, losses: TaskLosses, meter: CostMeter | None = None
) -> Tensor:
    """Return the gradients of the losses by the seeds' representations, ``[S, B * D]``."""
    with frozen(model):
        h, residual, ids = _residual(model, batch, losses, meter)
        with torch.no_grad():
            return model.heads.representation_gradients(h, residual, ids).flatten(1)


def representation_gramian(
    model: LabelModel, batch: MiniBatch, losses: TaskLosses, meter: CostMeter | None = None
) -> Tensor:
    """Return their inner products, float64 ``[S, S]``; nothing of size ``S * B * D`` is held.

    Heads that are not linear are taken in chunks of nodes.
    """
    with frozen(model):
        h, residual, ids = _residual(model, batch, losses, meter)
        with torch.no_grad():
            if type(model.heads) is LinearHeads:
                weight, residual = model.heads.weight[ids].double(), residual.double()
                return (residual.T @ residual) * (weight @ weight.T)
            gramian = residual.new_zeros((len(ids), len(ids)), dtype=torch.float64)
            chunk = max(1, CHUNK_BYTES // (len(ids) * h.shape[1] * 8))
            for start in range(0, len(h), chunk):
                nodes = slice(start, start + chunk)
                rows = model.heads.representation_gradients(h[nodes], residual[nodes], ids)
                rows = rows.flatten(1).double()
                gramian.addmm_(rows, rows.T)
            return gramian


def _residual(
    model: LabelModel, batch: MiniBatch, losses: TaskLosses, meter: CostMeter | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Representations ``[B, D]``, derivatives of the losses by the logits ``[B, S]``, task ids."""
    with torch.no_grad():
        h = model.encoder(batch)
        ids = torch.as_tensor(losses.tasks, dtype=torch.int64, device=h.device)
        logits = model.heads(h, ids)
    with torch.enable_grad():
        logits = logits.requires_grad_()
        (residual,) = torch.autograd.grad(losses(logits, batch).sum(), logits)
    if meter is not None:
        meter.forwards += 1
        meter.nodes += batch.batch_size
        meter.label_gradients += len(losses.tasks)
    return h, residual, ids
