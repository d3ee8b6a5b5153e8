"""Adapters while they train: inactive groups stand still, moments and resumes include them."""

import signal

import pytest
import torch

from gnn_mtl._core.errors import InterruptedRunError
from gnn_mtl.nn import Adapters
from gnn_mtl.schedulers import JointScheduler, StaticScheduler, Update
from gnn_mtl.tasks import Grouping
from gnn_mtl.training import (
    Optimizers,
    StepHooks,
    fit,
    group_updates,
    train_step,
    training_loader,
)

T = 5
GROUPS = Grouping.of([[0, 3], [1, 2, 4]], T)
HEAD = Adapters(groups=GROUPS.groups, rank=2)


class Rows(StepHooks):
    """Returns the gradients as rows."""

    def wants_gradients(self, step):
        return True

    def combine(self, step, tasks, jacobian):
        return jacobian


class RowSteps(Rows):
    rows_are_steps = True


def one_step(model, batch, tasks, optimizers):
    return train_step(model, batch, tasks, optimizers)[0]


def an_update(model, batch, tasks, optimizers, hooks=None):
    update = Update(tuple(tasks), (1.0,) * len(tasks))
    return group_updates(model, batch, [update], optimizers, hooks=hooks).live[0]


def rows(model, batch, tasks, optimizers):
    return train_step(model, batch, tasks, optimizers, hooks=Rows())[0]


def row_steps(model, batch, tasks, optimizers):
    return train_step(model, batch, tasks, optimizers, hooks=RowSteps())[0]


def rows_of_an_update(model, batch, tasks, optimizers):
    return an_update(model, batch, tasks, optimizers, Rows())


@pytest.mark.parametrize("way", [one_step, an_update, rows, row_steps, rows_of_an_update])
@pytest.mark.parametrize("group_moments", [False, True])
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_an_inactive_groups_adapter_is_bitwise_unchanged(
    tiny, new_model, budget, group_moments, optimizer, way
):
    """Also with weight decay and with momentum left from joint steps."""
    model = new_model(head=HEAD).train()
    config = budget(group_moments=group_moments, optimizer=optimizer, weight_decay=0.1, lr=0.1)
    optimizers = Optimizers(model, config)
    loader = training_loader(tiny, model, config, seed=0)
    for batch in loader.epoch_batches(0):
        train_step(model, batch, range(T), optimizers)
    before = [p.detach().clone() for a in model.heads.adapters for p in a.parameters()]
    assert all(p.any() for p in before)
    for batch in loader.epoch_batches(1):
        assert way(model, batch, GROUPS.groups[0], optimizers) == GROUPS.groups[0]
    after = [p.detach() for a in model.heads.adapters for p in a.parameters()]
    same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert same == [False] * 3 + [True] * 3


def test_one_group_is_trained_as_if_alone(tiny, new_model, budget):
    """A schedule by groups and adapters by the same groups go together."""
    model, schedule = new_model(head=HEAD), StaticScheduler(T, GROUPS)
    original, before = schedule.active_tasks, []
    moved = []

    def adapters():
        return [
            torch.cat([p.detach().flatten() for p in a.parameters()]) for a in model.heads.adapters
        ]

    def active_tasks(**options):
        after_step()
        tasks = original(**options)
        before[:] = [GROUPS.groups.index(tasks), *adapters()]
        return tasks

    def after_step():
        if before:
            own, *old = before
            now = adapters()
            assert torch.equal(now[1 - own], old[1 - own])
            moved.append(not torch.equal(now[own], old[own]))

    schedule.active_tasks = active_tasks
    done = fit(model, tiny, schedule, budget(epochs=4))
    assert len(moved) == 15  # the sixteenth step has none after it
    assert all(moved)
    assert done.valid["ap"] > 0
    assert all(bool(adapter.up.any()) for adapter in model.heads.adapters)


def test_a_resumed_training_is_the_same(
    tiny, new_model, budget, steps_seen, tmp_path, assert_same_weights
):
    straight, model, again = (new_model(head=HEAD) for _ in range(3))
    fit(straight, tiny, JointScheduler(T), budget(epochs=4))
    start = len(steps_seen.list)
    steps_seen.hooks.append(
        lambda step: signal.raise_signal(signal.SIGTERM) if step == start + 5 else None
    )
    with pytest.raises(InterruptedRunError):
        fit(model, tiny, JointScheduler(T), budget(epochs=4), checkpoints=tmp_path)
    fit(again, tiny, JointScheduler(T), budget(epochs=4), checkpoints=tmp_path, resume=True)
    assert_same_weights(straight, again)
