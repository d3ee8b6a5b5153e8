"""From trained subsets to separate models by the command line; any stage can be taken up again."""

import json
import signal

import numpy as np
import pytest

from gnn_mtl.datasets import planted, save_npz
from gnn_mtl.records import read_run
from gnn_mtl.runs import RunConfig
from gnn_mtl.runs import _subset_oracle as oracle_module
from gnn_mtl.schedulers import Separate
from gnn_mtl.tasks import Affinity, Grouping, SubsetTable

TRAINED = ("--method", "trained", "--subset-size", "3", "--num-subsets", "6")


@pytest.fixture
def joint(train, here):
    """A joint run in runs/joint."""
    assert train("--out", "runs/joint").code == 0
    return "runs/joint"


@pytest.fixture
def trainings(monkeypatch):
    """The subsets trained so far; ``trainings.stop_at = n`` sends SIGINT in the n-th."""

    class Trainings(list):
        stop_at = None

    seen, real = Trainings(), oracle_module._Worker.train

    def watch(self, tasks, seed):
        seen.append((tasks, seed))
        if len(seen) == seen.stop_at:
            signal.raise_signal(signal.SIGINT)
        return real(self, tasks, seed)

    monkeypatch.setattr(oracle_module._Worker, "train", watch)
    return seen


def test_from_trained_subsets_to_separate_models(cli, joint, here, trainings):
    trainings.stop_at = 3
    said = cli("affinity", joint, *TRAINED, "--table", "t.npz", "--out", "a.npz")
    assert said.code == 130
    assert "2 of 6 trainings are kept" in said.err
    assert not (here / "t.npz").exists()
    said = cli("affinity", joint, *TRAINED, "--table", "t.npz", "--out", "a.npz")
    assert said.code == 0
    assert len(trainings) == 7
    assert len(set(trainings)) == 6
    table = SubsetTable.load(here / "t.npz")
    assert (table.source, table.num_subsets, set(table.masks.sum(axis=1))) == ("trained", 6, {3})

    assert cli("affinity", "t.npz", "--method", "higher_order", "--out", "b.npz").code == 0
    first, second = Affinity.load(here / "a.npz"), Affinity.load(here / "b.npz")
    np.testing.assert_array_equal(first.values, second.values)
    assert len(trainings) == 7

    said = cli("group", "a.npz", "--method", "sdp", "--num-groups", "2", "--out", "g.json")
    assert said.code == 0
    groups = Grouping.load(here / "g.json").groups

    # --scheduler.base brings the network along: no other flag is needed.
    flags = ("--scheduler.kind", "separate", "--groups", "g.json")
    tuned = ("--scheduler.init", "base", "--scheduler.base", joint, "--name", "tuned")
    assert cli("train", *flags, *tuned, "--out", "runs/tuned").code == 0
    config = RunConfig.load("runs/tuned")
    assert config.encoder == RunConfig.load(joint).encoder
    assert config.scheduler == Separate(groups=groups, init="base", base=joint)
    run = read_run("runs/tuned", finished=True)
    assert run.summary.cost["inference_forwards"] == len(groups)
    assert sorted(set(run.summary.extra["served_by"])) == list(range(len(groups)))

    said = cli("compare", "runs", "--markdown", "--report", "all.html")
    assert said.code == 0
    assert "| tuned" in said.out
    assert "tuned" in (here / "all.html").read_text(encoding="utf-8")
    assert cli("report", "runs", "--out", "page.html").code == 0


def test_separate_models_are_resumed(cli, train, here, monkeypatch):
    from gnn_mtl.records import RunWriter

    Grouping.of([[0, 1, 2], [3, 4], [5]], 6).save(here / "g.json")
    flags = ("--scheduler.kind", "separate", "--groups", "g.json")
    assert train(*flags, "--out", "runs/whole").code == 0
    log, rows = RunWriter.log_train, []

    def watch(self, **row):
        log(self, **row)
        rows.append(row)
        if len(rows) == 17:  # the fifth step of the second model
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(RunWriter, "log_train", watch)
        assert train(*flags, "--out", "runs/part").code == 143
    assert rows[-1]["task"] == 1
    (here / "g.json").unlink()  # the run knows its groups
    assert cli("train", "runs/part", "--resume").code == 0
    whole, part = (json.loads((here / "runs" / n / "summary.json").read_text())
                   for n in ("whole", "part"))  # fmt: skip
    for name in ("per_label", "test", "valid", "served_by", "best_step"):
        assert whole[name] == part[name]
    assert whole["cost"]["steps"] == part["cost"]["steps"] == 36


def test_what_is_refused(cli, train, joint, here, quick_flags):
    Grouping.of([[0, 1, 2], [3, 4], [5]], 6).save(here / "g.json")
    cases = {
        "needs its groups": ("--scheduler.kind", "separate"),
        "separate models": ("--scheduler.kind", "coloring", "--groups", "g.json"),
        "init='base'": ("--scheduler.kind", "separate", "--groups", "g.json", "--scheduler.init",
                        "base"),
        "belongs to": ("--groups", "g.json", "--scheduler.init", "base"),
        "differs in encoder": (
            "--scheduler.kind", "separate", "--groups", "g.json", "--scheduler.init", "base",
            "--scheduler.base", joint, "--encoder.hidden-channels", "9",
        ),
    }  # fmt: skip
    for message, flags in cases.items():
        said = train(*flags, "--out", "runs/no") if "differs" not in message else cli(
            "train", *flags, "--out", "runs/no"
        )  # fmt: skip
        assert (said.code, message in said.err) == (2, True), (message, said.err)
    other = planted(240, num_tasks=6, num_features=8, prevalence=(0.2, 0.4), seed=2)
    save_npz(other, here / "other.npz")
    said = cli(
        "train", "--dataset", "other.npz", *quick_flags, "--scheduler.kind", "separate",
        "--groups", "g.json", "--scheduler.init", "base", "--scheduler.base", joint,
        "--out", "runs/no",
    )  # fmt: skip
    assert (said.code, "begin with a run on this dataset" in said.err) == (3, True), said.err
    assert not (here / "runs" / "no").exists()
