"""Planted groups under noise: README and records say the same, and the smoke variant runs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).parents[2] / "experiments" / "recovery"
SCRIPTS = ("simulation", "network", "table", "run")
PARTS = ("simulation", "network")


@pytest.fixture(scope="module")
def records(table):
    return {part: table.read_record(part) for part in PARTS}


@pytest.fixture(scope="module")
def expected():
    return json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))


def test_the_readme_is_what_the_records_give(table, records, expected):
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert table.between_marks(text) == table.tables(*records.values(), expected)


def test_the_stated_shares_come_out_again(table, records, expected):
    """Every number stated is met within the error of as many trials."""
    rows = table.stated_rows(records["simulation"], expected)[2:]
    rows += [
        row for row in table.bias_rows(records["simulation"], expected)[2:] if "|  |" not in row
    ]
    stated = sum(len(expected[what]) for what in ("edges", "partition", "bias"))
    assert len(rows) == stated
    assert all(row.endswith("| yes |") for row in rows)
    low, high = expected["bound_over_needed"]
    for row in table.needed_rows(records["simulation"])[2:]:
        over = row.split("|")[-2].strip()
        if over and "| 100 |" in row:  # the stated ratio is that of the stated shares
            assert low <= int(over) <= high


def test_a_verdict_can_be_no(table, records):
    assert table.verdict(0.97, 0.995, records["simulation"]) == "yes"
    assert table.verdict(0.9, 0.995, records["simulation"]) == "no"


def test_a_record_says_where_it_comes_from(records):
    for record in records.values():
        about = record["about"]
        assert len(about["commit"]) == 40
        assert about["packages"]["torch"]
        assert about["cpu_seconds"] > 1
    assert records["simulation"]["trials"] == 200
    seeds = {(row["groups"], row["seed"]) for row in records["network"]["rows"]}
    assert len(seeds) == 10


@pytest.mark.parametrize("place", [0, 1])
def test_planted_vectors_have_the_cosines_they_say(scripts, place):
    problem = scripts["simulation"].PROBLEMS[place]
    means = problem.means(100)
    groups = problem.groups
    together = groups[:, None] == groups
    np.fill_diagonal(together, False)
    cosine = means @ means.T
    np.testing.assert_allclose(np.diag(cosine), 1.0)
    np.testing.assert_allclose(cosine[together], problem.within, atol=1e-12)
    np.testing.assert_allclose(cosine[groups[:, None] != groups], problem.cross, atol=1e-12)


def test_noise_has_the_energy_and_the_correlation_it_says(scripts):
    rng = np.random.default_rng(0)
    parts, sizes = scripts["simulation"].block_means(np.zeros((3, 20_000)), 16.0, 19, 2, 0.3, rng)
    assert sizes.tolist() == [10, 9]
    energy = parts.square().sum(dim=2)
    torch.testing.assert_close(energy, (16.0 / sizes)[:, None].expand(2, 3), rtol=0.05, atol=0.0)
    between = (parts[:, 0] * parts[:, 1]).sum(dim=1) / (16.0 / sizes)
    torch.testing.assert_close(between, torch.full((2,), 0.3).double(), rtol=0.0, atol=0.05)
    assert abs(float((parts[0, 0] * parts[1, 0]).sum())) < 0.1  # halves are independent


def test_without_noise_every_estimator_is_exact(scripts):
    simulation = scripts["simulation"]
    problem = simulation.PROBLEMS[1]
    for estimator in simulation.BLOCKS:
        row = simulation.recovery(problem, 1e-6, 100, 8, estimator, 2, 0)
        assert (row["edges"], row["partition"], row["found"], row["false"]) == (1, 1, 1, 0)


def test_scores_of_a_perfect_an_opposite_and_an_unknown_affinity(scripts):
    network = scripts["network"]
    groups = np.array([0, 1, 0, 1, 0, 1])
    perfect = np.where(groups[:, None] == groups, 0.9, -0.9)
    np.fill_diagonal(perfect, 1.0)
    found = network.score(perfect, groups)
    assert (found["same_auroc"], found["edges"], found["edges_right"]) == (1.0, 9, 9)
    assert (found["f1_as_many"], found["colors_ari"], found["clusters_ari"]) == (1.0, 1.0, 1.0)
    turned = network.score(np.where(np.eye(6, dtype=bool), 1.0, -perfect), groups)
    assert (turned["same_auroc"], turned["edges_right"]) == (0.0, 0)
    nothing = network.score(np.full((6, 6), np.nan), groups)
    assert (nothing["same_auroc"], nothing["edges"], nothing["unknown"]) == (0.5, 0, 1.0)


def test_one_epoch_alone_is_the_first_of_many(scripts):
    """The three states are of one training: rates do not depend on how long it will be."""
    network = scripts["network"]
    planted = network.SMOKE
    graph = planted.graph(0)
    once = {name: model for name, model, _ in planted.trained(graph, 0)}
    longer = network.replace(planted, epochs=1)
    again = {name: model for name, model, _ in longer.trained(graph, 0)}
    for a, b in zip(once["1 epoch"].parameters(), again["best"].parameters(), strict=True):
        assert torch.equal(a, b)


def test_smoke(scripts, tmp_path, capsys, table):
    assert scripts["run"].main(["--smoke", "--records", str(tmp_path)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    found = {part: table.read_record(part, tmp_path) for part in PARTS}
    assert found["simulation"]["trials"] == 10
    exact = table.pick(
        found["simulation"]["recovery"],
        problem="two groups", noise=4.0, samples=16, estimator="plain",
    )  # fmt: skip
    assert exact["partition"] == 1.0
    assert {row["state"] for row in found["network"]["rows"]} == {"-", *table.STATES}
    for row in found["network"]["rows"]:
        assert 0.0 <= row["same_auroc"] <= 1.0
        assert row["edges_right"] <= row["edges"]
    phi = [row for row in found["network"]["rows"] if row["estimator"] == "phi"]
    assert all(row["same_auroc"] > 0.9 for row in phi)
