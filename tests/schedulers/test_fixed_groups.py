"""Joint, static, random and single-task: the baselines and controls."""

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnn_mtl._core.errors import FileFormatError, UsageError
from gnn_mtl.schedulers import (
    ColoringScheduler,
    JointScheduler,
    Random,
    RandomGroupsScheduler,
    Single,
    Static,
    StaticScheduler,
)
from gnn_mtl.tasks import Grouping


def test_joint_is_every_task_always():
    schedule = JointScheduler(4)
    assert [schedule.active_tasks() for _ in range(50)] == [(0, 1, 2, 3)] * 50
    assert schedule.peek(3) == [(0, 1, 2, 3)] * 3
    (report,) = schedule.pop_reports()
    assert (report.step, report.num_steps, report.tau, report.affinity) == (0, None, None, None)
    assert not report.probed


def test_static_cycles_in_the_order_given():
    grouping = Grouping.of([[0, 3], [1], [2, 4]], 5)
    schedule = StaticScheduler(5, grouping)
    assert [schedule.active_tasks() for _ in range(4)] == [(0, 3), (1,), (2, 4), (0, 3)]
    schedule = StaticScheduler(5, grouping, order=[2, 0, 1])
    assert schedule.peek(4) == [(2, 4), (0, 3), (1,), (2, 4)]


def test_static_refuses_what_does_not_fit():
    with pytest.raises(UsageError, match="one of 2 tasks"):
        StaticScheduler(3, Grouping.of([[0, 1]], 2))
    for order in ([0], [0, 0], [0, 2]):
        with pytest.raises(UsageError, match="each group index from 0 to 1"):
            StaticScheduler(3, Grouping.of([[0, 1], [2]], 3), order=order)
    for options in ({}, {"file": "x", "groups": ((0,),)}):
        with pytest.raises(UsageError, match="either `file` or `groups`"):
            Static(**options)
    with pytest.raises(UsageError, match="cover all 3 tasks"):
        Static(groups=((0, 1),)).build(3)


def test_static_from_a_file(tmp_path):
    path = tmp_path / "groups.json"
    Grouping.of([[0, 2], [1]], 3).save(path)
    schedule = Static(file=str(path)).build(3)
    assert schedule.peek(2) == [(0, 2), (1,)]
    with pytest.raises(UsageError, match="4 tasks"):
        Static(file=str(path)).build(4)
    path.write_text("{}")
    with pytest.raises(FileFormatError):
        Static(file=str(path)).build(3)
    with pytest.raises(FileNotFoundError):
        Static(file=str(tmp_path / "none.json")).build(3)


def test_random_groups_keep_their_sizes_and_change_at_refreshes():
    schedule = RandomGroupsScheduler(9, sizes=(4, 3, 2), refresh_period=7, seed=1)
    active = [schedule.active_tasks() for _ in range(70)]
    reports = schedule.pop_reports()
    assert [report.step for report in reports] == list(range(0, 70, 7))
    for report in reports:
        assert tuple(len(group) for group in report.groups) == (4, 3, 2)
        assert sorted(task for group in report.groups for task in group) == list(range(9))
        assert active[report.step] == report.groups[0]
    assert len({report.groups for report in reports}) == 10
    other = RandomGroupsScheduler(9, sizes=(4, 3, 2), refresh_period=7, seed=2)
    assert other.active_tasks() != active[0]


def test_more_groups_than_steps_between_refreshes():
    schedule = RandomGroupsScheduler(5, sizes=(1,) * 5, refresh_period=2)
    active = [schedule.active_tasks() for _ in range(50)]
    assert Counter(active) == {(task,): 10 for task in range(5)}


def test_random_groups_that_stay():
    schedule = RandomGroupsScheduler(6, sizes=(3, 3), refresh_period=None)
    active = [schedule.active_tasks() for _ in range(200)]
    assert len(set(active)) == 2
    assert len(schedule.pop_reports()) == 1


def test_the_matched_control_spends_the_same_label_gradients_at_every_step(drive):
    run = ColoringScheduler(12, tau=0.1, refresh_period=5, ema_beta=0.3, warmup_steps=10)
    active = drive(run, 83)
    records = [json.loads(json.dumps(report.to_record())) for report in run.pop_reports()]
    config = Random.following(records, refresh_period=5)
    control = config.build(12, seed=4)
    drawn = [control.active_tasks() for _ in range(83)]
    assert [len(tasks) for tasks in drawn] == [len(tasks) for tasks in active]
    assert len({len(tasks) for tasks in active}) > 3
    assert drawn != active
    assert [report.step for report in control.pop_reports()] == [line["step"] for line in records]
    values = json.loads(json.dumps(config.to_dict()))
    values.pop("kind")
    assert Random(**values) == config


def test_the_matched_control_goes_on_after_the_run_it_follows():
    control = RandomGroupsScheduler(4, follow=[(0, (4,)), (3, (2, 2))], refresh_period=5)
    sizes = [len(control.active_tasks()) for _ in range(14)]
    assert sizes == [4] * 3 + [2] * 11
    assert [report.step for report in control.pop_reports()] == [0, 3, 8, 13]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_groups_with_repeats_are_matched_too(sizes, seed):
    num_tasks = max(1, min(6, sum(sizes)), max(sizes))
    if sum(sizes) < num_tasks:
        return
    schedule = RandomGroupsScheduler(num_tasks, sizes=sizes, seed=seed)
    drawn = [schedule.active_tasks() for _ in sizes]
    assert [len(tasks) for tasks in drawn] == sizes
    assert {task for tasks in drawn for task in tasks} == set(range(num_tasks))


def test_random_configuration():
    assert Random(num_groups=3).build(8).peek(3) == Random(sizes=(3, 3, 2)).build(8).peek(3)
    assert [len(tasks) for tasks in Random(num_groups=3).build(8, seed=5).peek(4)] == [3, 3, 2, 3]
    assert Random().build(8, seed=1).peek(4) != Random().build(8, seed=2).peek(4)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "either `sizes` or `follow`"),
        ({"sizes": (2, 2), "follow": [(0, (4,))]}, "either `sizes` or `follow`"),
        ({"sizes": (2, 1)}, "add up to at least"),
        ({"sizes": (5,)}, r"lie in \[1, 4\]"),
        ({"follow": [(1, (4,))]}, "rise from 0"),
        ({"follow": [(0, (4,)), (0, (4,))]}, "rise from 0"),
        ({"follow": [(0, (4,)), (3, (1, 1))]}, "add up to at least"),
        ({"sizes": (4,), "refresh_period": 0}, "refresh_period"),
    ],
)
def test_random_refuses_what_does_not_fit(options, match):
    with pytest.raises(UsageError, match=match):
        RandomGroupsScheduler(4, **options)


def test_random_configuration_refuses_at_once():
    for options, match in (
        ({"num_groups": 0}, "num_groups"),
        ({"refresh_period": 0}, "refresh_period"),
        ({"sizes": (1,), "follow": ((0, (1,)),)}, "either"),
        ({"follow": ((2, (1,)),)}, "rise from 0"),
    ):
        with pytest.raises(UsageError, match=match):
            Random(**options)
    with pytest.raises(UsageError, match="number of groups"):
        Random(num_groups=5).build(4)


def test_single_is_a_configuration_only():
    with pytest.raises(UsageError, match="one model a label"):
        Single().build(3)
    assert Single().chosen_tasks(4) == (0, 1, 2, 3)
    assert Single(tasks=(2, 0, 2)).chosen_tasks(4) == (0, 2)
    sample = Single(num_sampled=3)
    assert len(set(sample.chosen_tasks(10, seed=1))) == 3
    assert sample.chosen_tasks(10, seed=1) == sample.chosen_tasks(10, seed=1)
    assert len({sample.chosen_tasks(10, seed=seed) for seed in range(10)}) > 3
    assert sample.chosen_tasks(2) == (0, 1)
    assert Single(num_sampled=3).to_dict() == {"kind": "single", "tasks": (), "num_sampled": 3}


def test_single_refuses_what_does_not_fit():
    with pytest.raises(UsageError, match="either"):
        Single(tasks=(1,), num_sampled=2)
    with pytest.raises(UsageError, match="num_sampled"):
        Single(num_sampled=0)
    for tasks in ((4,), (-1,)):
        with pytest.raises(UsageError, match=r"lie in \[0, 4\)"):
            Single(tasks=tasks).chosen_tasks(4)
