"""``gnn-mtl affinity --fidelity`` on a small run."""

import json

import pytest

from gnn_mtl.cli import main
from gnn_mtl.gradients import _plan

pytest.importorskip("matplotlib")


def test_a_run_is_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(_plan.SKETCH_DIMS, "jvp_sketch", 8)
    graph, run, out = tmp_path / "graph", tmp_path / "run", tmp_path / "found.npz"
    sizes = ["--num-nodes", "300", "--num-edges", "900", "--num-tasks", "6"]
    assert main(["data", "make", "planted", *sizes, "--out", str(graph)]) == 0
    train = ["train", "--dataset", str(graph), "--epochs", "1", "--out", str(run)]
    assert main([*train, "--encoder.kind", "sage", "--encoder.hidden-channels", "8"]) == 0
    assert json.loads((run / "summary.json").read_text())["cost"]["forwards"] >= 1
    assert main(["affinity", str(run), "--fidelity", "--nodes", "64", "--out", str(out)]) == 0
    data = json.loads((tmp_path / "found.json").read_text())
    assert {"full", "last_layer", "streamed"} <= {row["mode"] for row in data["rows"]}
    assert "<svg" in (tmp_path / "found.html").read_text()
    assert "edge F1" in capsys.readouterr().out
    assert not out.exists()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--method", "full"], "--method"),
        (["--debias"], "--debias"),
        (["--step", "relative"], "--step"),
        (["--lr", "0.1"], "--lr"),
    ],
)
def test_it_measures_every_way(tmp_path, capsys, flags, named):
    run = tmp_path / "nowhere"
    assert main(["affinity", str(run), "--fidelity", *flags]) == 2
    assert f"Found {named} beside it" in capsys.readouterr().err
