"""A small model and a small budget."""

from types import SimpleNamespace

import pytest
import torch

from gnn_mtl.nn import SAGE, LabelModel, Linear
from gnn_mtl.schedulers import ColoringScheduler, JointScheduler, RandomGroupsScheduler


@pytest.fixture(scope="session")
def new_model():
    """Return a function that builds the same untrained model at every call."""

    def make(seed=0, *, norm="batch", dropout=0.3, head=None, num_tasks=5, in_channels=6):
        torch.manual_seed(seed)
        encoder = SAGE(hidden_channels=8, norm=norm, dropout=dropout).build(in_channels)
        return LabelModel(encoder, (head or Linear()).build(8, num_tasks))

    return make


@pytest.fixture(scope="session")
def assert_same_weights():
    """Return a function that compares two models' states bit for bit."""

    def check(one, other, *, equal=True):
        one, other = one.state_dict(), other.state_dict()
        assert one.keys() == other.keys()
        same = [torch.equal(one[name], other[name]) for name in one]
        assert all(same) if equal else not all(same)

    return check


@pytest.fixture(scope="session")
def new_schedule():
    """Return a function from a name to a fresh schedule of 5 tasks; windows are 5 steps long."""

    def make(name):
        if name == "random":
            return RandomGroupsScheduler(5, sizes=(3, 2), refresh_period=5, seed=3)
        if name == "coloring":
            return ColoringScheduler(5, refresh_period=5, tau=-0.2, ema_beta=0.5)
        return JointScheduler(5)

    return make


@pytest.fixture
def steps_seen(monkeypatch):
    """Watch every step; returns the list of its arguments, filled while ``fit`` runs."""
    import gnn_mtl.training._loop as loop

    original, seen = loop.train_step, []

    def watch(model, batch, tasks, optimizers, **options):
        before = [p.detach().clone() for p in model.head_parameters()]
        result = original(model, batch, tasks, optimizers, **options)
        seen.append(
            SimpleNamespace(
                model=model, batch=batch, tasks=tasks, options=options, before=before,
                after=[p.detach().clone() for p in model.head_parameters()], result=result,
            )
        )  # fmt: skip
        for hook in hooks:
            hook(len(seen))
        return result

    hooks = []
    monkeypatch.setattr(loop, "train_step", watch)
    return SimpleNamespace(list=seen, hooks=hooks)
