r"""The Gramian of the last shared layer from a training step's own forward pass.

A training step that weighs its tasks by their gradients has made its forward pass already, and its
backward pass is still to come. What is needed in between is read off the graph: the derivatives R
``[B, S]`` of the losses by their logits, from a backward pass of the loss alone, and what the heads
and the norm, ReLU and dropout behind the maps make of them, in closed form. With linear heads of
weights W, gates C (derivatives of the representations by the norm's output) and the maps' inputs X
the gradients by unit h of the maps are

.. math:: w_{th} \frac{\gamma_h}{\sigma_h} (r_t \circ c_h)^\top P_h X, \qquad
          P_h = I - \frac{1}{B} 1 1^\top - \frac{1}{B} \hat z_h \hat z_h^\top,

where P_h and the factor before it are the derivative of a batch norm in training mode. Only nodes
that switch the unit on are read, and what a unit adds to the Gramian is added before the next one
is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.gradients._gramian import MEMORY_BYTES, TaskGramian, finished
from gnn_mtl.linalg import add_gramian
from gnn_mtl.nn import LabelModel, LinearHeads

CHUNK_BYTES = 8 << 20
Reduce = Callable[[Tensor], Tensor]


@contextmanager
def tapped(model: LabelModel) -> Iterator[LastLayerTap | None]:
    """Keep what the first forward pass in the block leaves in the last shared layer.

    ::

        with tapped(model) as tap:
            losses = masked_bce(model(batch), batch.y, batch.observed)
        weights = aggregator.weights(tap.gramian(losses, tasks=tasks).gramian, tasks=tasks)
        (losses * weights).sum().backward()

    Nothing is computed in the pass, and neither it nor its graph is changed: a training step is
    bit for bit the same without.

    Args:
        model: The model, in whatever mode it is.

    Yields:
        The tap; None where the encoder does not end in linear maps, or none of them trains.
    """
    linears = model.encoder.final_linears()
    if not any(p.requires_grad for linear in linears for p in linear.parameters()):
        yield None
        return
    tap = LastLayerTap(model)
    hooks = tap._watch()
    try:
        yield tap
    finally:
        for hook in hooks:
            hook.remove()


class LastLayerTap:
    """What a forward pass left in the last shared layer; made by :func:`tapped`."""

    def __init__(self, model: LabelModel) -> None:
        self._model = model
        self._linears = model.encoder.final_linears()
        self._maps: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        self._norms: list[tuple[nn.Module, Tensor, Tensor]] = []
        self._h: Tensor | None = None
        self._logits: Tensor | None = None

    def gramian(
        self,
        losses: Tensor,
        columns: Sequence[int] | None = None,
        *,
        tasks: Sequence[int],
        memory_bytes: int = MEMORY_BYTES,
        reduce: Reduce | None = None,
    ) -> TaskGramian:
        """Return the inner products of the losses' gradients by the last shared layer's maps.

        They are of the forward pass as it was, with its dropout, batch statistics and precision;
        its graph is kept for the backward pass that follows. In bfloat16 the heads' own hidden
        units are switched in full precision.

        Args:
            losses: Losses ``[S]`` with their graph, each a function of one column of the logits.
            columns: That column for each; default 0, ..., S - 1.
            tasks: Their task ids.
            memory_bytes: Bound on the rows held at a time, where rows are needed.
            reduce: Turns rows ``[S, p]`` of this process into those of all, before their products
                are taken; called equally often, with equal shapes, in each.

        Returns:
            The Gramian; its masses count the nodes with a derivative that is not 0. Tasks whose
            gradient is not finite are ``broken`` and spoil no other.

        Raises:
            ShapeError: If ``losses``, ``columns`` and ``tasks`` differ in length.
            UsageError: If there was no forward pass, or the losses are not of it.

        Cost: With linear heads ``2 S I`` flops for every node and unit that is on and
        ``2 S^2 I`` for every unit, I the width of the maps' inputs; without ReLU, or where nothing
        is off, ``2 S B I``. With other heads as :func:`last_layer_jacobian`.
        """
        ids = tuple(int(task) for task in tasks)
        residual = self._residual(losses, columns, ids)
        with torch.autocast(residual.device.type, enabled=False):
            end = self._end(residual, ids)
            gramian = _gramian(end, memory_bytes, reduce)
        masses = (residual != 0).sum(dim=0).to(residual)[:, None]
        return finished(ids, gramian, (masses if reduce is None else reduce(masses)).T)

    def _watch(self) -> list[Any]:
        """Put up the hooks."""
        model = self._model

        def on_map(module: nn.Module, arguments: tuple[Tensor], output: Tensor) -> None:
            if self._h is None:
                self._maps[module] = (arguments[0], output)

        def on_norm(module: nn.Module, arguments: tuple[Tensor], output: Tensor) -> None:
            if self._h is None and len(self._maps) == len(self._linears):
                self._norms.append((module, arguments[0], output))

        def on_encoder(_module: nn.Module, _arguments: Any, output: Tensor) -> None:  # noqa: ANN401
            self._h = output if self._h is None else self._h

        def on_heads(_module: nn.Module, _arguments: Any, output: Tensor) -> None:  # noqa: ANN401
            self._logits = output if self._logits is None else self._logits

        norms = [m for m in model.encoder.modules() if isinstance(m, _BatchNorm)]
        return [
            *(linear.register_forward_hook(on_map) for linear in self._linears),
            *(norm.register_forward_hook(on_norm) for norm in norms),
            model.encoder.register_forward_hook(on_encoder),
            model.heads.register_forward_hook(on_heads),
        ]

    def _residual(
        self, losses: Tensor, columns: Sequence[int] | None, ids: tuple[int, ...]
    ) -> Tensor:
        """Derivatives of the losses by their logits ``[B, S]``, at least float32."""
        if self._h is None or self._logits is None:
            raise UsageError("There is nothing to read: run the model inside `with tapped(model)`.")
        columns = range(len(ids)) if columns is None else [int(c) for c in columns]
        if losses.shape != (len(ids),) or len(columns) != len(ids) or not ids:
            raise ShapeError(
                "`losses`, `columns` and `tasks` should be of the same tasks, at least one. Found "
                f"{list(losses.shape)}, {len(columns)} and {len(ids)}."
            )
        if (
            len(set(columns)) < len(ids)
            or not 0 <= min(columns) <= max(columns) < (self._logits.shape[1])
        ):
            raise UsageError(
                f"`columns` should be different columns of the {self._logits.shape[1]} logits. "
                f"Found {list(columns)[:8]}."
            )
        found = None
        if losses.requires_grad and self._logits.requires_grad:
            (found,) = torch.autograd.grad(
                losses.sum(), self._logits, retain_graph=True, allow_unused=True
            )
        if found is None:
            raise UsageError(
                "`losses` should come from the first forward pass in the block, with gradients. "
                "Found losses of another graph."
            )
        return _full(found)[:, list(columns)]

    def _end(self, residual: Tensor, ids: tuple[int, ...]) -> _End:
        assert self._h is not None  # noqa: S101
        pairs = [self._maps[linear] for linear in self._linears]
        outputs = [z for _, z in pairs]
        inputs = []
        for linear, (x, _) in zip(self._linears, pairs, strict=True):
            kept = [_full(x)] if linear.weight.requires_grad else []
            if linear.bias is not None and linear.bias.requires_grad:
                kept.append(kept[0].new_ones(len(x), 1) if kept else _full(x).new_ones(len(x), 1))
            inputs.append(torch.cat(kept, dim=1) if kept else _full(x)[:, :0])
        between = None
        if self._model.encoder.elementwise_after_final:
            between = _between(self._h, outputs, self._norms)
        if between is not None:
            inputs = [torch.cat(inputs, dim=1)]
        rows = torch.as_tensor(ids, dtype=torch.int64, device=residual.device)
        return _End(self._model, rows, residual, self._h, outputs, inputs, between)


@dataclass(frozen=True, eq=False)
class _BatchStatistics:
    """A batch norm in training mode: its normalised input ``[B, O]`` and its slope ``[O]``."""

    normalised: Tensor
    slope: Tensor

    def back(self, y: Tensor) -> Tensor:
        """Return the derivatives ``[c, B, O]`` by its input from those by its output, in place."""
        along = (y * self.normalised).mean(dim=1, keepdim=True)
        return y.sub_(y.mean(dim=1, keepdim=True)).sub_(self.normalised * along).mul_(self.slope)


@dataclass(frozen=True, eq=False)
class _Between:
    """What lies between the sum of the maps and h: a batch norm or none, then gates ``[B, O]``."""

    gates: Tensor
    norm: _BatchStatistics | None


@dataclass(frozen=True, eq=False)
class _End:
    """The last layer as the forward pass left it.

    Attributes:
        inputs: What the maps read, with a column of ones for a bias: side by side, ``[B, I]``,
            where all maps get the same derivatives (``between`` is known); else one by one.
    """

    model: LabelModel
    ids: Tensor
    residual: Tensor
    h: Tensor
    outputs: list[Tensor]
    inputs: list[Tensor]
    between: _Between | None

    @property
    def units(self) -> int:
        """Number of output units of the maps."""
        return self.outputs[0].shape[1]

    @property
    def width(self) -> int:
        """Columns of the rows for each unit."""
        return sum(x.shape[1] for x in self.inputs)

    def slopes(self, tasks: slice) -> list[Tensor]:
        """Return the losses' derivatives ``[c, B, O]`` by the maps' outputs, one for each input."""
        with torch.no_grad():
            h = _full(self.h)
            back = self.model.heads.representation_gradients(
                h, self.residual[:, tasks], self.ids[tasks]
            ).to(self.residual)
            if self.between is not None:
                back = back * self.between.gates
                return [back if self.between.norm is None else self.between.norm.back(back)]
        back = back.to(self.h)
        found = [
            torch.autograd.grad(self.h, self.outputs, one, retain_graph=True, allow_unused=True)
            for one in back
        ]
        return [
            torch.stack([torch.zeros_like(z) if g is None else g for g in each]).to(self.residual)
            for z, each in zip(self.outputs, zip(*found, strict=True), strict=True)
        ]


def _between(
    h: Tensor, outputs: list[Tensor], norms: Sequence[tuple[nn.Module, Tensor, Tensor]]
) -> _Between | None:
    """Closed form of an encoder that is elementwise in evaluation mode; None = it has none."""
    uses_batch = [
        (norm, x, y)
        for norm, x, y in norms
        if (norm.training or norm.running_mean is None) and len(x) > 1
    ]
    if h.shape != outputs[0].shape or len(uses_batch) > 1:
        return None
    if not uses_batch:
        (gates,) = torch.autograd.grad(h.sum(), outputs[:1], retain_graph=True)
        return _Between(_full(gates), None)
    norm, x, y = uses_batch[0]
    if not isinstance(norm, nn.BatchNorm1d) or x.shape != outputs[0].shape:
        return None
    for one in torch.autograd.grad(x.sum(), outputs, retain_graph=True):
        if not bool((one == 1).all()):
            return None
    (gates,) = torch.autograd.grad(h.sum(), y, retain_graph=True)
    z = _full(x)
    variance, mean = torch.var_mean(z, dim=0, correction=0)
    slope = (variance + norm.eps).rsqrt()
    normalised = (z - mean) * slope
    if norm.weight is not None:
        slope = slope * norm.weight.detach()
    return _Between(_full(gates), _BatchStatistics(normalised, slope))


def _gramian(end: _End, memory_bytes: int, reduce: Reduce | None) -> Tensor:
    if type(end.model.heads) is LinearHeads and end.between is not None and reduce is None:
        return _linear_gramian(end, end.between, end.model.heads.weight.detach()[end.ids])
    size = len(end.ids)
    held = memory_bytes // (size * end.width * end.residual.element_size())
    step = min(end.units, max(1, held))
    gramian = None
    for start in range(0, end.units, step):
        rows = _rows(end, slice(start, min(start + step, end.units)))
        gramian = add_gramian(gramian, rows if reduce is None else reduce(rows))
    assert gramian is not None  # noqa: S101
    return gramian


def _rows(end: _End, units: slice) -> Tensor:
    """Gradients by the maps' weights into some units, unit after unit, ``[S, p]``."""
    heads = end.model.heads
    if type(heads) is LinearHeads and end.between is not None:
        weight = heads.weight.detach()[end.ids].to(end.residual)
        found = _unit_rows(end.residual, end.inputs[0], end.between, units)
        return torch.stack(
            [y * w[:, None] for y, w in zip(found, weight[:, units].T, strict=True)], dim=1
        ).flatten(1)
    chunk = max(1, CHUNK_BYTES // max(1, end.h.numel() * end.residual.element_size()))
    pieces = []
    for start in range(0, len(end.ids), chunk):
        slopes = [slope[:, :, units] for slope in end.slopes(slice(start, start + chunk))]
        blocks = [
            torch.matmul(slope.transpose(1, 2), x)
            for slope, x in zip(slopes, end.inputs, strict=True)
        ]
        pieces.append(torch.cat(blocks, dim=2).flatten(1))
    return torch.cat(pieces)


def _linear_gramian(end: _End, between: _Between, weight: Tensor) -> Tensor:
    """Gramian under linear heads, unit by unit; of the two forms the cheaper one."""
    x, residual, weight = end.inputs[0], end.residual, weight.to(end.residual)
    of_x = _largest(x.flatten()[None])[0]
    of_residual, of_weight = _largest(residual.T), _largest(weight)
    x, residual, weight = x / of_x, residual / of_residual, weight / of_weight[:, None]
    scale = of_x.double() * of_residual.double() * of_weight.double()
    if between.norm is None and bool((between.gates == 1).all()):
        gramian = add_gramian(None, residual.T @ x) * add_gramian(None, weight)
        return gramian * torch.outer(scale, scale)
    gramian = torch.zeros(len(scale), len(scale), dtype=torch.float64, device=x.device)
    found = _unit_rows(residual, x, between, slice(0, end.units))
    for rows, column in zip(found, weight.T.contiguous(), strict=True):
        rows *= column[:, None]
        gramian += rows @ rows.T
    return gramian * torch.outer(scale, scale)


def _unit_rows(residual: Tensor, x: Tensor, between: _Between, units: slice) -> Iterator[Tensor]:
    """Yield for each unit the gradients ``[S, I]`` by its weights under heads of weight 1."""
    gates, norm = between.gates[:, units], between.norm
    columns = gates.T.contiguous()
    if norm is not None:
        normalised, slope = norm.normalised[:, units], norm.slope[units, None]
        x = x - x.mean(dim=0)
        tilted = (gates * normalised).T @ residual
        along = (normalised.T @ x) * (slope / len(x))
        columns *= slope
    for number, column in enumerate(columns):
        if x.device.type == "cpu":  # elsewhere counting would wait for the device
            on = column.nonzero()[:, 0]
            chosen = residual.index_select(0, on).mul_(column.index_select(0, on)[:, None])
            rows = chosen.T @ x.index_select(0, on)
        else:
            rows = (residual * column[:, None]).T @ x
        if norm is not None:
            rows.addr_(tilted[number], along[number], alpha=-1.0)
        yield rows


def _full(x: Tensor) -> Tensor:
    """Detached, in float32 or better."""
    return x.detach().to(torch.promote_types(x.dtype, torch.float32))


def _largest(rows: Tensor) -> Tensor:
    """Largest entry of every row ``[S, *]``, 1 where that is 0 or NaN."""
    found = torch.linalg.vector_norm(rows, ord=torch.inf, dim=1)
    return torch.where(found > 0, found, torch.ones_like(found))
