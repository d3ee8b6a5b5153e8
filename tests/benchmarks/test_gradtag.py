"""The Grad-TAG bench: side by side is one by one, and its measures are what they say."""

import copy

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch.nn import functional

from gnn_mtl.benchmarks import _gradtag, _gradtag_collection, _gradtag_measures
from gnn_mtl.benchmarks._gradtag_truth import Budget, rows_of, train_subsets
from gnn_mtl.gradients import output_features
from gnn_mtl.tasks import Affinity, SubsetTable

SIZE = _gradtag.Size(200, 9, 3, 5, 8, 8, 1, 1, 6, Budget(3, 0.01, 50), Budget(2, 0.003, 50))


@pytest.fixture(scope="module")
def problem():
    return _gradtag._set_up(SIZE)


def masks_of(*subsets):
    masks = np.zeros((len(subsets), SIZE.tasks), dtype=bool)
    for row, members in zip(masks, subsets, strict=True):
        row[list(members)] = True
    return masks


def alone(model, members, train, valid, budget, seed):
    """A plain loop over one ordinary model."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=budget.lr)
    rng = torch.Generator().manual_seed(seed)

    def losses(batch):
        return functional.binary_cross_entropy_with_logits(
            model(batch)[:, members], batch.y[:, members], reduction="none"
        ).mean(dim=0)

    history = [losses(valid).detach()]
    for _ in range(budget.epochs):
        for rows in torch.randperm(train.batch_size, generator=rng).split(budget.batch_size):
            optimizer.zero_grad()
            losses(rows_of(train, rows)).mean().backward()
            optimizer.step()
        history.append(losses(valid).detach())
    at = min(range(len(history)), key=lambda epoch: float(history[epoch].mean()))
    return history[at], at


def test_models_side_by_side_train_as_they_would_alone(problem):
    subsets = ([0, 2, 5], [1, 3], [4])
    masks, model = masks_of(*subsets), problem.bases[0]
    budget = Budget(4, 0.02, batch_size=50, patience=2)
    found = train_subsets(model, masks, problem.train, problem.valid, budget, seed=3)
    for row, members in enumerate(subsets):
        best, at = alone(model, members, problem.train, problem.valid, budget, seed=3)
        np.testing.assert_allclose(-found.scores[row, members], best, rtol=1e-4)
        assert np.isnan(np.delete(found.scores[row], members)).all()
        assert found.epochs[row] == min(at + budget.patience, budget.epochs)
        kept = copy.deepcopy(model)
        kept.load_state_dict({name: w[row] for name, w in found.weights.items()})
        again, _ = alone(kept, members, problem.train, problem.valid, Budget(0, 0.1), seed=0)
        np.testing.assert_allclose(again, best, rtol=1e-4)
    assert ((found.epochs >= 2) & (found.epochs <= 4)).all()


def test_a_training_that_only_gets_worse_keeps_its_start(problem):
    masks, model = masks_of([0, 1]), problem.bases[0]
    budget = Budget(3, 50.0, batch_size=50, patience=1)
    found = train_subsets(model, masks, problem.train, problem.valid, budget, seed=0)
    assert found.epochs.tolist() == [1.0]
    for name, p in model.named_parameters():
        assert torch.equal(found.weights[name][0], p.detach())


def affinity(values, symmetric=False):
    return Affinity(np.array(values, dtype=float), "test", "nats", symmetric)


def test_distance_is_frobenius_off_the_diagonal_over_what_both_know():
    real = affinity([[9, 2, 1], [2, 9, 2], [np.nan, 4, 9]])
    estimate = affinity([[0, 2, 2], [2, 0, np.nan], [5, 1, 0]])
    assert _gradtag_measures.distance(estimate, real) == pytest.approx((1 + 9) ** 0.5 / 25**0.5)
    assert _gradtag_measures.distance(real, real) == 0


def test_a_level_per_recipient_does_not_count_in_the_rank_correlation():
    rng = np.random.default_rng(0)
    real, noise = rng.normal(size=(2, 8, 8))
    levels = 100 * rng.normal(size=8)
    moved = _gradtag_measures.row_spearman(affinity(real + levels), affinity(real))
    assert moved == pytest.approx(1.0)
    off = ~np.eye(8, dtype=bool)
    found = _gradtag_measures.row_spearman(affinity(real + noise + levels), affinity(real))
    sides = []
    for values in (real + noise, real):
        kept = np.where(off, values, np.nan)
        sides.append((kept - np.nanmean(kept, axis=0))[off])
    assert found == pytest.approx(spearmanr(*sides).statistic)


def test_the_blend_follows_who_ranks_the_calibration_subsets():
    rng = np.random.default_rng(1)
    good, bad = rng.normal(size=(2, 12, 12))
    masks = np.array([rng.permutation(12) < 4 for _ in range(60)])
    score = masks.astype(float) @ np.where(np.eye(12), 0.0, good)
    table = SubsetTable(masks, np.where(masks, score, np.nan), "test")
    weight = _gradtag_measures.blend_weight(affinity(good), affinity(bad), table)
    assert weight < 0.1
    assert _gradtag_measures.blend_weight(affinity(bad), affinity(good), table) > 0.9
    opposite = SubsetTable(masks, -table.scores, "test")
    assert _gradtag_measures.blend_weight(affinity(good), affinity(good), opposite) == 0.5


def test_operations_are_counted():
    a, b = torch.ones(3, 5), torch.ones(5, 7)
    assert _gradtag._flops(lambda: a @ b) == 2 * 3 * 5 * 7


def test_operations_of_features_are_two_forwards_a_direction(problem):
    """Products with the tangents of weights and of activations; no more than the rule of thumb."""
    model, batch = problem.bases[0], problem.train
    forward = _gradtag._flops(lambda: model(batch))
    features = _gradtag._flops(lambda: output_features(model, batch, 10))
    assert 10 * forward < features < 10 * 2.2 * forward


def test_every_estimator_meets_every_truth():
    ratios, rows = _gradtag.accuracy(SIZE)
    estimates = [row for row in rows if row["what"] == "estimate"]
    assert {row["truth"] for row in estimates} == {"finetuned", "scratch"}
    assert {row["estimator"] for row in estimates} == {
        "one step", "one step, real network", "regression",
    }  # fmt: skip
    assert len(estimates) == 2 * 3 * len(_gradtag.LAMBDAS)
    (chosen,) = [row for row in estimates if row["chosen"] and row["truth"] == "finetuned"]
    assert chosen["relative_distance"] == ratios["relative_distance"]
    assert ratios["flop_share"] > 0


def test_collection_times_the_same_features(monkeypatch):
    sizes = {"NODES": 12, "TASKS": 5, "HIDDEN": 6, "FEATURES": 4, "DIM": 7, "HALF_DIM": 3}
    for name, value in {**sizes, "BUFFER": 16}.items():
        monkeypatch.setattr(_gradtag_collection, name, value)
    ratios, rows = _gradtag_collection.collection(quick=True)
    assert ratios.keys() == {"collection_speedup", "collection_speedup_over_single_nodes"}
    errors = {row["way"]: row.get("feature_error") for row in rows}
    assert errors["forward mode"] < 1e-5
    assert errors["forward mode, bfloat16"] < 0.1
    assert [row["speedup"] for row in rows if row["way"].endswith("batch")] == [1.0]
