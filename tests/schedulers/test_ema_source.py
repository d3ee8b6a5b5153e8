"""Where the averaged gradients come from: probes, the active tasks of every step, or both."""

import itertools
import warnings

import numpy as np
import pytest
import torch

from gnn_mtl._core.errors import EmptyConflictGraphWarning, NonFiniteWarning, UsageError
from gnn_mtl.affinity import GradientEMA
from gnn_mtl.schedulers import ColoringScheduler, JointScheduler
from gnn_mtl.tasks import conflict_graph

T = 6


def _opposed(random_rows, step):
    """Two camps of three, with noise."""
    rows = 0.3 * random_rows(step, T)
    rows[:, 0] += torch.tensor([2.0, 2.0, 2.0, -2.0, -2.0, -2.0])
    return rows


@pytest.mark.parametrize("source", ["active", "both"])
def test_every_step_of_a_task_enters_its_average(source, observed, random_rows):
    """SON-GOKU Eq. 7 as written: the gradients of the tasks of the step, raw."""
    schedule = ColoringScheduler(T, refresh_period=4, tau=0.1, ema_source=source, ema_beta=0.7)
    oracle = GradientEMA(T, beta=0.7)
    for step in range(30):
        owed = schedule.needs_probe()
        assert bool(owed) == (source == "both" and step % 4 == 0)
        if owed:
            rows = observed(_opposed(random_rows, 500 + step))
            schedule.observe(rows)
            oracle.update(rows)
        if step % 4 == 0 and not owed:
            expected = conflict_graph(oracle.affinity(), 0.1)
        tasks = schedule.active_tasks()
        for report in schedule.pop_reports():
            assert report.step % 4 == 0
            assert report.probed == (source == "both")
            if source == "active":
                assert report.num_edges == expected.sum() // 2
                for group in report.groups:
                    assert not any(expected[i, j] for i, j in itertools.combinations(group, 2))
        assert schedule.needs_active_gradients
        rows = observed(_opposed(random_rows, step)[list(tasks)], tasks)
        schedule.observe_active(rows)
        oracle.update(rows)
        np.testing.assert_array_equal(schedule.affinity().values, oracle.affinity().values)
    assert schedule.groups == ((0, 1, 2), (3, 4, 5))


def test_it_begins_as_joint_training_and_without_a_warning(observed, random_rows):
    schedule = ColoringScheduler(T, refresh_period=3, tau=0.1, ema_source="active")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert schedule.active_tasks() == tuple(range(T))
    schedule.observe_active(observed(torch.ones(T, 2)))
    schedule.active_tasks()
    schedule.active_tasks()
    with pytest.warns(EmptyConflictGraphWarning):  # now the tasks are known to agree
        schedule.active_tasks()


def test_a_task_never_observed_conflicts_with_none(observed, random_rows):
    schedule = ColoringScheduler(T, refresh_period=2, tau=0.1, ema_source="active")
    for step in range(8):
        tasks = schedule.active_tasks()
        known = [task for task in tasks if task != 4]
        rows = _opposed(random_rows, step)[known]
        schedule.observe_active(observed(rows, known))
    assert np.isnan(np.delete(schedule.affinity().values[4], 4)).all()
    assert sum(4 in group for group in schedule.groups) == 1


def test_a_broken_gradient_is_named_in_the_next_report(observed):
    schedule = ColoringScheduler(3, refresh_period=2, tau=-1.0, ema_source="active", ema_beta=0.0)
    schedule.active_tasks()
    rows = torch.tensor([[1.0, 0.0], [0.0, torch.nan], [-1.0, 1.0]])
    valid = torch.tensor([True, False, True])
    with pytest.warns(NonFiniteWarning, match="tasks 1;"):
        schedule.observe_active(observed(rows, valid=valid))
    again = ColoringScheduler(3, refresh_period=2, tau=-1.0, ema_source="active", ema_beta=0.0)
    again.load_state_dict(schedule.state_dict())
    for each in (schedule, again):
        each.pop_reports()
        each.active_tasks()
        each.active_tasks()
        (report,) = each.pop_reports()
        assert report.warnings == ("Gradients of tasks [1] were not finite; skipped.",)
        assert np.isnan(report.affinity.values[1, 0])


def test_what_cannot_matter_is_not_asked_for():
    assert not ColoringScheduler(T, tau=1.0, ema_source="both").needs_active_gradients
    assert not ColoringScheduler(1, ema_source="active").needs_active_gradients
    assert not ColoringScheduler(T).needs_active_gradients


def test_wrong_use(observed):
    for schedule in (JointScheduler(2), ColoringScheduler(2)):
        with pytest.raises(UsageError, match="never needs gradients of active tasks"):
            schedule.observe_active(observed(torch.eye(2)))
    schedule = ColoringScheduler(3, ema_source="active", tau=-1.0, refresh_period=1)
    with pytest.raises(UsageError, match="active_tasks"):
        schedule.observe_active(observed(torch.eye(3)))
    with pytest.raises(UsageError, match="No gradients are owed"):
        schedule.observe(observed(torch.eye(3)))
    schedule.active_tasks()
    schedule.observe_active(observed(torch.eye(3)))
    (task,) = schedule.active_tasks()
    with pytest.raises(UsageError, match="of active tasks only"):
        schedule.observe_active(observed(torch.ones(1, 3), [(task + 1) % 3]))
    with pytest.raises(UsageError, match="never seen"):
        ColoringScheduler(3, ema_source="active", ema_of="gramian")
    with pytest.raises(UsageError, match="ema_source"):
        ColoringScheduler(3, ema_source="sketch")
