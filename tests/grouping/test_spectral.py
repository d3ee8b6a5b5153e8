"""Spectral clusterings, k-medoids and k-means against scikit-learn and planted groups."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import SpectralClustering, SpectralCoclustering
from sklearn.metrics import adjusted_rand_score

from gnn_mtl._core.errors import UsageError
from gnn_mtl.grouping import (
    cocluster_groups,
    extended_spectral_groups,
    k_medoids_groups,
    spectral_groups,
)
from gnn_mtl.grouping._k_means import k_means
from gnn_mtl.tasks import Affinity


def planted(num_tasks, num_groups, noise, seed=0, symmetric=True):
    rng = np.random.default_rng(seed)
    owner = rng.permutation(np.arange(num_tasks) % num_groups)
    values = (owner[:, None] == owner) - 0.3 + noise * rng.normal(size=(num_tasks, num_tasks))
    values = (values + values.T) / 2 if symmetric else values
    return Affinity(values, "planted", unit="gain", symmetric=symmetric), owner


def labels_of(grouping):
    labels = np.empty(grouping.num_tasks, dtype=int)
    for number, group in enumerate(grouping.groups):
        labels[list(group)] = number
    return labels


@pytest.mark.parametrize("transform", ["exp", "shift"])
@pytest.mark.parametrize("seed", range(3))
def test_plain_spectral_agrees_with_scikit_learn(transform, seed):
    affinity, owner = planted(36, 4, 0.5, seed)
    found = spectral_groups(affinity, num_groups=4, transform=transform)
    pairs = affinity.values[~np.eye(36, dtype=bool)]
    if transform == "exp":
        weights = np.exp(affinity.values / pairs.std())
    else:
        weights = affinity.values - pairs.min()
    np.fill_diagonal(weights, 0.0)
    oracle = SpectralClustering(4, affinity="precomputed", n_init=50, random_state=0)
    theirs = oracle.fit_predict(weights)
    ours = labels_of(found)
    assert adjusted_rand_score(ours, owner) >= adjusted_rand_score(theirs, owner) - 0.1
    assert adjusted_rand_score(ours, owner) > 0.75


def test_the_eigengap_finds_the_number():
    affinity, owner = planted(40, 5, 0.1)
    for method in (spectral_groups, k_medoids_groups):
        found = method(affinity)
        assert adjusted_rand_score(labels_of(found), owner) == 1.0


def test_weights_as_they_are():
    values = np.kron(np.eye(2), np.ones((3, 3)))  # two components
    blocks = Affinity(values, "m", unit="gain")
    found = spectral_groups(blocks, num_groups=2, transform="none")
    assert found.groups == ((0, 1, 2), (3, 4, 5))
    with pytest.raises(UsageError, match="use transform exp"):
        spectral_groups(Affinity(values - 0.5, "m", unit="gain"), num_groups=2, transform="none")


@pytest.mark.parametrize("method", [spectral_groups, extended_spectral_groups, cocluster_groups])
@pytest.mark.parametrize("shift", [0.0, -5.0])
def test_affinities_far_below_zero_are_weighed_like_any(method, shift):
    """The diagonal, 0 and not read, is thousands of spreads above every pair."""
    affinity, _ = planted(12, 3, 0.1)
    moved = Affinity(shift + 1e-3 * affinity.values, "m", unit="gain")
    assert method(moved, num_groups=3).groups == method(affinity, num_groups=3).groups


def test_a_task_without_any_weight():
    values = np.zeros((5, 5))
    values[:2, :2] = values[2:4, 2:4] = 1.0
    found = spectral_groups(Affinity(values, "m", unit="gain"), num_groups=3, transform="none")
    assert found.groups == ((0, 1), (2, 3), (4,))


@pytest.mark.parametrize("seed", range(3))
def test_coclustering_agrees_with_scikit_learn(seed):
    affinity, owner = planted(32, 4, 0.4, seed, symmetric=False)
    found = cocluster_groups(affinity, num_groups=4, helpers=False)
    values = np.array(affinity.values)
    np.fill_diagonal(values, 0.0)
    pairs = values[~np.eye(32, dtype=bool)]
    weights = np.exp(values / pairs.std()).T
    np.fill_diagonal(weights, 0.0)
    oracle = SpectralCoclustering(4, n_init=20, random_state=0).fit(weights)
    ours = labels_of(found)
    assert adjusted_rand_score(ours, owner) >= adjusted_rand_score(oracle.row_labels_, owner) - 0.1
    assert adjusted_rand_score(ours, owner) > 0.75
    both = cocluster_groups(affinity, num_groups=4)
    for group in found.groups:
        assert any(set(group) <= set(larger) for larger in both.groups)


def test_extended_clusters_let_a_helper_join_others():
    """Tasks 4 and 5 help the targets of the first group most, and learn with each other."""
    values = np.full((6, 6), -1.0)  # values[giver, recipient]
    values[np.ix_([0, 1], [0, 1])] = 1.0
    values[np.ix_([2, 3], [2, 3])] = 1.0
    values[np.ix_([4, 5], [0, 1])] = 1.0
    affinity = Affinity(values, "m", unit="gain", symmetric=False)
    found = extended_spectral_groups(affinity, num_groups=3)
    assert not found.is_disjoint
    assert any({0, 1, 4, 5} <= set(group) for group in found.groups)
    assert all({2, 3} <= set(group) or not {2, 3} & set(group) for group in found.groups)
    turned = extended_spectral_groups(
        Affinity(values.T, "m", unit="gain", symmetric=False), num_groups=3
    )
    assert turned != found  # who gives matters


def test_extended_is_the_block_matrix_of_targets_and_helpers():
    """Written out from the definition; who gives and who receives is not to be confused."""
    for seed in range(5):
        values = np.random.default_rng(seed).normal(size=(10, 10))
        np.fill_diagonal(values, 0.0)
        theta = np.exp((values / values[~np.eye(10, dtype=bool)].std()).T)  # rows are targets
        np.fill_diagonal(theta, 0.0)
        block = np.block([[(theta + theta.T) / 2, theta], [theta.T, np.zeros((10, 10))]])
        degree = np.diag(block.sum(axis=1) ** -0.5)
        points = np.linalg.eigh(degree @ block @ degree)[1][:, -4:]
        points /= np.linalg.norm(points, axis=1, keepdims=True)
        labels = k_means(points, 4, restarts=60)
        groups = {
            frozenset((np.flatnonzero(labels == label) % 10).tolist())
            for label in set(labels[:10].tolist())
        }
        affinity = Affinity(values, "m", unit="gain", symmetric=False)
        found = extended_spectral_groups(affinity, num_groups=3, restarts=60)
        assert set(map(frozenset, found.groups)) == groups


def test_coclusters_are_of_targets():
    """Tasks 0 to 2 receive alike, 3 to 5 too; as givers they are all different."""
    values = np.zeros((6, 6))  # values[giver, recipient]
    values[[0, 3, 4], :3] = values[[1, 2, 5], 3:] = 1.0
    affinity = Affinity(values, "m", unit="gain", symmetric=False)
    found = cocluster_groups(affinity, num_groups=2, helpers=False, temperature=0.2)
    assert found.groups == ((0, 1, 2), (3, 4, 5))


def test_extended_finds_planted_groups():
    affinity, owner = planted(30, 3, 0.2, symmetric=False)
    found = extended_spectral_groups(affinity, num_groups=3)
    for group in found.groups:
        assert len({owner[task] for task in group}) == 1


@given(st.integers(2, 8), st.integers(0, 10**6), st.data())
@settings(max_examples=30, deadline=None)
def test_no_swap_betters_the_medoids(num_tasks, seed, data):
    values = np.random.default_rng(seed).normal(size=(num_tasks, num_tasks))
    values = values + values.T
    number = data.draw(st.integers(1, num_tasks))
    found = k_medoids_groups(Affinity(values, "m", unit="gain"), num_groups=number)
    assert len(found) == number
    distances = values[~np.eye(num_tasks, dtype=bool)].max() - values
    np.fill_diagonal(distances, 0.0)

    def cost(medoids):
        return distances[:, list(medoids)].min(axis=1).sum()

    inside = sum(
        min(distances[list(group)][:, centre].sum() for centre in group) for group in found.groups
    )
    medoids = [
        min(group, key=lambda c, g=group: distances[list(g)][:, c].sum()) for group in found.groups
    ]
    assert inside >= cost(medoids) - 1e-9
    for medoid in medoids:
        for other in set(range(num_tasks)) - set(medoids):
            assert cost([*(set(medoids) - {medoid}), other]) >= inside - 1e-9
    if number in (1, num_tasks):
        best = min(cost(chosen) for chosen in combinations(range(num_tasks), number))
        assert inside == pytest.approx(best, abs=1e-9)


def test_k_means_leaves_no_cluster_empty():
    points = np.zeros((7, 2))
    points[6] = 5.0
    found = k_means(points, 4)
    assert sorted(set(found.tolist())) == [0, 1, 2, 3]
    assert k_means(points, 2).tolist() in ([0] * 6 + [1], [1] * 6 + [0])
    rng = np.random.default_rng(0)
    points = rng.normal(size=(90, 3)) + 20 * rng.permutation(np.arange(90) % 3)[:, None]
    assert adjusted_rand_score(k_means(points, 3), np.round(points.mean(axis=1) / 20)) == 1.0
    assert np.array_equal(k_means(points, 5, seed=4), k_means(points, 5, seed=4))


def test_refuses():
    affinity, _ = planted(6, 2, 0.1)
    for method in (spectral_groups, extended_spectral_groups, cocluster_groups):
        with pytest.raises(UsageError, match=r"should lie in \[1, 6\]"):
            method(affinity, num_groups=7)
        with pytest.raises(UsageError, match="exp, shift or none"):
            method(affinity, transform="square")
        with pytest.raises(UsageError, match="temperature"):
            method(affinity, temperature=0.0)
        with pytest.raises(UsageError, match="restarts"):
            method(affinity, restarts=0)
    with pytest.raises(UsageError, match=r"should lie in \[1, 6\]"):
        k_medoids_groups(affinity, num_groups=0)
    with pytest.raises(UsageError, match="max_swaps"):
        k_medoids_groups(affinity, max_swaps=-1)
