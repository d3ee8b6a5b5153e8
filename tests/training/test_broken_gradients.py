"""Gradients that are not finite, under every way from losses to an update."""

import dataclasses

import pytest
import torch

from gnn_mtl._core.cost import CostMeter
from gnn_mtl._core.errors import NonFiniteWarning, TrainingStoppedError
from gnn_mtl.aggregation import (
    FAMO,
    AdaTask,
    GradNorm,
    GradOPS,
    GradVac,
    NashMTL,
    PCGrad,
    Sum,
    TaskTensioner,
    UPGrad,
    WPCGrad,
)
from gnn_mtl.graph import NeighborLoader
from gnn_mtl.schedulers import JointScheduler, Update
from gnn_mtl.training import (
    AggregatorHooks,
    Optimizers,
    Skipped,
    fit,
    group_updates,
    train_step,
)

T = 5
ALL = tuple(range(T))
NAMES = [f"label {task}" for task in ALL]
STATEFUL = (GradVac, WPCGrad, GradNorm, TaskTensioner)
METHODS = (UPGrad, NashMTL, GradOPS, PCGrad, FAMO, AdaTask, *STATEFUL)


def hooks_of(config, **options):
    return AggregatorHooks(config.build(T, seed=3), **options)


@pytest.fixture
def batch(tiny):
    return NeighborLoader(tiny, num_neighbors=[3, 2], batch_size=30, seed=1).batch(0, 0)


@pytest.fixture
def plain(new_model):
    """A model whose forward pass is the same in training and evaluation."""
    return lambda **options: new_model(norm="layer", dropout=0.0, **options)


class _Column(torch.autograd.Function):
    """Makes one column of the derivatives by the logits infinite."""

    @staticmethod
    def forward(ctx, x, column):
        ctx.column = column
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        grad = grad.clone()
        grad[:, ctx.column] = torch.where(grad[:, ctx.column] == 0, 0.0, torch.inf)
        return grad, None


class _Large(torch.autograd.Function):
    """Makes derivatives infinite that are large."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return torch.where(grad.abs() > 1e3, torch.inf, grad)


def break_logits_of(model, *tasks):
    """The gradients of these tasks are infinite from the logits down."""
    forward = model.forward

    def broken(batch, columns=None):
        logits = forward(batch, columns)
        shown = ALL if columns is None else tuple(columns)
        for task in sorted(set(tasks) & set(shown)):
            logits = _Column.apply(logits, shown.index(task))
        return logits

    model.forward = broken


def break_lower_layers_of(model, task):
    """Those of the last shared layer are finite, those below it are not."""
    with torch.no_grad():
        model.heads.weight[task] *= 1e6
    model.encoder.convs[0].register_forward_hook(lambda _m, _a, out: _Large.apply(out))


BREAKS = {"everything": break_logits_of, "lower layers": break_lower_layers_of}


def update(model, batch, tasks, optimizers, several, **told):
    """Take one step of these tasks, by either function; return those that took part."""
    if several:
        updates = [Update(tasks, (1.0,) * len(tasks))]
        return group_updates(model, batch, updates, optimizers, **told).live[0]
    done, losses = train_step(model, batch, tasks, optimizers, **told)
    assert losses.shape == (len(done),)
    return done


def moved(before, after, task):
    """Which parts of an aggregator's state changed in what is kept of a task."""
    return [
        name
        for name, value in after.items()
        if torch.is_tensor(value)
        and value.dim()
        and name in before
        and not torch.equal(value[task].nan_to_num(-7), before[name][task].nan_to_num(-7))
    ]


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(
    ("method", "where"),
    [
        (method, where)
        for method in METHODS
        for where in BREAKS
        if (method, where) != (FAMO, "lower layers")  # it makes large losses small
    ],
)
def test_the_task_is_left_out_counted_and_named(method, where, several, plain, batch, budget):
    """The others are asked about once, and what is kept of the broken task stays as it was."""
    model, skipped, meter = plain(), Skipped(), CostMeter()
    BREAKS[where](model, 1)
    hooks, optimizers = hooks_of(method()), Optimizers(model, budget())
    head, before = model.heads.weight[1].clone(), hooks.aggregator.state_dict()
    told = {"hooks": hooks, "skipped": skipped, "label_names": NAMES, "meter": meter}
    with pytest.warns(NonFiniteWarning, match="gradient of 1 task.*'label 1'"):
        done = update(model, batch, ALL, optimizers, several, **told)
    assert done == (0, 2, 3, 4)
    assert (skipped.losses, skipped.updates) == ({1: 1}, 0)
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    assert torch.equal(model.heads.weight[1], head)
    after = hooks.aggregator.state_dict()
    assert hooks.aggregator.calls == 1
    assert moved(before, after, 1) == []
    assert "moments.1" not in after
    if method in (GradNorm, FAMO, AdaTask, TaskTensioner):
        assert moved(before, after, 0)
    mended = method is not AdaTask  # its first way is by rows
    passes = {True: 1, False: 0}
    assert meter.forwards == 1 + mended + passes[hooks.looks_after]
    measured = T if hooks.gramian_mode(0) else 0
    assert meter.label_gradients == measured + 4
    assert meter.optimizer_steps == 1


@pytest.mark.parametrize("where", BREAKS)
@pytest.mark.parametrize("mode", ["last_layer", "full"])
def test_the_others_take_the_step_they_would_take_alone(mode, where, plain, batch, budget):
    """Their Gramian is of the gradients it is always of."""
    models = [plain() for _ in range(2)]
    both = [Optimizers(model, budget()) for model in models]
    BREAKS[where](models[0], 1)
    first, second = (hooks_of(UPGrad(norm="native"), mode=mode) for _ in range(2))
    with pytest.warns(NonFiniteWarning):
        train_step(models[0], batch, ALL, both[0], hooks=first, skipped=Skipped())
    train_step(models[1], batch, (0, 2, 3, 4), both[1], hooks=second)
    for a, b in zip(*(m.shared_parameters() for m in models), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", [Sum, UPGrad, GradNorm, FAMO, AdaTask])
@pytest.mark.parametrize("several", [False, True])
def test_a_single_task_whose_gradient_is_broken_makes_no_update(
    method, several, plain, batch, budget
):
    model, skipped, meter = plain(), Skipped(), CostMeter()
    break_logits_of(model, 1)
    before = [p.clone() for p in model.parameters()]
    hooks, optimizers = hooks_of(method()), Optimizers(model, budget())
    told = {"hooks": hooks, "skipped": skipped, "label_names": NAMES, "meter": meter}
    with pytest.warns(NonFiniteWarning, match="label 1"):
        done = update(model, batch, (1,), optimizers, several, **told)
    assert done == ()
    assert (skipped.updates, skipped.in_a_row) == (1, 1)
    assert meter.optimizer_steps == 0
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))


def test_a_frozen_encoder_leaves_the_head_alone(plain, batch, budget):
    model, skipped = plain(), Skipped()
    model.encoder.requires_grad_(False)
    break_logits_of(model, 1)
    optimizers = Optimizers(model, budget())
    before = model.heads.weight.detach().clone()
    with pytest.warns(NonFiniteWarning, match="label 1"):
        done, _ = train_step(
            model, batch, ALL, optimizers, skipped=skipped, label_names=NAMES,
            hooks=hooks_of(UPGrad()),
        )  # fmt: skip
    assert done == (0, 2, 3, 4)
    assert [torch.equal(a, b) for a, b in zip(model.heads.weight, before, strict=True)] == [
        False, True, False, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize("method", [Sum, UPGrad, FAMO, AdaTask])
def test_training_stops_when_every_gradient_is_broken(method, tiny, plain, budget, tmp_path):
    model = plain()
    break_logits_of(model, *ALL)
    with pytest.warns(NonFiniteWarning), pytest.raises(TrainingStoppedError) as stopped:
        fit(model, tiny, JointScheduler(T), budget(), hooks=hooks_of(method()),
            checkpoints=tmp_path)  # fmt: skip
    assert stopped.value.exit_code == 4
    assert (tmp_path / "last.state").exists()


def test_reused_weights_do_not_hide_a_broken_gradient(plain, batch, budget):
    model, hooks = plain(), hooks_of(UPGrad(), every=3)
    optimizers = Optimizers(model, budget())
    train_step(model, batch, ALL, optimizers, hooks=hooks)
    break_logits_of(model, 1)
    skipped = Skipped()
    with pytest.warns(NonFiniteWarning, match="gradient of 1 task"):
        done, _ = train_step(model, batch, ALL, optimizers, hooks=hooks, skipped=skipped)
    assert done == (0, 2, 3, 4)
    assert hooks.aggregator.calls == 2


def test_a_task_that_is_broken_while_another_has_no_label(plain, batch, budget):
    observed = batch.observed.clone()
    observed[:, 3] = False
    batch = dataclasses.replace(batch, observed=observed)
    model = plain()
    break_logits_of(model, 1)
    hooks = hooks_of(GradNorm())
    before = hooks.aggregator.state_dict()
    with pytest.warns(NonFiniteWarning, match="1 task"):
        done, _ = train_step(
            model, batch, ALL, Optimizers(model, budget()), hooks=hooks, skipped=Skipped()
        )
    assert done == (0, 2, 4)
    for task in (1, 3):
        assert moved(before, hooks.aggregator.state_dict(), task) == []
