"""The bugs of SON-GOKU's released code, B1 to B15, and where it is tested that ours has none.

Named as in the review of that code (arXiv 2509.16959, repository at its commit of December 2025).
Short ones are tested here, the others where their subject is.
"""

import math
import typing

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from gnn_mtl._core.cost import CostMeter
from gnn_mtl.affinity import tag_affinity
from gnn_mtl.benchmarks import _schedule as bench_schedule
from gnn_mtl.datasets import planted
from gnn_mtl.gradients import probe
from gnn_mtl.metrics import evaluate
from gnn_mtl.schedulers import ColoringScheduler, JointScheduler
from gnn_mtl.tasks import conflict_graph
from gnn_mtl.training import (
    GroupAdam,
    Optimizers,
    TaskRowAdam,
    Train,
    fit,
    set_learning_rate,
    train_step,
)  # fmt: skip
from gnn_mtl.training._config import Monitor

HERE = "bugs/test_son_goku_bugs.py"
BUGS = {
    "B1 conflict where the cosine is below +tau, and two other signs": (
        "tasks/test_conflict.py::test_golden_edges",
        "tasks/test_conflict.py::test_orthogonal_tasks_do_not_conflict",
        "tasks/test_conflict.py::"
        "test_at_tau_1_nothing_conflicts_where_the_released_rule_has_every_edge",
        "schedulers/test_coloring.py::test_warm_up_is_joint_where_the_released_rule_made_singles",
        "grouping/test_group_tasks.py::"
        "test_random_directions_are_one_group_where_the_released_rule_has_singles",
    ),
    "B2 combinations with base methods are swallowed keywords": (
        "schedulers/test_contract.py::test_unknown_keys_are_refused",
        "training/test_hooks.py::test_they_act_in_a_whole_training",
        "training/test_hooks.py::test_surgery_sees_the_active_group_only",
    ),
    "B3 the least number of updates is stored and never used": (
        "schedulers/test_coloring.py::test_coverage_is_used_and_reweighted",
        "grouping/test_coverage.py::test_covered_where_possible_and_never_in_conflict",
    ),
    "B4 a refresh raises: a dict as a tensor, backward under no_grad": (
        f"{HERE}::test_probes_work_where_gradients_are_off",
        "schedulers/test_coloring.py::test_refreshes_come_every_r_steps_from_step_0",
        "training/test_fit.py::test_only_active_tasks_count_and_everything_is_recorded",
    ),
    "B5 averages move at refreshes only, by the batch that is trained on next": (
        f"{HERE}::test_probes_are_of_other_batches_than_the_steps",
        "schedulers/test_ema_source.py::test_every_step_of_a_task_enters_its_average",
    ),
    "B6 first window one step short, classes starve, probes move buffers and random state": (
        "schedulers/test_coloring.py::test_refreshes_come_every_r_steps_from_step_0",
        "schedulers/test_coloring.py::"
        "test_no_class_starves_when_there_are_more_classes_than_steps_between_refreshes",
        "schedulers/test_coloring.py::test_counts_stay_even_where_windows_cut_cycles",
        "gradients/test_probe.py::test_leaves_no_trace",
        "training/test_fit.py::test_probes_leave_no_trace_in_a_training",
    ),
    "B7 K x d state whatever the approximation, the exact matrix computed beside it": (
        f"{HERE}::test_what_is_kept_does_not_grow_with_the_parameters_where_it_need_not",
        f"{HERE}::test_an_approximation_computes_no_exact_matrix_beside_it",
    ),
    "B8 pairs left out become edges; sampling computes everything; a dense projection": (
        "tasks/test_conflict.py::test_unknown_pairs_never_conflict",
        "grouping/test_conflict_rule.py::test_ties_stay_out_and_unknown_pairs_never_conflict",
        "linalg/test_count_sketch.py::test_every_column_lands_in_one_bucket_with_one_sign",
        "affinity/test_devices.py::test_cuda_equals_cpu_and_states_move_between_them",
    ),
    "B9 slow drift is never seen": (f"{HERE}::test_slow_drift_is_seen",),
    "B10 look-ahead affinity raises under no_grad": (
        f"{HERE}::test_look_ahead_works_where_gradients_are_off",
        "affinity/test_look_ahead.py::test_golden_quadratics",
        "cli/test_pipeline.py::test_methods_of_affinity",
    ),
    "B11 metrics that are not what their name says": (
        f"{HERE}::test_density_is_edges_over_pairs_and_nothing_is_called_degree",
        f"{HERE}::test_scores_that_choose_a_model_all_point_up",
        "affinity/test_fidelity.py::test_empty_graphs_have_no_f1",
        "grouping/test_compare.py::test_two_partitions_into_singletons_are_the_same",
        "schedulers/test_coloring.py::test_singles_that_stay_singles_do_not_churn",
    ),
    "B12 benchmarks of one code under six names, a step that stays 0, fresh Adams": (
        f"{HERE}::test_the_schedules_of_the_bench_differ_in_what_they_say",
        "training/test_hooks.py::test_a_warm_start_ends",
        "gradients/test_probe.py::test_bad_arguments_are_refused",
        "theory/test_sequential.py::test_with_frozen_gradients_both_end_at_the_same_point",
    ),
    "B13 baselines that are not the published ones": (
        f"{HERE}::test_adam_per_task_or_group_corrects_its_bias_once",
        "bugs/test_baseline_bugs.py::test_every_baseline_is_here_and_tested",
        "bugs/test_baseline_bugs.py::"
        "test_adatask_corrects_its_bias_once_and_by_the_steps_of_each_task",
        "bugs/test_baseline_bugs.py::test_famo_compares_two_losses_of_one_batch",
        "bugs/test_baseline_bugs.py::test_fairgrad_is_solved_whatever_the_units_of_the_gradients",
        "bugs/test_baseline_bugs.py::test_nash_is_solved_and_its_weights_need_not_sum_to_1",
        "bugs/test_baseline_bugs.py::test_mgda_is_the_shortest_vector_of_two_camps",
        "bugs/test_baseline_bugs.py::test_pcgrad_sums_and_leaves_the_heads_alone",
        f"{HERE}::test_a_step_of_all_tasks_is_one_forward_and_one_backward",
        "training/test_optimizer.py::test_each_row_is_torch_adam_over_the_steps_of_its_task",
        "training/test_group_updates.py::test_one_group_is_torchs_adam",
        "training/test_hooks.py::test_adatask_on_one_task_is_adam",
        "training/test_hooks.py::test_rows_replace_the_gradient_and_leave_the_heads",
        "training/test_group_updates.py::test_costs_count_every_update",
    ),
    "B14 nearest conflicts that are none, shares missed by ties": (
        "grouping/test_conflict_rule.py::test_nearest_enemies",
        "grouping/test_conflict_rule.py::test_a_density_never_makes_friends_conflict",
        "grouping/test_conflict_rule.py::test_a_quantile_gives_its_share_of_the_pairs_and_no_more",
        "grouping/test_conflict_rule.py::test_ties_stay_out_and_unknown_pairs_never_conflict",
    ),
    "B15 a schedule without a state": (
        "schedulers/test_contract.py::test_resumes_bit_identical_from_every_step_through_files",
        "training/test_resume.py::test_resume_equals_no_interruption",
        "schedulers/test_options.py::test_any_combination_resumes_bit_identical_at_any_step",
    ),
    "of the paper: one momentum mixes groups": (
        "schedulers/test_theory.py::test_one_momentum_mixes_the_classes_that_take_turns",
        "training/test_group_updates.py::test_groups_do_not_see_each_others_momentum",
    ),
    "of the paper: rows of inactive heads decay under a zero gradient": (
        "training/test_optimizer.py::test_inactive_rows_are_bitwise_unchanged",
        "training/test_step.py::test_inactive_heads_are_bitwise_unchanged",
    ),
    "of the paper: equal steps are not equal budgets": (
        "training/test_fit.py::test_costs_add_up",
        "schedulers/test_fixed_groups.py::"
        "test_the_matched_control_spends_the_same_label_gradients_at_every_step",
    ),
    "of the paper: an empty graph is joint training, unsaid": (
        "schedulers/test_coloring.py::test_an_empty_graph_is_reported_every_time_and_warned_of_once",
    ),
    "of the schedule of tau: a constant that anneals": (
        "schedulers/test_tau_schedule.py::test_constant_is_constant",
    ),
}


def test_none_is_left_out():
    numbers = [name.split()[0] for name in BUGS if name.startswith("B")]
    assert numbers == [f"B{number}" for number in range(1, 16)]


@pytest.mark.parametrize("bug", BUGS)
def test_every_bug_has_its_tests(bug, missing):
    assert missing(BUGS[bug]) == []


# B4, B10


@pytest.mark.parametrize("mode", ["last_layer", "loop", "layered", "batched"])
def test_probes_work_where_gradients_are_off(mode, model, batch):
    with torch.no_grad():
        inside = probe(model, batch, mode=mode)
    outside = probe(model, batch, mode=mode)
    assert inside.valid.all()
    assert inside.jacobian.abs().sum() > 0
    assert torch.equal(inside.jacobian, outside.jacobian)


def test_look_ahead_works_where_gradients_are_off(model, batch):
    with torch.no_grad():
        inside = tag_affinity(model, [batch])
    np.testing.assert_array_equal(inside.values, tag_affinity(model, [batch]).values)
    assert inside.known.all()
    assert (inside.values.diagonal() > 0).all()


# B5


def test_probes_are_of_other_batches_than_the_steps(model, tiny, budget, monkeypatch):
    import gnn_mtl.training._feed as feed
    import gnn_mtl.training._loop as loop

    probed, trained = [], []

    def watched(original, into):
        def call(net, batch, *args, **options):
            into.append(batch.seeds.tolist())
            return original(net, batch, *args, **options)

        return call

    monkeypatch.setattr(feed, "probe", watched(feed.probe, probed))
    monkeypatch.setattr(loop, "train_step", watched(loop.train_step, trained))
    schedule = ColoringScheduler(5, refresh_period=2, tau=-0.5)
    fit(model, tiny, schedule, budget(probe_batch_size=10))
    assert len(trained) == 12
    assert len(probed) >= 2
    assert all(set(one) != set(other) for one in probed for other in trained)
    assert len({tuple(sorted(seeds)) for seeds in probed}) == len(probed)  # each a new one


# B7


def _numbers(state):
    if isinstance(state, dict):
        return sum(map(_numbers, state.values()))
    return state.numel() if torch.is_tensor(state) else 0


@pytest.mark.parametrize("ema_of", ["sketch", "gramian"])
def test_what_is_kept_does_not_grow_with_the_parameters_where_it_need_not(ema_of, observed):
    sizes = []
    for width in (1_000, 20_000):
        schedule = ColoringScheduler(4, ema_of=ema_of, sketch_dim=64, tau=-1.0)
        schedule.observe(observed(torch.randn(4, width)))
        schedule.active_tasks()
        sizes.append(_numbers(schedule.state_dict()))
    assert sizes[0] == sizes[1] < 4 * 64 + 20 * 16


def test_an_approximation_computes_no_exact_matrix_beside_it(observed, monkeypatch):
    import gnn_mtl.affinity._ema as averages

    widths, original = [], averages.gradient_cosine

    def watch(jacobian):
        widths.append(jacobian.shape[1])
        return original(jacobian)

    monkeypatch.setattr(averages, "gradient_cosine", watch)
    schedule = ColoringScheduler(4, ema_of="sketch", sketch_dim=64, refresh_period=1, tau=-1.0)
    for _ in range(3):
        if schedule.needs_probe():
            schedule.observe(observed(torch.randn(4, 5_000)))
        schedule.active_tasks()
    assert set(widths) == {64}


# B9


@pytest.mark.filterwarnings("ignore::gnn_mtl._core.errors.EmptyConflictGraphWarning")
def test_slow_drift_is_seen(observed):
    """Turned by .02 a step, so little each time, two gradients come from agreement to conflict."""
    schedule = ColoringScheduler(2, tau=0.25, refresh_period=1, ema_beta=0.5)
    cosines, groups = [], []
    for step in range(140):
        angle = 0.02 * step
        if schedule.needs_probe():
            schedule.observe(observed([[1.0, 0.0], [math.cos(angle), math.sin(angle)]]))
            cosines.append(schedule.affinity().values[0, 1])
        groups.append(schedule.active_tasks())
    assert cosines[-1] == pytest.approx(math.cos(0.02 * 139), abs=0.05)
    assert groups[0] == (0, 1)
    assert set(groups[-2:]) == {(0,), (1,)}


# B11


def test_density_is_edges_over_pairs_and_nothing_is_called_degree(observed):
    rows = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [-1, 0.1, 0], [0, 0, 1]])  # two of six pairs
    schedule = ColoringScheduler(4, tau=0.5)
    schedule.observe(observed(rows))
    (report,) = schedule.pop_reports()
    assert report.num_edges == 2
    assert report.density == pytest.approx(2 / 6)
    assert not [name for name in report.to_record() if "degree" in name]
    assert conflict_graph(report.affinity, 0.5).sum() == 4


def test_scores_that_choose_a_model_all_point_up():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, (200, 3))
    better, worse = 4.0 * y - 2.0, rng.standard_normal((200, 3))
    good, bad = evaluate(better, y).macro, evaluate(worse, y).macro
    assert set(typing.get_args(Monitor)) <= set(good)
    for name in typing.get_args(Monitor):
        assert good[name] == 1.0 > bad[name]
    expected = np.mean([average_precision_score(y[:, t], worse[:, t]) for t in range(3)])
    assert bad["ap"] == pytest.approx(expected)  # a mean of one kind of score


# B12


def test_the_schedules_of_the_bench_differ_in_what_they_say(monkeypatch):
    monkeypatch.setattr(bench_schedule, "REFRESH_PERIOD", 4)
    monkeypatch.setattr(bench_schedule, "PROBE_NODES", 32)
    graph = planted(300, 1200, 4, 2, num_features=128, conflict=0.5, seed=0)
    widths, original = [], bench_schedule.probe

    def watch(*args, **options):
        found = original(*args, **options)
        widths.append((options["mode"], found.jacobian.shape[1]))
        return found

    monkeypatch.setattr(bench_schedule, "probe", watch)
    for mode in (None, "last_layer", "last_layer_sketch"):
        window = bench_schedule._Window(graph, mode, 32, 100, 4)
        before = [p.detach().clone() for p in window.model.parameters()]
        window(0)
        window(1)
        assert window.count == 8
        for old, new in zip(before, window.model.parameters(), strict=True):
            assert not torch.equal(old, new)
    exact, sketched = ({w for m, w in widths if m == mode} for mode in dict(widths))
    assert len(widths) >= 4
    assert len(exact) == len(sketched) == 1
    assert exact != sketched


# B13


def test_adam_per_task_or_group_corrects_its_bias_once():
    """A constant gradient moves Adam by its rate every step; corrected twice, tenfold at first."""
    for step in range(1, 13):
        row = torch.nn.Parameter(torch.zeros(3, 2))
        shared = torch.nn.Parameter(torch.zeros(4))
        rows = TaskRowAdam([row], lr=0.1, eps=0.0)
        groups = GroupAdam([shared], lr=0.1, eps=0.0)
        for _ in range(step):
            row.grad, shared.grad = torch.full((3, 2), 5.0), torch.full((4,), 5.0)
            rows.step([1])
            groups.step((0, 2))
        torch.testing.assert_close(row[1].detach(), torch.full((2,), -0.1 * step))
        torch.testing.assert_close(shared.detach(), torch.full((4,), -0.1 * step))
        assert not row[[0, 2]].any()


def test_a_step_of_all_tasks_is_one_forward_and_one_backward(model, batch):
    meter = CostMeter()
    optimizers = Optimizers(model, Train())
    train_step(model, batch, range(5), optimizers, meter=meter)
    assert (meter.forwards, meter.backwards, meter.optimizer_steps) == (1, 1, 1)
    schedule = JointScheduler(5)
    schedule.active_tasks()
    assert set_learning_rate(optimizers, Train(warmup_steps=0), 0, 10) == optimizers.heads.lr
