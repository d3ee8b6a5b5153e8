"""Sketches: the same in every call, linear, unbiased, with an error of 1 / sqrt(K)."""

import pytest
import torch

from gnn_mtl.gradients import probe
from gnn_mtl.linalg import cosine_of_rows, count_sketch

EXACT = {"rtol": 1e-9, "atol": 1e-12}


def with_seed(monkeypatch, seed):
    monkeypatch.setattr("gnn_mtl.gradients._plan.SKETCH_SEED", seed)


def test_directions_are_independent_signs_and_a_jvp_is_the_product(make_model, make_batch):
    from gnn_mtl.gradients._forward_mode import random_signs

    model, batch = make_model("sage"), make_batch()
    parameters = model.shared_parameters()
    signs = torch.stack(
        [torch.cat([d.flatten() for d in random_signs(parameters, 20250916, k)]) for k in range(4)]
    )
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    correlation = signs @ signs.T / signs.shape[1] - torch.eye(4)
    assert float(correlation.abs().max()) < 5 / signs.shape[1] ** 0.5
    exact = probe(model, batch, mode="full").jacobian
    found = probe(model, batch, mode="jvp_sketch", sketch_dim=4).jacobian
    torch.testing.assert_close(found, exact @ signs.T.double() / 2, **EXACT)


@pytest.mark.parametrize("encoder", ["sage", "gcn", "gin", "gatv2", "sign", "mlp"])
def test_directions_at_once_are_directions_one_by_one(encoder, make_model, make_batch):
    model = make_model(encoder)
    batch = make_batch(model.encoder.num_hops)
    one, many = (
        probe(model, batch, mode="jvp_sketch", sketch_dim=5, chunk_size=size).jacobian
        for size in (1, 3)
    )
    torch.testing.assert_close(one, many, **EXACT)


@pytest.mark.parametrize("mode", ["jvp_sketch", "count_sketch", "last_layer_sketch"])
def test_the_same_in_every_call_and_for_some_tasks(mode, make_model, make_batch):
    model, batch = make_model("gin"), make_batch()
    first = probe(model, batch, mode=mode, sketch_dim=3).jacobian
    torch.manual_seed(5)
    assert torch.equal(probe(model, batch, mode=mode, sketch_dim=3).jacobian, first)
    some = probe(model, batch, mode=mode, sketch_dim=3, tasks=(4, 1)).jacobian
    torch.testing.assert_close(some, first[[4, 1]], **EXACT)


def test_an_average_of_sketches_is_the_sketch_of_the_average(make_model, make_batch):
    """What an exponential average over steps rests on: the model changes, the sketch does not."""
    model, batch = make_model("sage"), make_batch()
    exact, found = [], []
    for _ in range(3):
        exact.append(probe(model, batch, mode="full").jacobian)
        found.append(probe(model, batch, mode="count_sketch", sketch_dim=6).jacobian)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.1)
    mean = 0.9 * (0.9 * exact[0] + 0.1 * exact[1]) + 0.1 * exact[2]
    sketched = 0.9 * (0.9 * found[0] + 0.1 * found[1]) + 0.1 * found[2]
    torch.testing.assert_close(sketched, count_sketch(mean, 6, seed=20250916), **EXACT)


def test_folding_piece_by_piece_does_not_show(make_model, make_batch, monkeypatch):
    model, batch = make_model("sage"), make_batch()
    whole = probe(model, batch, mode="count_sketch").jacobian
    monkeypatch.setattr("gnn_mtl.gradients._plan.SKETCHED_BYTES", 3000)
    torch.testing.assert_close(probe(model, batch, mode="count_sketch").jacobian, whole, **EXACT)


@pytest.mark.parametrize("mode", ["count_sketch", "jvp_sketch"])
def test_inner_products_are_unbiased(mode, make_model, make_batch, monkeypatch):
    model, batch = make_model("mlp"), make_batch(0)
    exact = probe(model, batch, mode="full").jacobian
    grams = []
    for seed in range(150 if mode == "count_sketch" else 40):
        with_seed(monkeypatch, seed)
        rows = probe(model, batch, mode=mode, sketch_dim=4).jacobian
        grams.append(rows @ rows.T)
    grams = torch.stack(grams)
    error = (grams.mean(dim=0) - exact @ exact.T).abs()
    assert (error <= 5 * grams.std(dim=0) / len(grams) ** 0.5 + 1e-12).all()


def test_the_error_of_cosines_falls_with_the_root_of_the_width():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(24, 20_000, generator=generator, dtype=torch.float64)
    exact = cosine_of_rows(rows)
    pairs = torch.triu_indices(24, 24, offset=1)
    errors = {}
    for dim in (64, 256, 1024):
        off = [
            (cosine_of_rows(count_sketch(rows, dim, seed=s)) - exact)[pairs[0], pairs[1]]
            for s in range(4)
        ]
        errors[dim] = float(torch.cat(off).square().mean().sqrt()) * dim**0.5
    assert all(0.85 < error < 1.15 for error in errors.values()), errors
