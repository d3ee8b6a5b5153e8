"""The pitfalls of the released Grad-TAG and higher-order code, and where ours is tested for them.

Grad-TAG (arXiv 2409.06091), higher-order affinities (2306.14009) and AutoBRANE (2512.01113), B1 to
B15. Short ones are tested here.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from gnn_mtl._core.errors import GnnMtlWarning, SealedLabelsError
from gnn_mtl.affinity import (
    draw_subsets,
    estimate_affinity,
    gradtag_table,
    label_cooccurrence,
    rank_agreement,
    subset_affinity,
    valid_batches,
)
from gnn_mtl.gradients import output_features
from gnn_mtl.graph import NeighborLoader
from gnn_mtl.nn import SAGE, LabelModel, Linear
from gnn_mtl.tasks import SubsetTable

HERE = "bugs/test_gradtag_bugs.py"
PITFALLS = {
    "B1 the stages do not fit together, and gradients are of the first ten tasks only": (
        "cli/test_subsets.py::test_from_a_run_to_groups",
        f"{HERE}::test_features_are_of_every_task",
    ),
    "B2 fitted to the first 80 % of the rows in task order: the last tasks have no say": (
        "affinity/test_offset_regression.py::"
        "test_the_order_of_nodes_does_not_matter_and_no_task_is_left_out",
        f"{HERE}::test_every_member_of_a_subset_has_a_say",
    ),
    "B3 no offset: the fit explains anew what the base model knows": (
        "affinity/test_offset_regression.py::test_the_offset_is_the_base_model",
        "affinity/test_offset_regression.py::test_equals_sklearn_without_intercept",
        "affinity/test_offset_regression.py::"
        "test_a_trained_base_model_stays_where_it_is_on_all_tasks",
        "affinity/test_gradtag.py::test_a_model_trained_to_the_end_stays_where_it_is_on_all_tasks",
    ),
    "B4 other parameters are moved than were projected": (
        "gradients/test_output_features.py::"
        "test_moving_along_the_directions_changes_the_logits_as_features_say",
        "affinity/test_gradtag.py::test_the_audit_measures_the_logits",
    ),
    "B5 features under dropout, anew for every task": (
        f"{HERE}::test_dropout_is_off_in_features",
        "gradients/test_output_features.py::test_no_trace",
        "affinity/test_gradtag.py::test_the_model_stays_as_it_was",
    ),
    "B6 task 1 takes the score of task 12, whose name begins alike": (
        f"{HERE}::test_task_1_is_not_task_12",
        "affinity/test_gradtag.py::test_task_ids_do_not_matter",
        "affinity/test_offset_regression.py::test_task_ids_do_not_matter",
        "affinity/test_higher_order.py::test_task_ids_do_not_matter",
    ),
    "B7 every task has the same loss and gradient in the TAG it is compared with": (
        "affinity/test_look_ahead.py::test_tag_equals_copies_that_step",
        "affinity/test_look_ahead.py::test_only_the_giver_steps",
    ),
    "B8 pairs never drawn, and negative weights for spectral clustering": (
        "affinity/test_higher_order.py::test_pairs_never_together_are_unknown_and_named",
        "grouping/test_spectral.py::test_weights_as_they_are",
        "affinity/test_gradtag.py::test_the_baseline_is_the_loss_of_the_base_model",
    ),
    "B9 average precision of predictions cut at a threshold": (
        "metrics/test_metrics_ranking.py::test_equal_to_scikit_learn",
        "affinity/test_gradtag.py::test_other_metrics_are_scored_by_the_network",
    ),
    "B10 hours to draw negatives": (
        "datasets/test_communities.py::test_masks_by_brute_force",
        "datasets/test_communities.py::test_all_five_thousand",
    ),
    "B11 one dense constraint a task in the SDP": (
        "grouping/test_cluster_sdp.py::test_five_hundred_tasks_take_tens_of_megabytes",
        "grouping/test_cluster_sdp.py::test_five_hundred_tasks_to_a_thousandth",
    ),
    "B12 rounding at 1 / T opens clusters for leftovers": (
        "grouping/test_cluster_sdp.py::test_rounding_beats_the_released_rule",
        "grouping/test_choose_number.py::test_the_sweep_finds_the_planted_number",
    ),
    "B13 test scores in the affinity, 0 for pairs never drawn": (
        "tasks/test_subset_table.py::test_scores_on_the_test_split_are_refused",
        f"{HERE}::test_labels_of_the_test_split_are_never_read",
        f"{HERE}::test_a_pair_never_drawn_is_not_0",
    ),
    "B14 one noisy run is the truth, and chosen and judged on the same nodes": (
        "affinity/test_gradtag.py::test_several_base_models_give_means_and_errors",
        "runs/test_subset_oracle.py::test_the_table",
        f"{HERE}::test_noise_of_the_truth_can_be_told_and_nodes_held_out",
    ),
    "B15 one subset too many, and records rewritten as a whole for each": (
        "affinity/test_subset_design.py::test_distinct_subsets_of_the_asked_size",
        "runs/test_subset_oracle.py::test_an_interrupted_call_goes_on",
    ),
}


def test_none_is_left_out():
    assert [name.split()[0] for name in PITFALLS] == [f"B{n}" for n in range(1, 16)]


@pytest.mark.parametrize("pitfall", PITFALLS)
def test_every_pitfall_has_its_tests(pitfall, missing):
    assert missing(PITFALLS[pitfall]) == []


@pytest.fixture(scope="module")
def twelve(make_graph):
    """A graph of 14 tasks, a model with much dropout, and batches of training and validation."""
    graph = make_graph(90, 14, seed=4)
    torch.manual_seed(0)
    encoder = SAGE(hidden_channels=8, dropout=0.5).build(6)
    model = LabelModel(encoder, Linear().build(8, 14)).eval()
    loader = NeighborLoader(graph, num_neighbors=[-1, -1], batch_size=60, num_workers=0)
    return graph, model, list(loader.epoch_batches(0)), list(valid_batches(loader))


MASKS = draw_subsets(14, 4, 60, seed=1)
OPTIONS = {"dim": 10, "lam": 0.3, "tolerance": 100.0}


# B1


def test_features_are_of_every_task(twelve):
    _, model, train, _ = twelve
    phi = output_features(model, train[0], 10).phi
    assert (phi.abs().sum(dim=(0, 2)) > 0).all()


# B2


@pytest.mark.parametrize("mode", ["statistics", "pairs"])
def test_every_member_of_a_subset_has_a_say(mode, twelve):
    """Other labels of one task change what the subsets that hold it do, and no others."""
    _, model, train, valid = twelve
    one = gradtag_table(model, train, valid, MASKS, mode=mode, **OPTIONS)
    for task in (0, 13):
        flipped = []
        for batch in train:
            y = batch.y.clone()
            y[:, task] = 1 - y[:, task]
            flipped.append(replace(batch, y=y))
        other = gradtag_table(model, flipped, valid, MASKS, mode=mode, **OPTIONS)
        moved = np.nanmax(np.abs(other.scores - one.scores), axis=1) > 1e-5
        np.testing.assert_array_equal(moved, MASKS[:, task])


# B5


def test_dropout_is_off_in_features(twelve):
    _, model, train, _ = twelve
    still = output_features(model.eval(), train[0], 5)
    model.train()
    noisy = output_features(model, train[0], 5)
    model.eval()
    assert torch.equal(still.phi, noisy.phi)
    assert torch.equal(still.logits, noisy.logits)


# B6


def test_task_1_is_not_task_12(twelve):
    """Scores of tasks 1 and 12 in a subset of both: neither takes the other's."""
    _, model, train, valid = twelve
    masks = np.zeros((3, 14), dtype=bool)
    masks[0, [1, 12]] = masks[1, [1, 2]] = masks[2, [12, 2]] = True
    found = gradtag_table(model, train, valid, masks, **OPTIONS)
    losses = -found.baseline
    assert abs(losses[1] - losses[12]) > 0.01
    assert found.scores[0, 1] == pytest.approx(
        found.baseline[1], abs=abs(losses[1] - losses[12]) / 2
    )
    with pytest.warns(GnnMtlWarning, match="unknown"):
        values = subset_affinity(found, normalize="none").values
    assert values[12, 1] == pytest.approx(found.scores[0, 1])
    assert values[1, 12] == pytest.approx(found.scores[0, 12])
    assert values[2, 1] == pytest.approx(found.scores[1, 1])


# B13


def test_labels_of_the_test_split_are_never_read(twelve):
    graph, model, *_ = twelve
    sealed = graph.sealed()
    loader = NeighborLoader(sealed, num_neighbors=[-1, -1], batch_size=60, num_workers=0)
    found = estimate_affinity(
        model, loader, method="gradtag", dim=4, lam=1.0, subset_size=4, num_subsets=60
    )
    assert found.known.all()
    label_cooccurrence(sealed)
    with pytest.raises(SealedLabelsError):
        sealed.targets(sealed.split_idx["test"], "test")


def test_a_pair_never_drawn_is_not_0():
    masks = np.array([[1, 1, 0], [1, 0, 1]], dtype=bool)
    table = SubsetTable(masks, np.where(masks, 0.5, np.nan), "trained")
    with pytest.warns(GnnMtlWarning, match="2 of 6"):
        found = subset_affinity(table)
    assert np.isnan([found.values[1, 2], found.values[2, 1]]).all()
    assert found.values[0, 1] == 0.0  # seen, and as usual


# B14


def test_noise_of_the_truth_can_be_told_and_nodes_held_out(twelve):
    """Scores on one half of the validation nodes are judged by those on the other."""
    _, model, train, valid = twelve
    halves = []
    for keep in (0, 1):
        part = []
        for batch in valid:
            chosen = (torch.arange(batch.batch_size) % 2 == keep)[:, None]
            part.append(replace(batch, observed=batch.observed & chosen))
        halves.append(gradtag_table(model, train, part, MASKS, **OPTIONS))
    agreement = rank_agreement(*halves)
    assert 0 < agreement < 1
    apart = [(half.scores - np.nanmean(half.scores, axis=0))[MASKS] for half in halves]
    assert agreement == pytest.approx(spearmanr(*apart).statistic)
    whole = gradtag_table(model, train, valid, MASKS, **OPTIONS)
    for half in halves:
        assert rank_agreement(whole, half) > agreement
