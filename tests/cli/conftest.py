"""The command line in this process, and a small dataset for it."""

import functools
from importlib import metadata
from types import SimpleNamespace

import pytest

from gnn_mtl.cli import main
from gnn_mtl.datasets import planted, save_npz

QUICK = {
    "--encoder.hidden-channels": 8, "--features.dim": 4, "--epochs": 4, "--batch-size": 48,
    "--device": "cpu", "--train.num-neighbors": 4, "--train.eval-every": 2,
    "--train.num-workers": 0, "--train.log-every": 1, "--train.probe-batch-size": 96,
    "--train.checkpoint-seconds": 0,
}  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def _versions_once():
    """Every manifest lists the installed versions; look each up once, a quarter of a tiny run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metadata, "version", functools.cache(metadata.version))
        yield


@pytest.fixture
def cli(capsys):
    """Return a function that runs a command line and gives back its exit code and what it said."""

    def run(*argv):
        try:
            code = main([str(argument) for argument in argv])
        except SystemExit as stop:  # tyro's way out of --help and of usage errors
            code = stop.code
        said = capsys.readouterr()
        return SimpleNamespace(code=code, out=said.out, err=said.err)

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


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def quick_flags():
    """Flags for twelve small steps."""
    return [str(item) for pair in QUICK.items() for item in pair]


@pytest.fixture
def train(cli, stored, quick_flags):
    """Return a function that trains twelve steps; flags given come on top."""

    def run(*flags):
        return cli("train", "--dataset", stored, *quick_flags, *flags)

    return run
