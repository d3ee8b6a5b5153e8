"""Models and batches of every kind, in float64."""

import numpy as np
import pytest
import torch

from gnn_mtl.graph import MiniBatch, NeighborLoader
from gnn_mtl.nn import GCN, GIN, MLP, SAGE, SIGN, GATv2, LabelModel, Linear, MLPHead

ENCODERS = {c.kind: c for c in (SAGE, GCN, GIN, GATv2, SIGN, MLP)}
HEADS = {"linear": Linear(), "mlp head": MLPHead(hidden_channels=16)}
WIDTH = 8


@pytest.fixture(scope="session")
def make_model():
    """Return a function that builds a float64 model of 5 tasks whose buffers are not trivial."""

    def make(encoder="sage", head="linear", norm="batch"):
        config = ENCODERS[encoder](hidden_channels=WIDTH, norm=norm, dropout=0.5)
        model = LabelModel(config.build(6), HEADS[head].build(WIDTH, 5)).double()
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.uniform_(*((0.5, 1.5) if "var" in name else (-0.2, 0.2)))
        return model

    return make


@pytest.fixture(scope="session")
def make_batch(make_graph):
    """Return a function that draws a float64 batch; task 3 is unobserved, its targets NaN."""
    graph = make_graph(60, seed=5)

    def make(num_hops=2, *, seeds=None, split="train"):
        seeds = graph.split_idx[split] if seeds is None else seeds
        batch = NeighborLoader(
            graph, split, num_neighbors=[3] * num_hops, batch_size=1000, input_nodes=seeds,
            shuffle=False,
        ).batch(0, 0)  # fmt: skip
        observed = batch.observed.clone()
        observed[:, 3] = False
        y = torch.where(observed, batch.y, torch.nan)
        return MiniBatch(batch.n_id, batch.batch_size, batch.x.double(), batch.blocks, y, observed)

    return make


def reference(model, batch, parameters, tasks, pos_weight=None):
    """One plain backward pass per task through a loss written out anew; ``[S, P]``."""
    model.eval()
    rows = []
    for task in tasks:
        seen = batch.observed[:, task]
        z, y = model(batch)[seen, task], batch.y[seen, task]
        weight = 1.0 if pos_weight is None else float(pos_weight[task])
        loss = -(weight * y * z.sigmoid().log() + (1 - y) * (1 - z.sigmoid()).log())
        loss = loss.mean() if len(loss) else 0.0 * model(batch).sum()
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        grads = [
            torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads, strict=True)
        ]
        rows.append(torch.cat([g.flatten() for g in grads]))
    return torch.stack(rows)


@pytest.fixture(scope="session")
def oracle():
    """Return the plain loop over tasks."""
    return reference


@pytest.fixture
def snapshot():
    """Return a function that copies everything a measurement must not touch."""

    def take(model):
        return {
            "state": {name: value.clone() for name, value in model.state_dict().items()},
            "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
            "grad ids": [id(p.grad) for p in model.parameters()],
            "modes": [module.training for module in model.modules()],
            "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
            "rng": torch.get_rng_state().clone(),
            "numpy": np.random.get_state()[1].copy(),  # noqa: NPY002
        }

    return take


def flat(value):
    if isinstance(value, dict):
        return [item for v in value.values() for item in flat(v)]
    if isinstance(value, list):
        return [item for v in value for item in flat(v)]
    return [value]


@pytest.fixture
def assert_equal_snapshots():
    """Return a function that compares two of them bit for bit."""

    def check(one, other):
        for a, b in zip(flat(one), flat(other), strict=True):
            if isinstance(a, torch.Tensor | np.ndarray):
                assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))
            else:
                assert a == b

    return check
