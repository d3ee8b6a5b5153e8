"""The baselines: README and records say the same, and the smoke variant runs."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from gnn_mtl.records import read_run
from gnn_mtl.runs import RunConfig

FOLDER = Path(__file__).parents[2] / "experiments" / "baselines"
SHARED = Path(__file__).parents[3] / "shared" / "data"


def load(name):
    """Import a script of the experiment."""
    spec = importlib.util.spec_from_file_location(f"baselines_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module


run, table = load("run"), load("table")


@pytest.fixture(scope="module")
def records():
    return table.read_records()


@pytest.fixture(scope="module")
def targets():
    return json.loads((FOLDER / "expected.json").read_text())["targets"]


def test_the_readme_is_what_the_records_give(records, targets):
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert table.between_marks(text) == table.tables(records, targets)


def test_every_cell_and_method_has_its_record(records):
    found = {(table.cell_of(record), record["method"]): record for record in records}
    assert {cell.name for cell in run.CELLS} == {cell for cell, _ in found}
    for cell in {cell for cell, _ in found}:
        assert (cell, "sage") in found
        assert (cell, "label_propagation") in found


def test_a_record_says_where_it_comes_from(records):
    for record in records:
        seeds = [one["seed"] for one in record["runs"]]
        assert seeds == sorted(set(seeds))
        for one in record["runs"]:
            assert len(one["commit"]) == 40
            assert isinstance(one["dirty"], bool)
            assert one["cost"]["seconds"] >= 0
            assert set(table.COLUMNS) <= one["test"].keys()


def test_the_records_of_the_defaults_are_of_the_defaults(records):
    """Who changes a default that decides these scores has to run them again."""
    today = RunConfig().to_dict()
    decides = ("epochs", "batch_size", "lr", "weight_decay", "monitor", "eval_every", "patience")
    for record in records:
        if record["method"] == "sage":
            config = record["config"]
            assert config["encoder"] == today["encoder"]
            assert config["head"] == today["head"]
            assert {k: config["train"][k] for k in decides} == {
                k: today["train"][k] for k in decides
            }


def test_targets_are_for_cells_that_exist(targets):
    assert targets.keys() <= {cell.name for cell in run.CELLS}
    assert {goal["metric"] for goals in targets.values() for goal in goals} <= table.COLUMNS.keys()


def test_a_verdict_is_of_the_printed_numbers():
    record = {"runs": [{"test": {"ap": 0.25}}, {"test": {"ap": 0.2492}}]}
    assert table.verdict(record, "ap", 0.2504) == "reached"
    assert table.verdict(record, "ap", 0.251) == "short by .001, within one std"
    assert table.verdict(record, "ap", 0.26) == "short by .010"
    assert table.mean_std(record, "ap") == ".250 ± .001"


def test_smoke(tmp_path, capsys):
    """Every method on a generated graph; a second call keeps the runs and makes the same files."""
    arguments = ["--smoke", "--seeds", "0", "--out", str(tmp_path / "runs")]
    arguments += ["--records", str(tmp_path / "records")]
    assert run.main(arguments) == 0
    files = {file.name: file.read_text() for file in (tmp_path / "records").iterdir()}
    assert files.keys() == {f"planted-50-{method}.json" for method in run.METHODS}
    assert run.main([*arguments, "--methods", "sage", "label_propagation"]) == 0
    assert files == {file.name: file.read_text() for file in (tmp_path / "records").iterdir()}
    assert len(capsys.readouterr().out.splitlines()) == len(run.METHODS) + 2
    rows = table.score_rows(table.read_records(tmp_path / "records"))
    assert len(rows) == 2 + len(run.METHODS)
    for method in run.METHODS:
        kept = json.loads(files[f"planted-50-{method}.json"])["runs"][0]["test"]
        scored = read_run(tmp_path / "runs" / "planted-50" / f"{method}-seed0").summary
        assert kept["ap"] == pytest.approx(scored.test["ap"], abs=1e-5)
        assert kept["ap"] > 0.1


def test_without_the_graphs_it_says_so(tmp_path, capsys):
    assert run.main(["--data", str(tmp_path / "none"), "--records", str(tmp_path)]) == 0
    assert "skipped" in capsys.readouterr().out


@pytest.fixture
def data():
    if not SHARED.is_dir():
        pytest.skip(f"real graphs are not at {SHARED}")
    return SHARED


def test_shares_of_the_protocol(data):
    cell = next(cell for cell in run.CELLS if cell.name == "ppi_homo-10")
    graph, again, other = cell.load(data, 0), cell.load(data, 0), cell.load(data, 1)
    sizes = {split: len(nodes) for split, nodes in graph.split_idx.items()}
    assert sizes == {"train": 311, "valid": 78, "test": 3501}
    assert graph.fingerprint() == again.fingerprint() != other.fingerprint()


@pytest.mark.slow
def test_sparse_task_split_is_that_of_the_paper(data):
    """Ten training positives (nine where ``int()`` truncates), a fifth validates, no cell twice."""
    cell = next(cell for cell in run.CELLS if cell.name == "dblp100-v2")
    graph = cell.load(data, 0)
    members = sum(graph.positives(split) for split in ("train", "valid", "test"))
    trained = graph.positives("train")
    large = members > 100
    assert set(trained[large]) <= {9, 10}
    np.testing.assert_array_equal(trained[~large], (members[~large] * 0.2).astype(int))
    np.testing.assert_array_equal(graph.positives("valid"), (members * 0.2).astype(int))
    cells = sum(graph.observed_counts(split) for split in ("train", "valid", "test"))
    assert (cells == graph.num_nodes).all()
