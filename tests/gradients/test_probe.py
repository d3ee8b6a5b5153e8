"""Probes: exact over one batch or several, and without a trace (SON-GOKU's refresh purity)."""

from typing import get_args

import pytest
import torch

from gnn_mtl._core.errors import UsageError
from gnn_mtl.gradients import ProbeMode, frozen, last_layer_jacobian, probe
from gnn_mtl.nn import LabelModel, Linear, PyGEncoder, masked_bce

ENCODERS = ["sage", "gcn", "gin", "gatv2", "sign", "mlp"]
MODES = get_args(ProbeMode)
EXACT = {"rtol": 1e-9, "atol": 1e-12}


@pytest.mark.parametrize("mode", ["last_layer", "full"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_equals_the_loop(encoder, mode, make_model, make_batch, oracle):
    model = make_model(encoder, "mlp head")
    batch = make_batch(model.encoder.num_hops)
    pos_weight = torch.tensor([1.0, 3.0, 2.5, 1.0, 0.5], dtype=torch.float64)
    found = probe(model, batch, mode=mode, pos_weight=pos_weight)
    parameters = model.shared_parameters() if mode == "full" else model.encoder.final_parameters()
    expected = oracle(model, batch, parameters, range(5), pos_weight)
    torch.testing.assert_close(found.jacobian, expected, **EXACT)
    assert found.tasks == (0, 1, 2, 3, 4)
    assert found.valid.tolist() == [True, True, True, False, True]
    assert found.label_gradients == 5


@pytest.mark.parametrize("mode", ["last_layer", "full"])
def test_some_tasks_are_their_rows(mode, make_model, make_batch):
    model, batch = make_model("gcn"), make_batch()
    everything = probe(model, batch, mode=mode)
    some = probe(model, batch, tasks=[4, 1], mode=mode)
    assert some.tasks == (4, 1)
    torch.testing.assert_close(some.jacobian, everything.jacobian[[4, 1]], **EXACT)


@pytest.mark.parametrize("mode", ["last_layer", "full"])
@pytest.mark.parametrize("encoder", ["mlp", "sage"])
def test_several_batches_are_one_big_one(encoder, mode, make_model, make_batch):
    """Tasks are observed at unequal shares of the parts, so plain means would differ."""
    model = make_model(encoder)
    hops = model.encoder.num_hops
    big = make_batch(hops)
    # the neighbours are drawn per batch, so the parts are cut from the big one
    cuts = [slice(0, 5), slice(5, 6), slice(6, None)]
    pieces = [cut_seeds(big, cut) for cut in cuts]
    pieces[1].observed[:] = False  # a part without any label
    big.observed[5] = False
    whole, parts = probe(model, big, mode=mode), probe(model, iter(pieces), mode=mode)
    torch.testing.assert_close(parts.jacobian, whole.jacobian, **EXACT)
    assert parts.valid.tolist() == whole.valid.tolist() == [True, True, True, False, True]
    assert parts.label_gradients == 15


def cut_seeds(batch, rows):
    """The batch with the supervision of some seeds only."""
    observed = torch.zeros_like(batch.observed)
    observed[rows] = batch.observed[rows]
    return type(batch)(batch.n_id, batch.batch_size, batch.x, batch.blocks, batch.y, observed)


@pytest.mark.parametrize("mode", ["last_layer", "full"])
@pytest.mark.parametrize("encoder", ["sage", "gatv2"])
def test_a_broken_task_is_invalid_and_spoils_no_other(encoder, mode, make_model, make_batch):
    model, batch = make_model(encoder), make_batch()
    clean = probe(model, batch, mode=mode)
    with torch.no_grad():
        model.heads.weight[0, 1] = torch.nan
    found = probe(model, batch, mode=mode)
    assert found.valid.tolist() == [False, True, True, False, True]
    torch.testing.assert_close(found.jacobian[1:], clean.jacobian[1:], **EXACT)
    with torch.no_grad():
        model.heads.weight[:] = torch.nan
    assert not probe(model, batch, mode=mode).valid.any()


def test_a_users_module_is_probed_by_backward_passes(make_batch, oracle):
    from torch_geometric.nn import SAGEConv

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = SAGEConv(6, 4), SAGEConv(4, 4)

        def forward(self, x, edge_index):
            return self.second(self.first(x, edge_index).relu(), edge_index).relu()

    model = LabelModel(PyGEncoder(Net(), 4, 2), Linear().build(4, 5)).double()
    batch = make_batch()
    found = probe(model, batch)
    expected = oracle(model, batch, list(model.encoder.module.second.parameters()), range(5))
    torch.testing.assert_close(found.jacobian, expected, **EXACT)


def test_a_sketched_probe_sketches_the_last_layer(make_model, make_batch):
    model, batch = make_model(), make_batch()
    found = probe(model, batch, mode="last_layer_sketch", sketch_dim=3)
    expected = last_layer_jacobian(model, batch, range(5), sketch_dim=3)
    torch.testing.assert_close(found.jacobian, expected, **EXACT)
    assert found.valid.tolist() == [True, True, True, False, True]


@pytest.mark.parametrize("mode", [m for m in MODES if m != "layered"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_leaves_no_trace(encoder, mode, make_model, make_batch, snapshot, assert_equal_snapshots):
    """Dropout and batch normalisation are in the model; gradients of a step are stored on it."""
    model = make_model(encoder, norm="batch")
    batch = make_batch(model.encoder.num_hops)
    model.train()
    masked_bce(model(batch), batch.y, batch.observed).sum().backward()
    model.heads.training = False
    before = snapshot(model)
    optimizer = torch.optim.Adam(model.parameters())
    options = {"sketch_dim": 3} if mode == "jvp_sketch" else {}
    first = probe(model, batch, mode=mode, **options).jacobian
    assert not optimizer.state
    assert_equal_snapshots(snapshot(model), before)
    torch.manual_seed(123)  # the probe draws nothing either
    assert torch.equal(probe(model, batch, mode=mode, **options).jacobian, first)


def test_frozen_keeps_everything_whatever_happens_inside(
    make_model, make_batch, snapshot, assert_equal_snapshots
):
    model, batch = make_model("sage", norm="batch"), make_batch()
    loss = lambda: masked_bce(model(batch), batch.y, batch.observed).sum()  # noqa: E731
    loss().backward()
    before = snapshot(model)
    with frozen(model):
        assert not any(module.training for module in model.modules())
        assert all(p.grad is None for p in model.parameters())
        loss().backward()
        torch.rand(5)
    assert_equal_snapshots(snapshot(model), before)
    with pytest.raises(KeyError), frozen(model):
        raise KeyError
    assert_equal_snapshots(snapshot(model), before)


def test_hooks_are_removed_after_an_error(make_model, make_batch, snapshot, assert_equal_snapshots):
    model, batch = make_model("sage"), make_batch(num_hops=1)
    before = snapshot(model)
    with pytest.raises(ValueError, match="one sampled hop per layer"):
        last_layer_jacobian(model, batch, (0, 1))
    assert_equal_snapshots(snapshot(model), before)


def test_bad_arguments_are_refused(make_model, make_batch):
    model, batch = make_model(), make_batch()
    with pytest.raises(UsageError, match="mode"):
        probe(model, batch, mode="first_layer")
    with pytest.raises(UsageError, match="at least one task"):
        probe(model, batch, tasks=[])
    with pytest.raises(UsageError, match="at least one batch"):
        probe(model, [])
