"""Heads: one row per task, and what a task does to the representation."""

import pytest
import torch

from gnn_mtl._core.errors import UsageError
from gnn_mtl.nn import SAGE, LabelModel, Linear, MLPHead, MLPHeads

T, D, B = 6, 5, 7
CONFIGS = [Linear(), MLPHead(hidden_channels=3), MLPHead(hidden_channels=1)]


@pytest.fixture(params=CONFIGS, ids=["linear", "mlp", "mlp 1"])
def heads(request):
    return request.param.build(D, T).double()


@pytest.fixture
def h():
    return torch.randn(B, D, dtype=torch.float64)


def one_by_one(heads, h):
    """The heads as separate networks, task by task and node by node."""
    columns = []
    for t in range(T):
        if hasattr(heads, "weight"):
            columns.append(torch.stack([h[b] @ heads.weight[t] + heads.bias[t] for b in range(B)]))
            continue
        hidden = torch.stack([(heads.weight_in[t] @ row + heads.bias_in[t]).relu() for row in h])
        columns.append(hidden @ heads.weight_out[t] + heads.bias_out[t])
    return torch.stack(columns, dim=1)


def test_logits(heads, h):
    torch.testing.assert_close(heads(h), one_by_one(heads, h))


@pytest.mark.parametrize("tasks", [[0], [4, 1, 5], [], list(range(T)), [2, 2]])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_subset_is_its_columns(heads, h, tasks, as_tensor):
    chosen = torch.tensor(tasks, dtype=torch.int64) if as_tensor else tasks
    torch.testing.assert_close(heads(h, chosen), heads(h)[:, tasks])


@pytest.mark.parametrize("tasks", [[0], [4, 1, 5], list(range(T))])
def test_selected_heads_are_copies_of_their_rows(heads, h, tasks):
    part = heads.select(tasks)
    assert part.num_tasks == len(tasks)
    torch.testing.assert_close(part(h), heads(h)[:, tasks])
    before = heads(h).detach()
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.zero_()
    assert torch.equal(heads(h), before)


def test_rows_belong_to_tasks(heads, h):
    """A task's logit reads row t of every parameter and no other."""
    for t in range(T):
        grads = torch.autograd.grad(heads(h)[:, t].sum(), list(heads.parameters()))
        for grad in grads:
            assert len(grad) == T
            others = torch.arange(T) != t
            assert not grad[others].any()
        assert any(grad[t].any() for grad in grads)


@pytest.mark.parametrize("tasks", [[0], [5, 2, 3], list(range(T))])
def test_representation_gradients_equal_autograd(heads, h, tasks):
    h.requires_grad_()
    residual = torch.randn(B, len(tasks), dtype=torch.float64)
    logits = heads(h, tasks)
    expected = torch.stack(
        [
            torch.autograd.grad(logits[:, s] @ residual[:, s], h, retain_graph=True)[0]
            for s in range(len(tasks))
        ]
    )
    found = heads.representation_gradients(h.detach(), residual, torch.tensor(tasks))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_an_mlp_head_needs_a_hidden_unit():
    with pytest.raises(UsageError, match="hidden_channels"):
        MLPHeads(D, T, 0)


@pytest.mark.parametrize("config", [Linear(), MLPHead()], ids=["linear", "mlp"])
def test_the_partition_is_disjoint_and_complete(config):
    encoder = SAGE(hidden_channels=D).build(4)
    model = LabelModel(encoder, config.build(D, T))
    shared = {id(p) for p in model.shared_parameters()}
    heads = {id(p) for p in model.head_parameters()}
    assert not shared & heads
    assert shared | heads == {id(p) for p in model.parameters()}
    assert all(len(p) == T == model.num_tasks for p in model.head_parameters())


def test_parameters_that_do_not_train_are_in_no_part():
    encoder = SAGE(hidden_channels=D).build(4)
    model = LabelModel(encoder, Linear().build(D, T))
    encoder.requires_grad_(False)
    model.heads.bias.requires_grad_(False)
    assert model.shared_parameters() == []
    assert [p.shape for p in model.head_parameters()] == [(T, D)]
