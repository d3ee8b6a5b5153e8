"""From data to trained groups, each command on what the one before wrote."""

import json

import networkx as nx
import numpy as np
import pytest

from gnn_mtl._core.doctor import NEEDED
from gnn_mtl.cli import _demo, _doctor
from gnn_mtl.records import read_run
from gnn_mtl.runs import RunConfig
from gnn_mtl.schedulers import Static
from gnn_mtl.tasks import Affinity, Grouping


def test_from_data_to_trained_groups(cli, train, here):
    coloring = ["--scheduler.kind", "coloring", "--scheduler.tau", "0.05"]
    assert train(*coloring, "--scheduler.refresh-period", "4", "--out", "runs/one").code == 0
    assert train("--out", "runs/two").code == 0

    said = cli("report", "runs", "--out", "page/report.html")
    assert (said.code, said.out) == (0, "page/report.html\n")
    page = (here / "page" / "report.html").read_text(encoding="utf-8")
    assert "opposed" in page or "planted" in page
    assert page.count("<html") == 1

    said = cli("compare", "runs/one", "runs/two")
    assert said.code == 0
    assert "joint" in said.out
    assert "coloring" in said.out
    assert f"{100 * read_run('runs/one').summary.test['ap']:.2f}" in said.out
    said = cli("compare", "runs", "--markdown", "--reference", "coloring")
    assert said.code == 0
    assert "| coloring" in said.out
    assert cli("compare", "runs", "--reference", "nobody").code == 2

    said = cli("affinity", "runs/two", "--nodes", "96", "--out", "a.npz")
    assert said.code == 0
    affinity = Affinity.load(here / "a.npz")
    names = affinity.label_names
    assert names == read_run("runs/two").label_names
    values = affinity.values[np.triu_indices(6, 1)]
    assert f"6 tasks, 15 known pairs: median cosine {np.median(values):.3f}" in said.out

    said = cli("group", "a.npz", "--tau", "0.02", "--coloring", "welsh_powell")
    assert said.code == 0
    grouping = Grouping.load(here / "groups.json")
    assert len(grouping) > 1
    conflicts = nx.Graph(
        [(a, b) for a in range(6) for b in range(a) if affinity.values[a, b] < -0.02]
    )
    for group in grouping.groups:
        assert not conflicts.subgraph(group).edges
    assert ", ".join(names[task] for task in grouping.groups[0]) in said.out
    assert "gnn-mtl train --groups groups.json" in said.out

    assert train("--groups", "groups.json", "--out", "runs/three").code == 0
    assert RunConfig.load("runs/three").scheduler == Static(groups=grouping.groups)
    assert read_run("runs/three").refreshes[0].groups == grouping.groups
    assert cli("compare", "runs", "--report", "all.html").code == 0
    assert (here / "all.html").exists()


@pytest.mark.parametrize("method", ["last_layer_sketch", "full"])
def test_methods_of_affinity(method, cli, train, here):
    assert train("--out", "run", "--max-steps", "2").code == 0
    said = cli("affinity", "run", "--method", method, "--out", "a.npz")
    assert said.code == 0
    affinity = Affinity.load(here / "a.npz")
    assert affinity.unit == "cosine"
    np.testing.assert_allclose(np.diag(affinity.values), 1.0)
    assert cli("affinity", "run", "--method", "last_layer", "--out", "b.npz").code == 0
    other = Affinity.load(here / "b.npz").values  # a sketch of so small a layer is exact
    assert np.allclose(affinity.values, other) == (method == "last_layer_sketch")
    assert cli("affinity", "run", "--method", "guess").code == 2


def test_reports_need_finished_runs(cli, train, here):
    assert train("--out", "runs/one", "--max-steps", "2").code == 0
    (here / "runs" / "one" / "DONE").unlink()
    for argv in (["report", "runs"], ["compare", "runs"]):
        said = cli(*argv)
        assert said.code == 3
        assert "finish" in said.err
    assert not (here / "report.html").exists()


RECIPE = """
dataset = "{stored}"
seeds = [0, 1]
features = {{ dim = 4 }}
encoder = {{ hidden_channels = 8 }}
train = {{ max_steps = 4, batch_size = 48, eval_every = 2, device = "cpu" }}

[[methods]]
name = "joint"

[[methods]]
name = "halves"
scheduler = {{ kind = "random", num_groups = 2 }}
"""


def test_compare_a_recipe(cli, stored, here):
    (here / "question.toml").write_text(RECIPE.format(stored=stored))
    said = cli("compare", "question.toml", "--report", "page.html")
    assert said.code == 0, said.err
    folders = sorted((here / "runs" / "question").iterdir())
    assert [folder.name for folder in folders] == [
        "halves-seed0", "halves-seed1", "joint-seed0", "joint-seed1",
    ]  # fmt: skip
    for method in ("joint", "halves"):
        scores = [read_run(f"runs/question/{method}-seed{s}").summary.test["ap"] for s in (0, 1)]
        mean, spread = 100 * np.mean(scores), 100 * np.std(scores, ddof=1)
        (line,) = [
            line for line in said.out.splitlines() if line.split()[:1] == [method] and "±" in line
        ]
        assert f"{mean:.2f} ± {spread:.2f}" in line
    assert (here / "page.html").exists()
    times = {path: path.stat().st_mtime_ns for path in (here / "runs").rglob("*")}
    again = cli("compare", "question.toml", "--seeds", "0,1")
    assert again.code == 0
    assert {path: path.stat().st_mtime_ns for path in (here / "runs").rglob("*")} == times
    assert again.out.splitlines()[0] == said.out.splitlines()[0]
    (here / "question.toml").write_text(
        RECIPE.format(stored=stored).replace("steps = 4", "steps = 5")
    )
    changed = cli("compare", "question.toml")
    assert changed.code == 3
    assert "differs in train" in changed.err


def test_demo_prints_its_table_and_writes_its_page(cli, train, here, monkeypatch):
    """The demo itself is tested with the runs; here, what the command makes of it."""
    assert train("--out", "demo/runs/joint-seed0", "--max-steps", "2").code == 0
    seen = {}

    def run_demo(out, *, say, budget_s):
        seen.update(out=str(out), budget_s=budget_s)
        say("[stage] of the demo")
        records = (read_run(out / "runs" / "joint-seed0"),)
        return type("Demo", (), {"records": records})()

    monkeypatch.setattr(_demo, "run_demo", run_demo)
    said = cli("demo", "--out", "demo", "--budget-seconds", "3")
    assert said.code == 0
    assert seen == {"out": "demo", "budget_s": 3.0}
    assert "[stage] of the demo" in said.out
    assert "joint" in said.out
    assert "demo/report.html" in said.out
    assert "demo/summary.json" in said.out
    assert (here / "demo" / "report.html").exists()


def test_doctor(cli, monkeypatch):
    said = cli("doctor")
    assert said.code == 0
    for part in NEEDED:
        assert part in said.out
    findings = {each["name"]: each for each in json.loads(cli("doctor", "--json").out)}
    assert all(findings[part]["is_here"] for part in NEEDED)
    examine = _doctor.examine
    broken = [type(f)(**(f.__dict__ | {"is_here": f.name != "torch"})) for f in examine()]
    monkeypatch.setattr(_doctor, "examine", lambda: broken)
    said = cli("doctor")
    assert said.code == 2
    assert "MISSING" in said.out
