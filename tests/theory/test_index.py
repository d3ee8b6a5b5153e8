"""Where each guarantee of SON-GOKU is tested, or its stated limit simulated: none may get lost."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
GUARANTEES = {
    "a step on a compatible group lowers its loss (§5.1, Eq. 12)": {
        "theory/test_descent.py": (
            "test_the_inequality_holds_for_every_class_of_the_conflict_graph",
            "test_the_inequality_holds_with_the_largest_conflict_measured",
            "test_the_regular_simplex_meets_it_with_equality",
            "test_a_step_on_a_smooth_loss_of_the_group_falls_by_what_the_bound_says",
            "test_a_graph_of_averages_needs_the_error_of_its_cosines_added_to_tau",
            "test_single_tasks_may_still_ascend_inside_a_compatible_group",
            "test_the_loss_of_all_tasks_may_ascend_on_the_step_of_one_group",
            "test_at_a_quarter_five_tasks_can_stand_still_and_a_size_cap_prevents_it",
        ),
    },
    "tasks in conflict are never active together (§4.3)": {
        "schedulers/test_coloring.py": ("test_tasks_in_conflict_are_never_active_together",),
    },
    "at most one colour more than the largest degree (§4.3)": {
        "grouping/test_coloring.py": (
            "test_proper_complete_sorted_and_within_the_degree_bound",
            "test_welsh_powell_equals_networkx_and_keeps_its_own_bound",
            "test_edgeless_complete_and_complete_bipartite",
        ),
    },
    "cliques of exact cosines are smaller than 1 + 1 / tau": {
        "grouping/test_coloring.py": ("test_no_clique_of_exact_cosines_exceeds_1_plus_1_over_tau",),
    },
    "enough samples recover the graph exactly (§5.4)": {
        "theory/test_recovery.py": (
            "test_an_average_over_time_is_worth_so_many_samples",
            "test_errors_below_the_margin_change_no_edge",
            "test_the_samples_of_the_bound_are_enough_and_a_fifteenth_of_them_too",
            "test_too_few_samples_give_an_empty_graph_until_a_known_number",
            "test_noise_shrinks_cosines_correlated_noise_turns_them_and_two_halves_do_neither",
        ),
        "affinity/test_ema.py": (
            "test_recovery_needs_the_samples_the_simulation_says",
            "test_too_little_history_gives_an_empty_graph_not_a_noisy_one",
        ),
        "experiments/test_recovery.py": ("test_the_stated_shares_come_out_again",),
    },
    "no task waits longer than its windows allow (§5.5)": {
        "schedulers/test_coloring.py": (
            "test_no_task_waits_longer_than_two_windows_allow",
            "test_stalest_first_shortens_the_longest_wait",
            "test_no_class_starves_when_there_are_more_classes_than_steps_between_refreshes",
            "test_counts_stay_even_where_windows_cut_cycles",
        ),
    },
    "the rate of convergence, its constant times the classes (§5.2, Eq. 13)": {
        "theory/test_rate.py": (
            "test_the_mean_square_gradient_falls_with_the_root_of_the_steps",
            "test_at_an_equal_rate_the_constant_is_that_of_joint_steps_times_the_classes",
            "test_a_small_rate_times_the_classes_makes_up_for_it_in_steps",
            "test_the_constant_of_the_paper_is_too_small_and_m_times_it_is_enough",
        ),
    },
    "scheduled against mixed steps: the sign of the difference (§5.3)": {
        "theory/test_sequential.py": (
            "test_with_frozen_gradients_both_end_at_the_same_point",
            "test_the_second_order_formula_of_the_difference",
            "test_two_groups_with_equal_curvature_gain_where_the_first_opposes_the_sum",
        ),
    },
    "scheduled steps are stable at larger rates": {
        "theory/test_sequential.py": (
            "test_sequential_steps_stay_stable_at_rates_where_mixed_ones_diverge",
        ),
    },
    "invariances of the graph, and joint training and single tasks as its ends": {
        "schedulers/test_coloring.py": (
            "test_groups_do_not_see_a_constant_positive_scale_of_a_task",
            "test_beta_0_sees_the_last_gradient_only",
            "test_tau_minus_1_is_round_robin_when_no_two_gradients_coincide",
        ),
        "grouping/test_coloring.py": (
            "test_relabelling_moves_the_classes_along_when_ties_are_broken_alike",
        ),
        "theory/test_recovery.py": ("test_cosines_do_not_see_the_bias_correction",),
        "training/test_fit.py": ("test_coloring_at_tau_1_is_joint_training_bit_for_bit",),
    },
    "heads of inactive tasks stay bitwise as they are (Eq. 6)": {
        "training/test_step.py": ("test_inactive_heads_are_bitwise_unchanged",),
        "training/test_optimizer.py": ("test_inactive_rows_are_bitwise_unchanged",),
    },
    "a refresh leaves no trace, and any step can be resumed from": {
        "gradients/test_probe.py": (
            "test_leaves_no_trace",
            "test_frozen_keeps_everything_whatever_happens_inside",
        ),
        "training/test_fit.py": ("test_probes_leave_no_trace_in_a_training",),
        "schedulers/test_contract.py": (
            "test_resumes_bit_identical_from_every_step_through_files",
        ),
        "training/test_resume.py": ("test_resume_equals_no_interruption",),
    },
}


def test_there_are_twelve():
    assert len(GUARANTEES) == 12


@pytest.mark.parametrize("guarantee", GUARANTEES)
def test_every_guarantee_has_its_tests(guarantee):
    for file, names in GUARANTEES[guarantee].items():
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        found = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert set(names) <= found, file
