"""Inner products without the gradients: equal to those of the gradients, in bounded memory."""

import pytest
import torch

from gnn_mtl._core.cost import CostMeter
from gnn_mtl._core.errors import UsageError
from gnn_mtl.gradients import probe, task_gramian
from gnn_mtl.gradients._parts import split
from gnn_mtl.nn import Encoder, LabelModel, Linear, MLPHead

EXACT = {"rtol": 1e-9, "atol": 1e-14}
MODES = ["last_layer", "last_layer_sketch", "full", "loop", "batched", "layered"]
MODES += ["representation", "count_sketch", "jvp_sketch"]


def products(found):
    gramian = found.jacobian @ found.jacobian.T
    gramian[~found.valid] = torch.nan
    gramian[:, ~found.valid] = torch.nan
    return gramian


def cut(batch, rows):
    observed = torch.zeros_like(batch.observed)
    observed[rows] = batch.observed[rows]
    return type(batch)(batch.n_id, batch.batch_size, batch.x, batch.blocks, batch.y, observed)


@pytest.fixture
def batches(make_batch):
    whole = make_batch()
    return [cut(whole, slice(0, 9)), cut(whole, slice(9, 14)), cut(whole, slice(14, None))]


@pytest.mark.parametrize("memory_bytes", [1, 3000, 1 << 26])
@pytest.mark.parametrize("mode", MODES)
def test_equals_the_products_of_the_rows(mode, memory_bytes, make_model, batches):
    model = make_model("sage", "mlp head" if mode == "representation" else "linear")
    pos_weight = torch.tensor([1.0, 3.0, 2.5, 1.0, 0.5], dtype=torch.float64)
    options = {"mode": mode, "pos_weight": pos_weight, "tasks": (4, 0, 3, 2)}
    if mode == "jvp_sketch":
        options["sketch_dim"] = 4
    expected = probe(model, batches, **options)
    meter = CostMeter()
    found = task_gramian(model, iter(batches), memory_bytes=memory_bytes, meter=meter, **options)
    torch.testing.assert_close(found.gramian, products(expected), equal_nan=True, **EXACT)
    assert found.valid.tolist() == expected.valid.tolist() == [True, True, False, True]
    assert (found.tasks, found.label_gradients) == (expected.tasks, expected.label_gradients)
    assert torch.isnan(found.cosine()[2]).all()
    if memory_bytes == 1 and mode in ("last_layer", "full"):
        assert meter.forwards > 3  # one pass per group of columns


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("encoder", ["gcn", "gin", "gatv2", "sign", "mlp"])
def test_on_every_encoder(encoder, mode, make_model, make_batch):
    if mode == "layered" and encoder != "gcn":
        pytest.skip("not covered")
    model = make_model(encoder)
    batch = make_batch(model.encoder.num_hops)
    options = {"sketch_dim": 4} if mode == "jvp_sketch" else {}
    found = task_gramian(model, batch, mode=mode, memory_bytes=2000, **options)
    expected = products(probe(model, batch, mode=mode, **options))
    torch.testing.assert_close(found.gramian, expected, equal_nan=True, **EXACT)


class LinearEnd(Encoder):
    """One map over the seeds' features and nothing after it."""

    elementwise_after_final = True

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(6, 8)
        self.out_channels, self.in_channels, self.num_hops = 8, 6, 0

    def forward(self, batch):
        return self.linear(batch.x[: batch.batch_size])

    def final_linears(self):
        return [self.linear]


@pytest.mark.parametrize("head", [Linear(), MLPHead()])
def test_a_linear_end_has_a_closed_form(head, make_batch, oracle, monkeypatch):
    model = LabelModel(LinearEnd(), head.build(8, 5)).double()
    whole = make_batch(0)
    parts = [cut(whole, slice(0, 9)), cut(whole, slice(9, None))]
    rows = oracle(model, whole, list(model.encoder.parameters()), range(5))
    if isinstance(head, Linear):  # no rows are formed
        monkeypatch.setattr("gnn_mtl.gradients._gramian._streamed", None)
    found = task_gramian(model, parts)
    seen = [0, 1, 2, 4]
    expected = (rows @ rows.T)[seen][:, seen]
    torch.testing.assert_close(found.gramian[seen][:, seen], expected, **EXACT)
    assert found.valid.tolist() == [True, True, True, False, True]


def test_rows_held_at_a_time_are_bounded(make_model, make_batch, monkeypatch):
    """The largest matrix of rows that anything returns stays within the budget."""
    from gnn_mtl.gradients import _plan

    model, batch = make_model("gatv2"), make_batch()
    seen = []
    exact = _plan.Plan._exact

    def watched(self, one, parts):
        rows = exact(self, one, parts)
        seen.append(rows.numel() * rows.element_size())
        return rows

    monkeypatch.setattr(_plan.Plan, "_exact", watched)
    task_gramian(model, batch, mode="full", memory_bytes=4000)
    total = sum(p.numel() for p in model.shared_parameters()) * 5 * 8
    assert max(seen) <= 4000 < total
    assert sum(seen) == total
    seen.clear()
    task_gramian(model, [batch, batch], mode="loop", memory_bytes=4000, per_batch=True)
    assert 2 * max(seen) <= 4000


@pytest.mark.parametrize("max_width", [1, 7, 40, 10_000])
def test_parts_cover_every_column_once_in_order(max_width):
    parameters = [torch.zeros(s, requires_grad=True) for s in ((3, 4), (3,), (), (5, 2, 2))]
    parameters.insert(1, torch.zeros(2, 2))  # does not train
    groups = split(parameters, max_width)
    widest = max(p.numel() // max(1, len(p)) for p in parameters if p.dim())
    assert all(sum(part.width for part in group) <= max(max_width, widest) for group in groups)
    spans = [
        (id(p.parameter), i) for group in groups for p in group for i in range(p.start, p.stop)
    ]
    trainable = [p for p in parameters if p.requires_grad]
    assert spans == [(id(p), i) for p in trainable for i in range(len(p) if p.dim() else 1)]


def test_products_between_batches(make_model, batches):
    model = make_model("sage")
    found = task_gramian(model, batches, mode="full", per_batch=True, memory_bytes=2000)
    rows = [probe(model, batch, mode="full").jacobian for batch in batches]
    mass = torch.stack([batch.observed.sum(dim=0) for batch in batches]).double()
    scaled = torch.stack(rows) * mass[:, :, None]
    torch.testing.assert_close(
        found.cross, torch.einsum("ksp,ltp->kslt", scaled, scaled), rtol=1e-9, atol=1e-12
    )
    assert torch.equal(found.masses.double(), mass)
    together = task_gramian(model, batches, mode="full")
    torch.testing.assert_close(found.gramian, together.gramian, equal_nan=True, **EXACT)
    with pytest.raises(UsageError, match="per_batch"):
        together.unbiased()
    for mode in ("representation", "nystrom"):
        with pytest.raises(UsageError, match="per_batch"):
            task_gramian(model, batches, mode=mode, per_batch=True)


def test_nystrom_is_exact_with_as_many_mixtures_as_tasks(make_model, batches):
    model = make_model("sage")
    exact = task_gramian(model, batches, mode="full")
    scale = {
        p: torch.linspace(1, 2, p.numel()).double().view_as(p) for p in model.shared_parameters()
    }
    scaled = task_gramian(model, batches, mode="full", scale=scale)
    meter = CostMeter()
    found = task_gramian(model, batches, mode="nystrom", sketch_dim=4, meter=meter)
    assert (meter.backwards, meter.jvps) == (12, 12)
    for one, other in (
        (found, exact),
        (task_gramian(model, batches, mode="nystrom", scale=scale), scaled),
    ):
        torch.testing.assert_close(one.gramian, other.gramian, equal_nan=True, rtol=1e-5, atol=1e-7)
    low = task_gramian(model, batches, mode="nystrom", sketch_dim=2).gramian
    seen = exact.valid
    gap = (exact.gramian - low)[seen][:, seen]
    values = torch.linalg.eigvalsh(gap)
    assert float(values.min()) > -1e-8 * float(values.max())  # never above the true one
    with torch.no_grad():
        model.heads.weight[0, 1] = torch.nan
    broken = task_gramian(model, batches, mode="nystrom")
    assert broken.valid.tolist() == [False, True, True, False, True]
    torch.testing.assert_close(broken.gramian[1:, 1:], exact.gramian[1:, 1:], equal_nan=True,
                               rtol=1e-5, atol=1e-7)  # fmt: skip


@pytest.mark.parametrize("mode", ["full", "last_layer", "representation", "nystrom"])
def test_leaves_no_trace(mode, make_model, batches, snapshot, assert_equal_snapshots):
    model = make_model("sage").train()
    before = snapshot(model)
    first = task_gramian(model, batches, mode=mode).gramian
    assert_equal_snapshots(snapshot(model), before)
    torch.manual_seed(9)
    again = task_gramian(model, batches, mode=mode).gramian
    assert torch.equal(again.nan_to_num(), first.nan_to_num())


def test_no_batch_is_refused(make_model):
    for options in ({}, {"mode": "representation"}, {"per_batch": True}):
        with pytest.raises(UsageError, match="at least one batch"):
            task_gramian(make_model(), [], **options)
