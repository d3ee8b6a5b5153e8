"""Aggregators in groups: README and records say the same, and the smoke variant runs."""

import json
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "experiments" / "aggregators-in-groups"
SCRIPTS = ("run", "table")
ON_GRAMIANS = ("pcgrad", "gradops", "nash_mtl", "upgrad")


@pytest.fixture(scope="module")
def run(scripts):
    return scripts["run"]


@pytest.fixture(scope="module")
def records(table):
    return table.read_records()


@pytest.fixture(scope="module")
def smoke(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("smoke")
    assert run.main(["--smoke", "--records", str(folder)]) == 0
    return folder


# the records


def test_the_readme_is_what_the_records_give(table, records):
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert table.between_marks(text) == table.tables(records)


def test_every_cell_and_method_has_its_record(run, records):
    """With every seed, for as long as the plan says; the longer cell as far as it was run."""
    cells = {(d, m) for d in run.DATASETS for m in run.METHODS}
    assert {cell for cell in cells if cell[0] != run.LONG} <= records.keys() <= cells
    for (dataset, _), record in records.items():
        seeds = [one["seed"] for one in record["runs"]]
        assert seeds == (sorted({*seeds} & {*run.SEEDS}) if dataset == run.LONG else [*run.SEEDS])
        assert record["joint_steps"] == run.plan_of(dataset, run.Plan()).joint_steps


def test_a_record_says_where_it_comes_from(records):
    data = {}
    for (dataset, _), record in records.items():
        for one in record["runs"]:
            assert len(one["commit"]) == 40
            assert isinstance(one["dirty"], bool)
            assert "run.py" in one["command"]
            assert " /" not in one["command"]  # a folder of one machine
            assert one["hardware"]
            assert one["created"]
            assert len(one["dataset_sha256"]) == 64
            assert data.setdefault(dataset, one["dataset_sha256"]) == one["dataset_sha256"]


def test_budgets_are_equal(table, records):
    """As many label-gradients as the joint steps have, up to the labels of one step."""
    for (_, method), record in records.items():
        for one in record["runs"]:
            labels, cost = len(one["per_label_ap"]), one["cost"]
            assert 0 <= cost["label_gradients"] - record["joint_steps"] * labels < labels
            assert (cost["steps"] == record["joint_steps"]) == method.startswith("joint")
            on_gramian = method.partition("+")[2] in ON_GRAMIANS
            measured = cost["label_gradients"] if on_gramian else 0
            assert table.gramian_gradients(one) == measured
            passes = "label_gradients" if method.endswith("adatask") else "steps"
            assert cost["backwards"] == cost[passes]


def test_claims_are_what_the_records_give(table, records):
    """Every number that the README's sentences rest on stands in expected.json."""
    claims = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))["claims"]
    assert claims
    for claim in claims:
        of, than = claim["of"], claim.get("than", [claim["of"][0], table.BASE])
        pair = [table.runs_of(records, *one) for one in (of, than)]
        differences = table.differences(*pair)
        found = {
            "verdict": table.verdict(differences),
            "ap": float(np.mean(differences)),
            "seconds": table.cpu_ratio(*pair),
        }[claim["what"]]
        says = f"{claim['says']}: {found}"
        if "is" in claim:
            assert found == claim["is"], says
        else:
            assert claim.get("at_least", -np.inf) <= found <= claim.get("at_most", np.inf), says


# the tables


def made_up(dataset, method, scores):
    """A record of four labels, one of them without a score, with a run per score."""
    return {
        "dataset": dataset, "method": method, "joint_steps": 10,
        "runs": [
            {
                "seed": seed, "commit": "c" * 40, "dirty": False, "command": "run.py",
                "dataset_sha256": "d" * 64, "hardware": "one", "created": "now",
                "cpu_seconds": 2.0 * (seed + 1), "best_step": 10, "mean_groups": 2.0,
                "cost": {
                    "steps": 20, "label_gradients": 40, "refreshes": 2,
                    "probe_label_gradients": 48, "backwards": 20,
                },
                "test": {"ap": score, "auroc": 0.5}, "per_label_ap": [score, None, score, 0.0],
            }
            for seed, score in enumerate(scores)
        ],
    }  # fmt: skip


def test_a_verdict_is_by_the_interval_over_seeds(table):
    """Differences of .1, .2, .3 have a standard error of .0577: .2 is 3.46 of them, below 4.30."""
    assert table.verdict([0.1, 0.2, 0.3]) == "no difference"
    assert table.verdict([0.15, 0.2, 0.25]) == "better"  # 6.93 standard errors
    assert table.verdict([-0.15, -0.2, -0.25]) == "worse"
    assert table.verdict([0.0, 0.0, 0.0]) == "no difference"
    assert table.verdict([0.2, 0.2]) == "open"
    assert table.verdict([]) == "not run"
    assert table.judged([0.1, 0.2, 0.3]) == "no difference (+.200, 3.5 se)"
    assert table.judged([0.2]) == "open, 1 of 3 seeds"


def test_the_rule_is_wrong_one_time_in_twenty_where_nothing_differs(table):
    noise = np.random.default_rng(0).normal(size=(4000, 3))
    wrong = np.mean([table.verdict(row) != "no difference" for row in noise])
    assert 0.035 < wrong < 0.065


def test_rows_of_made_up_records(table):
    base = made_up("yeast_go", "coloring", [0.2, 0.3, 0.4])
    other = made_up("yeast_go", "coloring+famo", [0.35, 0.5, 0.65])
    for one in other["runs"]:
        one["cpu_seconds"] *= 3
    other["runs"][0]["per_label_ap"][2] = -2.0  # the third label loses, on average over seeds
    made = {("yeast_go", "coloring"): base, ("yeast_go", "coloring+famo"): other}
    rows = table.score_rows(made, "yeast_go")
    alone = next(row for row in rows if row.startswith("| coloring |"))
    assert alone.split(" | ")[1:] == [
        "3", ".300 ± .100", ".500 ± .000", "", "", "20", "50%", "2.0", "40", "8", "40", "4",
        "1.0 |",
    ]  # fmt: skip
    famo = next(row for row in rows if "famo" in row).split(" | ")
    assert famo[4:6] == ["+.200 ± .050", "1 / 1"]
    assert famo[-2:] == ["12", "3.0 |"]
    (verdicts,) = (row for row in table.verdict_rows(made) if "famo" in row)
    assert verdicts.split(" | ")[1:5] == [
        "coloring", "not run", "better (+.200, 6.9 se)", "not run",
    ]  # fmt: skip
    assert verdicts.endswith("| 3 of 3 |")
    assert "1 of 1 comparisons" in table.rule(made)


def test_pairs_are_of_the_seeds_both_have(table):
    base, other = ({one["seed"]: one for one in made_up("a", "b", scores)["runs"]} for scores in
                   ([0.1, 0.2, 0.3], [0.5, 0.5, 0.5]))  # fmt: skip
    del base[1], other[0]
    assert table.differences(other, base) == pytest.approx([0.2])
    assert table.cpu_ratio(other, base) == 1.0


def test_what_has_no_record_is_said_to_be_missing(table, run):
    text = table.tables({})
    cells = len(run.DATASETS) * len(run.METHODS)
    assert text.count("not run") == cells + len(run.DATASETS) * len(table.pairs())
    half = {("blogcatalog", "joint"): made_up("blogcatalog", "joint", [0.5])}
    text = table.tables(half)
    assert "| joint | 1 of 3 | .500 | .500 |" in text
    assert f"| blogcatalog | 1 of {3 * len(run.METHODS)} | 10 | 40 |" in text


# the runs


def test_methods_differ_in_nothing_else(run):
    """Same model, budget, batches and choice by validation AP; only schedule and aggregator."""
    for dataset in run.DATASETS:
        plan = run.plan_of(dataset, run.Plan())
        configs = {m: run.configure(dataset, m, 1, 20, plan).to_dict() for m in run.METHODS}
        kinds = [c["aggregator"]["kind"] for m, c in configs.items() if m.startswith("coloring+")]
        assert kinds == list(run.IN_GROUPS)
        schedules = {(m.partition("+")[0], json.dumps(c["scheduler"])) for m, c in configs.items()}
        assert len(schedules) == 2
        rest = [
            {k: v for k, v in c.items() if k not in ("name", "scheduler", "aggregator")}
            for c in configs.values()
        ]
        assert all(one == rest[0] for one in rest)
        train = rest[0]["train"]
        assert (train["monitor"], train["patience"]) == ("ap", None)
        assert train["max_label_gradients"] == plan.joint_steps * 20


def test_smoke(run, smoke, table):
    made = table.read_records(smoke)
    assert made.keys() == {("planted", method) for method in run.METHODS}
    for method in run.METHODS:
        (one,) = made["planted", method]["runs"]
        assert 0.1 < one["test"]["ap"] <= 1.0
        assert len(one["per_label_ap"]) == 12
        assert 0 <= one["cost"]["label_gradients"] - run.SMOKE.joint_steps * 12 < 12
        assert (one["mean_groups"] == 1) == method.startswith("joint")
        assert table.score_rows(made, "planted")
    scores = {made["planted", method]["runs"][0]["test"]["ap"] for method in run.METHODS}
    assert len(scores) == len(run.METHODS)  # every aggregator leaves its mark


def test_what_is_recorded_is_not_run_again(run, smoke, capsys):
    before = {file.name: file.read_text() for file in smoke.iterdir()}
    (smoke / "planted-coloring+famo.json").unlink()
    capsys.readouterr()
    assert run.main(["--smoke", "--records", str(smoke)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    after = {file.name: file.read_text() for file in smoke.iterdir()}
    again = "planted-coloring+famo.json"
    old, new = (json.loads(each.pop(again))["runs"][0] for each in (before, after))
    assert after == before
    np.testing.assert_allclose(new["test"]["ap"], old["test"]["ap"], atol=1e-5)


def test_another_seed_joins_the_record(run, tmp_path):
    for seed in (2, 0, 2):
        run.write(tmp_path, "a", "b", {"seed": seed, "cpu_seconds": 1.0}, run.SMOKE)
    assert [one["seed"] for one in run.recorded(tmp_path, "a", "b")] == [0, 2]
    assert [file.name for file in tmp_path.iterdir()] == ["a-b.json"]


def test_without_the_graphs_it_says_so_and_runs_the_embedded_one(
    run, tmp_path, capsys, monkeypatch
):
    asked = []
    monkeypatch.setattr(run, "runs", lambda datasets, *_: asked.append(datasets) or iter(()))
    absent = ["--data", str(tmp_path / "none"), "--records", str(tmp_path / "records")]
    assert run.main(absent) == 0
    assert run.main([*absent, "--datasets", "yeast_go"]) == 0
    assert asked == [["debian-tags", run.LONG], []]
    assert capsys.readouterr().out.count("skipped") == 2
    assert not (tmp_path / "records").exists()
