"""A user's own PyG module as an encoder."""

from __future__ import annotations

import inspect

from torch import Tensor, nn

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.graph import MiniBatch
from gnn_mtl.nn._encoder import Encoder


class PyGEncoder(Encoder):
    """Wraps a module called as ``module(x, edge_index)`` or ``module(x, edge_index, edge_attr)``.

    The module sees the whole sampled subgraph and its rows for the seeds are kept, as with PyG's
    own ``NeighborLoader``; convolutions over bipartite blocks (our encoders) compute fewer rows.

    Args:
        module: Returns node representations ``[S, D]``.
        out_channels: Their width D.
        num_hops: Number of hops to sample: the number of its layers.
        final: The last shared layer, for gradients of that block; default: the last child that has
            parameters, looked for inside ``ModuleList`` and ``Sequential``.
    """

    def __init__(
        self, module: nn.Module, out_channels: int, num_hops: int, *, final: nn.Module | None = None
    ) -> None:
        super().__init__()
        if num_hops < 1 or out_channels < 1:
            raise UsageError(
                "`num_hops` and `out_channels` should be at least 1. "
                f"Found {num_hops} and {out_channels}."
            )
        self.module = module
        self.in_channels = -1
        self.out_channels = out_channels
        self.num_hops = num_hops
        self._final = (
            _last_layer(module) if final is None else final,
        )  # a tuple registers nothing
        signature = inspect.signature(module.forward)
        self._takes_edge_attr = "edge_attr" in signature.parameters

    def forward(self, batch: MiniBatch) -> Tensor:
        """Return representations ``[B, D]`` of the seeds."""
        if self._takes_edge_attr:
            out = self.module(batch.x, batch.edge_index, edge_attr=batch.edge_attr)
        else:
            out = self.module(batch.x, batch.edge_index)
        if out.dim() != 2 or len(out) < batch.batch_size or out.shape[1] != self.out_channels:
            raise ShapeError(
                f"The module should return [{len(batch.n_id)}, {self.out_channels}]. "
                f"Found {tuple(out.shape)}."
            )
        return out[: batch.batch_size]

    def final_linears(self) -> list[nn.Linear]:
        """Return nothing: how the module uses its maps is not known, so gradients go backward."""
        return []

    def final_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the last shared layer."""
        return [p for p in self._final[0].parameters() if p.requires_grad]


def _last_layer(module: nn.Module) -> nn.Module:
    """The last child with parameters; the module itself if it has no such child."""
    children = [child for child in module.children() if any(True for _ in child.parameters())]
    if not children:
        return module
    last = children[-1]
    return _last_layer(last) if isinstance(last, nn.ModuleList | nn.Sequential) else last
