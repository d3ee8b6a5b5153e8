"""A small model and a small budget."""

import pytest
import torch

from gnn_mtl.nn import SAGE, LabelModel, Linear
from gnn_mtl.training import Train


@pytest.fixture(scope="session")
def new_model():
    """Return a function that builds the same untrained model at every call."""

    def make(seed=0, *, norm="batch", dropout=0.3, head=None, num_tasks=5, in_channels=6):
        torch.manual_seed(seed)
        encoder = SAGE(hidden_channels=8, norm=norm, dropout=dropout).build(in_channels)
        return LabelModel(encoder, (head or Linear()).build(8, num_tasks))

    return make


@pytest.fixture(scope="session")
def budget():
    """Return a function from changes to a ``Train`` of 3 epochs of 4 steps."""

    def make(**changes):
        options = {
            "epochs": 3, "batch_size": 10, "num_neighbors": (3, 2), "eval_every": 1,
            "patience": None, "warmup_steps": 2, "num_workers": 0, "device": "cpu",
            "probe_batch_size": 20, "log_every": 1,
        }  # fmt: skip
        return Train(**(options | changes))

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
