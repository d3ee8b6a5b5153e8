"""The fidelity page: the frontier, and that it holds everything it shows."""

import json

import pytest

from gnn_mtl.reports import build_fidelity, frontier, frontier_figure


def row(mode, cost, f1, nodes=10):
    return {
        "mode": mode, "nodes": nodes, "cost": cost, "edge_f1": f1, "forwards": 1, "backwards": 0,
        "jvps": 0, "edge_precision": f1, "edge_recall": f1, "edge_f1_as_many": f1,
        "cosine_mae": 0.01, "cosine_max": 0.1,
        "pearson": 0.9, "same_color_jaccard": 0.5, "in_group_conflict": 0.01, "noise": None,
    }  # fmt: skip


ROWS = [
    row("a", 1.0, 0.5), row("b", 2.0, 0.4), row("c", 4.0, 0.9), row("<d>", 0.5, None),
    row("a", 8.0, 0.9, 80),
]  # fmt: skip


def test_the_frontier_is_what_no_cheaper_row_beats():
    assert [(r["mode"], r["cost"]) for r in frontier(ROWS)] == [("a", 1.0), ("c", 4.0)]
    assert frontier([row("x", 1.0, None)]) == []


def test_the_page(tmp_path):
    pytest.importorskip("matplotlib")
    study = {"tau": 0.03, "nodes": 1200, "noise": {"edge_f1": None}, "rows": ROWS}
    path = build_fidelity(study, tmp_path / "page.html", name="run <1>", command="gnn-mtl ...")
    text = path.read_text(encoding="utf-8")
    assert "run &lt;1&gt;" in text
    assert "&lt;d&gt;" in text
    assert "<d>" not in text
    assert "Best: c on 10 nodes, edge F1 0.90" in text
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert "mathdefault" not in text
    assert text.count("<svg") == 1
    again = build_fidelity(json.loads(json.dumps(study)), tmp_path / "two.html", name="run <1>",
                           command="gnn-mtl ...")  # fmt: skip
    assert again.read_text(encoding="utf-8") == text


def test_a_figure_without_any_edge():
    pytest.importorskip("matplotlib")
    assert frontier_figure([row("x", 1.0, None)], "empty").startswith("<svg")
