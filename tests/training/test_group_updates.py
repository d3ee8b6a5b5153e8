"""Several updates on one batch: order, credit, randomness, what must stay; group moments."""

import numpy as np
import pytest
import torch

from gnn_mtl._core.errors import NonFiniteWarning, TrainingStoppedError, UsageError
from gnn_mtl.affinity import ProximalAffinity
from gnn_mtl.graph import NeighborLoader
from gnn_mtl.nn import masked_bce
from gnn_mtl.schedulers import (
    ColoringScheduler,
    JointScheduler,
    RandomGroupsScheduler,
    SelectiveScheduler,
    StaticScheduler,
    Update,
)
from gnn_mtl.tasks import Grouping
from gnn_mtl.training import GroupAdam, Optimizers, Skipped, fit, group_updates, train_step

T = 5
GROUPS = ((0, 1), (2,), (3, 4))
UPDATES = tuple(Update(group, (1.0,) * len(group)) for group in GROUPS)


@pytest.fixture
def batch(tiny):
    return NeighborLoader(tiny, num_neighbors=[3, 2], batch_size=30, seed=1).batch(0, 0)


@pytest.fixture
def training(new_model, budget):
    def make(dropout=0.0, norm="batch", **changes):
        model = new_model(dropout=dropout, norm=norm)
        model.train()
        return model, Optimizers(model, budget(weight_decay=0.1, lr=1e-2, **changes))

    return make


def losses_now(model, batch):
    with torch.no_grad():
        return masked_bce(model(batch), batch.y, batch.observed).double().numpy()


# several updates


def test_equals_one_step_after_the_other(training, batch, assert_same_weights):
    model, optimizers = training(norm="layer")
    twin, twin_optimizers = training(norm="layer")
    done = group_updates(model, batch, UPDATES, optimizers, after_last=True)
    rows = [losses_now(twin, batch)]
    for group in GROUPS:
        live, _ = train_step(twin, batch, group, twin_optimizers)
        assert live == group
        rows.append(losses_now(twin, batch))
    assert done.live == GROUPS
    assert (done.label_gradients, done.forwards) == (5, 4)
    np.testing.assert_allclose(done.losses, rows, rtol=1e-4)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert (np.diag(done.losses[1:][:, [0, 2, 3]]) < np.diag(done.losses[:-1][:, [0, 2, 3]])).all()


def test_heads_outside_the_group_stay_bitwise(training, batch):
    """T11; the released code steps them with zero gradients."""
    model, optimizers = training()
    before = [p.detach().clone() for p in model.head_parameters()]
    group_updates(model, batch, UPDATES[:2], optimizers)
    for old, new in zip(before, model.head_parameters(), strict=True):
        moved = {task for task in range(T) if not torch.equal(old[task], new[task])}
        assert moved == {0, 1, 2}
    assert optimizers.heads.steps.tolist() == [1, 1, 1, 0, 0]


def test_dropout_is_replayed_so_that_differences_are_the_updates_doing(training, batch):
    model, optimizers = training(dropout=0.5, norm="layer")
    optimizers.set_lr(0.0)
    optimizers.heads.weight_decay = 0.0
    torch.manual_seed(3)
    done = group_updates(model, batch, UPDATES, optimizers, after_last=True)
    state = torch.get_rng_state()
    for row in done.losses[1:]:
        np.testing.assert_array_equal(row, done.losses[0])
    torch.manual_seed(3)
    losses_now(model, batch)
    assert torch.equal(torch.get_rng_state(), state)  # as after one forward pass


def test_batch_normalisation_counts_the_batch_once(training, batch):
    model, optimizers = training()
    twin, _ = training()
    group_updates(model, batch, UPDATES, optimizers, after_last=True)
    losses_now(twin, batch)
    counted = 0
    for a, b in zip(model.buffers(), twin.buffers(), strict=True):
        assert torch.equal(a, b)
        counted += 1
    assert counted


def test_tasks_without_labels_are_nan_and_a_group_of_them_makes_no_update(training, batch):
    model, optimizers = training()
    batch.observed[:, [2, 4]] = False
    done = group_updates(model, batch, UPDATES, optimizers, after_last=True)
    assert done.live == ((0, 1), (), (3,))
    assert np.isnan(done.losses[:, [2, 4]]).all()
    assert np.isfinite(done.losses[:, [0, 1, 3]]).all()
    batch.observed[:] = False
    state = {name: value.clone() for name, value in model.state_dict().items()}
    done = group_updates(model, batch, UPDATES, optimizers, after_last=True)
    assert done.live == ((), (), ())
    assert np.isnan(done.losses).all()
    assert done.losses.shape == (4, T)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_broken_task_is_left_out_and_spoils_no_other(training, batch):
    model, optimizers = training(norm="layer")
    with torch.no_grad():
        model.heads.weight[1] = torch.nan
    skipped = Skipped()
    with pytest.warns(NonFiniteWarning, match="1 task"):
        done = group_updates(model, batch, UPDATES, optimizers, skipped=skipped)
    assert done.live == ((0,), (2,), (3, 4))
    assert skipped.losses == {1: 1}
    assert all(torch.isfinite(p).all() for p in model.encoder.parameters())
    with torch.no_grad():
        model.heads.weight[:] = torch.nan
    with pytest.raises(TrainingStoppedError, match="finite losses"):
        group_updates(model, batch, UPDATES, optimizers)


@pytest.mark.filterwarnings("ignore::gnn_mtl._core.errors.NonFiniteWarning")
def test_an_update_that_was_not_made_gets_no_credit(training, batch):
    """Its gradient was not finite; that no loss changed is not what the group did."""
    model, optimizers = training(norm="layer")
    number = []

    def break_second(grad):
        number.append(0)
        return grad * torch.inf if len(number) == 2 else grad

    model.encoder.convs[0].lin_l.weight.register_hook(break_second)
    done = group_updates(model, batch, UPDATES, optimizers, after_last=True, skipped=Skipped())
    assert [bool(live) for live in done.live] == [True, False, True]
    credits = ProximalAffinity(T)
    credits.update([update.tasks for update in UPDATES], done.losses)
    left_out = list(UPDATES[1].tasks)
    assert not credits.counts[left_out].any()
    assert credits.counts[list(UPDATES[0].tasks)].any()
    assert credits.counts[list(UPDATES[2].tasks)].any()


# schedules in the loop


@pytest.mark.parametrize("stop", [2, 5])
@pytest.mark.parametrize(
    "make",
    [
        lambda: SelectiveScheduler(T, warmup_steps=3, warmup_group_size=2, regroup_period=4),
        lambda: StaticScheduler(T, Grouping.of(GROUPS, T), use="inner_outer", outer_lr=0.5),
        lambda: RandomGroupsScheduler(T, sizes=(3, 2), use="all_groups_per_batch"),
        lambda: RandomGroupsScheduler(T, sizes=(3, 2), refresh_period=4, use="group_weights"),
        lambda: ColoringScheduler(T, refresh_period=3, tau=-0.2, ema_beta=0.5, warm_start=True),
        lambda: ColoringScheduler(T, refresh_period=3, tau=-0.2, ema_source="active"),
        lambda: ColoringScheduler(T, refresh_period=3, tau=-0.2, ema_source="both"),
    ],
)
@pytest.mark.parametrize("group_moments", [False, True])
def test_resume_equals_no_interruption(
    make, stop, group_moments, tiny, new_model, budget, tmp_path, assert_same_weights, monkeypatch
):
    config = budget(group_moments=group_moments)
    straight = new_model()
    expected = fit(straight, tiny, make(), config, checkpoints=tmp_path / "straight")
    cut = budget(group_moments=group_moments, lr_schedule="cosine")
    import gnn_mtl.training._loop as loop

    class Stop(Exception):
        pass

    original = loop._Training._step

    def step(self, batch, started):
        if self.at.step == stop and not stopped:
            stopped.append(True)
            self._save()
            raise Stop
        original(self, batch, started)

    stopped: list[bool] = []
    monkeypatch.setattr(loop._Training, "_step", step)
    with pytest.raises(Stop):
        fit(new_model(), tiny, make(), cut, checkpoints=tmp_path / "cut")
    resumed = new_model(1)
    done = fit(resumed, tiny, make(), cut, checkpoints=tmp_path / "cut", resume=True)
    assert_same_weights(straight, resumed)
    assert (done.valid, done.cost.steps) == (expected.valid, expected.cost.steps)


def test_costs_count_every_update(tiny, new_model, budget):
    schedule = RandomGroupsScheduler(T, sizes=(3, 2), use="all_groups_per_batch")
    done = fit(new_model(), tiny, schedule, budget())
    assert done.cost.steps == 24  # two a batch
    joint = fit(new_model(), tiny, JointScheduler(T), budget())
    assert done.cost.label_gradients == joint.cost.label_gradients


def test_one_group_on_every_batch_is_joint_training(tiny, new_model, budget, assert_same_weights):
    models = [new_model(norm="layer", dropout=0.0) for _ in range(2)]
    fit(models[0], tiny, JointScheduler(T), budget())
    everyone = Grouping.of([range(T)], T)
    fit(models[1], tiny, StaticScheduler(T, everyone, use="all_groups_per_batch"), budget())
    assert_same_weights(*models)


def test_a_group_without_labels_in_the_batch_is_advanced_past(tiny, new_model, budget, steps_seen):
    from gnn_mtl.datasets import TaskGraph

    graph = tiny.select_tasks([2, 4])
    nodes = graph.split_idx["train"]
    data = graph.to_pyg()
    y = data.y.numpy().copy()
    y[nodes[1:], 0] = np.nan
    y[nodes[0], 0] = 1
    rare = TaskGraph.from_arrays(
        data.edge_index.numpy(), y, x=data.x.numpy(), split=graph.split_idx
    )
    schedule = StaticScheduler(2, Grouping.of([[0], [1]], 2))
    done = fit(new_model(num_tasks=2), rare, schedule, budget())
    assert all(step.result[0] for step in steps_seen.list)  # no step is spent on nothing
    assert done.cost.steps == len(steps_seen.list) == 12


# the outer step


def test_outer_rate_1_is_plain_turns_and_less_moves_less(
    tiny, new_model, budget, assert_same_weights
):
    models = {}
    for name, options in {
        "turns": {}, "one": {"use": "inner_outer", "outer_lr": 1.0},
        "half": {"use": "inner_outer", "outer_lr": 0.5},
    }.items():  # fmt: skip
        models[name] = new_model()
        schedule = StaticScheduler(T, Grouping.of([range(T)], T), **options)
        fit(models[name], tiny, schedule, budget())
    assert_same_weights(models["turns"], models["one"])
    assert_same_weights(models["turns"], models["half"], equal=False)


def test_an_outer_step_raises_inner_products_to_second_order():
    """phi - theta_K = a sum g_k - a^2 sum_k sum_{j<k} H_k g_j + O(a^3), on quadratics."""
    from gnn_mtl.training._outer_step import OuterStep

    rng = np.random.default_rng(0)
    parameter = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))
    hessians = [torch.from_numpy(r @ r.T) for r in rng.normal(size=(3, 4, 4))]
    centres = torch.from_numpy(rng.normal(size=(3, 4)))
    outer, rate = OuterStep([parameter]), 1e-3
    outer.begin_cycle(0.25)
    first = [h @ -c for h, c in zip(hessians, centres, strict=True)]
    with torch.no_grad():
        for h, c in zip(hessians, centres, strict=True):
            parameter -= rate * h @ (parameter - c)
    outer.begin_cycle(0.25)
    expected = rate * sum(first)
    expected = expected - rate**2 * sum(hessians[k] @ first[j] for k in range(3) for j in range(k))
    torch.testing.assert_close(-parameter.detach(), 0.25 * expected, rtol=1e-3, atol=1e-9)
    assert torch.equal(outer.start[0], parameter.detach())


# moments by group


@pytest.mark.parametrize("decoupled", [True, False])
def test_one_group_is_torchs_adam(decoupled):
    torch.manual_seed(0)
    values = [torch.randn(3, 2), torch.randn(4)]
    mine = [torch.nn.Parameter(value.clone()) for value in values]
    theirs = [torch.nn.Parameter(value.clone()) for value in values]
    adam = GroupAdam(mine, 1e-2, weight_decay=0.1, decoupled=decoupled)
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    oracle = kind(theirs, lr=1e-2, weight_decay=0.1)
    for _ in range(20):
        for a, b in zip(mine, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        adam.step((0, 1))
        oracle.step()
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_groups_do_not_see_each_others_momentum():
    parameter = torch.nn.Parameter(torch.zeros(1))
    adam = GroupAdam([parameter], 0.1)
    for step in range(6):
        before = parameter.detach().clone()
        parameter.grad = torch.tensor([1.0 if step % 2 else -1.0])
        adam.step(((0,), (1,))[step % 2])
        moved = parameter.detach() - before
        assert moved.item() == pytest.approx(-0.1 * parameter.grad.item(), rel=1e-4)


def test_new_groups_inherit_from_their_nearest_and_others_are_dropped():
    parameter = torch.nn.Parameter(torch.zeros(2))
    adam = GroupAdam([parameter], 0.1)
    for group, value in (((0, 1, 2), 1.0), ((3, 4), -1.0)):
        parameter.grad = torch.full((2,), value)
        adam.step(group)
    adam.regroup([(0, 1), (2, 3, 4), (5,)])
    assert set(adam.moments) == {(0, 1), (2, 3, 4)}
    assert adam.moments[0, 1].first[0][0] > 0 > adam.moments[2, 3, 4].first[0][0]
    parameter.grad = torch.ones(2)
    adam.step((5,))
    assert adam.moments[5,].steps == 1
    assert adam.moments[0, 1].steps == 1
    again = GroupAdam([torch.nn.Parameter(torch.zeros(2))], 0.1)
    again.load_state_dict(adam.state_dict())
    assert list(again.moments) == list(adam.moments)
    with pytest.raises(UsageError, match="at least one"):
        GroupAdam([], 0.1)
