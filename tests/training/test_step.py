"""One step: against a plain torch loop; what it must not touch; what it does with broken losses."""

import warnings

import numpy as np
import pytest
import torch

from gnn_mtl._core.cost import CostMeter
from gnn_mtl._core.errors import NonFiniteWarning, TrainingStoppedError
from gnn_mtl.graph import NeighborLoader
from gnn_mtl.nn import MLPHead, masked_bce
from gnn_mtl.schedulers import Update
from gnn_mtl.training import (
    Optimizers,
    Skipped,
    Train,
    group_updates,
    set_learning_rate,
    train_step,
)

NAMES = ("ham", "spam", "eggs", "cheese", "parrot")
ALL = (0, 1, 2, 3, 4)


@pytest.fixture
def batch(tiny):
    return NeighborLoader(tiny, num_neighbors=[3, 2], batch_size=30, seed=1).batch(0, 0)


@pytest.fixture
def training(new_model, budget):
    """Return a function that builds a model without dropout and its optimizers."""

    def make(optimizer="adamw", **options):
        model = new_model(dropout=0.0, **options)
        config = budget(optimizer=optimizer, weight_decay=0.1, lr=1e-2)
        return model, Optimizers(model, config)

    return make


def moments(optimizers, task):
    heads = optimizers.heads
    tensors = [*heads.parameters, *heads.first, *heads.second, heads.steps]
    return [t[task].detach().clone() for t in tensors]


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize("weights", [None, (1.0, 0.5, 2.0, 3.0, 0.1)])
def test_joint_steps_equal_plain_torch(optimizer, weights, training, batch):
    model, optimizers = training(optimizer, norm="none")
    twin, _ = training(optimizer, norm="none")
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimizer]
    oracle = kind(twin.parameters(), lr=1e-2, weight_decay=0.1)
    factors = torch.ones(5) if weights is None else torch.tensor(weights)
    curve = []
    for _ in range(20):
        live, losses = train_step(model, batch, ALL, optimizers, weights=weights)
        curve.append(losses)
        assert live == ALL
        expected = masked_bce(twin(batch), batch.y, batch.observed)
        torch.testing.assert_close(losses, expected.detach())
        oracle.zero_grad()
        (expected * factors).sum().backward()
        oracle.step()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert (curve[-1] < curve[0]).all()


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize("head", [None, MLPHead(hidden_channels=3)], ids=["linear", "mlp"])
def test_inactive_heads_are_bitwise_unchanged(optimizer, head, training, batch):
    model, optimizers = training(optimizer, head=head)
    train_step(model, batch, ALL, optimizers)
    before = [moments(optimizers, task) for task in ALL]
    shared = [p.detach().clone() for p in model.shared_parameters()]
    live, losses = train_step(model, batch, (1, 3), optimizers)
    assert live == (1, 3)
    assert losses.shape == (2,)
    for task in ALL:
        after = moments(optimizers, task)
        same = [torch.equal(a, b) for a, b in zip(before[task], after, strict=True)]
        assert not all(same) if task in (1, 3) else all(same)
    assert not all(map(torch.equal, shared, model.shared_parameters()))


def test_some_tasks_move_the_shared_part_by_their_losses_alone(training, batch):
    model, optimizers = training()
    twin, _ = training()
    train_step(model, batch, (4, 1), optimizers)
    masked_bce(twin(batch), batch.y, batch.observed)[[4, 1]].sum().backward()
    for a, b in zip(model.shared_parameters(), twin.shared_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-7)


def test_the_order_of_the_tasks_is_that_of_losses_and_weights(training, batch):
    weights = dict(zip(ALL, (1.0, 0.5, 2.0, 3.0, 0.1), strict=True))
    results = []
    for tasks in (ALL, (3, 0, 4, 2, 1)):
        model, optimizers = training(norm="none")
        live, losses = train_step(
            model, batch, tasks, optimizers, weights=[weights[t] for t in tasks]
        )
        assert live == tasks
        results.append((dict(zip(live, losses.tolist(), strict=True)), model))
    assert results[0][0] == pytest.approx(results[1][0])
    for a, b in zip(results[0][1].parameters(), results[1][1].parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_tasks_without_a_label_take_no_part(training, batch):
    model, optimizers = training()
    batch.observed[:, [0, 2]] = False
    before = [moments(optimizers, task) for task in ALL]
    live, losses = train_step(model, batch, (0, 1, 2), optimizers)
    assert live == (1,)
    assert losses.shape == (1,)
    for task in (0, 2):
        assert all(map(torch.equal, moments(optimizers, task), before[task]))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    live, losses = train_step(model, batch, (0, 2), optimizers)
    assert (live, len(losses)) == ((), 0)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_broken_loss_is_left_out_with_its_name_and_the_others_learn(training, batch):
    model, optimizers = training(norm="layer")
    twin, twin_optimizers = training(norm="layer")
    skipped = Skipped()
    for m in (model, twin):
        with torch.no_grad():
            m.heads.weight[2] = torch.nan
    before = moments(optimizers, 2)
    with pytest.warns(NonFiniteWarning, match="eggs"):
        live, losses = train_step(model, batch, ALL, optimizers, skipped=skipped, label_names=NAMES)
    assert live == (0, 1, 3, 4)
    assert torch.isfinite(losses).all()
    train_step(twin, batch, (0, 1, 3, 4), twin_optimizers)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a.nan_to_num(), b.nan_to_num())
    for a, b in zip(before, moments(optimizers, 2), strict=True):
        assert torch.equal(a.nan_to_num(), b.nan_to_num())
    with warnings.catch_warnings():  # named once, counted every time
        warnings.simplefilter("error")
        train_step(model, batch, ALL, optimizers, skipped=skipped, label_names=NAMES)
    assert skipped.losses == {2: 2}


def test_a_group_of_broken_losses_is_skipped_while_others_are_finite(training, batch):
    """A colour class may hold the broken task alone: its turn is lost, not the run."""
    model, optimizers = training()
    train_step(model, batch, ALL, optimizers)
    with torch.no_grad():
        model.heads.bias[2] = torch.nan
    skipped = Skipped()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    tensors = {name: value.clone() for name, value in optimizers.state_tensors().items()}
    with pytest.warns(NonFiniteWarning, match="eggs"):
        live, losses = train_step(
            model, batch, (2,), optimizers, skipped=skipped, label_names=NAMES
        )
    assert (live, len(losses)) == ((), 0)
    assert skipped.losses == {2: 1}
    for name, value in model.encoder.named_parameters():
        assert torch.equal(value, state[f"encoder.{name}"])
    assert all(torch.equal(v, tensors[n]) for n, v in optimizers.state_tensors().items())
    batch.observed[:, [0, 1, 3, 4]] = False  # nothing else is labelled here
    with pytest.raises(TrainingStoppedError, match="every other"):
        train_step(model, batch, (2,), optimizers, skipped=skipped)


@pytest.mark.filterwarnings("ignore::gnn_mtl._core.errors.NonFiniteWarning")
@pytest.mark.parametrize("skipped", [None, Skipped()])
def test_no_finite_loss_stops_the_training(skipped, training, batch):
    model, optimizers = training()
    with torch.no_grad():
        model.heads.bias[:] = torch.nan
    with pytest.raises(TrainingStoppedError, match="all 2 active tasks"):
        train_step(model, batch, (0, 3), optimizers, skipped=skipped)


def test_an_update_that_is_not_finite_is_left_out_and_counted(training, batch):
    model, optimizers = training(norm="layer")
    skipped = Skipped()
    train_step(model, batch, ALL, optimizers)
    weight = model.encoder.convs[0].lin_l.weight
    hook = weight.register_hook(lambda grad: grad * torch.inf)
    before = {name: value.clone() for name, value in optimizers.state_tensors().items()}
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.warns(NonFiniteWarning, match="shared parameters"):
        live, _ = train_step(model, batch, ALL, optimizers, skipped=skipped)
    train_step(model, batch, ALL, optimizers, skipped=skipped)  # warned of once
    hook.remove()
    assert live == ()
    assert skipped.updates == 2
    after = optimizers.state_tensors()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


class Break(torch.autograd.Function):
    """Passes logits on and breaks the gradient of tasks 1 and 4."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        grad = grad.clone()
        for task in (1, 4):
            if task < grad.shape[1]:
                grad[:, task] = torch.where(grad[:, task] == 0, 0.0, torch.inf)
        return grad


@pytest.mark.parametrize("several", [False, True])
def test_a_broken_gradient_is_left_out_with_its_name_and_the_others_learn(several, training, batch):
    """The losses are finite, their sum's gradient is not: the tasks behind it are found."""

    def update(model, batch, optimizers, weights, options):
        if not several:
            return train_step(model, batch, ALL, optimizers, weights=weights, **options)
        done = group_updates(model, batch, [Update(ALL, weights)], optimizers, **options)
        return done.live[0], torch.from_numpy(done.losses[0])

    (model, optimizers), (twin, twin_optimizers) = training(norm="layer"), training(norm="layer")
    heads = model.heads.forward
    model.heads.forward = lambda *a: Break.apply(heads(*a))
    before = moments(optimizers, 1)
    skipped, meter, weights = Skipped(), CostMeter(), (1.0, 3.0, 0.5, 2.0, 1.0)
    options = {"skipped": skipped, "label_names": NAMES, "meter": meter}
    with pytest.warns(NonFiniteWarning, match="gradient of 2 task.*'spam', 'parrot'"):
        live, losses = update(model, batch, optimizers, weights, options)
    assert losses[[0, 2, 3] if several else [0, 1, 2]].isfinite().all()
    assert not several or losses[[1, 4]].isnan().all()
    assert live == (0, 2, 3)
    assert (skipped.losses, skipped.updates, skipped.in_a_row) == ({1: 1, 4: 1}, 0, 0)
    assert (meter.forwards, meter.backwards, meter.label_gradients) == (2, 6, 3)
    train_step(twin, batch, (0, 2, 3), twin_optimizers, weights=(1.0, 0.5, 2.0))
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    for a, b in zip(before, moments(optimizers, 1), strict=True):
        assert torch.equal(a, b)


def test_a_group_whose_gradients_are_all_broken_loses_its_turn_by_name(training, batch):
    model, optimizers = training(norm="layer")
    heads = model.heads.forward
    model.heads.forward = lambda h, tasks=None: Break.apply(heads(h))[:, list(tasks)]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    skipped = Skipped()
    for group in ((1, 4), (4,)):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            live, _ = train_step(
                model, batch, group, optimizers, skipped=skipped, label_names=NAMES
            )
        assert live == ()
        assert ("'spam', 'parrot'" in " ".join(str(w.message) for w in said)) == (group == (1, 4))
    assert skipped.updates == skipped.in_a_row == 2
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    live, _ = train_step(model, batch, (0, 2), optimizers, skipped=skipped)
    assert live == (0, 2)
    assert skipped.in_a_row == 0


def test_the_shared_gradient_is_clipped(training, batch):
    def norms(**options):
        model, optimizers = training()
        train_step(model, batch, ALL, optimizers, **options)
        shared = torch.cat([p.grad.flatten() for p in model.shared_parameters()])
        return shared, model.heads.weight.grad.norm()

    free, head = norms()
    clip = float(free.norm()) / 4
    clipped, clipped_head = norms(grad_clip=clip)
    torch.testing.assert_close(clipped, free / 4, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(head, clipped_head)
    loose, _ = norms(grad_clip=100 * clip)
    torch.testing.assert_close(loose, free)


def test_autocast_keeps_weights_and_losses_in_float32(training, batch):
    model, optimizers = training()
    _, exact = train_step(training()[0], batch, ALL, optimizers)
    _, losses = train_step(model, batch, ALL, Optimizers(model, Train()), autocast=True)
    assert losses.dtype == torch.float32
    assert not torch.equal(losses, exact)
    torch.testing.assert_close(losses, exact, rtol=0.05, atol=0.05)
    assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in model.parameters())


def test_a_frozen_encoder_trains_its_heads(training, batch):
    model, _ = training()
    model.encoder.requires_grad_(False)
    optimizers = Optimizers(model, Train())
    before = model.heads.weight.detach().clone()
    encoder = {n: p.detach().clone() for n, p in model.encoder.named_parameters()}
    train_step(model, batch, (1,), optimizers)
    assert not torch.equal(model.heads.weight[1], before[1])
    assert all(torch.equal(p, encoder[n]) for n, p in model.encoder.named_parameters())
    optimizers.load_state_tensors(optimizers.state_tensors())


def test_the_learning_rate_reaches_both_parts(new_model, budget):
    model, config = new_model(), budget(lr=0.5, warmup_steps=2, lr_schedule="linear")
    optimizers = Optimizers(model, config)
    rates = [set_learning_rate(optimizers, config, step, 10) for step in range(10)]
    np.testing.assert_allclose(rates[:3], [0.25, 0.5, 0.5])
    np.testing.assert_allclose(rates[6], 0.25)
    assert optimizers.heads.lr == optimizers.shared.param_groups[0]["lr"] == rates[-1]
