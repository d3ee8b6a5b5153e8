"""A small model, its batch, and gradients and command lines as the other folders have them."""

import ast
import functools
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gnn_mtl.cli import main
from gnn_mtl.datasets import planted, save_npz
from gnn_mtl.graph import NeighborLoader
from gnn_mtl.nn import SAGE, LabelModel, Linear
from gnn_mtl.training import Train

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
def observed():
    """Return a function from rows to the object that schedules take."""

    def make(rows, tasks=None, valid=None):
        rows = torch.as_tensor(rows, dtype=torch.float32)
        return SimpleNamespace(
            tasks=tuple(range(len(rows))) if tasks is None else tuple(tasks),
            jacobian=rows,
            valid=torch.ones(len(rows), dtype=torch.bool) if valid is None else valid,
        )

    return make


@pytest.fixture(scope="session")
def budget():
    """Return a function from changes to a ``Train`` of 3 epochs of 4 steps."""

    def make(**changes):
        options = {
            "epochs": 3, "batch_size": 10, "num_neighbors": (3, 2), "eval_every": 1,
            "patience": None, "warmup_steps": 0, "num_workers": 0, "device": "cpu",
            "probe_batch_size": 20, "log_every": 1,
        }  # fmt: skip
        return Train(**(options | changes))

    return make


@pytest.fixture(scope="session", autouse=True)
def _versions_once():
    """Every manifest lists the installed versions; look each up once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metadata, "version", functools.cache(metadata.version))
        yield


@pytest.fixture
def cli(capsys, tmp_path, monkeypatch):
    """Return a function that runs a command line in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        try:
            code = main([str(argument) for argument in argv])
        except SystemExit as stop:  # tyro's way out of usage errors
            code = stop.code
        said = capsys.readouterr()
        return SimpleNamespace(code=code, out=said.out, err=said.err, folder=tmp_path)

    return run


@pytest.fixture(scope="session")
def stored(tmp_path_factory):
    """240 nodes, 6 tasks in 2 opposed groups, as a file."""
    path = tmp_path_factory.mktemp("bugs") / "opposed.npz"
    graph = planted(
        240, num_tasks=6, num_groups=2, num_features=8, conflict=1.0, prevalence=(0.2, 0.4), seed=1
    )
    save_npz(graph, path)
    return path


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
