"""``bench sdp``: what it prints, and that SCS is given the same work."""

import pytest

from gnn_mtl._core.optional import is_installed
from gnn_mtl.benchmarks import _sdp

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")  # cvxpy's own


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(_sdp, "SIZES", {12: 2, 15: 3})
    monkeypatch.setattr(_sdp, "NOISES", (1.0,))


@pytest.mark.skipif(not is_installed("cvxpy"), reason="cvxpy is not installed")
def test_rows_of_both(small):
    found = _sdp.run()
    assert set(found["ratios"]) == {"over_scs_112", "over_scs_500", "gap_500"}
    assert [row["tasks"] for row in found["rows"]] == [12, 15]
    for row, key in zip(found["rows"], ("over_scs_112", "over_scs_500"), strict=True):
        assert row["gap"] <= 1e-3
        assert row["scs_error"] <= 1e-3
        assert not row["scs_stopped"]
        assert row["value"] <= row["upper_bound"]
        assert found["ratios"][key] == pytest.approx(row["scs_cpu_s"] / row["cpu_s"])
    assert found["ratios"]["gap_500"] == found["rows"][1]["gap"]


def test_without_cvxpy_there_is_no_ratio(small, monkeypatch):
    monkeypatch.setattr(_sdp, "is_installed", lambda name: False)
    found = _sdp.run(quick=True)
    assert found["ratios"]["over_scs_112"] is None
    assert found["ratios"]["over_scs_500"] is None
    assert found["ratios"]["gap_500"] <= 1e-3
