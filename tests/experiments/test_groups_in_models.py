"""Groups in models: README and records say the same, and the smoke variant runs."""

import json
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "experiments" / "groups-in-models"
SCRIPTS = ("ways", "table", "run")


@pytest.fixture(scope="module")
def records(table):
    return table.read_records()


@pytest.fixture(scope="module")
def expected():
    return json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def smoke(scripts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("smoke")
    assert scripts["run"].main(["--smoke", "--records", str(folder)]) == 0
    return folder


def test_the_readme_is_what_the_records_give(table, records, expected):
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert table.between_marks(text) == table.tables(records, expected)


def test_every_unit_has_its_record(scripts, records):
    """With every seed of the plan, and for as long as the plan says."""
    found = {(record["part"], record["unit"]): record for record in records}
    for part, plan in scripts["run"].PLANS.items():
        units = {*plan.units, *(f"random_{unit}" for unit in plan.controls)}
        units |= {"cooccurrence"} if part == "recovery" else set()
        assert units == {unit for each, unit in found if each == part}
        for unit in units:
            record = found[part, unit]
            assert [run["seed"] for run in record["runs"]] == list(plan.seeds)
            assert (record["epochs"], record["more_epochs"]) == (plan.epochs, plan.more_epochs)


def test_a_record_says_where_it_comes_from(records):
    for record in records:
        for run in record["runs"]:
            assert len(run["commit"]) == 40
            assert "run.py" in run["command"]
            assert run["torch"]
            assert run["rows"]


def test_training_on_costs_the_same_for_one_model_or_four(table, records):
    """The control of fine-tuned models sees each label as often."""
    for part in ("planted", "debian-tags"):
        found = table.ways(records, part)
        longer, tuned = (found[w, "given"] for w in ("joint, trained on", "fine-tuned from joint"))
        for seed, row in longer.items():
            assert 0.5 < row["label_gradients"] / tuned[seed]["label_gradients"] < 2
            assert row["parameters"] < tuned[seed]["parameters"]


def test_groups_of_the_control_have_the_same_sizes(scripts):
    run = scripts["run"]
    given = run.problem("planted", run.SMOKE["planted"], 0)
    other = run.at_random(given)
    assert sorted(other.groups.sizes) == sorted(given.groups.sizes)
    assert other.groups != given.groups
    assert other.graph is given.graph


def test_a_claim_can_fail(table, records, expected):
    wrong = {"claims": [claim | {"at_least": 2.0, "at_most": 3.0} for claim in expected["claims"]]}
    assert all(row.endswith("| no |") for row in table.stated_rows(records, wrong)[2:])
    assert len(table.stated_rows(records, expected)) == 2 + len(expected["claims"])


def test_differences_are_taken_seed_by_seed(table):
    runs = {0: {"test_ap": 0.5}, 1: {"test_ap": 0.9}}
    other = {0: {"test_ap": 0.4}, 1: {"test_ap": 0.8}}
    assert table.difference(runs, other) == "+.100 ± .000"
    assert table.difference({0: {"test_ap": 0.5}}, {0: {"test_ap": 0.75}}) == "-.250"
    assert (table.decimal(-0.0001), table.signed(0.0001), table.decimal(1.0)) == (
        ".000", ".000", "1.000",
    )  # fmt: skip


def test_smoke(scripts, smoke, table):
    made = table.read_records(smoke)
    ways = table.ways(made, "planted")
    assert {way for way, _ in ways} >= {*table.PAIRED, "joint", "ForkMerge", "DMTG, pruned"}
    for runs in ways.values():
        row = runs[0]
        assert 0.05 < row["test_ap"] <= 1.0
        assert row["steps"] > 0
    assert ways["joint", "given"][0]["forwards"] == 1
    assert ways["separate", "given"][0]["forwards"] == 4
    aris = [runs[0]["ari"] for runs in table.ways(made, "recovery").values()]
    assert len(aris) == 4
    assert all(-0.5 <= ari <= 1.0 for ari in aris)


def test_what_is_recorded_is_not_run_again(scripts, smoke, capsys):
    before = {file.name: file.read_text() for file in smoke.iterdir()}
    (smoke / "planted-adapters.json").unlink()
    capsys.readouterr()
    assert scripts["run"].main(["--smoke", "--records", str(smoke)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    again = {file.name: file.read_text() for file in smoke.iterdir()}
    assert again.keys() == before.keys()
    old, new = (json.loads(each["planted-adapters.json"])["runs"][0] for each in (before, again))
    np.testing.assert_allclose(new["rows"][0]["test_ap"], old["rows"][0]["test_ap"], atol=1e-5)
    assert all(
        again[name] == text
        for name, text in before.items()
        if "-adapters" not in name or "random" in name
    )
