"""The exact block of the last shared layer, without a backward pass per task.

For a linear map Z = X A^T + b the gradient of task t is ``dZ_t^T X`` with dZ_t the loss's
derivative by Z. Between Z and the logits lie only a norm, an activation and the heads, so dZ_t of
all tasks comes from one backward of the logits and the heads' chain rule, in chunks of tasks. What
remains are the products with X, and they can be shrunk: with X projected to k random directions
every inner product of two gradients keeps its expectation (a sketch of the input side only, whose
error averages over the output side too). Where nothing follows the maps and the heads are linear,
dZ_t is the product of the task's residuals and its head's weights, and the block itself has rank
one: residuals times inputs times weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gnn_mtl._core.cost import CostMeter
from gnn_mtl._core.seeding import generator
from gnn_mtl.gradients._frozen import frozen
from gnn_mtl.gradients._losses import TaskLosses
from gnn_mtl.gradients._parts import Part
from gnn_mtl.graph import MiniBatch
from gnn_mtl.nn import LabelModel, LinearHeads

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
    losses = TaskLosses(tuple(int(t) for t in tasks), pos_weight)
    return last_layer_rows(model, batch, losses, sketch_dim=sketch_dim)


def last_layer_rows(
    model: LabelModel,
    batch: MiniBatch,
    losses: TaskLosses,
    parts: Sequence[Part] | None = None,
    meter: CostMeter | None = None,
    *,
    sketch_dim: int | None = None,
) -> Tensor:
    """Return `last_layer_jacobian` of some parts of the maps' parameters; default all."""
    linears = model.encoder.final_linears()
    if parts is None:
        parts = [Part(p, 0, len(p)) for linear in linears for p in linear.parameters()]
    with frozen(model):
        end = _End(model, batch, losses)
        if meter is not None:
            meter.forwards += 1
            meter.nodes += batch.batch_size
            meter.label_gradients += len(losses.tasks)
        inputs = [_project(x, sketch_dim, i) for i, x in enumerate(end.inputs)]
        chunk = max(1, CHUNK_BYTES // max(1, end.h.numel() * end.h.element_size()))
        rows = []
        for start in range(0, len(losses.tasks), chunk):
            slopes = end.slopes(slice(start, start + chunk))
            with torch.no_grad():
                rows.append(_products(linears, inputs, slopes, parts))
    return torch.cat(rows)


def linear_end_factors(
    model: LabelModel, batch: MiniBatch, losses: TaskLosses, meter: CostMeter | None = None
) -> Tensor | None:
    r"""Return Q ``[S, I]`` with the last layer's Gramian :math:`(W W^\top) \circ (Q Q^\top)`.

    That holds where the maps' sum is the representation and the heads are linear with weights W:
    the gradient of task t is then the outer product of its W and Q, the residuals times the maps'
    inputs. None where it does not hold on this batch.

    Cost: one forward and 2 * S * B * I flops, D times fewer than the rows.
    """
    encoder = model.encoder
    if type(model.heads) is not LinearHeads or not encoder.elementwise_after_final:
        return None
    linears = encoder.final_linears()
    if not linears or not all(p.requires_grad for m in linears for p in m.parameters()):
        return None
    with frozen(model):
        end = _End(model, batch, losses)
        if meter is not None:
            meter.forwards += 1
            meter.nodes += batch.batch_size
        if end.common is None or not bool((end.common == 1).all()):
            return None
        if meter is not None:
            meter.label_gradients += len(losses.tasks)
        with torch.no_grad():
            pieces = []
            for linear, x in zip(linears, end.inputs, strict=True):
                pieces.append(end.residual.T @ x)
                if linear.bias is not None:
                    pieces.append(end.residual.sum(dim=0)[:, None])
            return torch.cat(pieces, dim=1)


class _End:
    """The last layer as a forward pass left it, cut off from what lies below."""

    def __init__(self, model: LabelModel, batch: MiniBatch, losses: TaskLosses) -> None:
        linears = model.encoder.final_linears()
        inputs: dict[nn.Module, Tensor] = {}
        outputs: dict[nn.Module, Tensor] = {}

        def cut(module: nn.Module, arguments: tuple[Tensor]) -> Tensor:
            inputs[module] = arguments[0].detach()
            return inputs[module]

        def keep(module: nn.Module, _arguments: tuple[Tensor], output: Tensor) -> Tensor:
            outputs[module] = output.detach().requires_grad_()
            return outputs[module]

        self.heads = model.heads
        self.ids = torch.as_tensor(losses.tasks, dtype=torch.int64, device=batch.x.device)
        hooks = [linear.register_forward_pre_hook(cut) for linear in linears]
        hooks += [linear.register_forward_hook(keep) for linear in linears]
        try:
            with torch.enable_grad():
                self.h = model.encoder(batch)
        finally:
            for hook in hooks:
                hook.remove()
        with torch.enable_grad():
            logits = model.heads(self.h.detach(), self.ids).detach().requires_grad_()
            (self.residual,) = torch.autograd.grad(losses(logits, batch).sum(), logits)
            self.inputs = [inputs[linear] for linear in linears]
            self.maps = [outputs[linear] for linear in linears]
            self.common: Tensor | None = None
            if model.encoder.elementwise_after_final:
                (self.common,) = torch.autograd.grad(self.h.sum(), self.maps[:1])

    def slopes(self, tasks: slice) -> tuple[Tensor, ...]:
        """Return the losses' derivatives ``[c, B, O]`` by the output of every map."""
        with torch.no_grad():
            back = self.heads.representation_gradients(
                self.h, self.residual[:, tasks], self.ids[tasks]
            )
            if self.common is not None:
                return (back.mul_(self.common),) * len(self.maps)
        return torch.autograd.grad(
            self.h, self.maps, grad_outputs=back, is_grads_batched=True, retain_graph=True
        )


def _project(x: Tensor, sketch_dim: int | None, index: int) -> Tensor:
    """The inputs of map ``index`` in ``sketch_dim`` fixed random directions of unit variance."""
    if sketch_dim is None or sketch_dim >= x.shape[1]:
        return x
    directions = generator(SKETCH_SEED, index).standard_normal((x.shape[1], sketch_dim))
    return x @ torch.from_numpy(directions / sketch_dim**0.5).to(x)


def _products(
    linears: Sequence[nn.Linear],
    inputs: Sequence[Tensor],
    slopes: Sequence[Tensor],
    parts: Sequence[Part],
) -> Tensor:
    """Rows from the maps' inputs ``[B, I]`` and the derivatives ``[c, B, O]`` by their outputs."""
    blocks = []
    for part in parts:
        for linear, x, slope in zip(linears, inputs, slopes, strict=True):
            units = slope[:, :, part.start : part.stop]
            if part.parameter is linear.weight:
                products = torch.bmm(units.transpose(1, 2), x.expand(len(units), *x.shape))
                blocks.append(products.flatten(1))
            elif part.parameter is linear.bias:
                blocks.append(units.sum(dim=1))
    return torch.cat(blocks, dim=1)
