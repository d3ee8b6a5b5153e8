"""SON-GOKU's schedule: its guarantees (T2, T6, T10), its refreshes, and the released bugs."""

import itertools
import warnings

import networkx as nx
import numpy as np
import pytest
import torch

from gnn_mtl._core.errors import (
    CoverageWarning,
    EmptyConflictGraphWarning,
    NonFiniteWarning,
    ShapeError,
    UsageError,
)
from gnn_mtl.grouping import dsatur, pair_jaccard, welsh_powell
from gnn_mtl.schedulers import ColoringScheduler, JointScheduler
from gnn_mtl.schedulers._window import ordered
from gnn_mtl.tasks import conflict_graph

GOLDEN = torch.tensor([[-1.0, 0.0], [-1.0, -1.0], [1.0, 0.0]])  # cosines .707, -1, -.707


def _simplex(num_tasks):
    """Gradients of which every two have cosine -1 / (num_tasks - 1)."""
    return torch.eye(num_tasks) - 1 / num_tasks


def _reports(schedule, steps, drive, rows=None):
    reports = []
    for _ in range(steps):
        drive(schedule, 1, rows)
        reports += schedule.pop_reports()
    return reports


def test_golden_schedule(drive):
    schedule = ColoringScheduler(3, refresh_period=4, order="creation")
    assert drive(schedule, 6, lambda _: GOLDEN) == [(2,), (0, 1), (2,), (0, 1), (2,), (0, 1)]
    report = schedule.pop_reports()[-1]
    assert (report.num_edges, report.num_colors, report.tau) == (2, 2, 0.25)
    assert report.density == pytest.approx(2 / 3)
    assert report.negative_share == pytest.approx(2 / 3)
    assert report.in_group_conflict == 0.0
    assert report.affinity.values[0, 2] == -1.0


# -- tau = 1 and tau = -1 --------------------------------------------------------------------------


def test_tau_1_is_joint_training_and_costs_no_probe(drive):
    schedule, joint = ColoringScheduler(3, tau=1.0, refresh_period=4), JointScheduler(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(20):
            assert schedule.needs_probe() == ()
            assert schedule.active_tasks() == joint.active_tasks() == (0, 1, 2)
            assert schedule.task_weights() == joint.task_weights()
    assert [report.step for report in schedule.pop_reports()] == [0, 4, 8, 12, 16]


@pytest.mark.filterwarnings("ignore::gnn_mtl._core.errors.EmptyConflictGraphWarning")
def test_opposite_gradients_stay_together_up_to_tau_1(observed):
    schedule = ColoringScheduler(2, tau=1.0 - 1e-12)
    schedule.observe(observed([[1.0, 0.0], [-1.0, 0.0]]))
    assert schedule.active_tasks() in {(0,), (1,)}


@pytest.mark.parametrize("coloring", ["welsh_powell", "dsatur"])
def test_tau_minus_1_is_round_robin_when_no_two_gradients_coincide(coloring, drive):
    schedule = ColoringScheduler(7, tau=-1.0, refresh_period=3, coloring=coloring)
    active = drive(schedule, 35)
    assert all(len(tasks) == 1 for tasks in active)
    for start in range(0, 35, 7):
        assert {tasks[0] for tasks in active[start : start + 7]} == set(range(7))
    report = schedule.pop_reports()[0]
    assert (report.num_steps, report.density) == (7, 1.0)


# -- guarantees ------------------------------------------------------------------------------------


@pytest.mark.parametrize("coloring", ["welsh_powell", "dsatur"])
@pytest.mark.parametrize("min_coverage", [1, 3])
@pytest.mark.filterwarnings("ignore::gnn_mtl._core.errors.CoverageWarning")
def test_tasks_in_conflict_are_never_active_together(coloring, min_coverage, drive):
    schedule = ColoringScheduler(
        15, tau=0.1, refresh_period=6, ema_beta=0.3, coloring=coloring, min_coverage=min_coverage
    )
    edges_seen = 0
    for _ in range(60):
        tasks = drive(schedule, 1)[0]
        for report in schedule.pop_reports():
            edges = conflict_graph(report.affinity, report.tau)
            graph = nx.from_numpy_array(edges)
            assert report.num_edges == graph.number_of_edges() > 0
            assert report.num_colors <= max(dict(graph.degree).values()) + 1
            edges_seen += report.num_edges
        assert not edges[np.ix_(tasks, tasks)].any()
    assert edges_seen > 100


@pytest.mark.parametrize("order", ["stalest_first", "creation", "random"])
@pytest.mark.parametrize("refresh_period", [2, 9, 40])
def test_no_task_waits_longer_than_two_windows_allow(order, refresh_period, drive):
    """T6: at most m steps inside a window, m + m' - 1 across a refresh, also where R < m."""
    schedule = ColoringScheduler(
        20, tau=-0.7, refresh_period=refresh_period, ema_beta=0.0, order=order
    )
    last = [-1] * 20
    sizes = {}
    window = -1
    opened = [-1] * 20
    for step in range(400):
        tasks = drive(schedule, 1)[0]
        for report in schedule.pop_reports():
            window += 1
            sizes[window] = report.num_colors
            assert report.num_steps == max(refresh_period, report.num_colors)
        for task in tasks:
            if opened[task] == window:
                assert step - last[task] <= sizes[window]
            elif opened[task] >= 0:
                assert opened[task] == window - 1  # active in every window
                assert step - last[task] <= sizes[window - 1] + sizes[window] - 1
            last[task], opened[task] = step, window
    assert max(sizes.values()) > 9


def test_stalest_first_shortens_the_longest_wait(drive):
    longest = {}
    for order in ("creation", "stalest_first"):
        schedule = ColoringScheduler(20, tau=-0.7, refresh_period=8, ema_beta=0.0, order=order)
        active = drive(schedule, 600)
        steps = [[s for s, tasks in enumerate(active) if task in tasks] for task in range(20)]
        longest[order] = max(max(np.diff(each)) for each in steps)
    assert longest["stalest_first"] < longest["creation"]


def test_stalest_first_takes_the_longest_waiting_class_then_the_longest_on_average(observed):
    schedule = ColoringScheduler(3, refresh_period=1, ema_beta=0.0, tau=-1.0)
    schedule.observe(observed(torch.eye(3)))
    first = [schedule.active_tasks() for _ in range(3)]
    assert first == [(0,), (1,), (2,)]
    schedule.observe(observed([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]))
    assert schedule.peek(2) == [(0, 2), (1,)]  # 0 waits longest, though 2 was just active
    schedule.active_tasks(), schedule.active_tasks()
    schedule.observe(observed([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]))
    assert schedule.peek(2) == [(0,), (1, 2)]  # 0 and 2 wait alike; 1 was just active


def test_ties_of_the_longest_wait_go_to_the_longer_mean_wait_then_to_creation():
    groups = [(1, 2), (0,), (3, 4)]
    assert ordered(groups, "stalest_first", [3, 4, 3, 3, 4], seed=0) == ((0,), (1, 2), (3, 4))
    assert ordered(groups, "creation", [3, 4, 3, 3, 4], seed=0) == tuple(groups)


def test_random_order_is_drawn_anew_at_every_refresh_and_follows_the_seed(drive):
    def orders(seed):
        schedule = ColoringScheduler(9, tau=-1.0, refresh_period=9, order="random", seed=seed)
        return [report.groups for report in _reports(schedule, 90, drive)]

    assert len(set(orders(0))) == 10
    assert orders(0) == orders(0)
    assert orders(0) != orders(1)


def test_the_coloring_named_is_the_one_used(drive):
    for name, coloring in (("welsh_powell", welsh_powell), ("dsatur", dsatur)):
        schedule = ColoringScheduler(
            30, tau=0.1, refresh_period=5, ema_beta=0.0, coloring=name, order="creation"
        )
        for report in _reports(schedule, 30, drive):
            expected = coloring(conflict_graph(report.affinity, 0.1))
            assert report.groups == tuple(expected)


def test_no_class_starves_when_there_are_more_classes_than_steps_between_refreshes(drive):
    """The released code resets its cursor every R steps: with R < m some classes never run."""
    schedule = ColoringScheduler(33, tau=-1.0, refresh_period=32)
    active = drive(schedule, 330)
    counts = np.bincount([tasks[0] for tasks in active], minlength=33)
    assert counts.tolist() == [10] * 33


def test_counts_stay_even_where_windows_cut_cycles(drive):
    schedule = ColoringScheduler(20, tau=-1.0, refresh_period=32)
    active = drive(schedule, 3200)
    counts = np.bincount([tasks[0] for tasks in active], minlength=20)
    assert counts.max() / counts.min() < 1.1


# -- invariances -----------------------------------------------------------------------------------


def test_groups_do_not_see_a_constant_positive_scale_of_a_task(drive, random_rows):
    scale = torch.tensor([1e-4, 1.0, 50.0, 3.0, 1e5, 0.2, 9.0, 1.0])[:, None]
    plain, scaled = (ColoringScheduler(8, tau=0.2, refresh_period=5) for _ in range(2))
    active = drive(plain, 60, lambda step: random_rows(step, 8))
    assert active == drive(scaled, 60, lambda step: random_rows(step, 8) * scale)
    assert len(set(active)) > 5


def test_beta_0_sees_the_last_gradient_only(drive, random_rows):
    schedule = ColoringScheduler(8, tau=0.2, refresh_period=5, ema_beta=0.0)
    for report in _reports(schedule, 40, drive):
        cosine = torch.nn.functional.normalize(random_rows(report.step, 8).double())
        np.testing.assert_allclose(report.affinity.values, cosine @ cosine.T, atol=1e-6)


def test_history_matters_otherwise(drive):
    once = ColoringScheduler(8, tau=0.2, refresh_period=5, ema_beta=0.0)
    averaged = ColoringScheduler(8, tau=0.2, refresh_period=5, ema_beta=0.9)
    densities = [
        np.mean([report.density for report in _reports(each, 200, drive)])
        for each in (once, averaged)
    ]
    assert densities[1] != densities[0]


# -- refreshes -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::gnn_mtl._core.errors.EmptyConflictGraphWarning")
def test_refreshes_come_every_r_steps_from_step_0(observed):
    """The released code refreshes at 1, 32, 64: a first window of 31 steps."""
    schedule = ColoringScheduler(3, refresh_period=32)
    probed = []
    for step in range(130):
        if schedule.needs_probe(step):
            probed.append(step)
            schedule.observe(observed(torch.eye(3)))
        schedule.active_tasks(step)
    assert probed == [0, 32, 64, 96, 128]


def test_a_probe_owed_must_be_paid_and_only_then(observed):
    schedule = ColoringScheduler(3)
    assert schedule.needs_probe() == schedule.needs_probe(0) == (0, 1, 2)
    with pytest.raises(UsageError, match=r"Call observe\(gradients\) first"):
        schedule.active_tasks()
    assert schedule.step == 0
    schedule.observe(observed(GOLDEN))
    assert schedule.needs_probe() == ()
    with pytest.raises(UsageError, match="No gradients are owed at step 0"):
        schedule.observe(observed(GOLDEN))
    schedule.active_tasks()


@pytest.mark.parametrize("tasks", [(0, 1), (0, 1, 1), (0, 1, 2, 3)])
def test_gradients_of_exactly_the_tasks_asked_for(tasks, observed):
    schedule = ColoringScheduler(3)
    with pytest.raises(UsageError, match="each of the 3 tasks"):
        schedule.observe(observed(torch.ones(len(tasks), 2), tasks))
    assert schedule.needs_probe() == (0, 1, 2)


def test_another_number_of_parameters_is_refused(observed, drive):
    schedule = ColoringScheduler(3, refresh_period=2)
    drive(schedule, 2, lambda _: GOLDEN)
    with pytest.raises(ShapeError, match="2 entries"):
        schedule.observe(observed(torch.ones(3, 5)))


def test_observing_changes_neither_the_gradients_nor_a_random_state(observed):
    rows = GOLDEN.clone().requires_grad_()
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    schedule = ColoringScheduler(3, ema_beta=0.5, order="random")
    schedule.observe(observed(rows))
    assert torch.equal(rows.detach(), GOLDEN)
    assert rows.grad is None
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    rows.detach().zero_()
    assert schedule.affinity().values[0, 2] == -1.0  # a copy was averaged


def test_a_task_without_a_gradient_keeps_its_average_and_ages(observed):
    schedule = ColoringScheduler(3, refresh_period=2, ema_beta=0.5)
    valid = torch.tensor([True, True, False])
    for step in range(0, 6, 2):
        rows = GOLDEN.clone()
        if step:
            rows[2] = 0.0
        schedule.observe(observed(rows, valid=valid if step else None))
        schedule.active_tasks(), schedule.active_tasks()
    report = schedule.pop_reports()[-1]
    assert report.max_age == 2
    assert report.num_edges == 2
    assert report.affinity.values[0, 2] == -1.0


def test_a_non_finite_task_is_skipped_named_and_the_run_goes_on(observed):
    schedule = ColoringScheduler(3, refresh_period=1, tau=-1.0)
    rows = torch.eye(3)
    schedule.observe(observed(rows))
    for _ in range(3):
        schedule.active_tasks()
    rows[1, 0] = float("nan")
    with pytest.warns(NonFiniteWarning, match="tasks 1;"):
        schedule.observe(observed(rows))
    assert {schedule.active_tasks() for _ in range(3)} == {(0,), (1,), (2,)}
    assert "[1]" in schedule.pop_reports()[-1].warnings[0]
    schedule.observe(observed(rows))  # warned of once, reported every time
    assert "[1]" in schedule.pop_reports()[-1].warnings[0]


@pytest.mark.filterwarnings("ignore::gnn_mtl._core.errors.EmptyConflictGraphWarning")
def test_a_task_never_observed_conflicts_with_none_and_still_runs(observed):
    schedule = ColoringScheduler(3, refresh_period=2)
    rows = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]])
    schedule.observe(observed(rows, valid=torch.tensor([True, False, True])))
    assert {task for _ in range(2) for task in schedule.active_tasks()} == {0, 1, 2}
    report = schedule.pop_reports()[0]
    assert np.isnan(report.affinity.values[1]).all()
    assert (report.num_edges, report.negative_share) == (1, 1.0)
    blank = ColoringScheduler(3)
    blank.observe(observed(torch.zeros(3, 2)))
    assert blank.active_tasks() == (0, 1, 2)
    assert blank.pop_reports()[0].negative_share is None


# -- tau over time and the probes of a warm-up -----------------------------------------------------


def _probes(schedule, steps, observed):
    probed = []
    for step in range(steps):
        if schedule.needs_probe():
            probed.append(step)
            schedule.observe(observed(_simplex(schedule.num_tasks)))
        schedule.active_tasks()
    return probed


@pytest.mark.parametrize(
    ("beta", "first"),
    [(0.0, 100), (0.5, 80), (0.8, 20), (0.9, 0)],  # 1, 3, 9 and 19 observations
)
def test_warm_up_probes_only_what_the_average_will_remember(beta, first, observed):
    schedule = ColoringScheduler(3, refresh_period=10, ema_beta=beta, warmup_steps=100)
    probed = _probes(schedule, 150, observed)
    assert probed == list(range(first, 150, 10))
    reports = schedule.pop_reports()
    assert [report.step for report in reports] == list(range(0, 150, 10))
    assert all(report.num_colors == (1 if report.step < 100 else 3) for report in reports)
    assert all(report.tau == (1.0 if report.step < 100 else 0.25) for report in reports)
    assert [report.probed for report in reports] == [step >= first for step in range(0, 150, 10)]


@pytest.mark.parametrize("kind", ["log", "linear", "cosine"])
def test_annealing_opens_the_graph_step_by_step(kind, drive):
    num_tasks = 8
    rows = torch.randn(num_tasks, 3, generator=torch.Generator().manual_seed(0))
    schedule = ColoringScheduler(
        num_tasks, refresh_period=10, tau_schedule=kind, warmup_steps=20, anneal_steps=100
    )
    reports = _reports(schedule, 160, drive, lambda _: rows)
    tau = [report.tau for report in reports]
    edges = [report.num_edges for report in reports]
    assert tau[:3] == [1.0, 1.0, 1.0]
    assert tau[-1] == 0.25
    assert tau == sorted(tau, reverse=True)
    assert edges == sorted(edges)
    assert len(set(edges)) > 3
    assert edges[0] == 0


def test_warm_up_is_joint_where_the_released_rule_made_singles(drive):
    schedule = ColoringScheduler(5, refresh_period=4, warmup_steps=16, ema_beta=0.5)
    active = drive(schedule, 16, lambda _: _simplex(5))
    assert active == [(0, 1, 2, 3, 4)] * 16


# -- coverage, weights, warnings -------------------------------------------------------------------


def test_coverage_is_used_and_reweighted(observed):
    """The released scheduler stores its minimum and never reads it."""
    rows = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    plain = ColoringScheduler(3)
    plain.observe(observed(rows))
    assert {plain.active_tasks() for _ in range(2)} == {(0, 2), (1,)}
    covered = ColoringScheduler(3, min_coverage=2, reweight=True)
    with pytest.warns(CoverageWarning, match="Tasks 0, 1 are in"):
        covered.observe(observed(rows))
    total = dict.fromkeys(range(3), 0.0)
    for _ in range(2):
        tasks = covered.active_tasks()
        assert tasks in {(0, 2), (1, 2)}
        for task, weight in zip(tasks, covered.task_weights(), strict=True):
            total[task] += weight
    assert total == {0: 1.0, 1: 1.0, 2: 1.0}


def test_an_empty_graph_is_reported_every_time_and_warned_of_once(observed):
    schedule = ColoringScheduler(3, refresh_period=2)
    with pytest.warns(EmptyConflictGraphWarning, match=r"tau = 0\.25.*lowest cosine 0\.000"):
        schedule.observe(observed(torch.eye(3)))
    state = schedule.state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            schedule.active_tasks(), schedule.active_tasks()
            schedule.observe(observed(torch.eye(3)))
        resumed = ColoringScheduler(3, refresh_period=2)
        resumed.load_state_dict(state)
        resumed.active_tasks(), resumed.active_tasks()
        resumed.observe(observed(torch.eye(3)))
    reports = schedule.pop_reports()
    assert len(reports) == 3
    assert all("no" in report.warnings[0] for report in reports)
    assert [report.num_edges for report in reports] == [0, 0, 0]


def test_while_tau_is_still_falling_an_empty_graph_is_expected(observed):
    schedule = ColoringScheduler(3, refresh_period=5, tau_schedule="log", anneal_steps=10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(10):
            if schedule.needs_probe():
                schedule.observe(observed(torch.eye(3)))
            schedule.active_tasks()
    with pytest.warns(EmptyConflictGraphWarning, match="step 10"):
        schedule.observe(observed(torch.eye(3)))


# -- reports ---------------------------------------------------------------------------------------


def test_churn_is_one_minus_the_jaccard_of_pairs(drive):
    schedule = ColoringScheduler(10, tau=0.1, refresh_period=5, ema_beta=0.0)
    reports = _reports(schedule, 60, drive)
    for before, after in itertools.pairwise(reports):
        assert after.churn == 1.0 - pair_jaccard(before.groups, after.groups)
    assert len({report.churn for report in reports}) > 3


def test_singles_that_stay_singles_do_not_churn(drive):
    """The released metric calls two partitions into singles entirely different."""
    schedule = ColoringScheduler(5, tau=-1.0, refresh_period=5)
    assert [report.churn for report in _reports(schedule, 20, drive)] == [None, 0.0, 0.0, 0.0]


def test_shares_count_pairs(drive):
    schedule = ColoringScheduler(9, tau=0.3, refresh_period=5, ema_beta=0.0)
    for report in _reports(schedule, 30, drive):
        values = report.affinity.values
        pairs = list(itertools.combinations(range(9), 2))
        together = [p for p in pairs if any(set(p) <= set(group) for group in report.groups)]
        assert report.density == sum(values[p] < -0.3 for p in pairs) / len(pairs)
        assert report.negative_share == sum(values[p] < 0 for p in pairs) / len(pairs)
        tolerated = [values[p] < 0 for p in together]
        assert report.in_group_conflict == pytest.approx(np.mean(tolerated))


def test_reports_nobody_takes_keep_one_matrix_only(drive):
    schedule = ColoringScheduler(4, refresh_period=4)
    drive(schedule, 24, lambda _: _simplex(4))
    reports = schedule.pop_reports()
    assert [report.affinity is None for report in reports] == [True] * 5 + [False]
