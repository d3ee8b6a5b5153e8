"""What all rooms share: one thread, fixed seeds, tiny graphs, budgets and command lines."""

import functools
import os
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import settings

from gnn_mtl.datasets import TaskGraph, planted, save_npz
from gnn_mtl.graph import CSCGraph

# The same examples in every run, so that a change is judged by itself; HYPOTHESIS_PROFILE=default
# looks for new ones.
settings.register_profile("same", derandomize=True, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
torch.set_num_threads(1)
# Also fills uninitialised memory with NaN, so that reading it shows; CUDA lacks kernels for this.
torch.use_deterministic_algorithms(not torch.cuda.is_available())


def pytest_configure(config):
    # torch 2.13 deprecates what PyG 2.8 does when it is imported; nothing here can change that.
    for call in ("script", "script_method"):
        config.addinivalue_line(
            "filterwarnings", f"ignore:.torch.jit.{call}. is deprecated:DeprecationWarning"
        )


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Downloads, conversions and features of the tests leave the user's cache alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GNN_MTL_DATA", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def random_edges(num_nodes, num_edges, seed, *, loops=True):
    """Random (source, target) pairs; the last two nodes stay isolated."""
    edges = np.random.default_rng(seed).integers(0, max(1, num_nodes - 2), size=(2, num_edges))
    return edges if loops else edges[:, edges[0] != edges[1]]


@pytest.fixture(scope="session")
def make_csc():
    """Return a function that draws a small ``CSCGraph`` with isolated nodes."""

    def make(num_nodes=40, num_edges=160, *, seed=0, loops=True, **options):
        return CSCGraph.from_edge_index(
            random_edges(num_nodes, num_edges, seed, loops=loops), num_nodes, **options
        )

    return make


@pytest.fixture(scope="session")
def make_graph():
    """Return a function that draws a small ``TaskGraph``.

    A tenth of the labels is missing, two nodes are isolated, and the labels follow from features
    of the node and its neighbours, so that a network can learn them.
    """

    def make(
        num_nodes=60, num_tasks=5, num_features=6, *, num_edges=150, edge_channels=0, missing=0.1,
        seed=0, loops=False, **options,
    ):  # fmt: skip
        rng = np.random.default_rng(seed)
        edges = random_edges(num_nodes, num_edges, seed, loops=loops)
        x = rng.standard_normal((num_nodes, num_features)).astype(np.float32)
        mixed = x.copy()
        np.add.at(mixed, edges[1], 0.5 * x[edges[0]])
        scores = mixed @ rng.standard_normal((num_features, num_tasks))
        y = (scores > np.quantile(scores, 0.6, axis=0)).astype(np.float64)
        y[rng.random(y.shape) < missing] = np.nan
        order = rng.permutation(num_nodes)
        cuts = [num_nodes * 6 // 10, num_nodes * 8 // 10]
        split = dict(zip(("train", "valid", "test"), np.split(order, cuts), strict=True))
        edge_attr = rng.random((edges.shape[1], edge_channels)) if edge_channels else None
        return TaskGraph.from_arrays(
            edges, y, x=x, edge_attr=edge_attr, **({"split": split, "name": "tiny"} | options)
        )

    return make


@pytest.fixture(scope="session")
def tiny(make_graph):
    """60 nodes, 5 tasks, 6 features."""
    return make_graph()


@pytest.fixture(scope="session")
def observed():
    """Return a function from rows to the object that schedules and averages take."""

    def make(rows, tasks=None, valid=None):
        rows = torch.as_tensor(rows)
        return SimpleNamespace(
            tasks=tuple(range(len(rows))) if tasks is None else tuple(tasks),
            jacobian=rows,
            valid=torch.ones(len(rows), dtype=torch.bool) if valid is None else valid,
        )

    return make


@pytest.fixture(scope="session")
def budget():
    """Return a function from changes to a ``Train`` of 3 epochs of 4 steps."""

    from gnn_mtl.training import Train

    def make(**changes):
        options = {
            "epochs": 3, "batch_size": 10, "num_neighbors": (3, 2), "eval_every": 1,
            "patience": None, "warmup_steps": 2, "num_workers": 0, "device": "cpu",
            "probe_batch_size": 20, "log_every": 1,
        }  # fmt: skip
        return Train(**(options | changes))

    return make


@pytest.fixture(scope="session", autouse=True)
def _versions_once():
    """Every manifest lists the installed versions; look each up once, a quarter of a tiny run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metadata, "version", functools.cache(metadata.version))
        yield


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cli(capsys):
    """Return a function that runs a command line and gives back its exit code and what it said."""

    from gnn_mtl.cli import main

    def run(*argv):
        try:
            code = main([str(argument) for argument in argv])
        except SystemExit as stop:  # tyro's way out of --help and of usage errors
            code = stop.code
        said = capsys.readouterr()
        return SimpleNamespace(code=code, out=said.out, err=said.err, folder=Path.cwd())

    return run


@pytest.fixture(scope="session")
def stored(tmp_path_factory):
    """240 nodes, 6 tasks in 2 opposed groups, as a file."""
    path = tmp_path_factory.mktemp("data") / "opposed.npz"
    graph = planted(
        240, num_tasks=6, num_groups=2, num_features=8, conflict=1.0, prevalence=(0.2, 0.4), seed=1
    )
    save_npz(graph, path)
    return path
