"""The one sign of conflict: rho = -cos, an edge where rho > tau."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.tasks import Affinity, conflict_graph, interference

GOLDEN = Affinity(
    np.array([[1.0, 0.707107, -1.0], [0.707107, 1.0, -0.707107], [-1.0, -0.707107, 1.0]]), "golden"
)


def _edges(affinity, tau):
    return {tuple(pair) for pair in np.argwhere(np.triu(conflict_graph(affinity, tau))).tolist()}


def test_golden_edges():
    assert _edges(GOLDEN, 0.25) == {(0, 2), (1, 2)}
    assert _edges(GOLDEN, 0.8) == {(0, 2)}
    assert _edges(GOLDEN, -0.5) == {(0, 2), (1, 2)}
    assert _edges(GOLDEN, -1.0) == {(0, 1), (0, 2), (1, 2)}


def test_at_tau_1_nothing_conflicts_where_the_released_rule_has_every_edge():
    assert _edges(GOLDEN, 1.0) == set()
    assert ((GOLDEN.values < 1.0) | np.eye(3, dtype=bool)).all()


def test_orthogonal_tasks_do_not_conflict():
    assert not conflict_graph(Affinity(np.eye(5), "m"), 0.25).any()
    assert not conflict_graph(Affinity(np.eye(5), "m"), 0.0).any()


def test_interference_is_hollow_minus_cosine_clamped_and_keeps_unknown_cells():
    values = np.array([[1.0, -1.0 - 1e-12, np.nan], [-1.0 - 1e-12, 1.0, 0.3], [np.nan, 0.3, 1.0]])
    rho = interference(Affinity(values, "m"))
    assert rho[0, 1] == rho[1, 0] == 1.0
    assert rho[1, 2] == -0.3
    assert np.isnan(rho[0, 2])
    assert rho.diagonal().tolist() == [0.0, 0.0, 0.0]
    assert np.isnan(values[0, 2])


def test_unknown_pairs_never_conflict():
    values = np.full((3, 3), np.nan)
    assert not conflict_graph(Affinity(values, "m"), -1.0).any()


def test_the_inequality_is_strict():
    values = np.array([[1.0, -0.25], [-0.25, 1.0]])
    assert not conflict_graph(Affinity(values, "m"), 0.25).any()
    assert conflict_graph(Affinity(values, "m"), np.nextafter(0.25, 0.0)).any()


@given(
    hnp.arrays(np.float64, (6, 6), elements=st.floats(-1, 1)),
    st.floats(-1, 1),
    st.floats(-1, 1),
)
@settings(max_examples=60, deadline=None)
def test_a_larger_tau_only_removes_edges(values, tau, other):
    affinity = Affinity(np.triu(values) + np.triu(values, 1).T, "m")
    low, high = sorted((tau, other))
    more, fewer = conflict_graph(affinity, low), conflict_graph(affinity, high)
    assert not (fewer & ~more).any()
    assert np.array_equal(more, more.T)
    assert not more.diagonal().any()


@pytest.mark.parametrize("tau", [1.01, -1.01, float("nan"), float("inf")])
def test_tau_outside_its_range(tau):
    with pytest.raises(UsageError, match="tau"):
        conflict_graph(GOLDEN, tau)


def test_other_units_take_any_finite_tau():
    affinity = Affinity(np.array([[0.0, -3.0], [-3.0, 0.0]]), "m", unit="nats")
    assert conflict_graph(affinity, 2.5).any()
    with pytest.raises(UsageError):
        conflict_graph(affinity, float("inf"))


def test_a_directed_affinity_must_be_symmetrized_first():
    directed = Affinity(np.array([[1.0, -0.9], [-0.1, 1.0]]), "m", symmetric=False)
    with pytest.raises(ShapeError, match="symmetrized"):
        conflict_graph(directed, 0.25)
    assert conflict_graph(directed.symmetrized(), 0.25).any()


def test_a_difference_by_rounding_never_makes_a_directed_edge():
    value = -0.25
    values = np.array([[1.0, value], [np.nextafter(value, -1.0), 1.0]])
    edges = conflict_graph(Affinity(values, "m"), 0.25)
    assert np.array_equal(edges, edges.T)
