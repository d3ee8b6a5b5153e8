"""How many groups, and whether they hold; soft groups of task vectors."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.grouping import (
    adjusted_rand,
    bootstrap_affinities,
    fuzzy_k_means,
    group_tasks,
    normalized_mutual_info,
    number_by_eigengap,
    number_by_penalty,
    number_by_score,
    penalty_sweep,
    sdp_groups,
    stability,
)
from gnn_mtl.grouping._choose_number import PenaltyPoint
from gnn_mtl.tasks import Affinity, Grouping


def planted(num_tasks, num_groups, noise, seed=0):
    rng = np.random.default_rng(seed)
    owner = np.arange(num_tasks) % num_groups
    values = (owner[:, None] == owner) + noise * rng.normal(size=(num_tasks, num_tasks))
    return Affinity((values + values.T) / 2, "planted", unit="gain"), owner


@pytest.mark.parametrize("seed", range(2))
def test_the_sweep_finds_the_planted_number(seed):
    affinity, _ = planted(36, 4, 0.5, seed)
    points = penalty_sweep(affinity)
    assert number_by_penalty(points) == 4
    numbers = [point.num_groups for point in points]
    assert numbers[0] > numbers[-1]
    for point in points:
        assert point.density - point.penalty * point.num_groups <= point.upper_bound + 1e-9
    small = penalty_sweep(affinity, [2.0, 1.0])
    assert [point.penalty for point in small] == [1.0, 2.0]


def test_the_longest_stretch_counts():
    points = [PenaltyPoint(p, k, k, 0.0, 0.0) for p, k in ((1, 5), (2, 3), (3, 3), (4, 1))]
    assert number_by_penalty(points) == 3
    tie = [PenaltyPoint(p, k, k, 0.0, 0.0) for p, k in ((1, 5), (2, 1))]
    assert number_by_penalty(tie) == 5
    assert number_by_penalty(tie[:1]) == 5


def test_a_sweep_has_a_point():
    with pytest.raises(UsageError, match="at least one"):
        number_by_penalty([])


@pytest.mark.parametrize("penalties", [[], [np.nan]])
def test_penalties_are_numbers(penalties):
    with pytest.raises(UsageError, match="finite numbers"):
        penalty_sweep(planted(6, 2, 0.1)[0], penalties)


def test_eigengap():
    assert number_by_eigengap(np.array([0.1, 0.9, 1.0, 0.2]), 3) == 2
    assert number_by_eigengap(np.array([1.0])) == 1
    assert number_by_eigengap(np.array([3.0, 2.9, 2.8, 0.0]), 1) == 1


def test_a_score_decides():
    affinity, owner = planted(12, 3, 0.2)
    truth = Grouping.from_assignments(owner.tolist())
    found = number_by_score(
        affinity, sdp_groups, lambda grouping: adjusted_rand(grouping, truth), [2, 4, 3, 6]
    )
    assert found.num_groups == 3
    assert found.grouping == truth
    assert sorted(found.scores) == [2, 3, 4, 6]
    some = {2: np.nan, 3: 1.0, 4: 1.0}
    by_number = partial(number_by_score, affinity, partial(group_tasks, method="greedy"))
    assert by_number(lambda grouping: some[len(grouping)], [4, 3, 2]).num_groups == 3
    with pytest.raises(UsageError, match="only NaN"):
        by_number(lambda grouping: np.nan, [2])
    with pytest.raises(UsageError, match="candidates"):
        by_number(len, [])


@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_agreement_equals_scikit_learn(num_tasks, num_groups, seed):
    one, two = np.random.default_rng(seed).integers(0, num_groups, (2, num_tasks)).tolist()
    mine, theirs = Grouping.from_assignments(one), Grouping.from_assignments(two)
    assert adjusted_rand(mine, theirs) == pytest.approx(adjusted_rand_score(one, two), abs=1e-9)
    if min(len(mine), len(theirs)) > 1:  # scikit-learn says 0 where only one is a single group
        expected = normalized_mutual_info_score(one, two)
        assert normalized_mutual_info(mine, theirs) == pytest.approx(expected, abs=1e-9)
    assert normalized_mutual_info(mine, mine) == pytest.approx(1.0)


def test_agreement_is_between_partitions():
    whole = Grouping.of([(0, 1, 2)], 3)
    with pytest.raises(UsageError, match="groups that overlap"):
        adjusted_rand(whole, Grouping.of([(0, 1), (1, 2)], 3))
    with pytest.raises(UsageError, match="3 and 2 tasks"):
        normalized_mutual_info(whole, Grouping.of([(0, 1)], 2))


def test_groups_hold_while_errors_are_small():
    affinity, owner = planted(20, 4, 0.1)
    truth = Grouping.from_assignments(owner.tolist())
    method = partial(group_tasks, method="greedy", num_groups=4)
    found = {}
    for error in (0.05, 5.0):
        noisy = Affinity(affinity.values, "m", "gain", stderr=np.full((20, 20), error))
        found[error] = stability(bootstrap_affinities(noisy, 8, seed=1), method)
    assert found[0.05].mean_ari == found[0.05].mean_nmi == pytest.approx(1.0)
    assert found[0.05].consensus == truth
    assert found[0.05].share_of_tasks() == pytest.approx(np.ones(20))
    assert found[5.0].mean_ari < 0.3
    assert found[5.0].share_of_tasks().max() < 1.0
    assert found[5.0].together.diagonal() == pytest.approx(np.ones(20))
    assert found[5.0].ari.shape == (8, 8)
    assert len(found[5.0].groupings) == 8


def test_bootstraps_follow_the_errors():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 4))
    errors = rng.random((4, 4))
    errors[1, 2] = 0.0
    errors[2, 1] = np.nan
    values[0, 1] = np.nan
    affinity = Affinity(values, "m", "gain", False, stderr=errors)
    drawn = np.stack([each.values for each in bootstrap_affinities(affinity, 400)])
    assert np.isnan(drawn[:, 0, 1]).all()
    assert (drawn[:, 1, 2] == values[1, 2]).all()
    assert (drawn[:, 2, 1] == values[2, 1]).all()
    known = errors > 0
    known[0, 1] = known[2, 1] = False
    assert drawn.std(axis=0)[known] == pytest.approx(errors[known], rel=0.2)
    again = bootstrap_affinities(affinity, 2)
    assert np.array_equal(again[1].values, drawn[1], equal_nan=True)
    both = Affinity(values + values.T, "m", "gain", stderr=errors + errors.T)
    assert bootstrap_affinities(both, 1)[0].symmetric
    with pytest.raises(UsageError, match="standard errors"):
        bootstrap_affinities(Affinity(np.eye(2), "m"), 3)
    with pytest.raises(UsageError, match="`number`"):
        bootstrap_affinities(affinity, 0)
    with pytest.raises(UsageError, match="at least two"):
        stability([affinity], partial(group_tasks, method="greedy"))


def test_duplicated_labels_share_a_soft_group():
    rng = np.random.default_rng(0)
    maps = rng.random((5, 40))
    found = fuzzy_k_means(np.repeat(maps, 3, axis=0), 5)
    assert found.memberships.sum(axis=1) == pytest.approx(np.ones(15))
    assert found.memberships.min() >= 0
    assert found.grouping().groups == tuple(tuple(range(3 * g, 3 * g + 3)) for g in range(5))
    order = found.memberships[::3].argmax(axis=1)
    assert found.centers[order] == pytest.approx(maps, abs=1e-6)


def test_memberships_and_centres_are_a_fixed_point():
    points = np.random.default_rng(1).normal(size=(30, 4)) + 100.0
    for fuzziness in (1.07, 2.0):
        found = fuzzy_k_means(points, 3, fuzziness=fuzziness, max_rounds=2000, tolerance=1e-12)
        squares = ((points[:, None] - found.centers) ** 2).sum(axis=2)
        ratios = squares[:, :, None] / squares[:, None, :]
        memberships = 1 / (ratios ** (1 / (fuzziness - 1))).sum(axis=2)
        assert found.memberships == pytest.approx(memberships, abs=1e-5)
        weights = found.memberships**fuzziness
        assert found.centers == pytest.approx(
            (weights.T @ points) / weights.sum(axis=0)[:, None], abs=1e-5
        )
        assert found.inertia == pytest.approx((weights * squares).sum(), rel=1e-6)


def test_softness_and_refusals():
    points = np.random.default_rng(1).normal(size=(30, 4))
    hard, soft = (fuzzy_k_means(points, 3, fuzziness=m) for m in (1.01, 3.0))
    assert hard.memberships.max(axis=1).mean() > soft.memberships.max(axis=1).mean()
    assert fuzzy_k_means(points, 1).memberships == pytest.approx(np.ones((30, 1)))
    assert fuzzy_k_means(np.zeros((4, 2)), 2).memberships.sum(axis=1) == pytest.approx(np.ones(4))
    for wrong in (points[0], points * np.nan, points[:0]):
        with pytest.raises(ShapeError, match="finite matrix"):
            fuzzy_k_means(wrong, 1)
    with pytest.raises(UsageError, match="num_groups"):
        fuzzy_k_means(points, 31)
    with pytest.raises(UsageError, match="fuzziness"):
        fuzzy_k_means(points, 2, fuzziness=1.0)
