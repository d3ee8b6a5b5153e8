"""Adapters while they train: inactive groups stand still, moments and resumes include them."""

import os
import signal

import pytest
import torch

from gnn_mtl._core.errors import InterruptedRunError
from gnn_mtl.nn import Adapters
from gnn_mtl.schedulers import JointScheduler, StaticScheduler
from gnn_mtl.tasks import Grouping
from gnn_mtl.training import Optimizers, fit, train_step, training_loader

T = 5
GROUPS = Grouping.of([[0, 3], [1, 2, 4]], T)
HEAD = Adapters(groups=GROUPS.groups, rank=2)


@pytest.mark.parametrize("group_moments", [False, True])
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_an_inactive_groups_adapter_is_bitwise_unchanged(
    tiny, new_model, budget, group_moments, optimizer
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
        live, _ = train_step(model, batch, GROUPS.groups[0], optimizers)
        assert live == GROUPS.groups[0]
    after = [p.detach() for a in model.heads.adapters for p in a.parameters()]
    same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert same == [False] * 3 + [True] * 3


def test_one_group_is_trained_as_if_alone(tiny, new_model, budget):
    """A schedule by groups and adapters by the same groups go together."""
    model = new_model(head=HEAD)
    done = fit(model, tiny, StaticScheduler(T, GROUPS), budget(epochs=4))
    assert done.valid["ap"] > 0
    assert all(bool(adapter.up.any()) for adapter in model.heads.adapters)


def test_a_resumed_training_is_the_same(
    tiny, new_model, budget, steps_seen, tmp_path, assert_same_weights
):
    straight, model, again = (new_model(head=HEAD) for _ in range(3))
    fit(straight, tiny, JointScheduler(T), budget(epochs=4))
    start = len(steps_seen.list)
    steps_seen.hooks.append(
        lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == start + 5 else None
    )
    with pytest.raises(InterruptedRunError):
        fit(model, tiny, JointScheduler(T), budget(epochs=4), checkpoints=tmp_path)
    fit(again, tiny, JointScheduler(T), budget(epochs=4), checkpoints=tmp_path, resume=True)
    assert_same_weights(straight, again)
