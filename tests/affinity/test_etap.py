"""Gains of groups from affinities and trained groups, and the choice of groups, by brute force."""

from functools import partial
from itertools import combinations

import numpy as np
import pytest

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.affinity import GainPredictor, choose_groups, group_gains, search_groups
from gnn_mtl.tasks import Affinity

NAN = float("nan")


def directed(num_tasks, seed=0):
    values = np.random.default_rng(seed).normal(0, 1, (num_tasks, num_tasks))
    return Affinity(values, "m", "relative_loss", symmetric=False)


def drawn(num_tasks, number, seed=0, at_least=2):
    rng = np.random.default_rng(seed)
    masks = np.zeros((number, num_tasks), dtype=bool)
    for row in masks:
        row[rng.choice(num_tasks, rng.integers(at_least, num_tasks + 1), replace=False)] = True
    return masks


def mean_over_others(affinity, masks):
    scores = np.full(masks.shape, NAN)
    for g, mask in enumerate(masks):
        for t in np.flatnonzero(mask):
            cells = [affinity.values[i, t] for i in np.flatnonzero(mask) if i != t]
            cells = [cell for cell in cells if not np.isnan(cell)]
            if len(np.flatnonzero(mask)) == 1:
                scores[g, t] = 0.0
            elif cells:
                scores[g, t] = np.mean(cells)
    return scores


def test_gains_of_groups_are_means_over_the_other_givers():
    values = directed(6).values.copy()
    values[1, 3] = NAN
    values[:, 5] = NAN
    affinity, masks = Affinity(values, "m", symmetric=False), drawn(6, 20, at_least=1)
    np.testing.assert_allclose(group_gains(affinity, masks), mean_over_others(affinity, masks))
    alone = np.eye(6, dtype=bool)
    assert np.nansum(group_gains(affinity, alone)) == 0.0
    assert np.diag(group_gains(affinity, alone, singleton=-1e6)).max() == -1e6
    with pytest.raises(ShapeError, match="masks"):
        group_gains(affinity, np.ones((2, 5), dtype=bool))
    with pytest.raises(UsageError, match="empty"):
        group_gains(affinity, np.zeros((1, 6), dtype=bool))


def test_an_affine_law_is_recovered_exactly():
    affinity, masks = directed(8), drawn(8, 12)
    law = partial(mean_over_others, affinity)
    predictor = GainPredictor(affinity).fit(masks, 0.3 * law(masks) - 0.05)
    assert predictor.slope == pytest.approx(0.3)
    assert predictor.intercept == pytest.approx(-0.05)
    fresh = drawn(8, 30, seed=1)
    np.testing.assert_allclose(predictor.predict(fresh), 0.3 * law(fresh) - 0.05, atol=1e-6)


def test_a_bent_law_needs_the_spline():
    affinity, masks = directed(8), drawn(8, 60)
    law = lambda m: np.tanh(3 * mean_over_others(affinity, m))  # noqa: E731
    predictor = GainPredictor(affinity, residual_alphas=()).fit(masks, law(masks))
    assert predictor.spline is not None
    fresh = drawn(8, 60, seed=1)
    known = fresh & (fresh.sum(1) > 1)[:, None]
    affine = predictor.slope * mean_over_others(affinity, fresh) + predictor.intercept
    error = np.abs(predictor.predict(fresh) - law(fresh))[known].mean()
    assert error < 0.5 * np.abs(affine - law(fresh))[known].mean()


def test_what_pairs_do_not_say_is_left_to_the_residual_model():
    """Task 0 suffers from task 1 more than the affinity tells."""
    affinity, masks = directed(6), drawn(6, 40)

    def law(m):
        gains = mean_over_others(affinity, m)
        gains[:, 0] -= 1.5 * m[:, 1]
        return gains

    predictor = GainPredictor(affinity).fit(masks, law(masks))
    assert predictor.residual_alpha is not None
    fresh = drawn(6, 40, seed=1)
    known = fresh[:, 0] & (fresh.sum(1) > 1)
    without = GainPredictor(affinity, residual_alphas=()).fit(masks, law(masks))
    error, before = (
        np.abs(p.predict(fresh) - law(fresh))[known, 0].mean() for p in (predictor, without)
    )
    assert error < 0.4 * before
    # residuals are gains minus predictions: adding them back brings the trained groups closer
    use = masks & (masks.sum(1) > 1)[:, None]
    fitted = np.abs(predictor.predict(masks) - law(masks))[use].mean()
    assert fitted < np.abs(without.predict(masks) - law(masks))[use].mean()


def test_noise_is_not_fitted():
    affinity, masks = directed(10), drawn(10, 8)
    rng = np.random.default_rng(3)
    noise = np.where(masks, rng.normal(0, 1, masks.shape), NAN)
    fresh = drawn(10, 50, seed=1)
    assert np.nanstd(GainPredictor(affinity).fit(masks, noise).predict(fresh)) < 0.7


def test_members_only_and_tasks_alone_gain_nothing():
    affinity = directed(5)
    masks = drawn(5, 10)
    gains = np.where(masks, mean_over_others(affinity, masks), 99.0)  # not read outside
    gains[0, np.flatnonzero(masks[0])[0]] = NAN  # one was not measured
    predictor = GainPredictor(affinity).fit(masks, gains)
    fresh = np.concatenate([np.eye(5, dtype=bool), drawn(5, 7, seed=2)])
    found = predictor.predict(fresh)
    assert (np.isnan(found) == ~fresh).all()  # masked by these groups, not by the trained ones
    assert (found[:5][fresh[:5]] == 0).all()


def test_permuting_tasks_permutes_gains():
    affinity, masks, order = directed(6), drawn(6, 20), [4, 2, 0, 5, 1, 3]
    gains = np.tanh(2 * mean_over_others(affinity, masks))
    gains[:, 2] -= masks[:, 3]
    plain = GainPredictor(affinity).fit(masks, gains).predict(masks)
    moved = GainPredictor(affinity.select_tasks(order)).fit(masks[:, order], gains[:, order])
    np.testing.assert_allclose(moved.predict(masks[:, order]), plain[:, order], atol=1e-8)


def test_few_and_degenerate_groups():
    affinity = directed(4)
    everyone = np.ones((1, 4), dtype=bool)
    predictor = GainPredictor(affinity).fit(everyone, np.full((1, 4), 0.2))
    np.testing.assert_allclose(predictor.predict(everyone), 0.2, atol=1e-12)
    unknown = Affinity(np.full((4, 4), NAN), "m")
    np.testing.assert_allclose(
        GainPredictor(unknown).fit(everyone, np.full((1, 4), 0.2)).predict(everyone), 0.2
    )
    one = GainPredictor(Affinity(np.ones((1, 1)), "m"))
    with pytest.raises(UsageError, match="two tasks or more"):
        one.fit(np.ones((1, 1), dtype=bool), [[0.0]])
    with pytest.raises(UsageError, match="call fit"):
        one.predict(np.ones((1, 1), dtype=bool))
    with pytest.raises(ShapeError, match="gains"):
        GainPredictor(affinity).fit(everyone, np.zeros((2, 4)))


def all_groups(num_tasks):
    numbers = np.arange(1, 1 << num_tasks)
    return (numbers[:, None] >> np.arange(num_tasks)) % 2 == 1


def best_by_brute_force(masks, scores, k):
    values = np.where(masks, scores, -np.inf)
    return max(
        values[list(chosen)].max(0).mean()
        for size in range(1, k + 1)
        for chosen in combinations(range(len(masks)), size)
    )


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("num_tasks", "k"), [(3, 2), (4, 2), (4, 3), (5, 2)])
def test_choice_equals_brute_force(num_tasks, k, seed):
    affinity, masks = directed(num_tasks, seed), all_groups(num_tasks)
    scores = group_gains(affinity, masks)
    found = choose_groups(masks, scores, k)
    assert found.optimal
    assert found.value == pytest.approx(best_by_brute_force(masks, scores, k))
    assert len(found.grouping) <= k
    for task, group in enumerate(found.served_by):
        assert task in found.grouping.groups[group]
    served = [
        group_gains(affinity, found.grouping.memberships())[group, task]
        for task, group in enumerate(found.served_by)
    ]
    assert np.mean(served) == pytest.approx(found.value)


def test_tasks_that_harm_all_others_are_left_alone():
    affinity = Affinity(-np.ones((4, 4)), "m")
    found = search_groups(partial(group_gains, affinity), 4, 4)
    assert found.grouping.groups == ((0,), (1,), (2,), (3,))
    forced = search_groups(partial(group_gains, affinity, singleton=-1e6), 4, 3)
    assert min(forced.grouping.sizes) > 1  # the authors' rule


def test_local_search_finds_planted_groups_and_loses_to_nothing_smaller():
    sign = np.repeat([1.0, -1.0, 1.0, -1.0], 4)
    block = np.repeat([0, 0, 1, 1], 4)
    values = np.where(block[:, None] == block, sign[:, None] * sign, -1.0)
    affinity = Affinity(values, "m")
    found = search_groups(partial(group_gains, affinity), 16, 4, restarts=6)
    assert found.value == pytest.approx(1.0)
    assert found.grouping.groups == tuple(tuple(range(i, i + 4)) for i in (0, 4, 8, 12))
    assert found == search_groups(partial(group_gains, affinity), 16, 4, restarts=6)
    few = search_groups(partial(group_gains, directed(12)), 12, 2)
    more = search_groups(partial(group_gains, directed(12)), 12, 5)
    assert few.value <= more.value
    unknown = search_groups(partial(group_gains, Affinity(np.full((12, 12), NAN), "m")), 12, 2)
    assert unknown.value == 0.0


def test_search_by_predictor():
    affinity, masks = directed(5), drawn(5, 12)
    predictor = GainPredictor(affinity).fit(masks, mean_over_others(affinity, masks))
    found = search_groups(predictor.predict, 5, 2)
    everything = all_groups(5)
    expected = best_by_brute_force(everything, predictor.predict(everything), 2)
    assert found.value == pytest.approx(expected)


def test_choice_refuses():
    masks = np.array([[True, True, False], [False, False, True]])
    scores = np.zeros((2, 3))
    assert choose_groups(masks, scores, 2).grouping.groups == ((0, 1), (2,))
    with pytest.raises(UsageError, match="cover all 3"):
        choose_groups(masks, scores, 1)
    with pytest.raises(UsageError, match=r"none for \[2\]"):
        choose_groups(masks[:1], scores[:1], 1)
    with pytest.raises(UsageError, match="num_groups"):
        choose_groups(masks, scores, 0)
    with pytest.raises(ShapeError, match="masks"):
        choose_groups(masks, scores[:1], 1)
    with pytest.raises(UsageError, match="restarts"):
        search_groups(lambda m: m * 1.0, 3, 1, restarts=0)
    big = all_groups(9)
    cut = choose_groups(big, group_gains(directed(9), big), 4, max_nodes=50)
    assert not cut.optimal  # says so
