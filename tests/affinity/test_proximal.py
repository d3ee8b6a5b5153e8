"""Credits of group updates against tasks whose losses are known in closed form."""

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.affinity import ProximalAffinity, effective_samples, proximal_credits
from gnn_mtl.grouping import group_tasks

NAN = float("nan")
GOLDEN = [[0.19, 0.063333, -0.105], [0.09, 0.19, -0.11], [-0.105, -0.07, 0.19]]


def run(q, groups):
    """Losses before each group's update and after the last, with the end state."""
    shared, heads = q.shared.clone(), q.heads.clone()
    losses = [q.losses(shared, heads)]
    for group in groups:
        members = list(group)
        step = q.lr * (shared - q.centers[members]).sum(0)
        heads = heads.clone()
        heads[members] -= q.lr * (heads[members] - 1)
        shared = shared - step
        losses.append(q.losses(shared, heads))
    return torch.stack(losses).numpy(), shared, heads


@pytest.mark.parametrize("task", [0, 1, 2])
def test_golden_single_tasks(task, quadratics):
    average = ProximalAffinity(3, beta=0.9)
    losses, *_ = run(quadratics, [[task]])
    average.update([[task]], losses)
    found = average.affinity()
    np.testing.assert_allclose(found.values[task], GOLDEN[task], atol=1e-6)
    others = np.delete(np.arange(3), task)
    assert np.isnan(found.values[others]).all()  # never credited: unknown, not 0
    assert found.counts[task].tolist() == [1, 1, 1]
    assert found.counts[others].sum() == 0
    assert (found.method, found.unit, found.symmetric) == ("proximal", "relative_loss", False)


def test_golden_groups(quadratics):
    for group, expected in (([0, 1], [0.27, 0.246667, -0.225]), ([0, 2], [0.095, 0, 0.095])):
        losses, *_ = run(quadratics, [group])
        change = 1 - losses[1] / losses[0]
        np.testing.assert_allclose(change, expected, atol=1e-6)
        plain = proximal_credits(group, change, within="plain")
        np.testing.assert_allclose(plain.sum(0), change, atol=1e-12)


def test_golden_sequence(quadratics):
    losses, shared, heads = run(quadratics, [[0, 1], [2]])
    np.testing.assert_allclose(shared, [0.08, 0.09])
    np.testing.assert_allclose(heads, [0.1, 0.1, 0.1])
    assert losses[-1].sum() == pytest.approx(3.06675)
    average = ProximalAffinity(3, within="plain")
    average.update([[0, 1], [2]], losses)
    pair = [0.135, 0.123333, -0.1125]
    expected = [pair, pair, [-0.140068, -0.099336, 0.19]]
    np.testing.assert_allclose(average.affinity().values, expected, atol=1e-6)
    assert (average.counts == 1).all()  # the last group is credited too
    joint, *_ = run(quadratics, [[0, 1, 2]])
    assert joint[-1].sum() == pytest.approx(3.045)


def test_golden_rule_within_groups(quadratics):
    losses, *_ = run(quadratics, [[0, 1]])
    credits = proximal_credits([0, 1], 1 - losses[1] / losses[0])
    np.testing.assert_allclose(credits[:, :2], [[0.135, 0.123333]] * 2, atol=1e-6)


def test_members_that_disagree_are_pushed_apart():
    credits = proximal_credits([0, 2, 3], [0.6, 0.3, -0.9, -0.3])
    np.testing.assert_allclose(
        credits,
        [[0.2, 0.1, -0.2, -0.2], [-0.2, 0.1, NAN, -0.1], [-0.2, 0.1, -0.3, NAN]],
        atol=1e-12,
    )
    average = ProximalAffinity(4)
    average.update([[0, 2, 3]], np.array([[1.0] * 4, [0.4, 0.7, 1.9, 1.3]]))
    assert average.counts[2].tolist() == [1, 1, 0, 1]  # a negative diagonal is not written


def toy(steps, *, credit, seed=0, groups=None):
    """Six tasks in two opposed groups, trained one task after the other; the averages."""
    rng = np.random.default_rng(seed)
    sign = np.array([1.0, 1, 1, -1, -1, -1])
    centers = 3.0 * sign[:, None] * np.array([1.0, 0.5]) + 0.3 * rng.standard_normal((6, 2))
    average = ProximalAffinity(6, beta=0.99, credit=credit)
    truth = ProximalAffinity(6, beta=0.99)
    for _ in range(steps):
        shared = 0.1 * rng.standard_normal(2)
        order = [[int(task)] for task in rng.permutation(6)]
        losses = [0.5 * ((shared - centers) ** 2).sum(1)]
        for (task,) in order:
            shared = shared - 0.01 * (shared - centers[task])
            losses.append(0.5 * ((shared - centers) ** 2).sum(1))
        losses = np.array(losses)
        average.update(order, losses)
        truth.update(order, losses)
    return average.affinity(), truth.affinity()


def test_two_clusters_are_recovered():
    found, _ = toy(60, credit="own_update")
    groups = group_tasks(found, method="affinity_propagation")
    labels = np.empty(6)
    for number, group in enumerate(groups.groups):
        labels[list(group)] = number
    assert adjusted_rand_score([0, 0, 0, 1, 1, 1], labels) == 1.0


def test_the_released_credit_is_upside_down_and_ours_is_not():
    """The released class writes each change to the group updated after the one that made it."""
    released, truth = toy(400, credit="previous_losses")
    for column in range(6):
        rows = np.delete(np.arange(6), column)
        correlation = np.corrcoef(released.values[rows, column], truth.values[rows, column])[0, 1]
        assert correlation < -0.7
    ours, _ = toy(400, credit="own_update")
    np.testing.assert_array_equal(ours.values, truth.values)


def test_who_gets_the_credit():
    losses = np.array([[1.0, 1.0], [1.0, 0.5], [1.0, 0.5]])  # the first update halves loss 1
    ours, released = ProximalAffinity(2), ProximalAffinity(2, credit="previous_losses")
    for each in (ours, released):
        each.update([[0], [1]], losses)
    np.testing.assert_allclose(ours.affinity().values, [[0, 0.5], [0, 0]], atol=1e-12)
    np.testing.assert_allclose(released.affinity().values, [[NAN, NAN], [0, 0.5]], atol=1e-12)
    short = ProximalAffinity(2)
    short.update([[0], [1]], losses[:2])  # without the last forward pass
    assert short.counts.tolist() == [[1, 1], [0, 0]]


def test_average_is_bias_corrected_per_cell_and_knows_its_error():
    rng = np.random.default_rng(0)
    average, history = ProximalAffinity(2, beta=0.9), []
    for _ in range(7):
        after = rng.uniform(0.5, 1.5, 2)
        average.update([[0]], np.stack([np.ones(2), after]))
        history.append(1 - after)
    weights = 0.9 ** np.arange(6, -1, -1.0)
    weights /= weights.sum()
    found = average.affinity()
    column = np.array(history)[:, 1]
    assert found.values[0, 1] == pytest.approx(weights @ column)
    samples = 1 / (weights**2).sum()
    assert effective_samples(0.9, 7) == pytest.approx(samples)
    spread = weights @ column**2 - (weights @ column) ** 2
    assert found.stderr[0, 1] == pytest.approx(np.sqrt(spread / (samples - 1)))
    assert np.isnan(found.stderr[1]).all()
    assert np.isnan(average.affinity(min_count=8).values).all()
    assert effective_samples(0.9, 10**6) == pytest.approx(19.0)
    assert effective_samples(0.5, [0, 1]).tolist() == [0.0, 1.0]


def test_unlabelled_tasks_take_no_part():
    average = ProximalAffinity(3, within="plain")
    average.update([[0, 1], [1]], np.array([[1.0, NAN, 1], [0.5, NAN, 2], [0.5, NAN, 2]]))
    found = average.affinity().values
    assert found[0, 0] == 0.5  # the group had one live member, not two
    assert found[0, 2] == -1.0
    assert np.isnan(found[:, 1]).all()
    assert np.isnan(found[1]).all()


def test_a_vanishing_loss_does_not_outweigh_the_rest():
    average = ProximalAffinity(2, within="plain", beta=0.5)
    average.update([[0]], np.ones((2, 2)))
    average.update([[0]], np.array([[1.0, 1e-12], [1.0, 2e-12]]))
    assert abs(average.affinity().values[0, 1]) < 1e-8


def test_permuting_tasks_permutes_cells():
    rng = np.random.default_rng(0)
    losses, order = rng.uniform(0.5, 1, (3, 4)), [2, 0, 3, 1]
    plain, moved = ProximalAffinity(4), ProximalAffinity(4)
    plain.update([[0, 1], [2, 3]], losses)
    place = np.argsort(order).tolist()
    moved.update([[place[0], place[1]], [place[2], place[3]]], losses[:, order])
    np.testing.assert_allclose(
        moved.affinity().values, plain.affinity().values[np.ix_(order, order)]
    )


def test_one_task():
    average = ProximalAffinity(1)
    average.update([[0], [0]], [[1.0], [0.5], [0.25]])
    assert average.affinity().values == pytest.approx(0.5)


def test_resumes_bit_identical():
    rng = np.random.default_rng(0)
    batches = rng.uniform(0.5, 1.0, (8, 3, 4))
    batches[3, :, 2] = NAN
    whole, first = ProximalAffinity(4, beta=0.8), ProximalAffinity(4, beta=0.8)
    for losses in batches:
        whole.update([[0, 1], [2, 3]], losses)
    for losses in batches[:4]:
        first.update([[0, 1], [2, 3]], losses)
    second = ProximalAffinity(4, beta=0.8)
    second.load_state_dict(first.state_dict())
    for losses in batches[4:]:
        second.update([[0, 1], [2, 3]], losses)
    np.testing.assert_array_equal(second.affinity().values, whole.affinity().values)
    np.testing.assert_array_equal(second.affinity().stderr, whole.affinity().stderr)
    assert all(torch.is_tensor(v) or isinstance(v, str) for v in first.state_dict().values())


def test_wrong_input():
    for options in ({"beta": 1.0}, {"beta": -0.1}, {"credit": "mine"}, {"within": "other"}):
        with pytest.raises(UsageError, match=next(iter(options))):
            ProximalAffinity(2, **options)
    with pytest.raises(UsageError, match="at least one task"):
        ProximalAffinity(0)
    with pytest.raises(UsageError, match="beta"):
        effective_samples(1.0, 3)
    average = ProximalAffinity(2)
    with pytest.raises(ShapeError, match="losses"):
        average.update([[0]], np.ones((3, 2)))
    for group in ([], [0, 0], [2], [-1]):
        with pytest.raises(UsageError, match="distinct tasks"):
            average.update([group], np.ones((2, 2)))
    with pytest.raises(UsageError, match="Expected the state"):
        average.load_state_dict(ProximalAffinity(2, beta=0.5).state_dict())
    state = average.state_dict()
    for name in ("mean", "loss"):
        with pytest.raises(UsageError, match=name):
            average.load_state_dict({k: v for k, v in state.items() if k != name})
    assert eval(repr(average)).beta == average.beta  # noqa: S307
