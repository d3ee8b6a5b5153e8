"""Every mode on every encoder against the loop in float64, and what all modes have in common."""

import pytest
import torch

from gnn_mtl._core.cost import CostMeter
from gnn_mtl._core.errors import UsageError
from gnn_mtl.gradients import adam_scale, probe, task_gradients
from gnn_mtl.gradients._layered import is_layered
from gnn_mtl.nn import LabelModel, Linear, PyGEncoder, SAGEEncoder, masked_bce

ENCODERS = ["sage", "gcn", "gin", "gatv2", "sign", "mlp"]
EXACT = {"rtol": 1e-10, "atol": 1e-13}
POS_WEIGHT = torch.tensor([1.0, 3.0, 2.5, 1.0, 0.5], dtype=torch.float64)
TASKS = (4, 0, 3, 2)  # no label of task 3 is observed


class Net(torch.nn.Module):
    """A user's module: normalisation, dropout, an unused parameter, a linear end."""

    def __init__(self):
        from torch_geometric.nn import SAGEConv

        super().__init__()
        self.first, self.norm = SAGEConv(6, 8), torch.nn.BatchNorm1d(8)
        self.unused = torch.nn.Parameter(torch.ones(3))
        self.second = SAGEConv(8, 8)

    def forward(self, x, edge_index):
        x = torch.dropout(self.norm(self.first(x, edge_index)).relu(), 0.5, self.training)
        return self.second(x, edge_index)


@pytest.fixture
def model_of(make_model):
    def make(encoder, head="linear", norm="batch"):
        if encoder == "pyg":
            return LabelModel(PyGEncoder(Net(), 8, 2), Linear().build(8, 5)).double()
        return make_model(encoder, head, norm)

    return make


def with_norms(model):
    """Norm weights of either sign, so that nothing rests on their initial ones."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.encoder.named_parameters():
            if "norm" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
@pytest.mark.parametrize("mode", ["full", "loop", "batched"])
@pytest.mark.parametrize("encoder", [*ENCODERS, "pyg"])
def test_all_shared_parameters(encoder, mode, norm, model_of, make_batch, oracle):
    if encoder == "pyg" and norm != "none":
        pytest.skip("has its own norm")
    head = "mlp head" if norm == "none" and encoder != "pyg" else "linear"
    model = with_norms(model_of(encoder, head, norm))
    batch = make_batch(model.encoder.num_hops)
    found = probe(model, batch, tasks=TASKS, mode=mode, pos_weight=POS_WEIGHT)
    expected = oracle(model, batch, model.shared_parameters(), TASKS, POS_WEIGHT)
    torch.testing.assert_close(found.jacobian, expected, **EXACT)
    assert found.valid.tolist() == [True, True, False, True]
    assert not found.jacobian[2].any()


@pytest.mark.parametrize("head", ["linear", "mlp head"])
@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("encoder", ["sage", "gcn"])
def test_layered_at_any_depth(encoder, layers, norm, head, make_model, make_batch, oracle):
    """With one layer there is nothing to push; with three the sums recur."""
    model = with_norms(deep(make_model, encoder, layers, head, norm))
    assert is_layered(model)
    batch = make_batch(layers)
    found = probe(model, batch, tasks=TASKS, mode="layered", pos_weight=POS_WEIGHT)
    expected = oracle(model, batch, model.shared_parameters(), TASKS, POS_WEIGHT)
    torch.testing.assert_close(found.jacobian, expected, **EXACT)


def deep(make_model, encoder, layers, head, norm):
    model = make_model(encoder, head, norm)
    kind = type(model.encoder)
    model.encoder = kind(6, 8, layers, norm=norm, dropout=0.5).double()
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.uniform_(*((0.5, 1.5) if "var" in name else (-0.2, 0.2)))
    return model


@pytest.mark.parametrize("pushed", [0.0, 1e9])
@pytest.mark.parametrize("encoder", ["sage", "gcn"])
def test_both_sums_of_the_closed_form_agree(
    encoder, pushed, make_model, make_batch, oracle, monkeypatch
):
    """Always over the nodes above, never over them."""
    monkeypatch.setattr("gnn_mtl.gradients._layered.PUSH_GAIN", pushed)
    model, batch = deep(make_model, encoder, 3, "linear", "batch"), make_batch(3)
    found = probe(model, batch, mode="layered").jacobian
    expected = oracle(model, batch, model.shared_parameters(), range(5))
    torch.testing.assert_close(found, expected, **EXACT)


def test_many_neighbours_are_gathered_in_pieces(make_model, make_batch, oracle, monkeypatch):
    monkeypatch.setattr("gnn_mtl.gradients._pushed.NEIGHBORS_AT_ONCE", 2)
    monkeypatch.setattr("gnn_mtl.gradients._pushed.PIECE_BYTES", 1)
    monkeypatch.setattr("gnn_mtl.gradients._layered.PUSH_GAIN", 0.0)
    model, batch = make_model("gcn"), make_batch()
    found = probe(model, batch, mode="layered").jacobian
    expected = oracle(model, batch, model.shared_parameters(), range(5))
    torch.testing.assert_close(found, expected, **EXACT)


def test_what_the_closed_form_does_not_cover_is_looped(make_model, make_batch, oracle):
    """Layer norm mixes units; a norm weight of zero hides its own gradient; subclasses differ."""

    class Odd(SAGEEncoder):
        def layer(self, index, x_src, x_dst, block):
            return 2 * super().layer(index, x_src, x_dst, block)

    zero = make_model("sage")
    with torch.no_grad():
        zero.encoder.norms[0].weight[2] = 0.0
    odd = LabelModel(Odd(6, 8), Linear().build(8, 5)).double()
    batch = make_batch()
    for model in (make_model("sage", norm="layer"), zero, odd, make_model("gin")):
        assert not is_layered(model)
        found = probe(model, batch, mode="full").jacobian
        expected = oracle(model, batch, model.shared_parameters(), range(5))
        torch.testing.assert_close(found, expected, **EXACT)
        with pytest.raises(UsageError, match="layered"):
            probe(model, batch, mode="layered")


@pytest.mark.parametrize("encoder", ["sage", "gcn", "gin", "gatv2", "mlp"])
def test_the_last_layers(encoder, model_of, make_batch, oracle):
    model = model_of(encoder)
    batch = make_batch(model.encoder.num_hops)
    for count, first in ((1, 1), (2, 0)):
        layers = model.encoder.linears if encoder == "mlp" else model.encoder.convs
        parameters = list(layers[1].parameters())
        if encoder == "gin" and count == 1:
            parameters = model.encoder.final_parameters()  # the last map only
        elif first == 0:
            parameters = [*layers[0].parameters(), *parameters]
        found = probe(model, batch, mode="last_layer", num_layers=count)
        expected = oracle(model, batch, parameters, range(5))
        torch.testing.assert_close(found.jacobian, expected, **EXACT)


@pytest.mark.parametrize("head", ["linear", "mlp head"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_representation(encoder, head, model_of, make_batch):
    model = model_of(encoder, head)
    batch = make_batch(model.encoder.num_hops)
    found = probe(model, batch, mode="representation", tasks=TASKS, pos_weight=POS_WEIGHT)
    model.eval()
    h = model.encoder(batch).detach().requires_grad_()
    losses = masked_bce(
        model.heads(h, TASKS), batch.y, batch.observed, TASKS, pos_weight=POS_WEIGHT
    )
    expected = task_gradients(losses, [h]).jacobian
    torch.testing.assert_close(found.jacobian, expected, **EXACT)


@pytest.mark.parametrize("mode", ["full", "loop", "batched", "last_layer"])
@pytest.mark.parametrize("encoder", [*ENCODERS, "pyg"])
def test_float32_is_close(encoder, mode, model_of, make_batch):
    model = with_norms(model_of(encoder))
    batch = make_batch(model.encoder.num_hops)
    exact = probe(model, batch, mode=mode).jacobian
    half = type(batch)(
        batch.n_id, batch.batch_size, batch.x.float(), batch.blocks, batch.y.float(), batch.observed
    )
    found = probe(model.float(), half, mode=mode).jacobian
    assert found.dtype == torch.float32
    error = (found - exact).norm(dim=1) / exact.norm(dim=1).clamp(min=1e-12)
    assert float(error.max()) < 1e-4


@pytest.mark.parametrize("mode", ["full", "batched", "last_layer", "count_sketch", "jvp_sketch"])
@pytest.mark.parametrize("encoder", ["sage", "gatv2"])
def test_tasks_are_rows_in_any_order(encoder, mode, model_of, make_batch):
    model, batch = model_of(encoder), make_batch()
    options = {"sketch_dim": 4} if "sketch" in mode else {}
    everything = probe(model, batch, mode=mode, **options)
    order = [2, 4, 0, 3, 1]
    found = probe(model, batch, tasks=order, mode=mode, **options)
    torch.testing.assert_close(found.jacobian, everything.jacobian[order], **EXACT)
    assert found.valid.tolist() == everything.valid[order].tolist()


@pytest.mark.parametrize("mode", ["full", "last_layer", "count_sketch", "jvp_sketch"])
def test_rows_are_linear_in_the_losses(mode, make_model, make_batch):
    """Positive weights enter the loss linearly, so the rows at their mean are the mean rows."""
    model, batch = make_model("sage"), make_batch()
    low, high = torch.ones(5).double(), torch.full((5,), 4.0).double()
    options = {"sketch_dim": 4} if mode == "jvp_sketch" else {}
    rows = [
        probe(model, batch, mode=mode, pos_weight=w, **options).jacobian
        for w in (low, high, 2.5 * low)
    ]
    torch.testing.assert_close(rows[2], (rows[0] + rows[1]) / 2, **EXACT)


@pytest.mark.parametrize("chunk_bytes", [1, 5000])
def test_chunks_do_not_show(chunk_bytes, make_model, make_batch, monkeypatch):
    model, batch = make_model("sage", "mlp head"), make_batch()
    expected = probe(model, batch, mode="full").jacobian
    for name in ("CHUNK_BYTES", "PUSHED_BYTES"):
        monkeypatch.setattr(f"gnn_mtl.gradients._layered.{name}", chunk_bytes)
    monkeypatch.setattr("gnn_mtl.gradients._vjp.BATCHED_BYTES", chunk_bytes)
    for mode in ("layered", "batched"):
        torch.testing.assert_close(probe(model, batch, mode=mode).jacobian, expected, **EXACT)
    for size in (1, 2, 5, 9):
        found = probe(model, batch, mode="batched", chunk_size=size).jacobian
        torch.testing.assert_close(found, expected, **EXACT)


@pytest.mark.parametrize("mode", ["full", "batched", "loop", "count_sketch", "jvp_sketch"])
@pytest.mark.parametrize("encoder", ["sage", "gin"])
def test_a_broken_task_spoils_no_other(encoder, mode, make_model, make_batch):
    model, batch = make_model(encoder), make_batch()
    options = {"sketch_dim": 4} if mode == "jvp_sketch" else {}
    clean = probe(model, batch, mode=mode, **options)
    for value in (torch.nan, torch.inf):
        with torch.no_grad():
            model.heads.weight[0, 1] = value
        found = probe(model, batch, mode=mode, **options)
        assert found.valid.tolist() == [False, True, True, False, True]
        torch.testing.assert_close(found.jacobian[1:], clean.jacobian[1:], **EXACT)


@pytest.mark.parametrize("mode", ["last_layer", "full", "loop", "count_sketch"])
def test_parameters_that_do_not_train_have_no_column(mode, make_model, make_batch, oracle):
    model, batch = make_model("sage"), make_batch()
    model.encoder.convs[1].lin_r.requires_grad_(False)
    model.encoder.norms[0].bias.requires_grad_(False)
    found = probe(model, batch, mode=mode).jacobian
    if mode == "count_sketch":
        assert found.shape == (5, 1024)
        return
    parameters = model.shared_parameters()
    if mode == "last_layer":
        parameters = list(model.encoder.convs[1].lin_l.parameters())
    torch.testing.assert_close(found, oracle(model, batch, parameters, range(5)), **EXACT)
    model.encoder.requires_grad_(False)
    with pytest.raises(UsageError, match="trainable"):
        probe(model, batch, mode=mode)


def test_work_is_counted(make_model, make_batch):
    model, batch = make_model("sage"), make_batch()
    size = batch.batch_size
    expected = {
        "loop": {"forwards": 1, "backwards": 5, "label_gradients": 5, "nodes": size},
        "batched": {"forwards": 1, "backwards": 5, "label_gradients": 5, "nodes": size},
        "layered": {"forwards": 1, "label_gradients": 5, "nodes": size},
        "last_layer": {"forwards": 1, "label_gradients": 5, "nodes": size},
        "representation": {"forwards": 1, "label_gradients": 5, "nodes": size},
        "jvp_sketch": {"jvps": 3, "nodes": 3 * size},
    }
    for mode, counts in expected.items():
        meter = CostMeter()
        options = {"sketch_dim": 3} if mode == "jvp_sketch" else {}
        found = probe(model, [batch, batch], mode=mode, meter=meter, **options)
        assert found.label_gradients == 10
        twice = {name: 2 * counts.get(name, 0) for name in meter.to_dict()}
        assert meter.to_dict() == twice


def test_adam_rows_are_its_steps(make_model, make_batch):
    """The first step of a fresh Adam on one task's loss, eps and all, up to the learning rate."""
    model, batch = make_model("sage"), make_batch()
    parameters = model.shared_parameters()
    for power in (1.0, 0.5):
        optimizer = torch.optim.Adam(parameters, lr=1e-3, betas=(0.0, 0.999), eps=1e-4)
        before = [p.detach().clone() for p in parameters]
        model.eval()
        masked_bce(model(batch), batch.y, batch.observed)[1].backward()
        optimizer.step()
        step = torch.cat(
            [(b - p.detach()).flatten() for b, p in zip(before, parameters, strict=True)]
        )
        for b, p in zip(before, parameters, strict=True):
            p.data.copy_(b)
            p.grad = None
        scale = adam_scale(optimizer, parameters, power=power)
        plain = probe(model, batch, mode="full").jacobian[1]
        for mode in ("full", "loop"):
            found = probe(model, batch, mode=mode, scale=scale).jacobian[1]
            by_step = plain * (1000 * step) if power == 0.5 else 1000 * step
            expected = by_step.sum() if power == 0.5 else by_step
            found = found @ found if power == 0.5 else found
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_scaled_sketches_are_sketches_of_scaled_rows(make_model, make_batch):
    model, batch = make_model("sage"), make_batch()
    scale = {p: torch.full_like(p, 2.0) for p in model.shared_parameters()}
    for mode in ("count_sketch", "jvp_sketch", "last_layer", "full"):
        options = {"sketch_dim": 4} if mode == "jvp_sketch" else {}
        plain, scaled = (
            probe(model, batch, mode=mode, scale=s, **options).jacobian for s in (None, scale)
        )
        torch.testing.assert_close(scaled, 2 * plain, **EXACT)


def test_task_gradients_in_chunks(make_model, make_batch):
    model, batch = make_model("gcn").eval(), make_batch()
    losses = masked_bce(model(batch), batch.y, batch.observed)
    shared = model.shared_parameters()
    expected = task_gradients(losses, shared, retain_graph=True).jacobian
    for size in (2, 5):
        found = task_gradients(losses, shared, retain_graph=True, chunk_size=size)
        torch.testing.assert_close(found.jacobian, expected, **EXACT)
    with pytest.raises(UsageError, match="chunk_size"):
        task_gradients(losses, shared, chunk_size=0)


def test_options_of_other_modes_are_refused(make_model, make_batch):
    model, batch = make_model("sage"), make_batch()
    bad = [
        {"mode": "full", "num_layers": 2},
        {"mode": "last_layer", "num_layers": 3},
        {"mode": "last_layer", "num_layers": 0},
        {"mode": "full", "sketch_dim": 3},
        {"mode": "count_sketch", "sketch_dim": 0},
        {"mode": "representation", "scale": {}},
        {"mode": "last_layer_sketch", "scale": {}},
    ]
    for options in bad:
        with pytest.raises(UsageError, match=r"num_layers|sketch_dim|scale"):
            probe(model, batch, **options)
    with pytest.raises(UsageError, match="'full'"):
        probe(make_model("sign"), make_batch(0), num_layers=2)
    with pytest.raises(UsageError, match="second moment"):
        adam_scale(torch.optim.Adam(model.parameters()), model.shared_parameters())


def test_a_model_that_cannot_be_vmapped_says_so(make_batch):
    class Stubborn(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * float(grad.sum().item() > -1e9)

    class Custom(Net):
        def forward(self, x, edge_index):
            return Stubborn.apply(super().forward(x, edge_index))

    model = LabelModel(PyGEncoder(Custom(), 8, 2), Linear().build(8, 5)).double()
    with pytest.raises(UsageError, match="mode 'loop'"):
        probe(model, make_batch(), mode="batched")
    assert probe(model, make_batch(), mode="full").valid.any()
