"""Aggregators inside a training: one Gramian, one backward, any schedule, any group of tasks."""

import gc
import weakref

import pytest
import torch

from gnn_mtl._core.cost import CostMeter
from gnn_mtl._core.errors import UsageError
from gnn_mtl.aggregation import (
    FAMO,
    MGDA,
    AdaTask,
    GradNorm,
    GradOPS,
    NashMTL,
    PCGrad,
    UPGrad,
    Weighting,
)
from gnn_mtl.graph import NeighborLoader
from gnn_mtl.nn import Adapters, MLPHead
from gnn_mtl.schedulers import (
    ColoringScheduler,
    JointScheduler,
    RandomGroupsScheduler,
    StaticScheduler,
    Update,
)
from gnn_mtl.tasks import Grouping
from gnn_mtl.training import (
    AggregatorHooks,
    Optimizers,
    StepHooks,
    fit,
    group_updates,
    train_step,
)

T = 5
ALL = tuple(range(T))
SCHEDULES = {
    "joint": lambda: JointScheduler(T),
    "coloring": lambda: ColoringScheduler(T, refresh_period=5, tau=-0.2, ema_beta=0.5),
    "all": lambda: RandomGroupsScheduler(T, sizes=(3, 2), use="all_groups_per_batch"),
    "turns": lambda: RandomGroupsScheduler(T, sizes=(3, 2), scale="tasks_over_active"),
}
METHODS = {
    "upgrad": UPGrad, "nash_mtl": NashMTL, "gradops": GradOPS, "pcgrad": PCGrad, "famo": FAMO,
    "gradnorm": GradNorm, "adatask": AdaTask,
}  # fmt: skip


def hooks_of(config, **options):
    return AggregatorHooks(config.build(T, seed=3), **options)


class Ones(Weighting):
    """The sum, the long way round."""

    kind = "ones"

    def _weights(self, tasks, losses, gramian):
        assert gramian is not None
        return torch.ones_like(losses)


class Given(Weighting):
    """Weights that are given by task id; keeps what it was told."""

    kind = "given"

    def __init__(self, by_task, acts_on="gradients"):
        super().__init__(len(by_task))
        self.by_task = torch.tensor(by_task, dtype=torch.float64)
        self.acts_on = acts_on
        self.seen = []

    def _weights(self, tasks, losses, gramian):
        self.seen.append((tasks.tolist(), losses, gramian))
        return self.by_task[tasks]


@pytest.fixture
def batch(tiny):
    return NeighborLoader(tiny, num_neighbors=[3, 2], batch_size=30, seed=1).batch(0, 0)


@pytest.fixture
def plain(new_model):
    """A model whose forward pass is the same in training and evaluation."""
    return lambda **options: new_model(norm="layer", dropout=0.0, **options)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_weights_of_1_change_no_bit(schedule, tiny, new_model, budget, assert_same_weights):
    """With dropout, batch norm and a clip: the same forward pass and the same backward pass."""
    models = [new_model() for _ in range(2)]
    config = budget(grad_clip=0.1)
    fit(models[0], tiny, SCHEDULES[schedule](), config)
    fit(models[1], tiny, SCHEDULES[schedule](), config, hooks=AggregatorHooks(Ones(T)))
    assert_same_weights(*models)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_aggregator_acts_under_every_schedule(
    method, schedule, tiny, new_model, budget, assert_same_weights
):
    models = [new_model() for _ in range(2)]
    fit(models[0], tiny, SCHEDULES[schedule](), budget())
    fit(models[1], tiny, SCHEDULES[schedule](), budget(), hooks=hooks_of(METHODS[method]()))
    assert_same_weights(*models, equal=False)


@pytest.mark.parametrize("mode", ["last_layer", "full", "last_layer_sketch", "count_sketch"])
@pytest.mark.parametrize("head", [None, MLPHead(hidden_channels=3)])
def test_the_gramian_is_of_the_weighted_losses(mode, head, plain, batch, budget):
    """Oracle: one autograd.grad per task of its weighted loss."""
    from gnn_mtl.nn import masked_bce

    model = plain(head=head)
    tasks, weights = (0, 2, 3), (0.5, 2.0, 1.0)
    pos_weight = torch.tensor([1.0, 9.0, 3.0, 2.0, 9.0])
    given = Given([1.0] * T)
    own = model.encoder.final_parameters() if "last" in mode else model.shared_parameters()
    losses = masked_bce(
        model(batch, tasks), batch.y, batch.observed, tasks, pos_weight=pos_weight
    )  # fmt: skip
    rows = torch.stack([
        torch.cat([g.flatten() for g in torch.autograd.grad(w * loss, own, retain_graph=True)])
        for w, loss in zip(weights, losses, strict=True)
    ]).double()  # fmt: skip
    train_step(
        model, batch, tasks, Optimizers(model, budget()), weights=weights,
        hooks=AggregatorHooks(given, mode=mode), pos_weight=pos_weight,
    )  # fmt: skip
    ((seen, seen_losses, gramian),) = given.seen
    assert seen == [0, 2, 3]
    torch.testing.assert_close(seen_losses, losses.detach().double())  # unweighted
    wanted = rows @ rows.T
    if mode in ("last_layer", "full"):
        torch.testing.assert_close(gramian, wanted, rtol=1e-4, atol=1e-9)
    else:
        assert torch.corrcoef(torch.stack([gramian.flatten(), wanted.flatten()]))[0, 1] > 0.5


@pytest.mark.parametrize("acts_on", ["gradients", "losses"])
def test_weights_reach_the_shared_parameters_and_the_heads_if_they_are_of_losses(
    acts_on, plain, batch, budget
):
    by_task = [0.5, 9.0, -2.0, 3.0, 9.0]
    tasks = (0, 2, 3)
    models = [plain() for _ in range(3)]
    both = [Optimizers(model, budget()) for model in models]
    hooks = AggregatorHooks(Given(by_task, acts_on))
    train_step(models[0], batch, tasks, both[0], hooks=hooks)
    train_step(models[1], batch, tasks, both[1], weights=[by_task[t] for t in tasks])
    train_step(models[2], batch, tasks, both[2])
    for got, weighted in zip(*(m.shared_parameters() for m in models[:2]), strict=True):
        torch.testing.assert_close(got.grad, weighted.grad, rtol=1e-4, atol=1e-7)
    wanted = models[1] if acts_on == "losses" else models[2]
    for got, head in zip(models[0].head_parameters(), wanted.head_parameters(), strict=True):
        torch.testing.assert_close(got.grad, head.grad, rtol=1e-4, atol=1e-7)


COSTS = {
    # forwards, backwards, label-gradients of the Gramian, of S tasks
    "last_layer": (UPGrad(), "last_layer", lambda size: (1, 1, size)),
    "full": (UPGrad(), "full", lambda size: (2, 1 + size, size)),
    "losses": (FAMO(), "last_layer", lambda _: (2, 1, 0)),  # the second one looks at what it did
    "rows": (AdaTask(), "last_layer", lambda size: (1, size, 0)),
}


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("way", COSTS)
def test_what_a_step_costs(way, size, several, plain, batch, budget):
    config, mode, wanted = COSTS[way]
    meter, model, tasks = CostMeter(), plain(), ALL[:size]
    hooks, optimizers = hooks_of(config, mode=mode), Optimizers(model, budget())
    if several:
        updates = [Update(tasks, (1.0,) * size)]
        done = group_updates(model, batch, updates, optimizers, hooks=hooks, meter=meter)
        assert done.forwards == meter.forwards
    else:
        train_step(model, batch, tasks, optimizers, hooks=hooks, meter=meter)
    forwards, backwards, measured = wanted(size)
    assert (meter.forwards, meter.backwards) == (forwards, backwards)
    assert (meter.label_gradients, meter.optimizer_steps) == (measured + size, 1)


def test_the_jacobian_is_formed_for_row_aggregators_only(plain, batch, budget, monkeypatch):
    import gnn_mtl.training._descend as descend

    formed = []
    original = descend.task_gradients

    def watch(*args, **options):
        formed.append(1)
        return original(*args, **options)

    monkeypatch.setattr(descend, "task_gradients", watch)
    for config, wanted in ((MGDA(), 0), (FAMO(), 0), (GradNorm(), 0), (AdaTask(), 1)):
        formed.clear()
        model = plain()
        train_step(model, batch, ALL, Optimizers(model, budget()), hooks=hooks_of(config))
        assert len(formed) == wanted, config


def test_upgrad_on_full_gradients_raises_no_loss(plain, batch, budget):
    """What it promises, of the direction that really reaches the parameters."""
    model = plain()
    hooks = hooks_of(UPGrad(norm="native"), mode="full")
    from gnn_mtl.nn import masked_bce

    losses = masked_bce(model(batch), batch.y, batch.observed)
    shared = model.shared_parameters()
    rows = torch.stack([
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, shared, retain_graph=True)])
        for loss in losses
    ])  # fmt: skip
    train_step(model, batch, ALL, Optimizers(model, budget()), hooks=hooks)
    step = torch.cat([p.grad.flatten() for p in shared])
    products = rows @ step / (rows.norm(dim=1) * step.norm())
    assert float(products.min()) > -1e-5
    assert float((rows @ rows.T).min()) < 0  # there was a conflict to settle


def test_state_is_by_task_id_in_turns_of_groups(tiny, new_model, budget):
    hooks = hooks_of(FAMO())
    before = hooks.aggregator.state_dict()
    groups = Grouping.of(((0, 1), (2, 3, 4)), T)
    fit(new_model(), tiny, StaticScheduler(T, groups), budget(max_steps=1), hooks=hooks)
    after = hooks.aggregator.state_dict()
    moved = [name for name, value in after.items() if torch.is_tensor(value)]
    assert moved
    for name in moved:
        torch.testing.assert_close(after[name][2:], before[name][2:], equal_nan=True)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("stop", [3, 7])
def test_a_stopped_training_goes_on_bit_for_bit(
    method, every, stop, tiny, new_model, budget, tmp_path, assert_same_weights, monkeypatch
):
    import gnn_mtl.training._loop as loop

    def hooks():
        return hooks_of(METHODS[method](), every=every)

    straight, cut = new_model(), new_model(1)
    fit(straight, tiny, SCHEDULES["coloring"](), budget(), hooks=hooks())
    original = loop._Training._step

    def step(self, batch, started):
        if self.at.step == stop:
            self._save()
            raise KeyboardInterrupt
        original(self, batch, started)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Training, "_step", step)
        with pytest.raises(KeyboardInterrupt):
            fit(new_model(), tiny, SCHEDULES["coloring"](), budget(), hooks=hooks(),
                checkpoints=tmp_path)  # fmt: skip
    with pytest.raises(UsageError, match="pass the `hooks`"):
        fit(cut, tiny, SCHEDULES["coloring"](), budget(), hooks=AggregatorHooks(Ones(T)),
            checkpoints=tmp_path, resume=True)  # fmt: skip
    fit(cut, tiny, SCHEDULES["coloring"](), budget(), hooks=hooks(), checkpoints=tmp_path,
        resume=True)  # fmt: skip
    assert_same_weights(straight, cut)


def test_weights_are_reused_for_so_many_updates_of_the_same_tasks(plain, batch, budget):
    given = Given([1.0, 2.0, 3.0, 4.0, 5.0])
    hooks = AggregatorHooks(given, every=3)
    model = plain()
    optimizers = Optimizers(model, budget())
    for group in ((0, 1), (0, 1), (2, 3, 4), (0, 1), (2, 3, 4), (0, 1), (0, 2)):
        train_step(model, batch, group, optimizers, hooks=hooks)
    # (0, 1) is solved, twice reused, solved again; (0, 2) were never solved together
    assert [tasks for tasks, _, _ in given.seen] == [[0, 1], [2, 3, 4], [0, 1], [0, 2]]
    given.seen.clear()
    for group in ((0, 1), (1, 2), (1,), (0, 1), (1, 2)):  # overlapping ones keep each their own
        train_step(model, batch, group, optimizers, hooks=hooks)
    assert [tasks for tasks, _, _ in given.seen] == [[1, 2], [1]]  # a part is another set
    for group in ((0,), (2,), (3,), (4,), (0, 4), (0, 3)):
        train_step(model, batch, group, optimizers, hooks=hooks)
    assert len(hooks.state_dict()["known"]) == T  # changing sets do not pile up
    with pytest.raises(UsageError, match="every"):
        AggregatorHooks(given, every=0)


def test_reused_weights_are_of_the_losses_as_the_schedule_weighs_them_now(plain, batch, budget):
    model, hooks = plain(), AggregatorHooks(Given([1.0, -2.0, 3.0, 1.0, 1.0]), every=2)
    train_step(model, batch, (0, 1), Optimizers(model, budget()), hooks=hooks)
    twin = plain()
    twin.load_state_dict(model.state_dict())
    train_step(
        model, batch, (0, 1), Optimizers(model, budget()), weights=(5.0, 0.5), hooks=hooks
    )  # fmt: skip
    train_step(twin, batch, (0, 1), Optimizers(twin, budget()), weights=(5.0, -1.0))
    assert hooks.aggregator.calls == 1
    for a, b in zip(*(m.shared_parameters() for m in (model, twin)), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("method", [UPGrad, GradNorm, FAMO, AdaTask])
def test_nothing_of_a_step_is_kept_alive(method, new_model, batch, budget):
    """Neither its graph nor its representations, even before cycles are looked for."""
    model, hooks, seen = new_model(), hooks_of(method()), []
    model.encoder.register_forward_hook(lambda _m, _a, h: seen.append(weakref.ref(h)))
    updates = [Update((0, 1), (1.0, 1.0)), Update((2, 3, 4), (1.0, 1.0, 1.0))]
    optimizers = Optimizers(model, budget())
    gc.disable()
    try:
        train_step(model, batch, ALL, optimizers, hooks=hooks)
        group_updates(model, batch, updates, optimizers, hooks=hooks, after_last=True)
        assert len(seen) >= 4
        assert [ref() for ref in seen if ref() is not None] == []
    finally:
        gc.enable()


@pytest.mark.parametrize("method", [UPGrad, GradNorm, FAMO, AdaTask])
def test_adapters_of_other_groups_stay_as_they_are(method, plain, batch, budget):
    model = plain(head=Adapters(groups=((0, 1, 2), (3, 4))))
    with torch.no_grad():
        for adapter in model.heads.adapters:
            adapter.up.normal_()
    own, other = (list(adapter.parameters()) for adapter in model.heads.adapters)
    before = [[p.detach().clone() for p in one] for one in (own, other)]
    hooks, optimizers = hooks_of(method()), Optimizers(model, budget(weight_decay=0.1))
    train_step(model, batch, (0, 2), optimizers, hooks=hooks)
    group_updates(model, batch, [Update((0, 1), (1.0, 1.0))], optimizers, hooks=hooks)
    assert all(p.grad is None for p in other)
    assert all(torch.equal(a, b) for a, b in zip(other, before[1], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(own, before[0], strict=True))


def test_famo_sees_the_losses_before_and_after_the_update(new_model, batch, budget):
    """The same dropout on both sides, so that the difference is the update's doing."""
    model = new_model()  # dropout and batch norm
    seen = {}

    class Watch(AggregatorHooks):
        def weigh_losses(self, step, tasks, losses):
            seen["before"] = losses.clone()
            return super().weigh_losses(step, tasks, losses)

        def observe_after(self, step, tasks, losses):
            seen["after"] = losses.clone()
            super().observe_after(step, tasks, losses)

    torch.manual_seed(0)
    config = budget(lr=1e-30)  # no update to speak of
    buffers = [b.clone() for b in model.buffers()]
    train_step(model, batch, ALL, Optimizers(model, config), hooks=Watch(FAMO().build(T)))
    torch.testing.assert_close(seen["before"], seen["after"])
    drawn = torch.get_rng_state()
    once = new_model()
    torch.manual_seed(0)
    train_step(once, batch, ALL, Optimizers(once, config))
    assert torch.equal(torch.get_rng_state(), drawn)  # as after one forward pass
    for a, b in zip(model.buffers(), once.buffers(), strict=True):
        torch.testing.assert_close(a, b)  # batch norm counted the batch once
    assert not all(torch.equal(a, b) for a, b in zip(buffers, model.buffers(), strict=True))
    train_step(model, batch, ALL, Optimizers(model, budget()), hooks=Watch(FAMO().build(T)))
    assert not torch.allclose(seen["before"], seen["after"])


def test_a_zero_gradient_takes_no_part(plain, batch, budget):
    """The head of task 1 is all zeros: its loss does not move the encoder, nor the solver."""
    model = plain()
    with torch.no_grad():
        model.heads.weight[1] = 0
    given = Given([1.0, 5.0, 1.0, 1.0, 1.0])
    before = model.heads.bias[1].item()
    train_step(model, batch, ALL, Optimizers(model, budget()), hooks=AggregatorHooks(given))
    assert given.seen[0][0] == [0, 2, 3, 4]
    assert model.heads.bias[1].item() != before  # its own head learns


def test_missing_labels(tiny, plain, budget, batch):
    """A task without a label in the batch takes no part, nor does its state."""
    import dataclasses

    observed = batch.observed.clone()
    observed[:, 3] = False
    batch = dataclasses.replace(batch, observed=observed)
    given = Given([1.0] * T)
    model = plain()
    row = model.heads.weight[3].clone()
    done, _ = train_step(
        model, batch, ALL, Optimizers(model, budget()), hooks=AggregatorHooks(given)
    )
    assert done == (0, 1, 2, 4)
    assert given.seen[0][0] == [0, 1, 2, 4]
    assert torch.equal(model.heads.weight[3], row)


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16(method, tiny, new_model, budget):
    model = new_model()
    done = fit(
        model,
        tiny,
        SCHEDULES["turns"](),
        budget(autocast="bf16"),
        hooks=hooks_of(METHODS[method]()),
    )
    assert done.cost.skipped_losses == done.cost.skipped_updates == 0
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


def test_groups_that_all_update_on_one_batch_are_aggregated_one_by_one(plain, batch, budget):
    given = Given([1.0] * T)
    model = plain()
    updates = [Update((0, 1), (1.0, 1.0)), Update((2, 3, 4), (1.0, 1.0, 1.0))]
    group_updates(model, batch, updates, Optimizers(model, budget()), hooks=AggregatorHooks(given))
    assert [tasks for tasks, _, _ in given.seen] == [[0, 1], [2, 3, 4]]


def test_hooks_of_ones_own_can_ask_for_the_gramian(plain, batch, budget):
    """The contract without an aggregator; None leaves the sum as it is, bit for bit."""
    asked = []

    class Look(StepHooks):
        def gramian_mode(self, step):
            return "last_layer" if step else None

        def weigh_gradients(self, step, tasks, losses, gramian):
            asked.append((step, tasks, gramian.shape))

    for step in range(2):
        models = [plain() for _ in range(2)]
        for model, hooks in zip(models, (Look(), None), strict=True):
            train_step(model, batch, (0, 3), Optimizers(model, budget()), hooks=hooks, step=step)
        for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
            assert torch.equal(a, b)
    assert asked == [(1, (0, 3), (2, 2))]


@pytest.mark.parametrize("method", [UPGrad, GradNorm])
def test_a_schedule_fed_by_the_same_forward_passes(method, tiny, new_model, budget):
    """Streamed gradients run the last layer and the heads again inside the pass that is tapped."""
    schedule = ColoringScheduler(T, refresh_period=4, tau=-0.2)
    config = budget(probe="streamed", stream_every=1)
    hooks = hooks_of(method())
    done = fit(new_model(), tiny, schedule, config, hooks=hooks)
    assert done.cost.probes > 1
    assert hooks.aggregator.calls == done.cost.steps


def test_what_is_no_aggregator_is_told_how_to_become_one(tiny, new_model, budget):
    for wrong in (UPGrad(), UPGrad, None):
        with pytest.raises(UsageError, match=r"build\(num_tasks\)"):
            AggregatorHooks(wrong)
    with pytest.raises(UsageError, match="AggregatorHooks"):
        fit(new_model(), tiny, JointScheduler(T), budget(), hooks=UPGrad().build(T))
