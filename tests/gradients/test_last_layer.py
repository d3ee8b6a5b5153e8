"""The closed form of the last shared layer equals a plain loop over tasks in float64."""

import pytest
import torch

from gnn_mtl.gradients import last_layer_jacobian

LINEAR_ENDED = ["sage", "gcn", "gin", "sign", "mlp"]
TASKS = (2, 0, 3, 4)  # no label of task 3 is observed
EXACT = {"rtol": 1e-9, "atol": 1e-12}


@pytest.fixture
def pos_weight():
    return torch.tensor([1.0, 3.0, 2.5, 1.0, 0.5], dtype=torch.float64)


@pytest.mark.parametrize("head", ["linear", "mlp head"])
@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
@pytest.mark.parametrize("encoder", LINEAR_ENDED)
def test_equals_the_loop(encoder, norm, head, make_model, make_batch, oracle, pos_weight):
    model = make_model(encoder, head, norm)
    batch = make_batch(model.encoder.num_hops)
    found = last_layer_jacobian(model, batch, TASKS, pos_weight=pos_weight)
    parameters = model.encoder.final_parameters()
    expected = oracle(model, batch, parameters, TASKS, pos_weight)
    torch.testing.assert_close(found, expected, **EXACT)
    assert not found[2].any()
    assert found[[0, 1, 3]].abs().sum(dim=1).min() > 1e-3


@pytest.mark.parametrize("chunk_bytes", [1, 40 * 4 * 8 * 2])
def test_chunks_of_tasks_do_not_show(chunk_bytes, make_model, make_batch, monkeypatch):
    model, batch = make_model("sage", "mlp head"), make_batch()
    whole = last_layer_jacobian(model, batch, TASKS)
    monkeypatch.setattr("gnn_mtl.gradients._last_layer.CHUNK_BYTES", chunk_bytes)
    torch.testing.assert_close(last_layer_jacobian(model, batch, TASKS), whole, **EXACT)


def test_one_nan_loss_spoils_its_own_row_only(make_model, make_batch):
    model, batch = make_model("sage"), make_batch()
    clean = last_layer_jacobian(model, batch, TASKS)
    with torch.no_grad():
        model.heads.weight[0, 1] = torch.nan
    found = last_layer_jacobian(model, batch, TASKS)
    assert torch.isnan(found[1]).any()
    torch.testing.assert_close(found[[0, 2, 3]], clean[[0, 2, 3]], **EXACT)


def test_works_under_no_grad_and_on_frozen_layers(make_model, make_batch):
    model, batch = make_model("sage"), make_batch()
    expected = last_layer_jacobian(model, batch, TASKS)
    model.encoder.convs[0].requires_grad_(False)
    with torch.no_grad():
        torch.testing.assert_close(last_layer_jacobian(model, batch, TASKS), expected, **EXACT)


@pytest.mark.parametrize("encoder", ["sage", "gin"])
def test_sketches_keep_inner_products_in_expectation(encoder, make_model, make_batch, monkeypatch):
    model, batch = make_model(encoder), make_batch()
    exact = last_layer_jacobian(model, batch, TASKS)
    grams = []
    for seed in range(400):
        monkeypatch.setattr("gnn_mtl.gradients._last_layer.SKETCH_SEED", seed)
        rows = last_layer_jacobian(model, batch, TASKS, sketch_dim=2)
        assert rows.shape[1] < exact.shape[1]
        grams.append(rows @ rows.T)
    grams = torch.stack(grams)
    error = (grams.mean(dim=0) - exact @ exact.T).abs()
    assert (error <= 5 * grams.std(dim=0) / 20 + 1e-12).all()


def test_a_sketch_is_the_same_in_every_call_and_exact_when_wide(make_model, make_batch):
    model, batch = make_model(), make_batch()
    first = last_layer_jacobian(model, batch, TASKS, sketch_dim=3)
    torch.manual_seed(5)
    assert torch.equal(last_layer_jacobian(model, batch, TASKS, sketch_dim=3), first)
    some = last_layer_jacobian(model, batch, TASKS[:2], sketch_dim=3)
    torch.testing.assert_close(some, first[:2], **EXACT)
    wide = last_layer_jacobian(model, batch, TASKS, sketch_dim=8)
    torch.testing.assert_close(wide, last_layer_jacobian(model, batch, TASKS), **EXACT)


@pytest.mark.gpu
@pytest.mark.parametrize("encoder", LINEAR_ENDED)
def test_cuda_equals_cpu(encoder, make_model, make_batch):
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    model = make_model(encoder, "mlp head")
    batch = make_batch(model.encoder.num_hops)
    here = last_layer_jacobian(model, batch, TASKS)
    there = last_layer_jacobian(model.cuda(), batch.to("cuda"), TASKS)
    torch.testing.assert_close(there.cpu(), here, rtol=1e-8, atol=1e-10)
