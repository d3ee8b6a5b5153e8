"""Gradients as the gradients room hands them over, small models and batches, golden tasks."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from gnn_mtl.graph import NeighborLoader
from gnn_mtl.nn import SAGE, LabelModel, Linear


@pytest.fixture(scope="session")
def make_model():
    """Return a function that builds a float64 model with dropout and a batch norm that acts."""

    def make(num_tasks=5, encoder=None, seed=0):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = SAGE(hidden_channels=8, dropout=0.5) if encoder is None else encoder
            model = LabelModel(config.build(6), Linear().build(8, num_tasks)).double()
            for name, buffer in model.named_buffers():
                if "running" in name:
                    buffer.uniform_(*((0.5, 1.5) if "var" in name else (-0.2, 0.2)))
        return model

    return make


@pytest.fixture(scope="session")
def make_batches(make_graph):
    """Return a function that draws float64 batches; columns may be reordered or hidden."""

    def make(num_tasks=5, *, batch_size=12, order=None, hidden=(), hops=2, seed=5):
        graph = make_graph(60, num_tasks, seed=seed)
        loader = NeighborLoader(
            graph, num_neighbors=[3] * hops, batch_size=batch_size, num_workers=0
        )
        found = []
        for batch in loader.epoch_batches(0):
            observed = batch.observed.clone()
            observed[:, list(hidden)] = False
            y = torch.where(observed, batch.y, torch.nan)
            if order is not None:
                y, observed = y[:, order], observed[:, order]
            found.append(replace(batch, x=batch.x.double(), y=y, observed=observed))
        return found

    return make


@pytest.fixture(scope="session")
def quadratics():
    """The three tasks L_i = .5 |s - c_i|^2 + .5 (h_i - 1)^2 at s = h = 0, step .1."""
    centers = torch.tensor([[1.0, 0.0], [1.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)

    def losses(shared, heads):
        return 0.5 * ((shared - centers) ** 2).sum(1) + 0.5 * (heads - 1) ** 2

    return SimpleNamespace(
        losses=losses, centers=centers, shared=torch.zeros(2, dtype=torch.float64),
        heads=torch.zeros(3, dtype=torch.float64), jacobian=-centers, lr=0.1,
    )  # fmt: skip
