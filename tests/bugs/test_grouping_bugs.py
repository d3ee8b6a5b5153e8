"""The pitfalls of the released grouping systems, and where it is tested that ours has none.

Selective Task Group Updates (arXiv 2502.11986) A1 to A8, TAG (2109.04617) B1 to B7, ETAP
(2602.18591) C1 to C5, methods beside them E1 to E6, and what goes wrong on multi-label graphs, F1
to F9; the rules for any measured look-ahead, R1 to R7. Short ones are tested here.
"""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

import gnn_mtl
from gnn_mtl.affinity import GainPredictor, ProximalAffinity, tag_affinity
from gnn_mtl.graph import NeighborLoader
from gnn_mtl.grouping import affinity_propagation
from gnn_mtl.schedulers import SelectiveScheduler, StaticScheduler
from gnn_mtl.tasks import Affinity, Grouping
from gnn_mtl.training import Optimizers, Train, fit, group_updates, set_learning_rate

HERE = "bugs/test_grouping_bugs.py"
TESTS = Path(__file__).parents[1]
PITFALLS = {
    "A1 the credit of an update goes to the group after it": (
        "affinity/test_proximal.py::test_who_gets_the_credit",
        "affinity/test_proximal.py::test_the_released_credit_is_upside_down_and_ours_is_not",
        "affinity/test_proximal.py::test_golden_sequence",
        "schedulers/test_selective.py::"
        "test_golden_sequence_credits_the_group_that_made_the_update_the_last_one_too",
        "schedulers/test_selective.py::test_the_released_credit_does_not_recover_them",
    ),
    "A2 a self-affinity of 0 divides to infinity": (
        "grouping/test_affinity_propagation.py::"
        "test_a_task_that_never_helped_itself_does_not_divide_to_infinity",
        "schedulers/test_selective.py::test_nothing_to_group_by_keeps_the_groups_and_says_so",
    ),
    "A3 affinity propagation: the median holds the diagonal, noise without a seed, no end": (
        f"{HERE}::test_the_median_leaves_the_diagonal_out",
        "grouping/test_affinity_propagation.py::test_deterministic",
        "grouping/test_affinity_propagation.py::test_nothing_to_tell_tasks_by",
        "grouping/test_affinity_propagation.py::test_random_directions_need_no_exemplar_by_hand",
    ),
    "A4 heads learn at T times the rate": (f"{HERE}::test_heads_and_trunk_learn_at_one_rate",),
    "A5 inactive heads take Adam steps with a zero gradient": (
        f"{HERE}::test_a_head_moves_once_a_batch_however_many_groups_there_are",
        "training/test_group_updates.py::test_heads_outside_the_group_stay_bitwise",
        "training/test_optimizer.py::test_inactive_rows_are_bitwise_unchanged",
    ),
    "A6 a batch of M updates is counted as one": (
        "training/test_group_updates.py::test_costs_count_every_update",
        f"{HERE}::test_the_shared_part_moves_once_a_group_and_it_is_said",
    ),
    "A7 regrouping at every batch": (
        "schedulers/test_selective.py::test_warm_up_is_affordable_and_redraws_its_groups",
    ),
    "A8 a cosine method under this name": (
        "schedulers/test_selective.py::test_golden_rows_of_single_updates",
        "affinity/test_proximal.py::test_golden_groups",
    ),
    "B1 the look-ahead forgets the momentum": (
        "affinity/test_look_ahead.py::test_the_step_is_the_optimizers_own_with_its_momentum",
        "affinity/test_look_ahead.py::test_white_box_term_of_etap_adds_torchs_velocity",
    ),
    "B2 a mean over steps that were not measured": (
        f"{HERE}::test_means_are_over_the_batches_that_were_measured",
        "affinity/test_labels_and_blends.py::test_cell_mean_equals_numpy_and_resumes",
    ),
    "B3 look-aheads move running statistics": (
        "affinity/test_look_ahead.py::test_nothing_is_left_behind",
    ),
    "B4 the orientation flips on the way": (
        f"{HERE}::test_the_giver_is_the_row_from_measure_to_file",
        "affinity/test_look_ahead.py::test_golden_quadratics",
    ),
    "B5 restoring by adding the step back drifts": (
        "affinity/test_look_ahead.py::test_nothing_is_left_behind",
        "affinity/test_look_ahead.py::test_tag_equals_copies_that_step",
    ),
    "B6 every look-ahead steps on all tasks, or with all parameters": (
        "affinity/test_look_ahead.py::test_only_the_giver_steps",
        "affinity/test_look_ahead.py::test_tag_equals_copies_that_step",
    ),
    "B7 the length of a step decides": (
        "affinity/test_look_ahead.py::test_relative_steps_have_one_length",
        "affinity/test_look_ahead.py::test_linear_is_the_limit_of_small_steps",
        "affinity/test_look_ahead.py::test_preconditioned_rule_is_linear_and_adams_without_momentum",
    ),
    "B8 no task may be left alone; brute force over all sets": (
        "affinity/test_etap.py::test_tasks_that_harm_all_others_are_left_alone",
        "affinity/test_etap.py::test_choice_equals_brute_force",
    ),
    "C1 a spline on an undefined matrix": (
        "affinity/test_etap.py::test_a_bent_law_needs_the_spline",
        "affinity/test_etap.py::test_an_affine_law_is_recovered_exactly",
    ),
    "C2 residuals of group vectors instead of gains": (
        "affinity/test_etap.py::test_what_pairs_do_not_say_is_left_to_the_residual_model",
    ),
    "C3 predictions masked by the groups of the training": (
        f"{HERE}::test_predictions_are_for_the_groups_asked_for",
        "affinity/test_etap.py::test_members_only_and_tasks_alone_gain_nothing",
    ),
    "C4 the search sees held-out groups only": ("affinity/test_etap.py::test_search_by_predictor",),
    "C5 T x T coefficients from few groups, the size left out": (
        "affinity/test_etap.py::test_noise_is_not_fitted",
        "affinity/test_etap.py::test_few_and_degenerate_groups",
    ),
    "E1 inner steps on one batch align the tasks on that batch": (
        f"{HERE}::test_every_group_of_an_inner_cycle_has_its_own_batch",
        "training/test_group_updates.py::test_outer_rate_1_is_plain_turns_and_less_moves_less",
        "training/test_group_updates.py::test_an_outer_step_raises_inner_products_to_second_order",
    ),
    "E2 to E6 (merged forks, Pareto ensembles, radii, prompts, inner steps)": (
        f"{HERE}::test_no_method_is_here_untested",
    ),
    "F1 members of a fixed group cannot be told apart": (
        "schedulers/test_selective.py::test_warm_up_is_affordable_and_redraws_its_groups",
        "schedulers/test_selective.py::test_two_camps_are_recovered",
        "affinity/test_proximal.py::test_members_that_disagree_are_pushed_apart",
    ),
    "F2, F4 costs without a count, modes compared at unequal cost": (
        "training/test_group_updates.py::test_costs_count_every_update",
        "training/test_streamed_probe.py::test_passes_are_counted",
        "schedulers/test_group_use.py::test_every_use_spends_the_same_label_gradients_a_cycle",
    ),
    "F3 a backward pass for every group or task where one call would do": (
        "gradients/test_modes.py::test_all_shared_parameters",
        "gradients/test_modes.py::test_layered_at_any_depth",
    ),
    "F5 groupings that flicker, no control of equal sizes": (
        "schedulers/test_options.py::test_hysteresis_keeps_groups_that_flicker",
        "schedulers/test_coloring.py::test_churn_is_one_minus_the_jaccard_of_pairs",
        "schedulers/test_fixed_groups.py::"
        "test_the_matched_control_spends_the_same_label_gradients_at_every_step",
    ),
    "F6 rare labels are a handful of positives": (
        "affinity/test_look_ahead.py::test_batches_without_labels_or_positives_say_nothing",
        "gradients/test_estimate.py::test_every_task_has_positives_among_few_probe_nodes",
        "gradients/test_estimate.py::test_weighted_probes_are_unbiased",
    ),
    "F7 averages that never warm up on full batches": (
        f"{HERE}::test_few_credits_are_averaged_in_full",
        "affinity/test_ema.py::test_the_first_observation_counts_in_full",
    ),
    "F8 a label prior that never fades": (
        "affinity/test_labels_and_blends.py::test_blend_takes_what_is_known_and_weighs_by_counts",
    ),
    "F9 groups that depend on chance or order": (
        "grouping/test_affinity_propagation.py::test_deterministic",
        "tasks/test_grouping.py::test_order_and_repeats_do_not_matter",
        "schedulers/test_contract.py::test_global_random_states_are_not_touched",
    ),
    "R1 other dropout, other batch statistics before and after": (
        "training/test_group_updates.py::"
        "test_dropout_is_replayed_so_that_differences_are_the_updates_doing",
        "training/test_group_updates.py::test_batch_normalisation_counts_the_batch_once",
    ),
    "R2 zeros where a label is not observed": (
        "affinity/test_proximal.py::test_unlabelled_tasks_take_no_part",
        "affinity/test_look_ahead.py::test_batches_without_labels_or_positives_say_nothing",
    ),
    "R3 a vanishing loss as denominator": (
        "affinity/test_proximal.py::test_a_vanishing_loss_does_not_outweigh_the_rest",
        "affinity/test_look_ahead.py::test_losses_near_zero_do_not_outweigh_the_rest",
    ),
    "R4 a synchronisation for every pair": (
        "training/test_group_updates.py::test_equals_one_step_after_the_other",
    ),
    "R5 parameters, buffers or random state not restored bit for bit": (
        "affinity/test_look_ahead.py::test_nothing_is_left_behind",
        "gradients/test_probe.py::test_leaves_no_trace",
    ),
    "R6 unknown cells read as 0": (
        "affinity/test_proximal.py::test_average_is_bias_corrected_per_cell_and_knows_its_error",
        "affinity/test_ema.py::test_unseen_tasks_are_unknown_not_zero",
    ),
    "R7 an affinity trusted unseen": (
        "affinity/test_fidelity.py::test_gains_of_trained_groups",
        "affinity/test_fidelity_study.py::test_the_reference_is_the_whole_split",
    ),
}


def test_none_is_left_out():
    numbers = [name.split()[0].strip(",") for name in PITFALLS]
    wanted = [f"A{n}" for n in range(1, 9)] + [f"B{n}" for n in range(1, 9)]
    wanted += [f"C{n}" for n in range(1, 6)] + ["E1", "E2", "F1", "F2", "F3"]
    wanted += [f"F{n}" for n in range(5, 10)] + [f"R{n}" for n in range(1, 8)]
    assert numbers == wanted


@pytest.mark.parametrize("pitfall", PITFALLS)
def test_every_pitfall_has_its_tests(pitfall, missing):
    assert missing(PITFALLS[pitfall]) == []


# A3


def test_the_median_leaves_the_diagonal_out():
    """A diagonal of ones, far above all pairs, would make every task an exemplar."""
    values = np.full((6, 6), -0.02)
    values[:3, :3] = values[3:, 3:] = 0.02
    np.fill_diagonal(values, 1.0)
    found = affinity_propagation(Affinity(values, "test", "cosine"))
    assert found.groups == ((0, 1, 2), (3, 4, 5))
    assert len(affinity_propagation(Affinity(values, "test", "cosine"), preference=1.0)) == 6


# A4, A5, A6


def test_heads_and_trunk_learn_at_one_rate(model):
    optimizers = Optimizers(model, Train(lr=0.3, warmup_steps=0))
    for step in (0, 5, 9):
        lr = set_learning_rate(optimizers, Train(lr=0.3, warmup_steps=0), step, 10)
        assert optimizers.heads.lr == lr == optimizers.shared.param_groups[0]["lr"]
    names = {field.name for field in fields(Train)}
    assert "lr" in names
    assert not {"head_lr", "lr_ts"} & names


def _updates(groups):
    schedule = StaticScheduler(5, Grouping.of(groups, 5), use="all_groups_per_batch", seed=0)
    schedule.active_tasks()
    return schedule.updates()


@pytest.mark.parametrize("groups", [[range(5)], [[0, 1], [2], [3, 4]], [[t] for t in range(5)]])
def test_a_head_moves_once_a_batch_however_many_groups_there_are(groups, model, batch):
    """Adam's first step is the rate in every entry; zero gradients in between would add to it."""
    optimizers = Optimizers(model, Train(lr=1e-3, weight_decay=0.0))
    set_learning_rate(optimizers, Train(lr=1e-3, warmup_steps=0), 0, 10)
    weight = model.head_parameters()[0]
    before = weight.detach().clone()
    group_updates(model, batch, _updates(groups), optimizers)
    assert optimizers.heads.steps.tolist() == [1] * 5
    moved = (weight.detach() - before).abs()
    torch.testing.assert_close(moved[moved > 5e-4], torch.full_like(moved[moved > 5e-4], 1e-3),
                               rtol=1e-2, atol=0)  # fmt: skip
    assert moved.max() < 1.01e-3


def test_the_shared_part_moves_once_a_group_and_it_is_said(model, tiny, budget):
    groups = [[0, 1], [2], [3, 4]]
    schedule = StaticScheduler(5, Grouping.of(groups, 5), use="all_groups_per_batch")
    done = fit(model, tiny, schedule, budget(epochs=1))
    assert done.cost.steps == 3 * 4
    assert done.cost.label_gradients == 5 * 4
    assert done.cost.backwards == 3 * 4


# B2, B4


def test_means_are_over_the_batches_that_were_measured(model, tiny):
    loader = NeighborLoader(tiny, num_neighbors=[3, 3], batch_size=12, seed=2)
    batches = [loader.batch(0, index) for index in range(3)]
    single = np.stack([tag_affinity(model, [batch]).values for batch in batches])
    together = tag_affinity(model, batches)
    assert together.counts.tolist() == [[3] * 5] * 5
    np.testing.assert_allclose(together.values, single.mean(axis=0), rtol=1e-6, atol=1e-12)


def test_the_giver_is_the_row_from_measure_to_file(model, batch, tmp_path):
    """A giver whose gradient is scaled up tenfold gives ten times as much to every other task."""
    plain = tag_affinity(model, [batch], lr=1e-4)
    louder = tag_affinity(
        model, [batch], lr=1e-4, pos_weight=None, rule=lambda rows: rows * 1e-4 * _loud(rows)
    )
    ratio = louder.values / plain.values
    np.testing.assert_allclose(ratio[2], 10.0, rtol=0.05)
    np.testing.assert_allclose(np.delete(ratio, 2, axis=0), 1.0, rtol=1e-6)
    plain.save(tmp_path / "a.npz")
    np.testing.assert_array_equal(Affinity.load(tmp_path / "a.npz").values, plain.values)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        assert '"values[giver, recipient]"' in str(archive["header"])


def _loud(rows):
    factor = torch.ones(len(rows), 1)
    factor[2] = 10.0
    return factor


# C3


def test_predictions_are_for_the_groups_asked_for():
    rng = np.random.default_rng(0)
    affinity = Affinity(rng.normal(0, 1, (6, 6)), "test", "nats", False)
    trained = rng.random((8, 6)) < 0.5
    trained[trained.sum(axis=1) < 2] = True
    predictor = GainPredictor(affinity).fit(trained, rng.normal(0, 1, trained.shape))
    asked = np.array([[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1]], dtype=np.bool_)
    found = predictor.predict(asked)
    assert np.isfinite(found[asked]).all()
    assert np.isnan(found[~asked]).all()


# E


def test_every_group_of_an_inner_cycle_has_its_own_batch(model, tiny, budget, monkeypatch):
    import gnn_mtl.training._loop as loop

    seen, original = [], loop.train_step

    def watch(net, batch, tasks, *args, **options):
        seen.append((tasks, tuple(batch.seeds.tolist())))
        return original(net, batch, tasks, *args, **options)

    monkeypatch.setattr(loop, "train_step", watch)
    schedule = StaticScheduler(5, Grouping.of([[0, 1], [2, 3, 4]], 5), use="inner_outer")
    fit(model, tiny, schedule, budget(epochs=2))
    cycles = [seen[start : start + 2] for start in range(0, len(seen), 2)]
    for one, other in cycles:
        assert {one[0], other[0]} == {(0, 1), (2, 3, 4)}
        assert one[1] != other[1]


@pytest.mark.parametrize(
    "method", ["fork_merge", "pareto_manifold", "cross_learning", "prompt", "inner_step"]
)
def test_no_method_is_here_untested(method):
    if not list(Path(gnn_mtl.__file__).parent.rglob(f"_*{method}*.py")):
        pytest.skip(f"there is no {method} yet that could have the pitfall")
    others = [file for file in TESTS.rglob("test_*.py") if file.parent.name != "bugs"]
    assert any(method in file.name + file.read_text(encoding="utf-8") for file in others)


# F7


def test_few_credits_are_averaged_in_full():
    """Five batches at a decay rate of 1e-3: the mean of five credits, not 0.5 % of it."""
    average = ProximalAffinity(2, beta=0.999)
    for _ in range(5):
        average.update([[0], [1]], np.array([[1.0, 1.0], [0.9, 0.8], [0.8, 0.7]]))
    np.testing.assert_allclose(
        average.affinity().values, [[0.1, 0.2], [0.1 / 0.9, 0.125]], rtol=1e-6
    )
    schedule = SelectiveScheduler(2, warmup_steps=0)
    assert schedule.config.ema_beta == 0.999
