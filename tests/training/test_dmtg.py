"""DMTG: memberships, their gradient by the paper's formula, pruning, and what it finds."""

import numpy as np
import pytest
import torch

from gnn_mtl._core.errors import NonFiniteWarning, TrainingStoppedError, UsageError
from gnn_mtl.datasets import planted
from gnn_mtl.nn import MLP, SAGE, exact_logits, masked_bce, prune
from gnn_mtl.schedulers import JointScheduler
from gnn_mtl.tasks import Grouping
from gnn_mtl.training import (
    DMTG,
    Optimizers,
    dmtg_step,
    fit,
    learn_groups,
    sample_memberships,
    training_loader,
)

T, K = 5, 3


@pytest.fixture
def options():
    return DMTG(num_groups=K, noise=0.5)


@pytest.fixture
def model(options):
    torch.manual_seed(0)
    return options.build(SAGE(hidden_channels=8), 6, T)


@pytest.fixture
def batch(tiny, model, budget):
    return next(training_loader(tiny, model, budget(), seed=0).epoch_batches(0))


def test_memberships():
    """Rows sum to 1; towards temperature 0 they are 0 and 1, drawn with softmax(alpha)."""
    alpha = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]], dtype=torch.float64)
    soft = sample_memberships(alpha, 2.5)
    torch.testing.assert_close(soft.sum(1), torch.ones(2, dtype=torch.float64))
    assert ((soft > 0) & (soft < 1)).all()
    draws = torch.stack([sample_memberships(alpha, 1e-4) for _ in range(4000)])
    assert torch.isclose(draws.amax(2), torch.tensor(1.0, dtype=draws.dtype)).float().mean() > 0.99
    torch.testing.assert_close(draws.mean(0), alpha.softmax(1), atol=0.03, rtol=0)


def test_gradient_of_alpha_is_the_papers(model, batch, options, budget):
    """dL/dalpha_tk = P_tk (l_tk - sum_j P_tj l_tj) / tau, for one Gumbel draw."""
    model.eval()
    alpha = model.heads.alpha.detach().clone()
    heads = [(model.heads.weight[:, k].detach(), model.heads.bias[:, k].detach()) for k in range(K)]
    with torch.no_grad():
        parts = model.encoder(batch).chunk(K, 1)
        own = torch.stack(
            [
                masked_bce(part @ weight.T + bias, batch.y, batch.observed)
                for part, (weight, bias) in zip(parts, heads, strict=True)
            ],
            dim=1,
        )
    torch.manual_seed(7)
    p = sample_memberships(alpha, options.temperature)
    expected = p * (own - (p * own).sum(1, keepdim=True)) / options.temperature
    optimizers = Optimizers(model, budget(lr=1e-9, weight_decay=0.0))
    torch.manual_seed(7)
    live, losses = dmtg_step(model, batch, optimizers, options)
    assert live == tuple(range(T))
    torch.testing.assert_close(losses, (p * own).sum(1))
    torch.testing.assert_close(model.heads.alpha.grad, expected, rtol=1e-4, atol=1e-7)
    worse = own > (p * own).sum(1, keepdim=True)
    assert (model.heads.alpha.grad[worse] > 0).all()  # descent takes from trunks that do worse


def test_entropy_makes_tasks_decide(model, batch, budget):
    spread = {}
    for entropy in (0.0, 5.0):
        options = DMTG(num_groups=K, entropy=entropy, temperature=1.0, noise=0.5)
        torch.manual_seed(1)
        made = options.build(SAGE(hidden_channels=8), 6, T)
        optimizers = Optimizers(made, budget(lr=0.05))
        for _ in range(40):
            dmtg_step(made, batch, optimizers, options)
        p = made.heads.alpha.detach().softmax(1)
        spread[entropy] = float(torch.special.entr(p).sum(1).mean())
    assert spread[5.0] < 0.5 * spread[0.0]


def test_only_labelled_tasks_move(model, batch, options, budget):
    from dataclasses import replace

    observed = batch.observed.clone()
    observed[:, 2] = False
    before = [p.detach().clone() for p in model.head_parameters()]
    live, _ = dmtg_step(
        model, replace(batch, observed=observed), Optimizers(model, budget()), options
    )
    assert live == (0, 1, 3, 4)
    for old, new in zip(before, model.head_parameters(), strict=True):
        assert torch.equal(old[2], new[2])
        assert not torch.equal(old[0], new[0])
    assert dmtg_step(
        model, replace(batch, observed=observed & False), Optimizers(model, budget()), options
    ) [0] == ()  # fmt: skip


def test_learning_is_a_function_of_the_seed(tiny, options, budget, assert_same_weights):
    made, found = [], []
    random_state = torch.get_rng_state()
    for seed in (3, 3, 4):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            made.append(options.build(SAGE(hidden_channels=8), 6, T))
        found.append(learn_groups(made[-1], tiny, budget(), options, seed=seed))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert_same_weights(made[0], made[1])
    assert_same_weights(made[0], made[2], equal=False)
    assert found[0].cost.steps == 12
    assert found[0].memberships.shape == (T, K)
    np.testing.assert_allclose(found[0].memberships.sum(1), 1.0)
    best = found[0].memberships.argmax(1)
    assert found[0].grouping == Grouping.from_assignments(best)


def test_bfloat16_reaches_the_steps(tiny, options, budget):
    trained = []
    for autocast in ("none", "bf16"):
        torch.manual_seed(0)
        trained.append(options.build(SAGE(hidden_channels=8), 6, T))
        learn_groups(trained[-1], tiny, budget(autocast=autocast), options)
    assert not torch.equal(trained[0].heads.weight, trained[1].heads.weight)


def test_updates_left_out_are_counted(tiny, model, options, budget):
    breaks = iter([True, False, True, True])
    first = model.shared_parameters()[0]
    first.register_hook(lambda grad: grad * (torch.nan if next(breaks, False) else 1))
    with pytest.warns(NonFiniteWarning, match="gradient of the shared"):
        done = learn_groups(model, tiny, budget(), options)
    assert done.cost.skipped_updates == 3
    assert done.cost.steps == 12 - 3


def test_the_pruned_model_is_the_full_one_and_trains_on(tiny, model, options, budget):
    learn_groups(model, tiny, budget(), options)
    pruned = prune(model)
    nodes = np.arange(60)
    full = exact_logits(model, tiny, nodes)
    np.testing.assert_allclose(exact_logits(pruned, tiny, nodes), full, rtol=1e-4, atol=1e-5)
    one_hot = torch.nn.functional.one_hot(model.heads.alpha.argmax(1), K).float()
    model.eval()
    loader = training_loader(tiny, model, budget(batch_size=60), seed=0)
    batch = next(loader.epoch_batches(0))
    mixed = (model.heads.all_logits(model.encoder(batch)) * one_hot).sum(2)
    torch.testing.assert_close(pruned.eval()(batch), mixed)
    done = fit(pruned, tiny, JointScheduler(T), budget())
    assert np.isfinite(done.valid["ap"])


def test_tasks_choose_the_trunk_that_knows_them(budget):
    """From trunks that each learned one planted group, the groups are found exactly.

    From new trunks they are found in part or not at all: wide ones serve every task alike, and
    whichever leads early takes more.
    """
    graph = planted(400, num_tasks=6, num_groups=2, within=1.0, label_noise=0.0, seed=1)
    truth = graph.extras["task_groups"]
    options = DMTG(num_groups=2, temperature=1.0)
    torch.manual_seed(0)
    model = options.build(SAGE(hidden_channels=8, dropout=0.0), graph.num_features, 6)
    config = budget(epochs=10, batch_size=80, weight_decay=0.0)
    for trunk in range(2):  # each trunk and its heads see one group's losses
        with torch.no_grad():
            model.heads.alpha.fill_(-100.0)
            model.heads.alpha[:, trunk] = 100.0
        own = np.flatnonzero(truth == trunk)
        optimizers = Optimizers(model, config)
        for epoch in range(10):
            for batch in training_loader(graph, model, config, seed=trunk).epoch_batches(epoch):
                losses = masked_bce(model(batch, list(own)), batch.y, batch.observed, list(own))
                optimizers.zero_grad()
                losses.sum().backward()
                optimizers.step(list(own))
    with torch.no_grad():
        model.heads.alpha.fill_(1.0)
    found = learn_groups(model, graph, config, options)
    assert found.grouping == Grouping.from_assignments(truth)


@pytest.mark.parametrize(
    "options", [{"num_groups": 1}, {"temperature": 0.0}, {"noise": -1.0}, {"entropy": -1.0}]
)
def test_bad_options(options):
    with pytest.raises(UsageError, match=f"`{next(iter(options))}`"):
        DMTG(**options)


def test_bad_models(tiny, new_model, budget, options, model, batch):
    with pytest.raises(UsageError, match="LinearHeads"):
        learn_groups(new_model(), tiny, budget(), options)
    with pytest.raises(UsageError, match="LinearHeads"):
        dmtg_step(new_model(), batch, Optimizers(new_model(), budget()), options)
    with pytest.raises(UsageError, match="for 4"):
        learn_groups(options.build(SAGE(), 6, 4), tiny, budget(), options)
    with pytest.raises(UsageError, match="MLPEncoder"):
        options.build(MLP(), 6, T)
    with torch.no_grad():
        model.heads.bias[0, 0] = torch.nan
    with pytest.raises(TrainingStoppedError, match=r"--train\.lr"):
        dmtg_step(model, batch, Optimizers(model, budget()), options)
