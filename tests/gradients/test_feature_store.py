"""Stored pairs: all positives, weighted negatives, the same whatever the batches."""

import numpy as np
import pytest
import torch

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.gradients import feature_statistics, negative_shares, output_features, store_features

CLOSE = {"rtol": 1e-9, "atol": 1e-12}
KEEP = np.array([0.3, 0.5, 1.0, 0.2, 0.6])


def test_without_sampling_every_observed_pair_is_there(make_model, make_batch):
    model, batch = make_model("sage"), make_batch()
    store = store_features(model, [batch], 4, seed=2)
    features = output_features(model, batch, 4, seed=2)
    assert len(store.y) == int(batch.observed.sum())
    place = {int(node): row for row, node in enumerate(batch.seeds)}
    for task in range(5):
        part = store.of(task)
        assert (store.task[part] == task).all()
        nodes = store.node[part].tolist()
        assert nodes == sorted(batch.seeds[batch.observed[:, task]].tolist())
        rows = [place[node] for node in nodes]
        torch.testing.assert_close(store.phi[part], features.phi[rows, task], **CLOSE)
        torch.testing.assert_close(store.logits[part], features.logits[rows, task], **CLOSE)
        assert torch.equal(store.y[part], batch.y[rows, task])
    assert (store.weight == 1).all()
    assert (store.num_tasks, store.dim) == (5, 4)
    exact = feature_statistics(model, [batch], 4, seed=2)
    found = store.statistics()
    torch.testing.assert_close(found.hessian, exact.hessian, **CLOSE)
    torch.testing.assert_close(found.gradient, exact.gradient, **CLOSE)
    torch.testing.assert_close(found.loss, exact.loss, **CLOSE)


def test_all_positives_are_kept_and_batches_do_not_matter(make_model, make_batch):
    model, whole = make_model("mlp"), make_batch(0)
    seeds = whole.seeds.numpy()
    batches = [make_batch(0, seeds=seeds[9:]), make_batch(0, seeds=seeds[:9])]
    one = store_features(model, [whole], 4, keep=KEEP)
    many = store_features(model, batches, 4, keep=KEEP)
    for name in ("phi", "logits", "y", "weight", "node", "offsets"):
        torch.testing.assert_close(getattr(one, name), getattr(many, name), **CLOSE)
    positives = (torch.where(whole.observed, whole.y, 0.0) > 0).sum(dim=0)
    kept = torch.stack([one.y[one.of(t)].sum() for t in range(5)])
    assert kept.tolist() == positives.tolist()
    assert (one.weight[one.y > 0] == 1).all()
    negative = one.y == 0
    expected = torch.from_numpy(1 / KEEP)[one.task[negative]]
    torch.testing.assert_close(one.weight[negative], expected)
    assert len(one.y) < int(whole.observed.sum())


def test_sums_over_the_kept_pairs_are_unbiased(make_model, make_batch):
    model, batch = make_model("mlp"), make_batch(0)
    exact = feature_statistics(model, [batch], 3)
    draws = [
        store_features(model, [batch], 3, keep=KEEP, sample_seed=s).statistics() for s in range(200)
    ]
    for name in ("gradient", "hessian", "loss", "weight"):
        values = torch.stack([getattr(one, name) for one in draws])
        error = (values.mean(dim=0) - getattr(exact, name)).abs()
        assert (error <= 4.5 * values.std(dim=0) / len(values) ** 0.5 + 1e-9).all(), name
    assert float(torch.stack([d.weight for d in draws]).std(dim=0)[0]) > 0


def test_half_precision_rounds_and_says_when_it_overflows(make_model, make_batch):
    model, batch = make_model("sign"), make_batch(0)
    exact = store_features(model, [batch], 4)
    half = store_features(model, [batch], 4, dtype=torch.float16)
    assert half.phi.dtype == torch.float16
    torch.testing.assert_close(half.phi.double(), exact.phi, rtol=1e-3, atol=1e-6)
    assert half.statistics().hessian.dtype == torch.float64
    with torch.no_grad():
        model.heads.weight *= 1e8
    with pytest.raises(UsageError, match=r"finite numbers of torch\.float16"):
        store_features(model, [batch], 4, dtype=torch.float16)


def test_shares_keep_a_few_negatives_per_positive():
    shares = negative_shares(np.array([10, 100, 0, 5]), np.array([1010, 1100, 500, 5]), 3, least=20)
    np.testing.assert_allclose(shares, [30 / 1000, 300 / 1000, 20 / 500, 1.0])
    for arguments in ({"per_positive": 0}, {"least": 0}):
        with pytest.raises(UsageError, match="positive"):
            negative_shares(np.array([1]), np.array([2]), **arguments)


def test_bad_arguments(make_model, make_batch):
    model, batch = make_model("mlp"), make_batch(0)
    with pytest.raises(ShapeError, match=r"\[T = 5\]"):
        store_features(model, [batch], 3, keep=np.ones(4))
    for keep in (np.zeros(5), np.full(5, 1.5), np.full(5, np.nan)):
        with pytest.raises(UsageError, match=r"probabilities in \(0, 1\]"):
            store_features(model, [batch], 3, keep=keep)
    with pytest.raises(UsageError, match="at least one observed cell"):
        store_features(model, [], 3)
