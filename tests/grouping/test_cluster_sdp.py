"""The clustering SDP: against cvxpy, its bound against partitions, its rounding."""

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl._core.optional import is_installed
from gnn_mtl.grouping import (
    adjusted_rand,
    certificate,
    cluster_sdp,
    cvxpy_sdp,
    exact_partition,
    feasible_matrix,
    objective,
    partition_matrix,
    random_groups,
    round_clusters,
    sdp_groups,
    threshold_groups,
)
from gnn_mtl.tasks import Affinity, Grouping

needs_cvxpy = pytest.mark.skipif(not is_installed("cvxpy"), reason="cvxpy is not installed")


def planted(num_tasks, num_groups, noise, seed=0):
    rng = np.random.default_rng(seed)
    owner = np.arange(num_tasks) % num_groups
    values = (owner[:, None] == owner) + noise * rng.normal(size=(num_tasks, num_tasks))
    return Affinity((values + values.T) / 2, "planted", unit="gain"), owner


def gain(values):
    return Affinity(values, "m", unit="gain", symmetric=np.allclose(values, np.transpose(values)))


def feasible(X, trace=None):
    assert np.abs(X.sum(axis=1) - 1).max() < 1e-12
    assert X.min() >= 0
    assert np.linalg.eigvalsh(X).min() > -1e-12
    assert trace is None or np.trace(X) == pytest.approx(trace, abs=1e-9)
    return True


@needs_cvxpy
@pytest.mark.filterwarnings("ignore")  # cvxpy's own
@pytest.mark.parametrize(("num_groups", "noise"), [(3, 0.5), (3, 3.0), (2, 1.0), (9, 1.0)])
def test_equals_an_interior_point_method(num_groups, noise):
    affinity, _ = planted(18, 3, noise)
    oracle = cvxpy_sdp(affinity, num_groups, solver="CLARABEL", accuracy=1e-9)
    assert oracle.status in ("optimal", "optimal_inaccurate")
    found = cluster_sdp(affinity, num_groups, tolerance=1e-4, max_iterations=5000)
    assert found.converged
    assert found.value == pytest.approx(oracle.value, rel=1e-4)
    assert found.value <= oracle.value * (1 + 1e-7)
    assert found.upper_bound >= oracle.value * (1 - 1e-7)
    assert oracle.upper_bound == pytest.approx(oracle.value, rel=1e-3)


@needs_cvxpy
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("penalty", [-0.5, 0.0, 0.7, 3.0])
def test_equals_it_with_a_penalty(penalty):
    affinity, _ = planted(15, 3, 1.0, seed=1)
    oracle = cvxpy_sdp(affinity, penalty=penalty, solver="CLARABEL", accuracy=1e-9)
    found = cluster_sdp(affinity, penalty=penalty, tolerance=1e-4, max_iterations=5000)
    assert found.converged
    assert found.value == pytest.approx(oracle.value, rel=1e-4)
    assert found.upper_bound >= oracle.value - 1e-6
    assert feasible(found.X)
    assert found.trace == pytest.approx(np.trace(oracle.X), rel=0.05)


@needs_cvxpy
@pytest.mark.filterwarnings("ignore")
def test_scs_agrees_to_its_tolerance():
    affinity, _ = planted(24, 3, 1.5)
    theirs = cvxpy_sdp(affinity, 3, accuracy=1e-5)
    ours = cluster_sdp(affinity, 3)
    assert ours.value * (1 - 1e-3) <= theirs.value <= ours.upper_bound * (1 + 1e-3)
    assert theirs.cpu_seconds > 0
    assert theirs.iterations > 0
    with pytest.raises(UsageError, match="either"):
        cvxpy_sdp(affinity)


@given(st.integers(2, 9), st.integers(0, 10**6), st.data())
@settings(max_examples=40, deadline=None)
def test_no_partition_exceeds_the_bound_of_any_multipliers(num_tasks, seed, data):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(num_tasks, num_tasks)) * 10.0 ** rng.integers(-6, 7)
    values = values + values.T
    multipliers = np.abs(values).max() * rng.random((num_tasks, num_tasks)) * rng.integers(0, 2)
    proof = certificate(values, multipliers + multipliers.T)
    number = data.draw(st.integers(1, num_tasks))
    labels = np.concatenate([np.arange(number), rng.integers(0, number, num_tasks - number)])
    X = partition_matrix([np.flatnonzero(labels == g) for g in range(number)], num_tasks)
    scale = 1e-12 * np.abs(values).max() * num_tasks
    assert (values * X).sum() <= proof.bound(number) + scale
    penalty = float(rng.normal()) * np.abs(values).max()
    assert (values * X).sum() - penalty * number <= proof.bound(penalty=penalty) + scale


@given(st.integers(2, 8), st.integers(0, 10**6))
@settings(max_examples=8, deadline=None)
def test_the_bound_holds_however_early_the_method_stops(num_tasks, seed):
    rng = np.random.default_rng(seed)
    affinity = gain(rng.normal(size=(num_tasks, num_tasks)))
    goal = objective(affinity)
    for number in range(1, num_tasks + 1):
        best = goal.of(exact_partition(goal, number))
        for steps in (1, 30):
            found = cluster_sdp(affinity, number, max_iterations=steps)
            assert best <= found.upper_bound + 1e-9
            assert feasible(found.X, number)
            assert found.value <= found.upper_bound + 1e-9


def test_the_bound_is_spectral_without_multipliers():
    affinity, _ = planted(10, 2, 1.0)
    values = objective(affinity).values
    centre = np.eye(10) - 0.1
    roots = np.linalg.eigvalsh(centre @ values @ centre - 1e6 * np.full((10, 10), 0.1))[::-1]
    expected = values.sum() / 10 + roots[:2].sum()
    assert certificate(values, np.zeros((10, 10))).bound(3) == pytest.approx(expected)


@pytest.mark.parametrize(
    "given", [{}, {"num_groups": 2, "penalty": 0.5}, {"num_groups": 0}, {"num_groups": -1}]
)
def test_a_bound_is_of_a_number_or_a_penalty(given):
    proof = certificate(np.eye(3), np.zeros((3, 3)))
    with pytest.raises(UsageError, match="either `num_groups`, at least 1, or `penalty`"):
        proof.bound(**given)


def test_certificate_refuses():
    values = np.ones((3, 3))
    with pytest.raises(UsageError, match="negative"):
        certificate(values, -values)
    with pytest.raises(ShapeError, match="symmetric"):
        certificate(values, np.triu(values))
    with pytest.raises(ShapeError, match=r"\[T, T\]"):
        certificate(values, np.ones((2, 2)))


@pytest.mark.parametrize("trace", [1.0, 2.5, 4.0, 6.0, None])
def test_matrices_are_made_feasible(trace):
    rng = np.random.default_rng(0)
    X = partition_matrix([(0, 1, 2), (3, 4), (5,), (6, 7)], 8)
    if trace in (1.0, 6.0):
        X = np.full((8, 8), 1 / 8) if trace == 1.0 else X
    points = np.linalg.cholesky(X + 1e-3 * np.eye(8)) + 0.01 * rng.normal(size=(8, 8))
    assert feasible(feasible_matrix(points @ points.T, trace), trace)


def test_warm_starts_save_work():
    affinity, _ = planted(40, 4, 1.5, seed=3)
    cold = cluster_sdp(affinity, 5)
    warm = cluster_sdp(affinity, 5, start=cluster_sdp(affinity, 4))
    again = cluster_sdp(affinity, 5, start=cold)
    assert again.iterations < cold.iterations
    assert warm.value == pytest.approx(cold.value, rel=2e-3)
    with pytest.raises(ShapeError, match="40 tasks"):
        cluster_sdp(affinity, 5, start=cluster_sdp(planted(8, 2, 0.1)[0], 2))


def test_five_hundred_tasks_take_tens_of_megabytes():
    """The released code holds one T x T matrix for every row's sum: 1 GB."""
    affinity, _ = planted(500, 10, 1.0)
    tracemalloc.start()
    try:
        found = cluster_sdp(affinity, 10, max_iterations=1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 80e6
    assert np.isfinite(found.upper_bound)


@pytest.mark.slow
def test_five_hundred_tasks_to_a_thousandth():
    affinity, owner = planted(500, 20, 1.0)
    found = cluster_sdp(affinity, 20)
    assert found.gap <= 1e-3
    rounded = round_clusters(found)
    assert adjusted_rand(rounded.grouping, Grouping.from_assignments(owner.tolist())) > 0.99


@pytest.mark.parametrize("seed", range(3))
def test_rounding_beats_the_released_rule(seed):
    """60 tasks, 6 groups, so much noise that X is no partition."""
    affinity, owner = planted(60, 6, 1.2, seed)
    truth = Grouping.from_assignments(owner.tolist())
    clusters = cluster_sdp(affinity, 6)
    ours = round_clusters(clusters)
    released = round_clusters(clusters, rounding="threshold", improve=False)
    assert len(ours.grouping) == 6
    assert ours.density > 1.05 * released.density
    assert adjusted_rand(ours.grouping, truth) > 0.1 + adjusted_rand(released.grouping, truth)
    for found in (ours, released):
        goal = objective(affinity)
        assert found.density == pytest.approx(goal.of(found.grouping.groups))
        assert found.density <= found.upper_bound
        assert found.gap == pytest.approx(
            (found.upper_bound - found.density) / abs(found.upper_bound)
        )
    bare = round_clusters(clusters, improve=False)
    assert bare.density <= ours.density + 1e-9


def test_planted_groups_are_certified_best():
    affinity, owner = planted(60, 6, 0.3)
    found = round_clusters(cluster_sdp(affinity, 6, tolerance=1e-6))
    assert found.grouping == Grouping.from_assignments(owner.tolist())
    assert found.gap < 1e-6


def test_the_released_rule():
    X = np.array([[0.5, 0.4, 0.1, 0.0], [0.4, 0.3, 0.3, 0.0], [0.1, 0.3, 0.6, 0.0], [0, 0, 0, 0.2]])
    assert threshold_groups(X) == [(0, 1), (2,), (3,)]
    assert threshold_groups(X, 0.05) == [(0, 1, 2), (3,)]
    weak = np.array([[0.1, 0.5, 0.0], [0.5, 0.4, 0.4], [0.0, 0.4, 0.9]])
    assert threshold_groups(weak) == [(0,), (1,), (2,)]  # rows before do not join later ones


def test_groups_and_what_they_say():
    affinity, owner = planted(40, 4, 0.5)
    found = sdp_groups(affinity)
    assert found == Grouping.from_assignments(owner.tolist())
    assert sdp_groups(affinity, num_groups=4).method == found.method
    assert "num_groups=4, density=" in found.method
    for said in ("upper_bound=", "gap=", "imputed=0"):
        assert said in found.method
    priced = sdp_groups(affinity, penalty=4.0)
    assert priced == found
    assert "penalty=4, " in priced.method
    assert sdp_groups(affinity, num_groups=7, seed=1).groups == (
        sdp_groups(affinity, num_groups=7, seed=1).groups
    )


def test_only_the_mean_of_both_directions_matters():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(12, 12))
    directed = sdp_groups(gain(values), num_groups=3)
    assert directed == sdp_groups(gain((values + values.T) / 2), num_groups=3)
    assert directed.method == sdp_groups(gain(values.T), num_groups=3).method


def test_a_constant_diagonal_is_a_price():
    affinity, _ = planted(12, 3, 1.0)
    values = np.array(affinity.values)
    np.fill_diagonal(values, 0.8)
    kept = cluster_sdp(gain(values), 3, keep_diagonal=True)
    assert kept.value == pytest.approx(cluster_sdp(affinity, 3).value + 0.8 * 3, rel=2e-3)


@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize("value", [0.0, 0.3, -0.3])
def test_constant_affinity(number, value):
    found = round_clusters(cluster_sdp(gain(np.full((5, 5), value)), number))
    assert len(found.grouping) == number
    assert found.density == pytest.approx(value * (5 - number), abs=1e-12)
    assert found.gap < 1e-3


def test_extremes():
    affinity, _ = planted(6, 2, 1.0)
    assert pytest.approx(np.full((6, 6), 1 / 6)) == cluster_sdp(affinity, 1).X
    assert pytest.approx(np.eye(6)) == cluster_sdp(affinity, 6).X
    alone = gain([[3.0]])
    assert cluster_sdp(alone, 1).X.tolist() == [[1.0]]
    assert sdp_groups(alone).groups == ((0,),)
    assert cluster_sdp(alone, penalty=2.0, keep_diagonal=True).value == pytest.approx(1.0)


def test_refuses():
    affinity, _ = planted(6, 2, 1.0)
    for options in ({}, {"num_groups": 2, "penalty": 1.0}):
        with pytest.raises(UsageError, match="either `num_groups` or `penalty`"):
            cluster_sdp(affinity, **options)
    for number in (0, 7):
        with pytest.raises(UsageError, match=r"should lie in \[1, 6\]"):
            sdp_groups(affinity, num_groups=number)
    with pytest.raises(UsageError, match="tolerance"):
        cluster_sdp(affinity, 2, tolerance=-1.0)
    with pytest.raises(UsageError, match="finite"):
        cluster_sdp(affinity, penalty=np.nan)
    clusters = cluster_sdp(affinity, 2)
    with pytest.raises(UsageError, match="kmeans"):
        round_clusters(clusters, rounding="floor")
    with pytest.raises(UsageError, match="restarts"):
        round_clusters(clusters, restarts=0)


def test_bounds_for_other_numbers_come_from_the_same_certificate():
    affinity, _ = planted(30, 3, 0.5)
    found = cluster_sdp(affinity, 3)
    rng = np.random.default_rng(0)
    goal = objective(affinity)
    for number in (2, 4, 8):
        sizes = [30 // number] * (number - 1)
        sizes.append(30 - sum(sizes))
        groups = random_groups(sizes, 30, generator=rng)
        assert goal.of(groups) <= found.certificate.bound(number)
    bounds = [found.certificate.bound(penalty=price) for price in (0.0, 1.0, 2.0)]
    assert all(dear < cheap for cheap, dear in pairwise(bounds))
