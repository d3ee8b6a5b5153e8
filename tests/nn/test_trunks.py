"""Several trunks as one encoder: equal to the trunks one by one; pruning; regulators."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from gnn_mtl._core.errors import UsageError
from gnn_mtl.gradients import probe, task_gradients
from gnn_mtl.graph import NeighborLoader
from gnn_mtl.nn import (
    GCN,
    GIN,
    MLP,
    SAGE,
    GATv2,
    Trunks,
    branch_model,
    exact_logits,
    masked_bce,
    prune,
    trunk_model,
)
from gnn_mtl.tasks import Grouping

T, K, W = 5, 3, 8
CONFIGS = {
    "sage": SAGE(hidden_channels=W),
    "sage, layer norm, 3": SAGE(hidden_channels=W, norm="layer", num_layers=3),
    "gcn": GCN(hidden_channels=W),
    "gatv2": GATv2(hidden_channels=W),
    "gin": GIN(hidden_channels=W, norm="none"),
}
GROUPS = Grouping.of([[0, 3], [1], [2, 4]], T)


@pytest.fixture(scope="module")
def graph(make_graph):
    return make_graph(60, edge_channels=3, seed=4)


@pytest.fixture(scope="module")
def batch_of(graph):
    def make(depth):
        loader = NeighborLoader(graph, "train", num_neighbors=[-1] * depth, batch_size=20)
        return next(iter(loader))

    return make


def warm(model, batch):
    """Let batch norms see something, then evaluate."""
    model.train()
    model(batch)
    return model.eval()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("training", [False, True])
def test_trunks_are_the_encoders_side_by_side(config, training, batch_of):
    encoders = [config.build(6, 3) for _ in range(K)]
    batch = batch_of(encoders[0].num_hops)
    trunks = Trunks(encoders)  # holds the same layers
    for module in (*encoders, trunks):
        module.train(training)
        module.dropout.p = 0.0
    expected = torch.cat([encoder(batch) for encoder in encoders], dim=1)
    torch.testing.assert_close(trunks(batch), expected)


def test_a_stem_is_computed_once_and_shared(batch_of):
    encoders = [SAGE(hidden_channels=W).build(6) for _ in range(K)]
    trunks = Trunks(encoders, shared_layers=1).eval()
    for encoder in encoders[1:]:
        encoder.convs[0], encoder.norms[0] = encoders[0].convs[0], encoders[0].norms[0]
    batch = batch_of(2)
    expected = torch.cat([encoder.eval()(batch) for encoder in encoders], dim=1)
    torch.testing.assert_close(trunks(batch), expected)
    one = sum(p.numel() for p in encoders[0].convs[0].parameters())
    assert sum(p.numel() for p in trunks.convs[0].parameters()) == one


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_exact_inference(config, graph, batch_of):
    model = branch_model(config, 6, GROUPS, edge_channels=3)
    batch = batch_of(model.encoder.num_hops)
    warm(model, batch)
    nodes = batch.n_id[: batch.batch_size].numpy()
    np.testing.assert_allclose(
        exact_logits(model, graph, nodes), model(batch).detach().numpy(), rtol=1e-4, atol=1e-5
    )


def test_branches_are_separate_models(batch_of):
    """A task's logit depends on its own trunk and row alone; probes see it so."""
    model = branch_model(SAGE(hidden_channels=W), 6, GROUPS)
    batch = batch_of(2)
    warm(model, batch)
    logits = model(batch)
    for group, members in enumerate(GROUPS.groups):
        for task in members:
            of = dict(
                zip(
                    dict(model.named_parameters()),
                    torch.autograd.grad(
                        logits[:, task].sum(), [*model.parameters()], retain_graph=True,
                        allow_unused=True,
                    ),
                    strict=True,
                )
            )  # fmt: skip
            for trunk in range(K):
                seen = [g for name, g in of.items() if f"convs.0.convs.{trunk}." in name]
                assert any(g is not None and bool(g.any()) for g in seen) == (trunk == group)
    losses = masked_bce(logits, batch.y, batch.observed)
    exact = task_gradients(losses, model.shared_parameters(), retain_graph=True).jacobian
    found = probe(model, batch, mode="full").jacobian
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("make", ["branches", "trunks"])
def test_heads_subsets_and_representation_gradients(make):
    model = {
        "branches": lambda: branch_model(SAGE(hidden_channels=W), 6, GROUPS),
        "trunks": lambda: trunk_model(SAGE(hidden_channels=W), 6, T, K, noise=1.0),
    }[make]()
    heads = model.heads.double()
    h = torch.randn(7, K * W, dtype=torch.float64, requires_grad=True)
    for tasks in ([4], [3, 0, 2], [], [1, 1]):
        torch.testing.assert_close(heads(h, tasks), heads(h)[:, tasks])
        torch.testing.assert_close(heads(h, torch.tensor(tasks).long()), heads(h)[:, tasks])
    tasks, residual = [3, 0, 2], torch.randn(7, 3, dtype=torch.float64)
    logits = heads(h, tasks)
    expected = [
        torch.autograd.grad(logits[:, s] @ residual[:, s], h, retain_graph=True)[0]
        for s in range(3)
    ]
    found = heads.representation_gradients(h.detach(), residual, torch.tensor(tasks))
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-12, atol=1e-12)


def test_pruning_keeps_the_logits(graph, batch_of):
    model = trunk_model(SAGE(hidden_channels=W), 6, T, 4, shared_layers=1, noise=1.0)
    with torch.no_grad():
        model.heads.alpha[:, 2] = 0.0  # nobody's best trunk
        model.heads.alpha[0, 3] = 9.0
    batch = batch_of(2)
    warm(model, batch)
    pruned = prune(model)
    assert pruned.encoder.num_trunks == len(set(model.heads.trunk_of())) <= 3
    torch.testing.assert_close(pruned(batch), model(batch))
    nodes = np.arange(60)
    np.testing.assert_allclose(
        exact_logits(pruned, graph, nodes), exact_logits(model, graph, nodes), rtol=1e-4, atol=1e-5
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert pruned(batch).any()  # independent of the model it came from


def test_the_regulator_scales_gradients_only(batch_of):
    """1/sqrt(K) on the way into the stem, 1/sqrt(T) into a trunk; the same logits."""
    grads = {}
    for regulate in (False, True):
        torch.manual_seed(0)
        model = trunk_model(
            SAGE(hidden_channels=W, dropout=0), 6, T, 4, shared_layers=1, regulate=regulate
        ).double()
        batch = replace(batch_of(2), x=batch_of(2).x.double())
        logits = model(batch)
        grads[regulate] = dict(
            zip(
                dict(model.named_parameters()),
                torch.autograd.grad(
                    logits.square().sum(), [*model.parameters()], allow_unused=True
                ),
                strict=True,
            )
        )
        grads[regulate]["logits"] = logits
    torch.testing.assert_close(grads[True].pop("logits"), grads[False].pop("logits"))
    for name, grad in grads[True].items():
        factor = {"encoder.convs.0": 1 / math.sqrt(4 * T), "encoder.norms.0": 1 / math.sqrt(4 * T)}
        scale = factor.get(name[:15], 1 / math.sqrt(T) if name.startswith("encoder") else 1.0)
        plain = grads[False][name]
        if plain is None:
            assert grad is None
        else:
            torch.testing.assert_close(grad, plain * scale, msg=name)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: trunk_model(MLP(), 6, T, 2), "Found MLPEncoder"),
        (lambda: trunk_model(SAGE(), 6, T, 0), "at least 1"),
        (lambda: trunk_model(SAGE(), 6, T, 2, shared_layers=2), "stem of 2 layers"),
        (lambda: Trunks([SAGE().build(6), SAGE(num_layers=3).build(6)]), "one depth and width"),
        (lambda: branch_model(SAGE(), 6, Grouping.of([[0, 1], [1]], 2)), "overlapping"),
        (lambda: prune(branch_model(SAGE(), 6, GROUPS)), "BranchHeads"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(UsageError, match=message):
        make()


@pytest.mark.parametrize("tasks", [[1, 3], [4, 0, 2], [2]])
@pytest.mark.parametrize("kind", ["branch", "trunk"])
def test_heads_of_some_tasks_keep_their_trunks(kind, tasks, batch_of):
    config = CONFIGS["sage"]
    model = (
        branch_model(config, 6, GROUPS)
        if kind == "branch"
        else trunk_model(config, 6, T, K, noise=0.5, regulate=True)
    )
    batch = batch_of(2)
    warm(model, batch)
    part = model.heads.select(tasks)
    h = model.encoder(batch)
    torch.testing.assert_close(part(h), model.heads(h)[:, tasks])
    ids, residual = torch.arange(len(tasks)), torch.randn(len(h), len(tasks))
    expected = torch.autograd.grad((part(h) * residual).sum(), h)[0]
    found = part.representation_gradients(h.detach(), residual, ids).sum(dim=0)
    torch.testing.assert_close(found, expected)
    if kind == "trunk":
        assert part.scale == 1 / math.sqrt(len(tasks))
