"""``bench aggregate``: what is timed, for which methods, and what becomes of it."""

import io

import pytest
import torch
from rich.console import Console

from gnn_mtl._core.optional import is_installed
from gnn_mtl.aggregation import AGGREGATORS
from gnn_mtl.benchmarks import BENCHES, _aggregate
from gnn_mtl.benchmarks._aggregate import Size, gramian_kinds, ratios
from gnn_mtl.cli._bench import _tables

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")  # cvxpy's own
SMALL = Size(
    nodes=300, edges=1500, batch_size=32, hidden=8, steps=3, repeats=2, solves=1, theirs=(9,)
)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(_aggregate, "QUICK", SMALL)
    monkeypatch.setattr(_aggregate, "TASKS", 9)
    monkeypatch.setattr(_aggregate, "MANY_TASKS", 12)
    monkeypatch.setattr(_aggregate, "gramian_kinds", lambda number: ["mgda", "upgrad", "emtl"])


def test_rows_and_ratios(small):
    found = BENCHES["aggregate"](quick=True)
    assert found["bench"] == "aggregate"
    steps, solvers = found["rows"][:3], found["rows"][3:]
    assert [row["kind"] for row in steps] == ["mgda", "upgrad", "emtl"]
    for row in steps:
        assert min(row["solve_ms"], row["joint_ms"], row["step_ms"], row["bare_ms"]) > 0
        assert row["x_joint"] == row["solve_ms"] / row["joint_ms"]
        assert row["x_bare"] == row["step_ms"] / row["bare_ms"]
    found_of = {(row["kind"], row["tasks"]): row for row in solvers}
    assert len(found_of) == len(solvers) == 6
    for (kind, tasks), row in found_of.items():
        assert row["solve_ms"] > 0
        asked = is_installed("torchjd") and kind != "emtl" and tasks == 9
        assert (row["torchjd_ms"] is not None) == asked
        if asked:
            assert row["torchjd_over_ours"] == row["torchjd_ms"] / row["solve_ms"]
            (step,) = (row for row in steps if row["kind"] == kind)
            assert row["solve_ms"] == step["solve_ms"]
    assert found["ratios"] == ratios(steps)


def test_tables_fit_into_80_columns(small):
    rows = BENCHES["aggregate"](quick=True)["rows"]
    width = max(map(len, gramian_kinds(9)))
    console = Console(width=80, record=True, file=io.StringIO())
    wide = [{**row, "kind": row["kind"].ljust(width, "_")} for row in rows]
    for table in _tables("aggregate", wide):
        console.print(table)
    said = console.export_text()
    assert "…" not in said
    for name in ("joint_ms", "bare_ms", "step_ms", "x_joint", "x_bare", "solve_ms"):
        assert f" {name} " in said


def test_ratios_are_the_worst():
    rows = [
        {"x_joint": 0.1, "x_bare": 1.3},
        {"x_joint": 0.2, "x_bare": 1.1},
    ]
    assert ratios(rows) == {"worst_solver_over_joint_step": 0.2, "worst_gramian_method": 1.3}


def test_every_method_that_reads_a_gramian_is_measured():
    kinds = gramian_kinds(112)
    assert kinds == sorted(kinds)
    assert {"upgrad", "gradops", "nash_mtl", "pcgrad", "pareto_mtl", "gradnorm"} <= set(kinds)
    assert not {"torchjd", "sum", "dwa", "adatask"} & set(kinds)
    assert set(kinds) <= set(AGGREGATORS)


def test_every_candidate_does_the_same_work():
    work = _aggregate._Work(SMALL, 9)
    before = [p.clone() for p in work.model.parameters()]
    candidates = work.candidates("mgda")
    assert list(candidates) == ["joint step", "gramian and backward", "step", "solver"]
    for work_of in candidates.values():
        work_of(1)
    assert all(torch.equal(a, b) for a, b in zip(before, work.model.parameters(), strict=True))
    shared = work.model.shared_parameters()
    candidates["joint step"](0)
    assert any(bool(p.grad.any()) for p in shared)
    gramian, losses = work.measured[0]
    assert gramian.shape == (9, 9)
    assert gramian.isfinite().all()
    assert losses.shape == (9,)


@pytest.mark.skipif(not is_installed("torchjd"), reason="torchjd is not installed")
def test_torchjd_is_asked_while_it_is_fast(monkeypatch):
    cases = [(torch.eye(number).double(), torch.ones(number)) for number in (3, 6, 9)]
    assert list(_aggregate._theirs("mgda", cases)) == [3, 6, 9]
    assert _aggregate._theirs("gradops", cases) == {}
    monkeypatch.setattr(_aggregate, "PATIENCE_S", 0.0)
    assert list(_aggregate._theirs("mgda", cases)) == [3]


@pytest.mark.parametrize(
    ("known", "expected"), [({100: 1.0}, 8.0), ({50: 1.0, 100: 4.0}, 16.0), ({50: 2, 100: 1}, 2.0)]
)
def test_guesses_by_a_power_law(known, expected):
    assert _aggregate._expected(known, 200) == pytest.approx(expected)
