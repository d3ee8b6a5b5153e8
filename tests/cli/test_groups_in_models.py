"""Groups inside models, from the command line: learned, adapted, merged."""

import json

import pytest

from gnn_mtl.records import read_run
from gnn_mtl.tasks import Grouping

GROUPS = Grouping.of([[0, 2, 4], [1, 3, 5]], 6)


def test_learn_groups_then_train_by_them(cli, here, train):
    """A run says how to train; DMTG and data maps group; adapters and separate models use it."""
    assert train("--out", "joint").code == 0
    for method, more in (("dmtg", ["--temperature", "1"]), ("data_maps", ["--nodes", "40"])):
        said = cli("group", "joint", "--method", method, "--num-groups", 2, *more,
                   "--out", f"{method}.json")  # fmt: skip
        assert said.code == 0, said.err
        assert f"next:   gnn-mtl train --groups {method}.json" in said.out
        found = Grouping.load(f"{method}.json")
        assert (found.num_tasks, found.method) == (6, method)
        again = cli("group", "--run", "joint", "--method", method, "--num-groups", 2, *more,
                    "--out", "again.json")  # fmt: skip
        assert again.code == 0
        assert Grouping.load("again.json") == found


def test_learned_groups_of_a_dataset(cli, here, stored):
    said = cli("group", "--dataset", stored, "--method", "dmtg", "--num-groups", 2, "--epochs", 1,
               "--device", "cpu")  # fmt: skip
    assert said.code == 0, said.err
    assert Grouping.load("groups.json").num_tasks == 6


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--method", "dmtg"], "Give a run folder or a recipe"),
        (["joint", "--dataset", "x", "--method", "dmtg"], "Give a run folder or a recipe"),
        (["--dataset", "x", "--method", "dmtg", "--num-groups", "1"], "num_groups"),
        (["a.npz", "--method", "dmgt"], "Perhaps you meant dmtg"),
        (["joint", "--method", "data_maps"], "joint"),
    ],
)
def test_usage(cli, here, argv, message):
    said = cli("group", *argv)
    assert said.code == 2
    assert message in said.err


def test_options_are_those_of_the_method(cli):
    dmtg = cli("group", "--method", "dmtg", "--help").out
    maps = cli("group", "--method", "data_maps", "--help").out
    for flag in ("--temperature", "--fuzziness"):
        assert (flag in dmtg) != (flag in maps)
    assert "dmtg, data_maps" in cli("group", "--help").out


def test_adapters(here, train):
    GROUPS.save("groups.json")
    said = train("--head.kind", "adapters", "--head.file", "groups.json",
               "--head.rank", 3, "--out", "adapted")  # fmt: skip
    assert said.code == 0, said.err
    head = json.loads((here / "adapted" / "config.json").read_text())["head"]
    assert head == {
        "kind": "adapters", "file": None, "groups": [[0, 2, 4], [1, 3, 5]], "rank": 3,
        "overlap": "refuse",
    }  # fmt: skip
    missing = train("--head.kind", "adapters")
    assert missing.code == 2
    assert "--head.file" in missing.err


def test_merge(cli, here, train):
    GROUPS.save("groups.json")
    assert train("--scheduler.kind", "separate", "--groups", "groups.json",
               "--out", "apart").code == 0  # fmt: skip
    said = cli("merge", "apart", "--method", "ties", "--density", 0.5)
    assert said.code == 0, said.err
    assert "seldom merge" in said.out
    assert "run folder: apart-merged-ties" in said.out
    assert read_run("apart-merged-ties").summary.cost["inference_forwards"] == 1
    assert train("--out", "joint").code == 0
    tuned = train("--scheduler.kind", "separate", "--groups", "groups.json",
                "--scheduler.init", "base", "--scheduler.base", "joint",
                  "--out", "tuned")  # fmt: skip
    assert tuned.code == 0, tuned.err
    said = cli("merge", "tuned", "--out", "one")
    assert said.code == 0, said.err
    assert "seldom merge" not in said.out
    assert cli("report", "apart", "one", "--out", "report.html").code == 0
    adapted = train("--head.kind", "adapters", "--head.file", "groups.json", "--out", "adapted")
    assert adapted.code == 0, adapted.err
    assert cli("report", "joint", "adapted", "--out", "adapted.html").code == 0
    assert "What was grouped" not in (here / "adapted.html").read_text(encoding="utf-8")
    refused = cli("merge", "one")
    assert refused.code == 3
    assert "merged already" in refused.err
    refused = cli("merge", "joint")
    assert refused.code == 3
    assert "--scheduler.kind separate" in refused.err
