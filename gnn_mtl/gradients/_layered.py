r"""Exact gradients of all shared parameters without a backward pass per task.

For convolutions that gather rows linearly (:mod:`gnn_mtl.gradients._row_maps`) with entry-by-entry
norms and activations, write layer l as :math:`H_l = \varphi(Z_l)`, :math:`Z_l = \sum_j X_{lj}
W_{lj}^\top` and its slopes :math:`S_l = \varphi'(Z_l)`. The gradient of task t by unit d of layer l
is a sum over that layer's n nodes, and n grows by the fan-out with every layer down:

.. math:: \nabla_{W_{lj}[d]} L_t = \sum_n S_l[n, d]\, (A^\top U_t)[n, d]\, X_{lj}[n]
          = \sum_b U_t[b, d] \underbrace{\sum_n A[b, n]\, S_l[n, d]\, X_{lj}[n]}_{Y_d[b]}

with A the rows gathered by layer l + 1 and :math:`U_t = dZ_{l+1,t} W_{l+1}`. Y is the same for all
tasks and costs as much as one task's product; what is left for a task sums over the fewer nodes of
the layer above. So T tasks cost a fraction of T backward passes, and nothing is approximated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gnn_mtl._core.cost import CostMeter
from gnn_mtl.gradients._frozen import frozen
from gnn_mtl.gradients._losses import TaskLosses
from gnn_mtl.gradients._parts import Part
from gnn_mtl.gradients._pushed import pushed_inputs
from gnn_mtl.gradients._row_maps import ROW_MAPS, RowMap
from gnn_mtl.graph import Block, MiniBatch
from gnn_mtl.nn import ConvEncoder, Heads, LabelModel, LinearHeads

CHUNK_BYTES = 16 << 20
PUSHED_BYTES = 128 << 20
PUSH_GAIN = 1.2


def is_layered(model: LabelModel) -> bool:
    """Whether the closed form covers every shared parameter of the model."""
    encoder = model.encoder
    return (
        isinstance(encoder, ConvEncoder)
        and type(encoder).forward is ConvEncoder.forward
        and type(encoder).layer is ConvEncoder.layer
        and all(type(conv) in ROW_MAPS for conv in encoder.convs)
        and all(
            isinstance(norm, nn.Identity)
            or (
                isinstance(norm, nn.BatchNorm1d)
                and norm.track_running_stats
                and (not norm.affine or bool((norm.weight != 0).all()))
            )
            for norm in encoder.norms
        )
    )


@dataclass(frozen=True, eq=False)
class _Layer:
    """One layer as the forward pass left it."""

    block: Block
    maps: list[RowMap]
    inputs: list[Tensor]  # X_j [n, I_j]
    slope: Tensor  # [D, n]: derivative of the output by the sum of the maps
    norm: nn.Module


def layered_rows(
    model: LabelModel,
    batch: MiniBatch,
    losses: TaskLosses,
    parts: Sequence[Part],
    meter: CostMeter | None = None,
) -> Tensor:
    """Return the gradients ``[S, P]`` of the losses by the parts, for models of `is_layered`.

    Cost: one forward; per task about 6 * D * (B * D + n * F) flops with n the targets of the layer
    above; chunks of tasks and units keep the memory beside result and layers below 250 MB.
    """
    with frozen(model):
        layers, residual, head = _forward(model, batch, losses)
        if meter is not None:
            meter.forwards += 1
            meter.nodes += batch.batch_size
            meter.label_gradients += len(losses.tasks)
        rows = residual.new_zeros((len(losses.tasks), sum(part.width for part in parts)))
        starts = [0]
        for part in parts:
            starts.append(starts[-1] + part.width)
        with torch.no_grad():
            tower = _Tower(layers, residual, head)
            for index, layer in enumerate(layers):
                _fill(rows, list(zip(parts, starts, strict=False)), tower, index, layer)
    return rows


def _fill(
    rows: Tensor, parts: list[tuple[Part, int]], tower: _Tower, index: int, layer: _Layer
) -> None:
    """Write the columns that belong to the layer."""
    targets = _targets(layer, parts)
    if not targets:
        return
    units = slice(min(part.start for part, *_ in targets), max(part.stop for part, *_ in targets))
    sources = {source for _, _, source in targets if source >= 0}
    if any(source <= NORM_WEIGHT for *_, source in targets):
        sources = set(range(len(layer.inputs)))
    begins, at = {}, 0
    for source in sorted(sources):
        begins[source], at = at, at + layer.inputs[source].shape[1]
    begins[BIAS] = at
    ones = layer.slope.new_ones((layer.slope.shape[1], 1))
    common = torch.cat([*(layer.inputs[source] for source in sorted(sources)), ones], dim=1)
    for span, tasks, found in tower.products(index, common, units):
        for part, start, source in targets:
            low, high = max(part.start, span.start), min(part.stop, span.stop)
            if low >= high:
                continue
            width = part.width // (part.stop - part.start)
            inside = slice(low - span.start, high - span.start)
            if source <= NORM_WEIGHT:
                piece = _by_norm(found[inside], layer, slice(low, high), source)
            else:
                piece = found[inside, :, begins[source] : begins[source] + width]
            first = start + (low - part.start) * width
            into = rows[tasks, first : first + (high - low) * width]
            into.unflatten(1, (high - low, width)).copy_(piece.transpose(0, 1))


BIAS, NORM_WEIGHT, NORM_BIAS = -1, -2, -3


def _targets(layer: _Layer, parts: list[tuple[Part, int]]) -> list[tuple[Part, int, int]]:
    """The parts of this layer with their first column and what each is multiplied with."""
    kind: dict[int, int] = {}
    for source, row_map in enumerate(layer.maps):
        kind[id(row_map.linear.weight)] = source
        if row_map.linear.bias is not None:
            kind[id(row_map.linear.bias)] = BIAS
    if isinstance(layer.norm, nn.BatchNorm1d) and layer.norm.affine:
        kind[id(layer.norm.weight)] = NORM_WEIGHT
        kind[id(layer.norm.bias)] = NORM_BIAS
    return [
        (part, start, kind[id(part.parameter)])
        for part, start in parts
        if id(part.parameter) in kind
    ]


def _by_norm(found: Tensor, layer: _Layer, units: slice, source: int) -> Tensor:
    r"""Gradients ``[du, c, 1]`` by a frozen batch norm's weight or bias, from those by the maps.

    With :math:`y = \gamma (z - \mu) / s + \beta` and :math:`z = W x + b`, gradients by z are
    :math:`\gamma / s` times those by y, so :math:`\nabla_\beta = s \nabla_b / \gamma` and
    :math:`\gamma \nabla_\gamma = \langle W, \nabla_W\rangle + (b - \mu) \nabla_b`.
    """
    norm = layer.norm
    assert isinstance(norm, nn.BatchNorm1d)  # noqa: S101
    assert norm.running_mean is not None  # noqa: S101
    assert norm.running_var is not None  # noqa: S101
    by_sum = found[:, :, -1]
    weight = norm.weight[units, None]
    if source == NORM_BIAS:
        spread = (norm.running_var[units, None] + norm.eps).sqrt()
        return (by_sum * spread / weight)[:, :, None]
    maps = torch.cat([row_map.linear.weight[units] for row_map in layer.maps], dim=1)
    bias = -norm.running_mean[units]
    for row_map in layer.maps:
        if row_map.linear.bias is not None:
            bias = bias + row_map.linear.bias[units]
    along = torch.bmm(found[:, :, :-1], maps[:, :, None])[:, :, 0]
    return ((along + bias[:, None] * by_sum) / weight)[:, :, None]


class _Tower:
    """The layers above one another, with what the tasks' losses do to the top.

    Derivatives are held units first, ``[D, c, n]``: every product is then a plain one.
    """

    def __init__(self, layers: list[_Layer], residual: Tensor, head: _Head) -> None:
        self.layers, self.residual, self.head = layers, residual, head
        self.space = _Workspace(residual)

    def products(
        self, index: int, common: Tensor, units: slice
    ) -> Iterator[tuple[slice, slice, Tensor]]:
        """Yield (units, tasks, sums ``[du, c, I + 1]`` over the nodes) of a layer, in chunks."""
        layer, num_tasks = self.layers[index], self.residual.shape[1]
        above = self.layers[index + 1] if index + 1 < len(self.layers) else None
        if above is not None and not self._pays(layer, above, num_tasks):
            above = None
        size = layer.slope.element_size()
        step = units.stop - units.start
        if above is not None:
            gathers = max(1, sum(m.edge_weight is not None for m in above.maps))
            unit_bytes = size * above.block.num_dst * common.shape[1] * gathers
            step = _even(step, max(1, PUSHED_BYTES // unit_bytes))
        tallest = self.layers[index + (above is not None) :]
        unit_bytes = size * max(one.slope.numel() for one in tallest)
        chunk = _even(num_tasks, max(1, CHUNK_BYTES // unit_bytes))
        for begin in range(units.start, units.stop, step):
            span = slice(begin, min(begin + step, units.stop))
            tables: list[Tensor | None] = []
            if above is not None:
                tables = [
                    None
                    if one.edge_weight is None
                    else pushed_inputs(
                        above.block, one.edge_weight, one.self_weight, common, layer.slope[span]
                    )
                    for one in above.maps
                ]
            for start in range(0, num_tasks, chunk):
                tasks = slice(start, min(start + chunk, num_tasks))
                if above is None:
                    back = self._back(index, tasks)[span]
                    found = self._sums(back, layer.slope[span], common, "sums")
                else:
                    found = self._pushed(layer, above, index, tasks, span, tables, common)
                yield span, tasks, found

    def _sums(self, back: Tensor, slope: Tensor, common: Tensor, name: str) -> Tensor:
        """Sums over nodes ``[du, c, I]`` of derivatives by the output ``[du, c, n]``, consumed."""
        delta = back.mul_(slope[:, None])
        found = self.space(name, *delta.shape[:2], common.shape[1])
        torch.mm(delta.flatten(0, 1), common, out=found.flatten(0, 1))
        return found

    def _pays(self, layer: _Layer, above: _Layer, num_tasks: int) -> bool:
        """Whether summing over the nodes above is cheaper than over the layer's own."""
        once = above.block.num_edges + above.block.num_dst
        each = len(above.maps) * above.block.num_dst
        return num_tasks * layer.slope.shape[1] > PUSH_GAIN * (num_tasks * each + once)

    def _delta(self, index: int, tasks: slice) -> Tensor:
        """Derivatives ``[D, c, n]`` by the sum of the maps of layer ``index``."""
        return self._back(index, tasks).mul_(self.layers[index].slope[:, None])

    def _back(self, index: int, tasks: slice) -> Tensor:
        """Derivatives ``[D, c, n]`` of the tasks' losses by the output of layer ``index``."""
        if index == len(self.layers) - 1:
            return self.head(self.residual[:, tasks], tasks, self.space)
        above = self.layers[index + 1]
        delta = self._delta(index + 1, tasks)
        total: Tensor | None = None
        for row_map in above.maps:
            by_input = row_map.linear.weight.T @ delta.flatten(1)
            by_node = by_input.view(-1, delta.shape[2]).T.contiguous()
            piece = row_map.transposed(by_node, above.block)
            total = piece if total is None else total.add_(piece)
        assert total is not None  # noqa: S101
        return total.T.contiguous().view(-1, delta.shape[1], total.shape[0])

    def _pushed(
        self, layer: _Layer, above: _Layer, index: int, tasks: slice, span: slice,
        tables: list[Tensor | None], common: Tensor,
    ) -> Tensor:  # fmt: skip
        """Sums ``[du, c, I + 1]`` over the nodes of the layer above: see the module."""
        delta = self._delta(index + 1, tasks)
        total: Tensor | None = None
        for position, (row_map, table) in enumerate(zip(above.maps, tables, strict=True)):
            by_input = self.space("by_input", span.stop - span.start, *delta.shape[1:])
            torch.mm(row_map.linear.weight[:, span].T, delta.flatten(1), out=by_input.flatten(1))
            if table is None:
                assert row_map.self_weight is not None  # noqa: S101
                own = slice(0, above.block.num_dst)
                slope = layer.slope[span, own] * row_map.self_weight
                found = self._sums(by_input, slope, common[own], f"sums {position}")
            else:
                shape = (*by_input.shape[:2], common.shape[1])
                found = torch.bmm(by_input, table, out=self.space(f"sums {position}", *shape))
            total = found if total is None else total.add_(found)
        assert total is not None  # noqa: S101
        return total


def _even(total: int, at_most: int) -> int:
    """The size of equal chunks of ``total``."""
    return math.ceil(total / math.ceil(total / at_most))


class _Workspace:
    """Named buffers, each used again and again: fresh memory costs more than the arithmetic."""

    def __init__(self, like: Tensor) -> None:
        self.like = like
        self.held: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        """Return an uninitialised tensor; it is valid until the name is used again."""
        size = math.prod(shape)
        if name not in self.held or self.held[name].numel() < size:
            self.held[name] = self.like.new_empty(size)
        return self.held[name][:size].view(shape)


class _Head:
    """Derivatives of the tasks' losses by the representations, units first."""

    def __init__(self, heads: Heads, h: Tensor, tasks: Tensor) -> None:
        self.heads, self.h, self.tasks = heads, h, tasks

    def __call__(self, residual: Tensor, tasks: slice, space: _Workspace) -> Tensor:
        """Return ``[D, c, B]`` from residuals ``[B, c]``."""
        ids = self.tasks[tasks]
        if type(self.heads) is LinearHeads:
            weight = self.heads.weight[ids].T[:, :, None]
            out = space("back", *weight.shape[:2], len(residual))
            return torch.mul(weight, residual.T, out=out)
        back = self.heads.representation_gradients(self.h, residual, ids)
        return back.permute(2, 0, 1).contiguous()


def _forward(
    model: LabelModel, batch: MiniBatch, losses: TaskLosses
) -> tuple[list[_Layer], Tensor, _Head]:
    """Run the layers one by one; return what the sums need and the residuals ``[B, S]``."""
    encoder = model.encoder
    assert isinstance(encoder, ConvEncoder)  # noqa: S101
    encoder_blocks = batch.blocks
    if len(encoder_blocks) != encoder.num_hops:
        encoder(batch)  # raises, saying so
    x, layers = batch.x, []
    for index, block in enumerate(encoder_blocks):
        layer, x = _run_layer(encoder, index, x, block)
        layers.append(layer)
    ids = torch.as_tensor(losses.tasks, dtype=torch.int64, device=x.device)
    with torch.enable_grad():
        logits = model.heads(x, ids).detach().requires_grad_()
        (residual,) = torch.autograd.grad(losses(logits, batch).sum(), logits)
    return layers, residual, _Head(model.heads, x, ids)


def _run_layer(encoder: ConvEncoder, index: int, x: Tensor, block: Block) -> tuple[_Layer, Tensor]:
    conv, norm = encoder.convs[index], encoder.norms[index]
    maps = ROW_MAPS[type(conv)](conv, block, x.dtype)  # type: ignore[index, arg-type]
    inputs: dict[nn.Module, Tensor] = {}
    sums: list[Tensor] = []

    def keep_input(module: nn.Module, arguments: tuple[Tensor]) -> None:
        inputs[module] = arguments[0].detach()

    def cut(_module: nn.Module, _arguments: tuple[Tensor], output: Tensor) -> Tensor:
        sums.append(output.detach().requires_grad_())
        return sums[0]

    hooks = [m.linear.register_forward_pre_hook(keep_input) for m in maps]
    hooks.append(conv.register_forward_hook(cut))
    try:
        with torch.enable_grad():
            out = encoder.layer(index, x, x[: block.num_dst], block)
            (slope,) = torch.autograd.grad(out.sum(), sums[0])
    finally:
        for hook in hooks:
            hook.remove()
    taken = [inputs[m.linear] for m in maps]
    return _Layer(block, maps, taken, slope.T.contiguous(), norm), out.detach()
