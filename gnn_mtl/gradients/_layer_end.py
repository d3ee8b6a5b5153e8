r"""The Gramian of a last layer as a forward pass left it, without rows where heads are linear.

With linear heads of weights W, gates C (derivatives of the representations by the norm's output)
and the maps' inputs X the gradients by unit h of the maps are

.. math:: w_{th} \frac{\gamma_h}{\sigma_h} (r_t \circ c_h)^\top P_h X, \qquad
          P_h = I - \frac{1}{B} 1 1^\top - \frac{1}{B} \hat z_h \hat z_h^\top,

where P_h and the factor before it are the derivative of a batch norm in training mode. Only nodes
that switch the unit on are read, and what a unit adds to the Gramian is added before the next one
is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gnn_mtl.linalg import add_gramian
from gnn_mtl.nn import LabelModel, LinearHeads

CHUNK_BYTES = 8 << 20
Reduce = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class BatchStatistics:
    """A batch norm in training mode: its normalised input ``[B, O]`` and its slope ``[O]``."""

    normalised: Tensor
    slope: Tensor

    def back(self, y: Tensor) -> Tensor:
        """Return the derivatives ``[c, B, O]`` by its input from those by its output, in place."""
        along = (y * self.normalised).mean(dim=1, keepdim=True)
        return y.sub_(y.mean(dim=1, keepdim=True)).sub_(self.normalised * along).mul_(self.slope)


@dataclass(frozen=True, eq=False)
class Between:
    """What lies between the sum of the maps and h: a batch norm or none, then gates ``[B, O]``."""

    gates: Tensor
    norm: BatchStatistics | None


@dataclass(frozen=True, eq=False)
class LayerEnd:
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
    between: Between | None

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
            h = full(self.h)
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


def between_of(
    h: Tensor, outputs: list[Tensor], norms: Sequence[tuple[nn.Module, Tensor, Tensor]]
) -> Between | None:
    """Return the closed form of an encoder that is elementwise in evaluation mode, or None."""
    uses_batch = [
        (norm, x, y)
        for norm, x, y in norms
        if (norm.training or norm.running_mean is None) and len(x) > 1
    ]
    if h.shape != outputs[0].shape or len(uses_batch) > 1:
        return None
    if not uses_batch:
        (gates,) = torch.autograd.grad(h.sum(), outputs[:1], retain_graph=True)
        return Between(full(gates), None)
    norm, x, y = uses_batch[0]
    if not isinstance(norm, nn.BatchNorm1d) or x.shape != outputs[0].shape:
        return None
    for one in torch.autograd.grad(x.sum(), outputs, retain_graph=True):
        if not bool((one == 1).all()):
            return None
    (gates,) = torch.autograd.grad(h.sum(), y, retain_graph=True)
    z = full(x)
    variance, mean = torch.var_mean(z, dim=0, correction=0)
    slope = (variance + norm.eps).rsqrt()
    normalised = (z - mean) * slope
    if norm.weight is not None:
        slope = slope * norm.weight.detach()
    return Between(full(gates), BatchStatistics(normalised, slope))


def end_gramian(end: LayerEnd, memory_bytes: int, reduce: Reduce | None) -> Tensor:
    """Return the Gramian, float64 ``[S, S]``; NaN for tasks that are not finite.

    Args:
        end: The last layer.
        memory_bytes: Bound on the rows held at a time.
        reduce: See :meth:`LastLayerTap.gramian`; chunks do not depend on the data.
    """
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


def _rows(end: LayerEnd, units: slice) -> Tensor:
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


def _linear_gramian(end: LayerEnd, between: Between, weight: Tensor) -> Tensor:
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


def _unit_rows(residual: Tensor, x: Tensor, between: Between, units: slice) -> Iterator[Tensor]:
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


def full(x: Tensor) -> Tensor:
    """Return x detached, in float32 or better."""
    return x.detach().to(torch.promote_types(x.dtype, torch.float32))


def _largest(rows: Tensor) -> Tensor:
    """Largest entry of every row ``[S, *]``, 1 where that is 0 or NaN."""
    found = torch.linalg.vector_norm(rows, ord=torch.inf, dim=1)
    return torch.where(found > 0, found, torch.ones_like(found))
