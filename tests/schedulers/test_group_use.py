"""What is done with groups: turns, all on every batch, shared weights, inner and outer steps."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.schedulers import RandomGroupsScheduler, Static, StaticScheduler, Update
from gnn_mtl.schedulers._group_weights import GroupWeights
from gnn_mtl.tasks import Grouping

GROUPS = Grouping.of([[0, 1], [2, 3, 4], [5]], 6)


def test_turns_are_one_update_a_step():
    schedule = StaticScheduler(6, GROUPS)
    for group in GROUPS.groups * 2:
        assert schedule.active_tasks() == group
        assert schedule.updates() == (Update(group, (1.0,) * len(group)),)
        assert not schedule.needs_losses
    assert schedule.outer_lr is None
    with pytest.raises(UsageError, match="never needs losses"):
        schedule.observe_losses(np.ones((1, 6)))


def test_all_groups_update_on_every_batch_in_an_order_drawn_anew():
    schedule = StaticScheduler(6, GROUPS, use="all_groups_per_batch", scale="mean", seed=3)
    orders = set()
    for _ in range(30):
        assert schedule.active_tasks() == (0, 1, 2, 3, 4, 5)
        updates = schedule.updates()
        assert sorted(update.tasks for update in updates) == sorted(GROUPS.groups)
        for update in updates:
            assert update.weights == pytest.approx([1 / len(update.tasks)] * len(update.tasks))
        orders.add(tuple(update.tasks for update in updates))
    assert len(orders) == 6
    other = StaticScheduler(6, GROUPS, use="all_groups_per_batch", seed=4)
    drawn = []
    for _ in range(30):
        other.active_tasks()
        drawn.append(other.updates())
    assert schedule.groups == GROUPS.groups
    assert len(set(drawn)) == 6


def test_groups_without_a_label_make_no_update_unless_none_has_one():
    schedule = StaticScheduler(6, GROUPS, use="all_groups_per_batch")
    assert schedule.active_tasks(available=[0, 5]) == (0, 1, 5)
    assert sorted(update.tasks for update in schedule.updates()) == [(0, 1), (5,)]
    assert schedule.active_tasks(available=[]) == (0, 1, 2, 3, 4, 5)


def test_repeated_tasks_weigh_once_over_the_updates_of_a_batch():
    overlapping = Grouping.of([[0, 1, 2], [1, 2, 3]], 4)
    schedule = StaticScheduler(4, overlapping, use="all_groups_per_batch", reweight=True)
    schedule.active_tasks()
    assert schedule.task_weights() == pytest.approx((1.0, 1.0, 1.0, 1.0))


def test_windows_need_no_turn_for_every_group_where_all_have_one_every_step():
    schedule = RandomGroupsScheduler(6, sizes=(1,) * 6, refresh_period=2)
    all_at_once = RandomGroupsScheduler(
        6, sizes=(1,) * 6, refresh_period=2, use="all_groups_per_batch"
    )
    for each in (schedule, all_at_once):
        each.active_tasks()
    assert schedule.pop_reports()[0].num_steps == 6
    assert all_at_once.pop_reports()[0].num_steps == 2


def test_inner_cycles_visit_every_group_once_in_new_orders():
    schedule = StaticScheduler(6, GROUPS, use="inner_outer", outer_lr=0.3)
    assert schedule.outer_lr == 0.3
    orders = set()
    for _ in range(40):
        cycle = []
        for place in range(3):
            ahead = schedule.peek(1)
            cycle.append(schedule.active_tasks())
            assert ahead == [cycle[-1]]
            assert schedule.begins_cycle == (place == 0)
        assert sorted(cycle) == sorted(GROUPS.groups)
        orders.add(tuple(cycle))
    assert len(orders) == 6


def test_a_cycle_cut_by_missing_labels_still_ends():
    schedule = StaticScheduler(6, GROUPS, use="inner_outer", seed=1)
    begun = 0
    for _ in range(60):
        schedule.active_tasks(available=[0])
        begun += schedule.begins_cycle
    assert begun == 60  # only one group can run, once a cycle


# group weights


def test_weights_are_shared_inside_a_group_and_have_mean_1():
    schedule = StaticScheduler(6, GROUPS, use="group_weights")
    rng = np.random.default_rng(0)
    losses = rng.uniform(0.1, 1.0, 6)
    for _ in range(5):
        assert schedule.active_tasks() == (0, 1, 2, 3, 4, 5)
        assert schedule.groups == ((0, 1, 2, 3, 4, 5),)
        weights = schedule.task_weights()
        for group in GROUPS.groups:
            assert len({weights[task] for task in group}) == 1
        assert np.mean(weights) == pytest.approx(1.0)
        schedule.observe_losses(losses[None])
        losses = losses * rng.uniform(0.5, 1.0, 6)
    assert len(set(weights)) == 3


def test_go4aligns_formula():
    weights = GroupWeights(3, rate=0.1)
    p = np.full(3, 1 / 3)
    for losses in (np.array([1.0, 2.0, 0.5]), np.array([0.5, 2.0, 0.4])):
        weights.observe(losses)
        p = p * np.exp(-0.1 * losses)
        p /= p.sum()
        np.testing.assert_allclose(weights.risk, p * losses.sum() / losses)
    risk = weights.risk
    expected = np.array([risk[0], risk[1:].mean(), risk[1:].mean()])
    np.testing.assert_allclose(weights.of([(0,), (1, 2)]), expected / expected.mean())


def test_a_task_without_a_loss_keeps_its_risk_and_a_solved_one_does_not_take_all():
    weights = GroupWeights(3)
    weights.observe(np.array([1.0, 1.0, np.nan]))
    assert weights.risk[2] == 1.0
    weights.observe(np.full(3, np.nan))
    weights.observe(np.array([1.0, 1.0, 0.0]))
    assert np.isfinite(weights.risk).all()
    assert max(weights.of([(0,), (1,), (2,)])) < 3.0


@given(st.lists(st.floats(0, 5), min_size=4, max_size=4), st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_weights_are_finite_positive_and_survive_their_state(losses, times):
    weights, again = GroupWeights(4), GroupWeights(4)
    for _ in range(times):
        weights.observe(np.array(losses))
    again.load_state_dict(weights.state_dict())
    found = weights.of([(0, 1), (1, 2, 3)])
    assert found == again.of([(0, 1), (1, 2, 3)])
    assert all(np.isfinite(found)) and min(found) >= 0  # noqa: PT018
    with pytest.raises(UsageError, match="3 numbers"):
        GroupWeights(3).load_state_dict(weights.state_dict())


# contract


def test_losses_must_fit_the_updates():
    schedule = StaticScheduler(6, GROUPS, use="group_weights")
    with pytest.raises(UsageError, match="active_tasks"):
        schedule.observe_losses(np.ones((1, 6)))
    schedule.active_tasks()
    for shape in ((6,), (3, 6), (1, 5)):
        with pytest.raises(ShapeError, match="losses"):
            schedule.observe_losses(np.ones(shape))
    schedule.observe_losses(np.ones((2, 6)))


@pytest.mark.parametrize("use", ["one_group_per_batch", "all_groups_per_batch", "inner_outer"])
def test_every_use_spends_the_same_label_gradients_a_cycle(use):
    schedule = StaticScheduler(6, GROUPS, use=use)
    spent = 0
    for _ in range(1 if use == "all_groups_per_batch" else 3):
        schedule.active_tasks()
        spent += sum(len(update.tasks) for update in schedule.updates())
    assert spent == 6


def test_configurations_pass_their_options_on():
    for use, outer in itertools.product(("all_groups_per_batch", "inner_outer"), (0.2, 1.0)):
        config = Static(groups=GROUPS.groups, use=use, outer_lr=outer, scale="mean")
        schedule = config.build(6, seed=9)
        assert schedule.use == use
        assert repr(schedule) == repr(
            StaticScheduler(6, Grouping.of(GROUPS.groups, 6, "given"), use=use, outer_lr=outer,
                            scale="mean", seed=9)
        )  # fmt: skip
