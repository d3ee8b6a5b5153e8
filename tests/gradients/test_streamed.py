"""Streamed gradients: exact where they claim it, linear in the batches, and without a trace."""

import numpy as np
import pytest
import torch

from gnn_mtl._core.errors import UsageError
from gnn_mtl.gradients import StreamedGradients, last_layer_jacobian, probe
from gnn_mtl.nn import masked_bce

EXACT = {"rtol": 1e-8, "atol": 1e-11}
COVERED = ["sage", "gcn", "gin", "sign", "mlp"]
OBSERVED = [0, 1, 2, 4]


def read(model, *batches, **options):
    streamed = StreamedGradients(model, **options)
    for batch in batches:
        streamed.measure(batch)
    return streamed.gradients()


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("encoder", COVERED)
def test_with_all_directions_the_last_maps_are_exact(encoder, norm, make_model, make_batch):
    model = make_model(encoder, norm=norm)
    batch = make_batch(model.encoder.num_hops)
    pos_weight = torch.tensor([1.0, 3.0, 2.5, 1.0, 0.5], dtype=torch.float64)
    found = read(model, batch, directions=1000, pos_weight=pos_weight)
    expected = last_layer_jacobian(model, batch, range(5), pos_weight=pos_weight)
    rows = found.jacobian[:, : expected.shape[1]]
    torch.testing.assert_close(rows[OBSERVED], expected[OBSERVED], **EXACT)
    assert found.valid.tolist() == [True, True, True, False, True]
    assert found.label_gradients == 5


@pytest.mark.parametrize("directions", [0, 3])
@pytest.mark.parametrize("encoder", COVERED)
def test_the_last_norm_is_exact_without_any(encoder, directions, make_model, make_batch, oracle):
    model = make_model(encoder)
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    batch = make_batch(model.encoder.num_hops)
    norm = model.encoder.norm if encoder == "sign" else model.encoder.norms[-1]
    expected = oracle(model, batch, [norm.bias, norm.weight], range(5))
    found = read(model, batch, directions=directions).jacobian
    width = norm.weight.numel()
    skip = width if not directions else last_layer_jacobian(model, batch, [0]).shape[1]
    torch.testing.assert_close(
        found[OBSERVED, skip : skip + 2 * width], expected[OBSERVED], **EXACT
    )


@pytest.mark.parametrize("encoder", ["sage", "mlp"])
def test_the_norm_below_is_exact_where_every_seed_reads_the_same(
    encoder, make_model, make_batch, make_graph
):
    """The mean stands for all inputs; where all are equal, nothing is lost."""
    model, graph = make_model(encoder), make_graph(60, seed=5)
    seeds = graph.split_idx["train"]
    seeds = seeds[np.diff(graph.csc.indptr)[seeds] > 0]  # an isolated seed reads less
    batch = make_batch(model.encoder.num_hops, seeds=seeds)
    batch.x[:] = batch.x[0]
    if encoder == "sage":
        with torch.no_grad():
            model.encoder.convs[0].lin_l.weight.zero_()
    norm = model.encoder.norms[-2]
    loss = masked_bce(model.eval()(batch), batch.y, batch.observed)
    expected = torch.stack([
        torch.cat(torch.autograd.grad(loss[t], [norm.bias, norm.weight], retain_graph=True))
        for t in OBSERVED
    ])  # fmt: skip
    found = read(model, batch).jacobian[OBSERVED, -expected.shape[1] :]
    torch.testing.assert_close(found, expected, **EXACT)


def test_rows_without_directions_have_the_products_of_rank_one_rows(make_model, make_batch):
    """The H numbers for the last maps stand for the whole block, written out here."""
    model, batch = make_model(), make_batch()
    streamed = StreamedGradients(model)
    streamed.measure(batch)
    rows = streamed.gradients().jacobian[:, :8]
    sums = streamed._sums
    norm = model.encoder.norms[-1]
    slope = norm.weight / (norm.running_var + norm.eps).sqrt()
    means = (sums["mean"] + sums["rest"])[:, :16]
    means = torch.cat([means, means.new_ones(8, 1)], dim=1)
    block = (model.heads.weight * slope * sums["gates"])[:, :, None] * means
    block = (block / sums["mass"].clamp(min=1)[:, None, None]).flatten(1).detach()
    torch.testing.assert_close(rows @ rows.T, block @ block.T, **EXACT)


def test_batches_add_up_like_one(make_model, make_batch, make_graph):
    model = make_model()
    seeds = make_graph(60, seed=5).split_idx["train"]
    parts = [make_batch(seeds=seeds[:9]), make_batch(seeds=seeds[9:])]
    once = StreamedGradients(model, directions=1000)
    for part in parts:
        once.measure(part)
    expected = probe(model, parts)
    rows = once.gradients().jacobian[:, : expected.jacobian.shape[1]]
    torch.testing.assert_close(rows[OBSERVED], expected.jacobian[OBSERVED], **EXACT)


def test_training_with_dropout_is_measured_without_it(make_model, make_batch):
    """The first forward of a step in training mode gives what a frozen pass gives, bit for bit."""
    model, batch = make_model(), make_batch()
    frozen = StreamedGradients(model)
    frozen.measure(batch)
    expected = frozen.gradients().jacobian
    for norm in model.encoder.norms:
        norm.momentum = 0.0
    model.train()
    trained = StreamedGradients(model)
    with trained.watch(batch):
        model(batch, [1])
        model(batch)  # a second pass does not count
    assert trained.batches == 1
    torch.testing.assert_close(trained.gradients().jacobian, expected, **EXACT)


@pytest.mark.parametrize("training", [True, False])
def test_watching_leaves_no_trace(
    training, make_model, make_batch, snapshot, assert_equal_snapshots
):
    def step(watch):
        torch.manual_seed(3)
        model, batch = make_model("gcn").train(training), make_batch()
        torch.manual_seed(4)
        streamed = StreamedGradients(model, directions=2)
        if watch:
            with streamed.watch(batch):
                masked_bce(model(batch), batch.y, batch.observed).sum().backward()
        else:
            masked_bce(model(batch), batch.y, batch.observed).sum().backward()
        found = snapshot(model)
        found.pop("grad ids")
        return found

    assert_equal_snapshots(step(True), step(False))
    model, batch = make_model(), make_batch()
    before = snapshot(model)
    StreamedGradients(model).measure(batch)
    assert_equal_snapshots(before, snapshot(model))


@pytest.mark.parametrize("directions", [0, 4])
def test_the_state_continues_bit_for_bit(directions, make_model, make_batch, make_graph):
    model = make_model()
    seeds = make_graph(60, seed=5).split_idx["train"]
    parts = [make_batch(seeds=seeds[i::3]) for i in range(3)]
    straight = StreamedGradients(model, directions=directions)
    for part in parts:
        straight.measure(part)
    first = StreamedGradients(model, directions=directions)
    first.load_state_dict(first.state_dict())  # nothing yet
    first.measure(parts[0])
    state = first.state_dict()
    first.measure(parts[1])  # must not reach the state
    second = StreamedGradients(model, directions=directions)
    second.load_state_dict(state)
    for part in parts[1:]:
        second.measure(part)
    assert torch.equal(second.gradients().jacobian, straight.gradients().jacobian)
    assert second.batches == 3
    second.reset()
    with pytest.raises(UsageError, match="nothing to read"):
        second.gradients()


def test_some_tasks_are_their_rows(make_model, make_batch):
    model, batch = make_model(), make_batch()
    streamed = StreamedGradients(model)
    streamed.measure(batch)
    some, everything = streamed.gradients([4, 3, 1]), streamed.gradients()
    assert some.tasks == (4, 3, 1)
    assert torch.equal(some.jacobian, everything.jacobian[[4, 3, 1]])
    assert some.valid.tolist() == [True, False, True]


def test_a_broken_task_is_invalid_and_spoils_no_other(make_model, make_batch):
    model, batch = make_model(), make_batch()
    clean = read(model, batch)
    with torch.no_grad():
        model.heads.weight[0, 1] = torch.nan
    found = read(model, batch)
    assert found.valid.tolist() == [False, True, True, False, True]
    torch.testing.assert_close(found.jacobian[1:], clean.jacobian[1:], **EXACT)


@pytest.mark.parametrize(
    ("encoder", "head", "norm"),
    [("sage", "mlp head", "batch"), ("gatv2", "linear", "batch"), ("sage", "linear", "layer")],
)
def test_models_it_does_not_cover_are_named(encoder, head, norm, make_model):
    with pytest.raises(UsageError, match=r"use --train\.probe last_layer"):
        StreamedGradients(make_model(encoder, head, norm=norm))


def test_bad_arguments(make_model, make_batch):
    with pytest.raises(UsageError, match="directions"):
        StreamedGradients(make_model(), directions=-1)
    streamed = StreamedGradients(make_model())
    with pytest.raises(UsageError, match="along 0 directions"):
        streamed.load_state_dict(StreamedGradients(make_model(), directions=2).state_dict())
