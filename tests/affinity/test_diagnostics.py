"""Chance, shared samples, noise and layers, counted by hand."""

from functools import partial

import numpy as np
import pytest
import torch

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.affinity import (
    GradientEMA,
    affinity_facts,
    affinity_null,
    conflicts_by_layer,
    estimate_affinity,
    layer_conflict,
    pair_table,
    shuffled_batches,
)
from gnn_mtl.datasets import PermutationNull, SampleOverlap
from gnn_mtl.gradients import probe
from gnn_mtl.nn import GCN, MLP
from gnn_mtl.tasks import Affinity

NAN = float("nan")


def test_shuffling_keeps_what_is_observed_and_how_often_positive(make_batches):
    batches = make_batches(num_tasks=5, hidden=[2])
    shuffled = list(shuffled_batches(batches, seed=1))
    moved = 0
    for before, after in zip(batches, shuffled, strict=True):
        assert torch.equal(before.observed, after.observed)
        assert torch.equal(before.x, after.x)
        for task in range(5):
            seen = before.observed[:, task]
            assert after.y[seen, task].sum() == before.y[seen, task].sum()
            assert not after.y[seen, task].isnan().any()
            moved += int((after.y[seen, task] != before.y[seen, task]).sum())
    assert moved > 10
    again = list(shuffled_batches(batches, seed=1))
    other = list(shuffled_batches(batches, seed=2))
    assert all(
        torch.equal(a.y.nan_to_num(), b.y.nan_to_num())
        for a, b in zip(again, shuffled, strict=True)
    )
    assert not all(
        torch.equal(a.y.nan_to_num(), b.y.nan_to_num())
        for a, b in zip(other, shuffled, strict=True)
    )


def test_shuffling_is_uniform(make_batches):
    """Each observed seed of a task is equally likely to get its positives."""
    batch = make_batches(batch_size=36)[0]
    hits = torch.zeros(36)
    for seed in range(400):
        hits += next(iter(shuffled_batches([batch], seed=seed))).y[:, 0].nan_to_num()
    seen = batch.observed[:, 0]
    share = float(batch.y[seen, 0].mean())
    spread = (400 * share * (1 - share)) ** 0.5
    assert (hits[~seen] == 0).all()
    assert ((hits[seen] - 400 * share).abs() < 4.5 * spread).all()


def test_null_of_an_affinity_is_its_spread_under_shuffling(make_model, make_batches):
    model, batches = make_model(), make_batches()
    estimate = partial(estimate_affinity, model)
    null = affinity_null(estimate, iter(batches), num_permutations=5, seed=3)
    assert 0 < null.threshold < 1
    worst = affinity_null(estimate, batches, num_permutations=5, seed=3, familywise=True)
    assert worst.threshold >= null.threshold
    assert worst.familywise
    lower = affinity_null(estimate, batches, num_permutations=5, seed=3, quantile=0.5)
    assert lower.threshold < null.threshold
    with pytest.raises(UsageError, match="quantile"):
        affinity_null(estimate, batches, quantile=1.0)
    with pytest.raises(UsageError, match="NaN only"):
        affinity_null(lambda _: Affinity(np.full((2, 2), NAN), "m"), batches)


def example():
    values = np.array([[1.0, 0.5, -0.3], [0.5, 1.0, NAN], [-0.3, NAN, 1.0]])
    affinity = Affinity(
        values, "gradient_cosine", counts=np.full((3, 3), 8), stderr=np.full((3, 3), 0.2),
        label_names=("a", "b", "c"), details={"noise_share": [0.1, None, 0.3]},
    )  # fmt: skip
    both = np.array([[10, 5, 2], [5, 10, 4], [2, 4, 4]])
    return affinity, SampleOverlap(both, both)


def test_facts_and_pairs_carry_what_qualifies_the_values():
    affinity, overlap = example()
    null = PermutationNull(0.4, 0.95, False, 10)
    facts = affinity_facts(affinity, overlap=overlap, null=null)
    assert facts["pairs"] == 3
    assert facts["unknown"] == pytest.approx(1 / 3, abs=1e-4)
    assert facts["median"] == pytest.approx(0.1)
    assert facts["negative"] == 0.5
    assert facts["noise"] == 0.5  # .2 over a spread of .4
    assert facts["noise_share"] == 0.2
    assert facts["beyond_chance"] == 0.5
    # jaccard: 5 / 15, 2 / 12, 4 / 10
    assert facts["flags"] == pytest.approx({"red": 1 / 3, "amber": 1 / 3, "green": 1 / 3}, abs=1e-3)
    rows = pair_table(affinity, overlap=overlap, null=null)
    assert [(r["giver"], r["recipient"], r["value"]) for r in rows] == [
        ("a", "b", 0.5),
        ("a", "c", -0.3),
    ]
    assert rows[0] == {
        "giver": "a", "recipient": "b", "value": 0.5, "stderr": 0.2, "count": 8,
        "jaccard": pytest.approx(1 / 3), "containment": 0.5, "flag": "amber", "beyond_chance": True,
    }  # fmt: skip
    assert rows[1]["flag"] == "red"
    assert len(pair_table(affinity, count=1)) == 1
    turned = Affinity(np.array([[1.0, 0.1], [-0.4, 1.0]]), "m", symmetric=False)
    assert [(r["giver"], r["recipient"]) for r in pair_table(turned)] == [(1, 0), (0, 1)]
    for check in (affinity_facts, pair_table):
        with pytest.raises(ShapeError, match="overlap"):
            check(turned, overlap=overlap)


def test_facts_of_averages_and_of_one_task(observed):
    ema = GradientEMA(3, beta=0.5)
    for seed in range(3):
        ema.update(observed(torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))))
    weights = np.array([0.25, 0.5, 1.0])
    expected = weights.sum() ** 2 / (weights**2).sum()
    assert affinity_facts(ema.affinity())["effective_samples"] == pytest.approx(expected, rel=1e-3)
    one = affinity_facts(Affinity(np.ones((1, 1)), "m"))
    assert one["pairs"] == 0
    assert one["median"] is None


def test_conflicts_are_counted_block_by_block():
    jacobian = torch.tensor(
        [[1.0, 0.0, 1.0, 1.0], [-1.0, 0.1, 1.0, 0.9], [0.0, 1.0, -1.0, -1.0], [0.0, 0.0, 1.0, 1.0]]
    )
    conflicts, pairs, total = conflicts_by_layer(jacobian, [2, 2])
    assert conflicts.tolist() == [1, 3]
    assert pairs.tolist() == [3, 6]  # task 3 has no gradient in the first block
    cos = lambda i, j: float(torch.cosine_similarity(jacobian[i, 2:], jacobian[j, 2:], dim=0))  # noqa: E731
    expected = sum(cos(i, j) for i in range(4) for j in range(i))
    assert total[1] == pytest.approx(expected, abs=1e-6)
    scores = [conflicts_by_layer(jacobian, [4], threshold=s)[0][0] for s in (-1, -0.5, 0, 0.5, 1)]
    assert scores == sorted(scores)  # monotone in S
    with pytest.raises(ShapeError, match="widths"):
        conflicts_by_layer(jacobian, [3])
    with pytest.raises(UsageError, match="threshold"):
        conflicts_by_layer(jacobian, [4], threshold=1.5)


@pytest.mark.parametrize("encoder", [None, GCN(hidden_channels=8), MLP(hidden_channels=8)])
def test_layers_of_our_encoders(encoder, make_model, make_batches):
    model = make_model(encoder=encoder)
    batches = make_batches(hidden=[3], hops=model.encoder.num_hops)
    found = layer_conflict(model, batches, threshold=-0.02)
    assert found.sizes.sum() == sum(p.numel() for p in model.shared_parameters())
    assert len(set(found.layers)) == len(found.layers)
    # the last layer by hand
    name, width = found.layers[-1], int(found.sizes[-1])
    expected = known = 0
    for batch in batches:
        rows = probe(model, batch, mode="full").jacobian[[0, 1, 2, 4], -width:]
        cosines = torch.nn.functional.cosine_similarity(rows[:, None], rows[None], dim=2)
        pairs = cosines[np.triu_indices(4, 1)]
        expected += int((pairs < -0.02).sum())
        known += 6
    assert (found.conflicts[-1], found.pairs[-1]) == (expected, known)
    assert found.share[-1] == expected / known
    assert name == [n for n, _ in model.encoder.named_parameters()][-1].rsplit(".", 1)[0]
    shares = dict(zip(found.layers, found.share, strict=True))
    ranked = [shares[layer] for layer in found.ranked()]
    assert ranked == sorted(ranked, reverse=True)
    coarse = layer_conflict(model, batches, depth=1)
    assert len(coarse.layers) <= len(found.layers)
    assert coarse.sizes.sum() == found.sizes.sum()


def test_layers_refuse(make_model, make_batches):
    with pytest.raises(UsageError, match="at least one batch"):
        layer_conflict(make_model(), [])
    with pytest.raises(UsageError, match="depth"):
        layer_conflict(make_model(), make_batches(), depth=0)
    alone = layer_conflict(make_model(1), make_batches(1))
    assert np.isnan(alone.share).all()
