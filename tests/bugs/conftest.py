"""A small model, its batch, and gradients and command lines as the other folders have them."""

import ast
import functools
from pathlib import Path

import pytest
import torch

from gnn_mtl.graph import NeighborLoader
from gnn_mtl.nn import SAGE, LabelModel, Linear

TESTS = Path(__file__).parents[1]


@functools.cache
def _functions(file):
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.fixture(scope="session")
def missing():
    """Return a function from ``"folder/file.py::test"`` names to those that do not exist."""

    def check(names):
        pairs = [name.split("::") for name in names]
        return [f"{file}::{test}" for file, test in pairs if test not in _functions(file)]

    return check


@pytest.fixture
def model():
    """A small model of five tasks without dropout."""
    torch.manual_seed(0)
    encoder = SAGE(hidden_channels=8, norm="batch", dropout=0.0).build(6)
    return LabelModel(encoder, Linear().build(8, 5))


@pytest.fixture
def batch(tiny):
    """Twenty of its training nodes."""
    return NeighborLoader(tiny, num_neighbors=[4, 4], batch_size=20, seed=1).batch(0, 0)


@pytest.fixture(scope="session")
def budget(budget):
    """The same without a warm-up of the learning rate."""
    return functools.partial(budget, warmup_steps=0)


@pytest.fixture
def cli(cli, here):
    """The same, in an empty folder."""
    return cli


FLAGS = {
    "--encoder.hidden-channels": 8, "--features.dim": 4, "--epochs": 4, "--batch-size": 48,
    "--device": "cpu", "--train.num-neighbors": 4, "--train.eval-every": 2,
    "--train.num-workers": 0, "--train.log-every": 1, "--train.probe-batch-size": 96,
}  # fmt: skip


@pytest.fixture
def train(cli, stored):
    """Return a function that trains twelve small steps; flags given come on top."""
    flags = [item for pair in FLAGS.items() for item in pair]

    def run(*more, dataset=stored):
        return cli("train", "--dataset", dataset, *flags, "--out", "run", *more)

    return run
