"""SON-GOKU's options: each does what it says, any combination resumes, wrong ones are refused."""

import copy
import json
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gnn_mtl._core.errors import (
    CoverageWarning,
    EmptyConflictGraphWarning,
    NonFiniteWarning,
    ShapeError,
    UsageError,
)
from gnn_mtl.grouping import ConflictRule, moved_tasks
from gnn_mtl.schedulers import Coloring, ColoringScheduler

pytestmark = [
    pytest.mark.filterwarnings("ignore::gnn_mtl._core.errors.CoverageWarning"),
    pytest.mark.filterwarnings("ignore::gnn_mtl._core.errors.EmptyConflictGraphWarning"),
]


def _reports(schedule, steps, drive, rows=None):
    reports = []
    for _ in range(steps):
        drive(schedule, 1, rows)
        reports += schedule.pop_reports()
    return reports


# any combination

OPTIONS = st.fixed_dictionaries(
    {
        "refresh_period": st.integers(1, 5),
        "max_refresh_period": st.sampled_from([None, 5, 9]),
        "tau": st.sampled_from([-1.0, 0.0, 0.1, 0.4, 1.0]),
        "rule": st.sampled_from(["threshold", "quantile", "density", "knn"]),
        "edge_share": st.sampled_from([0.0, 0.3, 1.0]),
        "num_neighbors": st.integers(1, 3),
        "hysteresis": st.sampled_from([0.0, 0.1]),
        "ema_of": st.sampled_from(["gradient", "sketch", "gramian"]),
        "ema_beta": st.sampled_from([0.0, 0.5, 0.8]),
        "sketch_dim": st.integers(1, 5),
        "warmup_steps": st.integers(0, 6),
        "coloring": st.sampled_from(
            ["welsh_powell", "dsatur", "iterated_greedy", "tabu", "equitable", "exact"]
        ),
        "warm_start": st.booleans(),
        "max_group_size": st.sampled_from([None, 2, 3]),
        "max_colors": st.sampled_from([None, 3, 4]),
        "min_coverage": st.integers(1, 3),
        "fill": st.booleans(),
        "order": st.sampled_from(["stalest_first", "creation", "random"]),
        "scale": st.sampled_from(["sum", "mean", "tasks_over_active"]),
        "reweight": st.booleans(),
        "use": st.sampled_from(
            ["one_group_per_batch", "all_groups_per_batch", "group_weights", "inner_outer"]
        ),
        "seed": st.integers(0, 3),
    }
)


def _plain(state):
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    return state.tolist() if isinstance(state, torch.Tensor) else state


def _seen(schedule, drive):
    """Everything a run sees of one step."""
    tasks = drive(schedule, 1)[0]
    records = [json.dumps(report.to_record()) for report in schedule.pop_reports()]
    return tasks, schedule.updates(), schedule.task_weights(), schedule.begins_cycle, records


@given(options=OPTIONS, stop=st.integers(0, 12))
@settings(max_examples=60, deadline=None)
def test_any_combination_resumes_bit_identical_at_any_step(options, stop, drive):
    schedule = ColoringScheduler(6, **options)
    before = [_seen(schedule, drive) for _ in range(stop)]
    state = copy.deepcopy(schedule.state_dict())
    after = [_seen(schedule, drive) for _ in range(8)]
    resumed = ColoringScheduler(6, **options)
    resumed.load_state_dict(state)
    assert [_seen(resumed, drive) for _ in range(8)] == after
    assert _plain(resumed.state_dict()) == _plain(schedule.state_dict())
    again = eval(repr(schedule))  # noqa: S307
    assert [_seen(again, drive) for _ in range(stop)] == before


@given(options=OPTIONS)
@settings(max_examples=60, deadline=None)
def test_any_combination_covers_every_task_and_keeps_its_promises(options, drive):
    num_tasks = 6
    options = {**options, "use": "one_group_per_batch", "max_colors": options["max_colors"]}
    schedule = ColoringScheduler(num_tasks, **options)
    rule = schedule.config.conflict_rule()
    previous = None
    for report in _reports(schedule, 30, drive):
        tasks = {task for group in report.groups for task in group}
        assert tasks == set(range(num_tasks))
        assert report.num_steps >= len(report.groups)
        if not report.probed:
            assert report.num_colors == 1
            continue
        edges = rule.edges(report.affinity, report.tau, previous)
        previous = edges if options["hysteresis"] else None
        size = options["max_group_size"]
        assert size is None or max(map(len, report.groups)) <= size
        if report.num_supertasks is None:  # T2
            for group in report.groups:
                assert not edges[np.ix_(group, group)].any()
        elif size is None:
            assert report.num_colors <= options["max_colors"]
            assert any("super-tasks" in warning for warning in report.warnings)


# the rules


@pytest.mark.parametrize(("rule", "share"), [("quantile", 0.3), ("density", 0.2)])
def test_a_share_of_the_pairs_conflicts_after_the_warm_up(rule, share, drive):
    schedule = ColoringScheduler(
        12, rule=rule, edge_share=share, refresh_period=4, ema_beta=0.0, warmup_steps=8
    )
    reports = _reports(schedule, 40, drive)
    assert [report.num_edges for report in reports[:2]] == [0, 0]
    for report in reports[2:]:
        assert report.num_edges == int(share * 66)
        assert -1.0 <= report.tau < 1.0
    assert not any(report.probed for report in reports[:2])


def test_density_draws_fewer_edges_where_gradients_agree(drive):
    rows = torch.ones(6, 3) + 0.01 * torch.eye(6, 3)
    schedule = ColoringScheduler(6, rule="density", edge_share=0.5)
    drive(schedule, 1, lambda _: rows)
    (report,) = schedule.pop_reports()
    assert (report.num_edges, report.tau) == (0, 0.0)
    worst = ColoringScheduler(6, rule="quantile", edge_share=0.5)
    drive(worst, 1, lambda _: rows)
    assert worst.pop_reports()[0].num_edges > 0


def test_hysteresis_keeps_groups_that_flicker(drive):
    def rows(step):
        noise = torch.Generator().manual_seed(step)
        angle = torch.tensor(1.8235) + 0.03 * torch.randn(1, generator=noise)  # cosine about -.25
        return torch.stack([torch.tensor([1.0, 0.0]), torch.cat([angle.cos(), angle.sin()])])

    changes = {}
    for delta in (0.0, 0.15):
        schedule = ColoringScheduler(2, refresh_period=1, ema_beta=0.0, hysteresis=delta)
        reports = _reports(schedule, 60, drive, rows)
        changes[delta] = sum(report.churn > 0 for report in reports[1:])
    assert changes[0.15] == 0
    assert changes[0.0] > 5


# colouring


@pytest.mark.parametrize("coloring", ["dsatur", "tabu", "iterated_greedy", "equitable", "exact"])
def test_every_colouring_runs_and_needs_at_most_as_many_groups(coloring, drive):
    means = []
    for name in ("welsh_powell", coloring):
        schedule = ColoringScheduler(16, tau=0.0, refresh_period=3, ema_beta=0.0, coloring=name)
        means.append(np.mean([report.num_colors for report in _reports(schedule, 60, drive)]))
    assert means[1] <= means[0] or coloring == "equitable"


def test_a_warm_start_moves_fewer_tasks(drive):
    moved = {}
    for warm in (False, True):
        schedule = ColoringScheduler(
            16, tau=0.05, refresh_period=3, ema_beta=0.8, coloring="dsatur", warm_start=warm,
            order="creation",
        )  # fmt: skip
        groups = [report.groups for report in _reports(schedule, 120, drive)]
        counts = [moved_tasks(a, b) for a, b in zip(groups, groups[1:], strict=False)]  # noqa: RUF007
        moved[warm] = sum(counts[3:])
    assert moved[True] < 0.9 * moved[False]


def test_moves_are_reported_for_warm_starts_only(drive):
    for warm in (False, True):
        schedule = ColoringScheduler(8, tau=0.1, refresh_period=2, warm_start=warm)
        reports = _reports(schedule, 9, drive)
        assert reports[0].moved is None
        assert all((report.moved is not None) == warm for report in reports[1:])


def test_equal_sizes_and_caps(drive):
    schedule = ColoringScheduler(16, tau=0.0, refresh_period=3, coloring="equitable")
    for report in _reports(schedule, 30, drive):
        sizes = [len(group) for group in report.groups]
        assert max(sizes) - min(sizes) <= 1
    capped = ColoringScheduler(16, tau=0.9, refresh_period=3, max_group_size=4)
    for report in _reports(capped, 30, drive):
        assert max(len(group) for group in report.groups) <= 4
        assert report.num_colors >= 4


def test_filled_groups_are_maximal(drive):
    schedule = ColoringScheduler(12, tau=0.1, refresh_period=3, fill=True, reweight=True)
    counts = 0
    for report in _reports(schedule, 30, drive):
        edges = ConflictRule().edges(report.affinity, report.tau)
        for group in report.groups:
            outside = set(range(12)) - set(group)
            assert all(edges[task, list(group)].any() for task in outside)
        counts += sum(map(len, report.groups)) > 12
    assert counts


def test_many_colours_are_merged_away_and_said_so(drive):
    schedule = ColoringScheduler(16, tau=-0.5, refresh_period=3, ema_beta=0.0, max_colors=4)
    plain = ColoringScheduler(16, tau=-0.5, refresh_period=3, ema_beta=0.0)
    for merged, free in zip(_reports(schedule, 6, drive), _reports(plain, 6, drive), strict=False):
        assert free.num_colors > 4 >= merged.num_colors
        assert free.num_supertasks is None
        assert 1 <= merged.num_supertasks < 16
        assert f"needs {free.num_colors} groups" in merged.warnings[0]


# adaptive periods


def test_the_period_grows_while_nothing_changes_and_shrinks_when_much_does(drive, random_rows):
    still = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    schedule = ColoringScheduler(
        8, tau=0.1, refresh_period=4, max_refresh_period=20, ema_beta=0.0, coloring="dsatur"
    )

    def rows(step):
        return still if step < 60 else random_rows(step, 8, 3)

    reports = _reports(schedule, 140, drive, rows)
    periods = [report.num_steps for report in reports]
    assert periods[:4] == [4, 8, 16, 20]
    assert max(periods) == 20
    assert periods[-1] < 20
    assert all(max(4, report.num_colors) <= report.num_steps for report in reports)


def test_periods_follow_churn():
    config = Coloring(refresh_period=4, max_refresh_period=20)
    assert [config.next_period(4, churn) for churn in (None, 0.0, 0.1, 0.3, 0.5)] == [4, 8, 8, 4, 4]
    assert [config.next_period(16, churn) for churn in (0.0, 0.3, 0.7)] == [20, 16, 8]
    assert Coloring().next_period(32, 0.0) == 32


# labels that a batch does not have


def test_a_class_without_a_label_in_the_batch_is_advanced_past(observed):
    schedule = ColoringScheduler(3, tau=-1.0, refresh_period=30, order="creation")
    schedule.observe(observed(torch.eye(3)))
    assert schedule.active_tasks() == (0,)
    assert schedule.active_tasks(available=[0, 2]) == (2,)
    assert schedule.active_tasks(available={1, 2}) == (1,)  # (0,) lost its turn too
    assert schedule.active_tasks(available=[]) == (2,)  # nothing to choose from
    assert schedule.active_tasks(available=[0, 1, 2]) == (0,)
    assert schedule.peek(3) == [(1,), (2,), (0,)]


def test_a_class_with_one_label_keeps_its_turn_and_all_its_tasks(observed):
    schedule = ColoringScheduler(3, refresh_period=30, order="creation")
    schedule.observe(observed([[-1.0, 0.0], [-1.0, -1.0], [1.0, 0.0]]))
    assert schedule.active_tasks(available=[1]) == (0, 1)
    assert schedule.peek(2) == [(2,), (0, 1)]


# sources


def test_sketches_and_gramians_find_the_edges_of_clear_conflicts(drive):
    """Camps that oppose each other, with noise, in 3000 dimensions."""
    camps = torch.randn(1, 3000, generator=torch.Generator().manual_seed(0))

    def rows(step):
        noise = torch.randn(8, 3000, generator=torch.Generator().manual_seed(step))
        return torch.cat([camps.repeat(4, 1), -camps.repeat(4, 1)]) + 0.5 * noise

    for source in ("gradient", "sketch", "gramian"):
        schedule = ColoringScheduler(8, refresh_period=2, ema_of=source)
        report = _reports(schedule, 6, drive, rows)[-1]
        assert sorted(report.groups) == [(0, 1, 2, 3), (4, 5, 6, 7)]
        assert report.num_edges == 16


# bad input


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"rule": "signed"}, "rule"),
        ({"edge_share": 1.5}, "edge_share"),
        ({"num_neighbors": 0}, "num_neighbors"),
        ({"hysteresis": -0.1}, "hysteresis"),
        ({"rule": "quantile", "tau_schedule": "log", "anneal_steps": 3}, "anneal"),
        ({"max_refresh_period": 31}, "max_refresh_period"),
        ({"low_churn": 0.6}, "low_churn"),
        ({"high_churn": 1.1}, "high_churn"),
        ({"ema_of": "hessian"}, "ema_of"),
        ({"sketch_dim": 0}, "sketch_dim"),
        ({"coloring_iterations": 5}, "coloring_iterations"),
        ({"coloring": "tabu", "coloring_iterations": -1}, "coloring_iterations"),
        ({"max_group_size": 0}, "max_group_size"),
        ({"max_colors": 0}, "max_colors"),
        ({"use": "some_groups"}, "use"),
        ({"outer_lr": 0.0}, "outer_lr"),
        ({"outer_lr": 1.1}, "outer_lr"),
    ],
)
def test_values_out_of_range(options, match):
    for make in (Coloring, lambda **values: ColoringScheduler(3, **values)):
        with pytest.raises(UsageError, match=match):
            make(**options)


def test_options_that_cannot_hold_for_so_many_tasks():
    with pytest.raises(UsageError, match="at most 24"):
        ColoringScheduler(25, coloring="exact")
    with pytest.raises(UsageError, match="cannot hold 7 tasks"):
        Coloring(max_colors=2, max_group_size=3).build(7)
    Coloring(max_colors=2, max_group_size=3).build(6)


@pytest.mark.parametrize("source", ["gradient", "sketch", "gramian"])
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_broken_task_is_skipped_counted_and_named_and_the_run_goes_on(source, broken, observed):
    schedule = ColoringScheduler(
        3, refresh_period=1, tau=-1.0, ema_of=source, sketch_dim=8, ema_beta=0.5
    )
    rows = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    schedule.observe(observed(rows))
    drawn = [schedule.active_tasks() for _ in range(3)]
    before = schedule.affinity().values.copy()
    rows = rows.clone()
    rows[1, 0] = broken
    with pytest.warns(NonFiniteWarning, match="tasks .*1"):
        schedule.observe(observed(rows))
    assert schedule._ema.non_finite == [0, 1, 0]
    np.testing.assert_allclose(schedule.affinity().values[1], before[1], atol=1e-6)
    drawn = [schedule.active_tasks() for _ in range(3)]
    assert {task for tasks in drawn for task in tasks} == {0, 1, 2}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schedule.observe(observed(rows))


@pytest.mark.parametrize("source", ["gradient", "sketch", "gramian"])
def test_a_task_never_observed_conflicts_with_none(source, observed):
    schedule = ColoringScheduler(3, ema_of=source, tau=-1.0, ema_beta=0.0)
    valid = torch.tensor([True, False, True])
    schedule.observe(observed(torch.eye(3), valid=valid))
    (report,) = schedule.pop_reports()
    assert np.isnan(report.affinity.values[1]).all()
    assert report.num_edges == 1


@pytest.mark.parametrize("source", ["gradient", "sketch"])
def test_another_width_is_refused(source, observed):
    schedule = ColoringScheduler(2, refresh_period=1, ema_of=source, sketch_dim=2, tau=-1.0)
    schedule.observe(observed(torch.randn(2, 9)))
    schedule.active_tasks(), schedule.active_tasks()
    with pytest.raises(ShapeError, match=r"(9|2) entries"):
        schedule.observe(observed(torch.randn(2, 11)))


def test_states_of_other_options_are_refused(drive):
    schedule = ColoringScheduler(4, refresh_period=2, ema_of="sketch", sketch_dim=3)
    drive(schedule, 3)
    for options in ({"ema_of": "gramian"}, {"ema_of": "sketch", "sketch_dim": 2}):
        with pytest.raises(UsageError):
            ColoringScheduler(4, refresh_period=2, **options).load_state_dict(schedule.state_dict())
    weights = ColoringScheduler(
        4, refresh_period=2, ema_of="sketch", sketch_dim=3, use="group_weights"
    )
    with pytest.raises(UsageError, match="use"):
        weights.load_state_dict(schedule.state_dict())


def test_warnings_of_options_are_reported_once(observed):
    schedule = ColoringScheduler(3, rule="density", refresh_period=1, min_coverage=1)
    with pytest.warns(EmptyConflictGraphWarning):
        schedule.observe(observed(torch.ones(3, 2)))
    covered = ColoringScheduler(2, tau=-1.0, min_coverage=2)
    with pytest.warns(CoverageWarning):
        covered.observe(observed(torch.eye(2)))
