"""A small graph with conflicting labels, small budgets, and what makes two runs equal."""

import json
import signal

import numpy as np
import pytest
from safetensors.numpy import load_file

from gnn_mtl.datasets import planted, save_npz
from gnn_mtl.nn import SAGE
from gnn_mtl.records import RunWriter, read_run
from gnn_mtl.runs import Features, RunConfig, train
from gnn_mtl.training import Train

CLOCKS = ("seconds", "refresh_seconds", "eval_seconds", "peak_rss_mb", "inference_ms_per_1k_nodes")


@pytest.fixture(scope="session")
def graph():
    """240 nodes, 6 tasks in 2 opposed groups."""
    return planted(
        240, num_tasks=6, num_groups=2, num_features=8, conflict=1.0, prevalence=(0.2, 0.4), seed=1
    )


@pytest.fixture(scope="session")
def dataset(graph, tmp_path_factory):
    """The path of that graph."""
    path = tmp_path_factory.mktemp("data") / "opposed.npz"
    save_npz(graph, path)
    return str(path)


@pytest.fixture(scope="session")
def quick(dataset):
    """Return a function from changes to a ``RunConfig`` of 4 epochs of 3 steps."""

    def make(**changes):
        train = {
            "epochs": 4, "batch_size": 48, "num_neighbors": (4, 3), "eval_every": 2,
            "warmup_steps": 2, "num_workers": 0, "device": "cpu", "probe_batch_size": 96,
            "log_every": 1, "checkpoint_seconds": 0.0,
        }  # fmt: skip
        train |= changes.pop("train", {})
        options = {
            "dataset": dataset, "encoder": SAGE(hidden_channels=8),
            "features": Features(dim=4), "train": Train(**train),
        }  # fmt: skip
        return RunConfig(**(options | changes))

    return make


@pytest.fixture(scope="session")
def straight(tmp_path_factory):
    """Return a function from a configuration to the folder of its uninterrupted run."""
    folders = {}

    def folder(config):
        if config not in folders:
            folders[config] = train(config, tmp_path_factory.mktemp("straight") / "run").path
        return folders[config]

    return folder


@pytest.fixture
def at_step(monkeypatch):
    """Return a function that makes something happen once, when a training logs its n-th row."""

    def arrange(number, happen):
        log, seen = RunWriter.log_train, []

        def watch(self, **row):
            log(self, **row)
            seen.append(row)
            if len(seen) == number:
                happen()

        monkeypatch.setattr(RunWriter, "log_train", watch)

    return arrange


@pytest.fixture(scope="session")
def terminate():
    """Send this process SIGTERM."""
    return lambda: signal.raise_signal(signal.SIGTERM)


def without_clocks(value):
    if isinstance(value, dict):
        return {k: without_clocks(v) for k, v in value.items() if k not in CLOCKS}
    return [without_clocks(item) for item in value] if isinstance(value, list) else value


def content(folder):
    """Everything a run folder says but the clock: texts, weights, affinities."""
    found = {}
    for name in ("config.json", "summary.json"):
        found[name] = without_clocks(json.loads((folder / name).read_text()))
    for name in ("metrics.jsonl", "groupings.jsonl"):
        lines = (folder / name).read_text().splitlines()
        found[name] = [without_clocks(json.loads(line)) for line in lines]
    for file in sorted(folder.rglob("*.safetensors")):
        found[str(file.relative_to(folder))] = load_file(file)
    for file in sorted(folder.glob("affinity/*.npz")):
        with np.load(file) as arrays:
            found[f"affinity/{file.name}"] = dict(arrays)
    return found


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    return a == b


@pytest.fixture(scope="session")
def assert_same_run():
    """Return a function that compares two run folders, bit for bit but for the clock."""

    def check(one, other, *, but=()):
        one, other = content(one), content(other)
        assert one.keys() == other.keys()
        differ = [name for name in one if not same(one[name], other[name])]
        assert differ == list(but)

    return check


@pytest.fixture(scope="session")
def rows():
    """Return a function that reads a run and its logged rows of one kind."""
    return lambda folder, kind: list(getattr(read_run(folder), kind))
