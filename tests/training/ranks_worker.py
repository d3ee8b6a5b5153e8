"""One process of several: trains on its share of the labels and saves the weights.

    python ranks_worker.py RANK WORLD FOLDER METHOD:MODE[:groups] ...

World 1 trains on all of them. With ``groups`` two groups update on every batch, and the last
process breaks a loss and, a step later, a gradient.
"""

import dataclasses
import sys

import torch
from torch import distributed

from gnn_mtl.aggregation import AGGREGATORS
from gnn_mtl.datasets import planted
from gnn_mtl.graph import NeighborLoader
from gnn_mtl.nn import SAGE, LabelModel, Linear
from gnn_mtl.schedulers import Update
from gnn_mtl.training import (
    AggregatorHooks,
    Optimizers,
    Skipped,
    Train,
    group_updates,
    save_weights,
    train_step,
)

GROUPS = (Update((0, 1, 5), (1.0, 0.5, 1.0)), Update((2, 3, 4), (1.0, 2.0, 1.0)))


def main(rank, world, folder, cells):
    torch.set_num_threads(1)
    if world > 1:
        distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/store-{world}", rank=rank, world_size=world
        )
    for cell in cells:
        model, losses = trained(rank, world, *cell.split(":"))
        out = f"{folder}/{world}-{rank}-{cell.replace(':', '-')}.safetensors"
        save_weights(out, model)
        torch.save(losses, out + ".losses")
    if world > 1:
        distributed.destroy_process_group()


def broken_loss(forward):
    """The loss of task 2 is NaN."""
    column = torch.tensor([0.0, 0.0, torch.nan, 0.0, 0.0, 0.0])
    return lambda batch, tasks=None: forward(batch, tasks) + column[list(tasks or range(6))]


def broken_gradient(forward):
    """The gradient of task 3 is infinite."""
    return lambda batch, tasks=None: Break.apply(forward(batch))[:, list(tasks or range(6))]


class Break(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        grad = grad.clone()
        grad[:, 3] = torch.where(grad[:, 3] == 0, 0.0, torch.inf)
        return grad


def trained(rank, world, method, mode, several=""):
    graph = planted(200, num_tasks=6, num_groups=2, seed=1)
    torch.manual_seed(0)
    encoder = SAGE(hidden_channels=8, norm="layer", dropout=0.0).build(graph.num_features)
    model = LabelModel(encoder, Linear().build(8, graph.num_tasks))
    optimizers = Optimizers(model, Train(lr=0.02))
    hooks = None
    if method != "none":
        hooks = AggregatorHooks(AGGREGATORS[method]().build(graph.num_tasks, seed=5), mode=mode)
    loader = NeighborLoader(graph, num_neighbors=[5, 5], batch_size=40, seed=1)
    losses, skipped, forward = [], Skipped(), model.forward
    for step in range(4):
        batch = loader.batch(0, step % len(loader))
        mine = torch.arange(batch.batch_size) % world == rank
        observed = batch.observed & mine[:, None]
        observed[:, 5] &= rank == world - 1  # only one process has labels of task 5
        if world == 1:
            observed = batch.observed & mine[:, None]
            observed[:, 5] &= torch.arange(batch.batch_size) % 2 == 1
        batch = dataclasses.replace(batch, observed=observed)
        if several:
            model.forward = forward
            if rank == world - 1 and step in (1, 2):
                model.forward = (broken_loss if step == 1 else broken_gradient)(forward)
            made = group_updates(
                model, batch, GROUPS, optimizers, hooks=hooks, step=step, after_last=True,
                skipped=skipped,
            )  # fmt: skip
            losses += [
                (live, row.tolist()) for live, row in zip(made.live, made.losses[:-1], strict=True)
            ]
            losses.append((dict(skipped.losses), made.losses[-1].tolist()))
            continue
        tasks = (0, 1, 2, 5) if step % 2 else (1, 3, 4)
        done, values = train_step(model, batch, tasks, optimizers, hooks=hooks, step=step)
        losses.append((done, values.tolist()))
    return model, losses


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
