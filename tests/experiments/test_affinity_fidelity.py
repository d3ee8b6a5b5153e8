"""Fidelity of affinities: the smoke variant runs, the records hold what the README says."""

import importlib.util
import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "experiments" / "affinity-fidelity"


def load(name):
    spec = importlib.util.spec_from_file_location(
        f"affinity_fidelity_{name}", FOLDER / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_smoke(tmp_path, monkeypatch):
    from gnn_mtl.gradients import _plan

    monkeypatch.setitem(_plan.SKETCH_DIMS, "jvp_sketch", 4)
    load("run").main(["--smoke", "--records", str(tmp_path)])
    found = {
        part: json.loads((tmp_path / f"{part}.json").read_text()) for part in load("run").PARTS
    }
    assert {row["gradient"] for row in found["which"]["rows"]} >= {"all neighbours", "with dropout"}
    assert len(found["truth"]["gains"]) == 3
    assert {row["method"] for row in found["truth"]["rows"]} >= {"full", "streamed", "cooccurrence"}
    assert {row["layer"] for row in found["real"]["layers"]} == {
        "first convolution", "last convolution", "norms",
    }  # fmt: skip
    shares = sum(row["share_of_squared_norm"] for row in found["real"]["layers"])
    assert shares == pytest.approx(1.0, abs=1e-5)


def test_the_readme_is_what_the_records_give():
    table = load("table")
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert table.between_marks(text) == table.tables()


def test_the_plot_shows_every_mode_it_names():
    frontier = load("frontier")
    rows = load("table").read("refresh")["rows"]
    for mode in (*frontier.LINES, *frontier.POINTS, *frontier.BOUNDS):
        at = {row["checkpoint"] for row in rows if row["tasks"] == 112 and row["mode"] == mode}
        assert {"epoch 1", "best"} <= at, mode
    svg = frontier.frontier(rows)
    assert svg.startswith("<svg")
    for label, *_ in (*frontier.LINES.values(), *frontier.POINTS.values()):
        assert label in svg
    assert svg.count("everything, 4 steps older") == 2


def test_the_record_holds_the_ratios_of_its_rows():
    from gnn_mtl.benchmarks._refresh import ratios

    record = load("table").read("refresh")
    found = ratios([row for row in record["rows"] if row["tasks"] == 112])
    assert found == record["ratios"]
