"""The exact block of the last shared layer, without a backward pass per task.

For a linear map Z = X A^T + b the gradient of task t is ``dZ_t^T X`` with dZ_t the loss's
derivative by Z. Between Z and the logits lie only a norm, an activation and the heads, so dZ_t of
all tasks comes from one backward of the logits and the heads' chain rule, in chunks of tasks. What
remains are the products with X, and they can be shrunk: with X projected to k random directions
every inner product of two gradients keeps its expectation (a sketch of the input side only, whose
error averages over the output side too).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gnn_mtl._core.seeding import generator
from gnn_mtl.gradients._frozen import frozen
from gnn_mtl.graph import MiniBatch
from gnn_mtl.nn import LabelModel, masked_bce

CHUNK_BYTES = 8 << 20
SKETCH_SEED = 20230918


def last_layer_jacobian(
    model: LabelModel,
    batch: MiniBatch,
    tasks: Sequence[int],
    *,
    pos_weight: Tensor | None = None,
    sketch_dim: int | None = None,
) -> Tensor:
    """Return the exact gradients of the tasks' losses by the last shared layer's linear maps.

    Args:
        model: A model whose encoder's ``final_linears`` is not empty, each map being applied once
            per forward; whatever lies between the maps and the representation must act row by row.
        batch: The nodes.
        tasks: The S tasks.
        pos_weight: Weights of the tasks' positives ``[T]``.
        sketch_dim: Project each map's inputs to this many random directions, the same in every
            call; None is exact. Inner products of rows then carry an error, measured by
            ``bench schedule``; rows are no gradients any more.

    Returns:
        ``[S, P]`` with P the maps' weights and biases in their order, as
        ``encoder.final_parameters()`` flattened; with a sketch ``[S, P']``.

    Cost: one forward, and 2 * S * B * P flops in matrix products.
    """
    linears = model.encoder.final_linears()
    inputs: dict[nn.Module, Tensor] = {}
    outputs: dict[nn.Module, Tensor] = {}

    def cut(module: nn.Module, arguments: tuple[Tensor]) -> Tensor:
        inputs[module] = arguments[0].detach()
        return inputs[module]

    def keep(module: nn.Module, _arguments: tuple[Tensor], output: Tensor) -> Tensor:
        outputs[module] = output.detach().requires_grad_()
        return outputs[module]

    ids = torch.as_tensor(list(tasks), dtype=torch.int64, device=batch.x.device)
    hooks = [linear.register_forward_pre_hook(cut) for linear in linears]
    hooks += [linear.register_forward_hook(keep) for linear in linears]
    try:
        with frozen(model), torch.enable_grad():
            h = model.encoder(batch)
            logits = model.heads(h.detach(), ids).detach().requires_grad_()
            losses = masked_bce(logits, batch.y, batch.observed, tasks, pos_weight=pos_weight)
            (residual,) = torch.autograd.grad(losses.sum(), logits)
            maps = [outputs[linear] for linear in linears]
            projected = [
                _project(inputs[linear], sketch_dim, i) for i, linear in enumerate(linears)
            ]
            common: Tensor | None = None
            if model.encoder.elementwise_after_final:
                (common,) = torch.autograd.grad(h.sum(), maps[:1])
            chunk = max(1, CHUNK_BYTES // max(1, h.numel() * h.element_size()))
            rows = []
            for start in range(0, len(ids), chunk):
                part = slice(start, start + chunk)
                with torch.no_grad():
                    back = model.heads.representation_gradients(h, residual[:, part], ids[part])
                if common is not None:
                    slopes = (back.mul_(common),) * len(maps)
                else:
                    slopes = torch.autograd.grad(
                        h, maps, grad_outputs=back, is_grads_batched=True, retain_graph=True
                    )
                with torch.no_grad():
                    rows.append(_products(linears, projected, slopes))
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat(rows)


def _project(x: Tensor, sketch_dim: int | None, index: int) -> Tensor:
    """The inputs of map ``index`` in ``sketch_dim`` fixed random directions of unit variance."""
    if sketch_dim is None or sketch_dim >= x.shape[1]:
        return x
    directions = generator(SKETCH_SEED, index).standard_normal((x.shape[1], sketch_dim))
    return x @ torch.from_numpy(directions / sketch_dim**0.5).to(x)


def _products(
    linears: Sequence[nn.Linear], inputs: Sequence[Tensor], slopes: Sequence[Tensor]
) -> Tensor:
    """Rows ``[S, P]`` from the maps' inputs ``[B, I]`` and the derivatives ``[S, B, O]``."""
    blocks = []
    for linear, x, slope in zip(linears, inputs, slopes, strict=True):
        weight = torch.bmm(slope.transpose(1, 2), x.expand(len(slope), *x.shape))
        blocks.append(weight.flatten(1))
        if linear.bias is not None:
            blocks.append(slope.sum(dim=1))
    return torch.cat(blocks, dim=1)
