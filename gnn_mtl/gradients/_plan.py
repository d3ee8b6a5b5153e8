"""What to measure and how: one object that turns batches into rows, whatever the mode."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from gnn_mtl._core.cost import CostMeter
from gnn_mtl._core.errors import UsageError
from gnn_mtl.gradients._forward_mode import jvp_rows
from gnn_mtl.gradients._last_layer import last_layer_rows
from gnn_mtl.gradients._layered import is_layered, layered_rows
from gnn_mtl.gradients._losses import TaskLosses
from gnn_mtl.gradients._parts import Part, split, whole
from gnn_mtl.gradients._representation import representation_rows
from gnn_mtl.gradients._vjp import vjp_rows
from gnn_mtl.graph import MiniBatch, NeighborLoader
from gnn_mtl.linalg import count_sketch
from gnn_mtl.nn import ConvEncoder, LabelModel, MLPEncoder

ProbeMode = Literal[
    "last_layer",
    "last_layer_sketch",
    "full",
    "loop",
    "batched",
    "layered",
    "representation",
    "count_sketch",
    "jvp_sketch",
]
SKETCH_SEED = 20250916
SKETCH_DIMS = {"last_layer_sketch": 64, "count_sketch": 1024, "jvp_sketch": 256}
SKETCHED_BYTES = 64 << 20
NOT_BY_PARAMETER = ("last_layer_sketch", "representation", "count_sketch", "jvp_sketch")
Batches = MiniBatch | Iterable[MiniBatch]


@dataclass(frozen=True, eq=False)
class Plan:
    """The arguments of ``probe``, checked; see there."""

    model: LabelModel
    losses: TaskLosses
    mode: ProbeMode
    num_layers: int = 1
    sketch_dim: int | None = None
    scale: Mapping[Tensor, Tensor] | None = None
    chunk_size: int | None = None
    meter: CostMeter | None = None

    def __post_init__(self) -> None:
        if self.mode not in get_args(ProbeMode):
            raise UsageError(
                f"`mode` should be one of {list(get_args(ProbeMode))}. Found {self.mode!r}."
            )
        if not self.losses.tasks:
            raise UsageError("`tasks` should name at least one task. Found none.")
        if self.num_layers < 1 or (self.num_layers > 1 and self.mode != "last_layer"):
            raise UsageError(
                "`num_layers` should be at least 1, and belongs to mode 'last_layer'. "
                f"Found {self.num_layers} with {self.mode!r}."
            )
        if self.sketch_dim is not None and (self.sketch_dim < 1 or self.mode not in SKETCH_DIMS):
            raise UsageError(
                f"`sketch_dim` should be at least 1, and belongs to {list(SKETCH_DIMS)}. "
                f"Found {self.sketch_dim} with {self.mode!r}."
            )
        if self.scale is not None and self.mode in ("last_layer_sketch", "representation"):
            raise UsageError(
                f"`scale` needs rows by parameters. Found mode {self.mode!r}; use 'last_layer', "
                "'full' or a sketch of all parameters."
            )
        if self.mode == "layered" and not is_layered(self.model):
            raise UsageError(
                "Mode 'layered' covers SAGE and GCN encoders without layer norm and with nonzero "
                "batch norm weights. Found another model; use 'full', which falls back to 'loop'."
            )
        if self.mode not in ("representation", "last_layer_sketch") and not self.parameters():
            raise UsageError("The measured layers should have a trainable parameter. Found none.")

    @property
    def by_parameter(self) -> bool:
        """Whether columns belong to parameters and can be measured piece by piece."""
        return self.mode not in NOT_BY_PARAMETER

    def parameters(self) -> list[nn.Parameter]:
        """Return the trainable parameters the columns belong to."""
        if self.mode not in ("last_layer", "last_layer_sketch"):
            return self.model.shared_parameters()
        if self.num_layers == 1:
            found = self.model.encoder.final_parameters()
        else:
            found = _last_layers(self.model, self.num_layers)
        return [p for p in found if p.requires_grad]

    def groups(self, max_bytes: int | None) -> list[list[Part]]:
        """Return the columns in groups whose rows fit into ``max_bytes``; one if that is None."""
        parameters = self.parameters()
        if max_bytes is None or not self.by_parameter:
            return [whole(parameters)]
        size = parameters[0].element_size() * len(self.losses.tasks)
        return split(parameters, max(1, max_bytes // size))

    def rows(self, batch: MiniBatch, parts: Sequence[Part]) -> Tensor:
        """Return the rows ``[S, *]`` of each task's mean loss on one batch."""
        model, losses, meter = self.model, self.losses, self.meter
        if self.mode == "representation":
            return representation_rows(model, batch, losses, meter)
        if self.mode == "last_layer_sketch" and model.encoder.final_linears():
            dim = self.sketch_dim or SKETCH_DIMS["last_layer_sketch"]
            return last_layer_rows(model, batch, losses, parts, meter, sketch_dim=dim)
        if self.mode == "jvp_sketch":
            dim = self.sketch_dim or SKETCH_DIMS["jvp_sketch"]
            return jvp_rows(
                model, batch, losses, dim, meter,
                seed=SKETCH_SEED, scale=self.scale, chunk_size=self.chunk_size or 1,
            )  # fmt: skip
        if self.mode == "count_sketch":
            return self._count_sketch(batch)
        return self._exact(batch, parts)

    def _count_sketch(self, batch: MiniBatch) -> Tensor:
        """Exact rows of a few parameters at a time, folded as they come."""
        dim = self.sketch_dim or SKETCH_DIMS["count_sketch"]
        parameters = self.model.shared_parameters()
        size = parameters[0].element_size() * len(self.losses.tasks)
        out: Tensor | None = None
        offset = 0
        for parts in split(parameters, max(1, SKETCHED_BYTES // size)):
            rows = self._exact(batch, parts)
            out = count_sketch(rows, dim, seed=SKETCH_SEED, offset=offset, out=out)
            offset += rows.shape[1]
        assert out is not None  # noqa: S101
        return out

    def _exact(self, batch: MiniBatch, parts: Sequence[Part]) -> Tensor:
        model, losses, meter = self.model, self.losses, self.meter
        one_layer = self.mode.startswith("last_layer") and self.num_layers == 1
        if one_layer and model.encoder.final_linears():
            rows = last_layer_rows(model, batch, losses, parts, meter)
        elif self.mode not in ("loop", "batched") and is_layered(model):
            rows = layered_rows(model, batch, losses, parts, meter)
        else:
            automatic = self.mode != "loop" and batch.x.device.type == "cuda"
            rows = vjp_rows(
                model, batch, losses, parts, meter,
                batched=self.mode == "batched" or automatic, chunk_size=self.chunk_size,
            )  # fmt: skip
        if self.scale is not None:
            rows = rows * torch.cat(
                [part.of(self.scale[part.parameter][None]) for part in parts], 1
            )
        return rows


def _last_layers(model: LabelModel, num_layers: int) -> list[nn.Parameter]:
    """The maps of the last layers, norms aside; first layer first."""
    encoder = model.encoder
    layers: nn.ModuleList | None = None
    if isinstance(encoder, ConvEncoder):
        layers = encoder.convs
    elif isinstance(encoder, MLPEncoder):
        layers = encoder.linears
    if layers is None or num_layers > len(layers):
        found = f"{type(encoder).__name__} with {len(layers) if layers is not None else 1}"
        raise UsageError(
            f"`num_layers` should not exceed the layers the encoder declares. Found {num_layers} "
            f"for {found}; use mode 'full' for all shared parameters."
        )
    return [p for layer in layers[len(layers) - num_layers :] for p in layer.parameters()]


def passes(batches: Batches) -> Callable[[], Iterator[MiniBatch]]:
    """Return a function that yields the same batches at every call; an iterator is held."""
    if isinstance(batches, MiniBatch):
        return lambda: iter([batches])
    if isinstance(batches, NeighborLoader):  # its epoch stays as it is
        epoch = batches.epoch
        return lambda: batches.epoch_batches(epoch)
    if isinstance(batches, Iterator):
        held = list(batches)
        return lambda: iter(held)
    return lambda: iter(batches)


def total_rows(
    plan: Plan, batches: Iterable[MiniBatch], parts: Sequence[Part]
) -> tuple[Tensor, Tensor]:
    """Return the rows ``[S, P]`` of the batches taken as one, and their masses ``[K, S]``.

    Rows by representations belong to nodes: those of several batches stand side by side.
    """
    total: Tensor | None = None
    beside: list[Tensor] = []
    masses: list[Tensor] = []
    for batch in batches:
        weighted, mass = weighted_rows(plan, batch, parts)
        masses.append(mass)
        if plan.mode == "representation":
            beside.append(weighted)
        else:
            total = weighted if total is None else total.add_(weighted)
    if not masses:
        raise UsageError("`batches` should hold at least one batch. Found none.")
    stacked = torch.stack(masses)
    whole_rows = torch.cat(beside, dim=1) if total is None else total
    return whole_rows.div_(plan.losses.normalizer(stacked)[:, None]), stacked


def weighted_rows(plan: Plan, batch: MiniBatch, parts: Sequence[Part]) -> tuple[Tensor, Tensor]:
    """Return mass times row, 0 where nothing is observed, ``[S, P]``, and the masses ``[S]``."""
    mass = plan.losses.mass(batch)
    rows = plan.rows(batch, parts)
    seen = (mass > 0)[:, None]
    return torch.where(seen, rows * mass[:, None].to(rows.dtype), 0.0), mass
