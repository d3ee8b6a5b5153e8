"""The Gramian of the last shared layer from a training step's own forward pass.

A training step that weighs its tasks by their gradients has made its forward pass already, and its
backward pass is still to come. What is needed in between is read off the graph: the derivatives R
``[B, S]`` of the losses by their logits, from a backward pass of the loss alone, and what the heads
and the norm, ReLU and dropout behind the maps make of them (:class:`LayerEnd`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.gradients._gramian import MEMORY_BYTES, TaskGramian, finished
from gnn_mtl.gradients._layer_end import LayerEnd, Reduce, between_of, end_gramian, full
from gnn_mtl.nn import LabelModel


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
                are taken, and counts of nodes ``[S, 1]``, so it has to add; called equally often,
                with equal shapes, in each.

        Returns:
            The Gramian; its masses count the nodes with a derivative that is not 0. Tasks whose
            gradient is not finite are ``broken`` and spoil no other.

        Raises:
            ShapeError: If ``losses``, ``columns`` and ``tasks`` differ in length.
            UsageError: If there was no forward pass, or the losses are not of it.

        Cost: With linear heads ``2 S I`` flops for every node and unit that is on and
        ``2 S^2 I`` for every unit, I the width of the maps' inputs; without ReLU, or where nothing
        is off, ``2 S B I``. With other heads or layer norm as :func:`last_layer_jacobian`.
        """
        ids = tuple(int(task) for task in tasks)
        residual = self._residual(losses, columns, ids)
        with torch.autocast(residual.device.type, enabled=False):
            end = self._end(residual, ids)
            gramian = end_gramian(end, memory_bytes, reduce)
        masses = (residual != 0).sum(dim=0).to(residual)[:, None]
        return finished(ids, gramian, (masses if reduce is None else reduce(masses)).T)

    def _watch(self) -> list[Any]:
        """Put up the hooks."""
        model = self._model

        def on_map(module: nn.Module, arguments: tuple[Tensor], output: Tensor) -> None:
            if self._h is None and torch.is_grad_enabled():  # others may look on without a graph
                self._maps[module] = (arguments[0], output)

        def on_norm(module: nn.Module, arguments: tuple[Tensor], output: Tensor) -> None:
            if (
                self._h is None
                and torch.is_grad_enabled()
                and len(self._maps) == len(self._linears)
            ):
                self._norms.append((module, arguments[0], output))

        def on_encoder(_module: nn.Module, _arguments: Any, output: Tensor) -> None:  # noqa: ANN401
            if self._h is None and torch.is_grad_enabled():
                self._h = output

        def on_heads(_module: nn.Module, _arguments: Any, output: Tensor) -> None:  # noqa: ANN401
            if self._logits is None and torch.is_grad_enabled():
                self._logits = output

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
        return full(found)[:, list(columns)]

    def _end(self, residual: Tensor, ids: tuple[int, ...]) -> LayerEnd:
        assert self._h is not None  # noqa: S101
        pairs = [self._maps[linear] for linear in self._linears]
        outputs = [z for _, z in pairs]
        inputs = []
        for linear, (x, _) in zip(self._linears, pairs, strict=True):
            kept = [full(x)] if linear.weight.requires_grad else []
            if linear.bias is not None and linear.bias.requires_grad:
                kept.append(kept[0].new_ones(len(x), 1) if kept else full(x).new_ones(len(x), 1))
            inputs.append(torch.cat(kept, dim=1) if kept else full(x)[:, :0])
        between = None
        if self._model.encoder.elementwise_after_final:
            between = between_of(self._h, outputs, self._norms)
        if between is not None:
            inputs = [torch.cat(inputs, dim=1)]
        rows = torch.as_tensor(ids, dtype=torch.int64, device=residual.device)
        return LayerEnd(self._model, rows, residual, self._h, outputs, inputs, between)
