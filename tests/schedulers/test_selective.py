"""Selective Task Group Updates on problems with a closed form, and the released bugs."""

import numpy as np
import pytest

from gnn_mtl._core.errors import UsageError
from gnn_mtl.schedulers import Selective, SelectiveScheduler

CENTRES = np.array([[1.0, 0.0], [1.0, 1.0], [-1.0, 0.0]])


class Quadratics:
    """L_i = |s - c_i|^2 / 2 + (h_i - 1)^2 / 2 with a shared s and a head h_i of its own."""

    def __init__(self, centres, rate=0.1):
        self.centres, self.rate = np.asarray(centres, dtype=float), rate
        self.shared, self.heads = np.zeros(self.centres.shape[1]), np.zeros(len(centres))

    def losses(self):
        return 0.5 * ((self.shared - self.centres) ** 2).sum(1) + 0.5 * (self.heads - 1) ** 2

    def step(self, tasks):
        tasks = list(tasks)
        self.shared -= self.rate * (self.shared - self.centres[tasks]).sum(0)
        self.heads[tasks] -= self.rate * (self.heads[tasks] - 1)

    def batch(self, schedule):
        """Make the updates of one batch and hand the losses around them over."""
        schedule.active_tasks()
        rows = [self.losses()]
        for update in schedule.updates():
            self.step(update.tasks)
            rows.append(self.losses())
        schedule.observe_losses(np.array(rows)[: None if schedule.needs_last_losses else -1])


def _singles(**options):
    return SelectiveScheduler(
        3, warmup_steps=9, warmup_groups="singletons", use="one_group_per_batch", ema_beta=0.0,
        **options,
    )  # fmt: skip


def test_golden_rows_of_single_updates():
    """Row i is the measured change after task i's own update; no other row moves."""
    golden = [[0.19, 0.063333, -0.105], [0.09, 0.19, -0.11], [-0.105, -0.07, 0.19]]
    schedule = _singles()
    for row in range(3):
        problem = Quadratics(CENTRES)
        problem.batch(schedule)
        values = schedule.affinity().values
        np.testing.assert_allclose(values[: row + 1], golden[: row + 1], atol=1e-5)
        assert np.isnan(values[row + 1 :]).all()


def test_golden_sequence_credits_the_group_that_made_the_update_the_last_one_too(monkeypatch):
    schedule = SelectiveScheduler(3, warmup_steps=1, ema_beta=0.0, within="plain")
    monkeypatch.setattr(schedule, "_plan", lambda: schedule._report(((0, 1), (2,)), 1))
    problem = Quadratics(CENTRES)
    while True:  # until the order drawn is {0, 1} then {2}
        schedule.active_tasks()
        if schedule.updates()[0].tasks == (0, 1):
            break
    rows = [problem.losses()]
    for update in schedule.updates():
        problem.step(update.tasks)
        rows.append(problem.losses())
    schedule.observe_losses(np.array(rows))
    np.testing.assert_allclose(problem.shared, [0.08, 0.09])
    assert problem.losses().sum() == pytest.approx(3.06675)
    golden = [[0.135, 0.123333, -0.1125]] * 2 + [[-0.140068, -0.099336, 0.19]]
    np.testing.assert_allclose(schedule.affinity().values, golden, atol=1e-5)


def test_the_released_credit_is_a_switch_and_goes_to_the_next_group():
    honest = SelectiveScheduler(3, warmup_steps=9, warmup_groups="singletons", ema_beta=0.0, seed=1)
    released = SelectiveScheduler(
        3, warmup_steps=9, warmup_groups="singletons", ema_beta=0.0, seed=1,
        credit="previous_losses", credit_last=False,
    )  # fmt: skip
    for schedule in (honest, released):
        Quadratics(CENTRES).batch(schedule)
    order = [update.tasks[0] for update in honest.updates()]
    assert order == [update.tasks[0] for update in released.updates()]
    right, wrong = honest.affinity().values, released.affinity().values
    assert not np.isnan(right).any()
    assert np.isnan(wrong[order[0]]).all()  # the first group of a batch gets nothing
    for before, after in zip(order, order[1:], strict=False):  # noqa: RUF007
        others = [task for task in range(3) if task not in (before, after)]
        np.testing.assert_allclose(wrong[after, others], right[before, others])


def _camps(rate=0.02):
    """Two camps of three tasks that pull the shared part apart."""
    rng = np.random.default_rng(0)
    centre = np.array([2.0, 0.0, 0.0])
    return Quadratics(
        np.concatenate([centre + rng.normal(0, 0.1, (3, 3)), -centre + rng.normal(0, 0.1, (3, 3))]),
        rate,
    )


@pytest.mark.parametrize(
    "warmup",
    [
        {"warmup_groups": "singletons"}, {"warmup_group_size": 2}, {}, {"within": "plain"},
    ],
)  # fmt: skip
def test_two_camps_are_recovered(warmup):
    schedule = SelectiveScheduler(6, warmup_steps=40, regroup_period=10, ema_beta=0.9, **warmup)
    for _ in range(60):
        problem = _camps()  # a fresh start every batch, so that there is something to gain
        problem.batch(schedule)
    assert schedule.groups == ((0, 1, 2), (3, 4, 5))


def test_the_released_credit_does_not_recover_them():
    schedule = SelectiveScheduler(
        6, warmup_steps=40, regroup_period=10, ema_beta=0.9, warmup_groups="singletons",
        credit="previous_losses",
    )  # fmt: skip
    for _ in range(60):
        _camps().batch(schedule)
    assert schedule.groups != ((0, 1, 2), (3, 4, 5))


def test_warm_up_is_affordable_and_redraws_its_groups(drive):
    schedule = SelectiveScheduler(112, warmup_steps=6, regroup_period=9)
    drive(schedule, 12)
    reports = schedule.pop_reports()
    assert [report.step for report in reports] == [0, 1, 2, 3, 4, 5, 6]
    assert [report.num_colors for report in reports[:6]] == [14] * 6  # not 112
    assert len({report.groups for report in reports[:6]}) == 6
    assert max(map(len, reports[0].groups)) == 8
    assert reports[6].num_steps == 9
    assert reports[6].affinity is not None


@pytest.mark.parametrize("num_tasks", [2, 6, 8])
def test_a_warm_up_of_few_tasks_has_two_groups_all_the_same(num_tasks, drive):
    """One group of all tasks would give every row the same credits."""
    schedule = SelectiveScheduler(num_tasks, warmup_steps=5)
    drive(schedule, 5)
    assert [report.num_colors for report in schedule.pop_reports()] == [2] * 5


def test_groups_take_turns_where_asked(drive):
    schedule = SelectiveScheduler(
        6, warmup_steps=4, warmup_group_size=3, use="one_group_per_batch", regroup_period=3
    )
    active = drive(schedule, 20)
    assert set(active[0]) | set(active[1]) == set(range(6))
    assert schedule.needs_losses
    assert len(schedule.updates()) == 1


def test_nothing_to_group_by_keeps_the_groups_and_says_so():
    schedule = SelectiveScheduler(4, warmup_steps=2, regroup_period=3, warmup_group_size=2)
    for _ in range(3):
        schedule.active_tasks()
        rows = 1.0 + np.arange(len(schedule.updates()) + 1)[:, None] * np.ones(4)
        schedule.observe_losses(rows)  # every update raises every loss
    reports = schedule.pop_reports()
    assert "no task's own update lowered its loss" in reports[-1].warnings[0]
    assert reports[-1].groups == reports[-2].groups
    blank = SelectiveScheduler(4, warmup_steps=0)
    blank.active_tasks()
    assert blank.groups == ((0, 1, 2, 3),)


def test_losses_that_are_not_finite_teach_nothing(monkeypatch):
    schedule = SelectiveScheduler(3, warmup_steps=5, ema_beta=0.0)
    monkeypatch.setattr(schedule, "_plan", lambda: schedule._report(((0, 1, 2),), 1))
    schedule.active_tasks()
    schedule.observe_losses(np.array([[1.0, 1.0, np.inf], [0.5, np.nan, 0.5]]))
    values = schedule.affinity().values
    assert values[0, 0] == pytest.approx(0.5 / 2)  # task 2 took no part
    assert np.isnan(values[:, 1]).all()
    assert np.isnan(values[:, 2]).all()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"regroup_period": 0}, "regroup_period"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"warmup_group_size": 0}, "warmup_group_size"),
        ({"warmup_groups": "labels"}, "warmup_groups"),
        ({"ema_beta": 1.0}, "ema_beta"),
        ({"within": "some"}, "within"),
        ({"credit": "first"}, "credit"),
        ({"damping": 0.3}, "damping"),
        ({"use": "group_weights"}, "group_weights"),
        ({"use": "one_group_per_batch", "credit_last": False}, "credit_last"),
        ({"use": "inner_outer", "credit": "previous_losses"}, "own_update"),
        ({"scale": "max"}, "scale"),
    ],
)
def test_values_out_of_range(options, match):
    for make in (Selective, lambda **values: SelectiveScheduler(3, **values)):
        with pytest.raises(UsageError, match=match):
            make(**options)
