"""``bench epoch``: training on the same batches, ours against PyG's layers in two ways."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from gnn_mtl._core.threads import one_thread
from gnn_mtl.benchmarks._measure import interleaved, result
from gnn_mtl.datasets import planted
from gnn_mtl.graph import MiniBatch, NeighborLoader
from gnn_mtl.nn import LabelModel, LinearHeads, SAGEEncoder, masked_bce

HIDDEN, FEATURES = 256, 128


def run(*, quick: bool = False) -> dict[str, Any]:
    """Train a two-layer GraphSAGE from equal weights on equal batches with Adam.

    ``pyg``: ``SAGEConv`` with ``trim_to_layer`` on the sampled subgraph; ``pyg_bipartite``: these
    layers called as ``conv((x, x[:n]), edge_index)`` on our blocks; ``ours``: fused aggregation.
    Sampling and gathering are the same for all and not timed; one thread, so that CPU time is work
    and not waiting; who goes first changes from step to step.
    """
    nodes, edges, tasks, batch_size = (
        (20_000, 300_000, 16, 256) if quick else (200_000, 3_400_000, 112, 1024)
    )
    steps = 6 if quick else 50
    graph = planted(nodes, edges, tasks, 4, num_features=FEATURES, seed=0)
    loader = NeighborLoader(
        graph, "train", num_neighbors=[10, 10], batch_size=batch_size, num_workers=0, seed=0
    )
    encoder = SAGEEncoder(FEATURES, HIDDEN, 2, norm="none", dropout=0.0)
    ours = LabelModel(encoder, LinearHeads(HIDDEN, tasks))
    models: dict[str, nn.Module] = {
        "ours": ours,
        "pyg": _PyGModel(ours, trim=True),
        "pyg_bipartite": _PyGModel(ours, trim=False),
    }
    optimizers = {name: torch.optim.Adam(m.parameters(), lr=1e-3) for name, m in models.items()}
    losses: dict[str, list[float]] = {name: [] for name in models}
    batch = [loader.batch(0, 0)]

    def step(name: str) -> Callable[[int], None]:
        def work(_repeat: int) -> None:
            loss = masked_bce(models[name](batch[0]), batch[0].y, batch[0].observed).mean()
            optimizers[name].zero_grad()
            loss.backward()
            optimizers[name].step()
            losses[name].append(float(loss.detach()))

        return work

    candidates = {name: step(name) for name in models}
    totals = {name: {"cpu_s": 0.0, "wall_s": 0.0} for name in models}
    with one_thread():
        for number in range(steps):
            batch[0] = loader.batch(number // len(loader), number % len(loader))
            for name, times in interleaved(candidates, 1, first=number).items():
                if number > 0:  # the first step warms up
                    totals[name]["cpu_s"] += times["cpu_s"]
                    totals[name]["wall_s"] += times["wall_s"]
    difference = max(
        abs(a - b)
        for other in ("pyg", "pyg_bipartite")
        for a, b in zip(losses["ours"], losses[other], strict=True)
    )
    rows = [
        {
            "model": name,
            "cpu_ms_per_step": 1e3 * total["cpu_s"] / (steps - 1),
            "wall_ms_per_step": 1e3 * total["wall_s"] / (steps - 1),
            "first_loss": losses[name][0],
            "last_loss": losses[name][-1],
        }
        for name, total in totals.items()
    ]
    base = totals["ours"]["cpu_s"]
    ratios = {
        "over_pyg": totals["pyg"]["cpu_s"] / base,
        "over_pyg_bipartite": totals["pyg_bipartite"]["cpu_s"] / base,
        "loss_curve_max_diff": difference,
    }
    return result("epoch", ratios, rows)


class _PyGModel(nn.Module):
    """The same network from PyG's ``SAGEConv`` with copied weights."""

    def __init__(self, ours: LabelModel, *, trim: bool) -> None:
        super().__init__()
        from torch_geometric.nn import SAGEConv

        self.trim = trim
        widths = [FEATURES, HIDDEN, HIDDEN]
        self.convs = nn.ModuleList(SAGEConv(a, b) for a, b in pairwise(widths))
        self.heads = nn.Linear(HIDDEN, ours.num_tasks)
        for conv, mine in zip(self.convs, ours.encoder.convs, strict=True):  # type: ignore[arg-type]
            conv.load_state_dict(mine.state_dict())
        self.heads.load_state_dict(ours.heads.state_dict())

    def forward(self, batch: MiniBatch) -> Tensor:
        x = batch.x
        if not self.trim:
            for conv, block in zip(self.convs, batch.blocks, strict=True):
                x = conv((x, x[: block.num_dst]), block.edge_index).relu()
            return self.heads(x)
        from torch_geometric.utils import trim_to_layer

        edge_index = batch.edge_index
        sizes = [block.num_dst for block in reversed(batch.blocks)] + [batch.blocks[0].num_src]
        nodes = [sizes[0]] + [b - a for a, b in pairwise(sizes)]
        counts = [block.num_edges for block in reversed(batch.blocks)]
        edges = [counts[0]] + [b - a for a, b in pairwise(counts)]
        for index, conv in enumerate(self.convs):
            x, edge_index, _ = trim_to_layer(index, nodes, edges, x, edge_index)
            x = conv(x, edge_index).relu()
        return self.heads(x[: batch.batch_size])
