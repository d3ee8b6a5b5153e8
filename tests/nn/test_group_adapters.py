"""Adapters per group: where they start, whom they serve, and that conflict stays measurable."""

import numpy as np
import pytest
import torch

from gnn_mtl._core.errors import FileFormatError, UsageError
from gnn_mtl.gradients import probe, task_gradients
from gnn_mtl.graph import NeighborLoader
from gnn_mtl.nn import (
    SAGE,
    AdapterHeads,
    Adapters,
    LabelModel,
    Linear,
    exact_logits,
    masked_bce,
    serving_groups,
)
from gnn_mtl.tasks import Grouping

T, D, B, R = 6, 5, 7, 3
GROUPS = ((0, 4), (1, 2, 5), (3,))


def moved(heads):
    """The same heads after their adapters have learned something."""
    with torch.no_grad():
        for adapter in heads.adapters:
            adapter.up.copy_(torch.randn_like(adapter.up))
    return heads


@pytest.fixture
def heads():
    return moved(AdapterHeads(D, T, GROUPS, rank=R).double())


@pytest.fixture
def h():
    return torch.randn(B, D, dtype=torch.float64)


def one_by_one(heads, h):
    """Each group's representation formed, then each task's head on it."""
    columns = torch.zeros(len(h), T, dtype=h.dtype)
    for adapter, group in zip(heads.adapters, GROUPS, strict=True):
        hidden = (h @ adapter.down.weight.T + adapter.down.bias).clamp(min=0)
        bent = h + hidden @ adapter.up.T
        for task in group:
            columns[:, task] = bent @ heads.weight[task] + heads.bias[task]
    return columns


def test_heads_read_the_bent_representation_of_their_group(heads, h):
    torch.testing.assert_close(heads(h), one_by_one(heads, h), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(heads(h), h @ heads.weight.T + heads.bias)


@pytest.mark.parametrize("tasks", [[0], [4, 1, 5], [], list(range(T)), [2, 2]])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_subset_is_its_columns(heads, h, tasks, as_tensor):
    chosen = torch.tensor(tasks, dtype=torch.int64) if as_tensor else tasks
    torch.testing.assert_close(heads(h, chosen), heads(h)[:, tasks])


def test_a_new_adapter_changes_no_bit():
    torch.manual_seed(1)
    plain = Linear().build(D, T)
    torch.manual_seed(1)
    heads = Adapters(groups=GROUPS).build(D, T)
    h = torch.randn(B, D)
    assert torch.equal(heads(h), plain(h))


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


def test_parameters_belong_to_tasks_or_groups(heads, h):
    """A task's logit reads row t and the adapter of its own group, and nothing else."""
    model = LabelModel(SAGE(hidden_channels=D).build(6), heads)
    every = {id(p) for p in model.parameters()}
    parts = [model.shared_parameters(), model.head_parameters(), model.group_parameters()]
    assert {id(p) for part in parts for p in part} == every
    assert sum(map(len, parts)) == len(every)
    assert all(len(p) == T for p in model.head_parameters())
    for t in range(T):
        grads = torch.autograd.grad(
            heads(h)[:, t].sum(), [*heads.parameters()], allow_unused=True, retain_graph=True
        )
        of = dict(zip([*heads.parameters()], grads, strict=True))
        for p in heads.task_parameters():
            assert not of[p][torch.arange(T) != t].any()
        for adapter, group in zip(heads.adapters, GROUPS, strict=True):
            touched = any(of[p] is not None and of[p].any() for p in adapter.parameters())
            assert touched == (t in group)


def test_exact_inference_and_probes(make_graph):
    graph = make_graph(60, num_tasks=T)
    model = LabelModel(
        SAGE(hidden_channels=D).build(6), moved(Adapters(groups=GROUPS, rank=R).build(D, T))
    )
    model.eval()
    batch = next(iter(NeighborLoader(graph, "train", num_neighbors=[-1, -1], batch_size=60)))
    nodes = batch.n_id[: batch.batch_size].numpy()
    np.testing.assert_allclose(
        exact_logits(model, graph, nodes), model(batch).detach().numpy(), rtol=1e-4, atol=1e-5
    )
    losses = masked_bce(model(batch), batch.y, batch.observed)
    for mode, parameters in {
        "full": model.shared_parameters(),
        "last_layer": model.encoder.final_parameters(),
    }.items():
        exact = task_gradients(losses, parameters, retain_graph=True).jacobian
        found = probe(model, batch, mode=mode).jacobian
        torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-6)


def test_overlap_is_refused_or_served_by_the_first():
    groups = Grouping.of([[0, 1], [1, 2], [2]], 3)
    with pytest.raises(UsageError, match="overlapping groups"):
        AdapterHeads(D, 3, groups)
    assert serving_groups(groups, 3, overlap="first") == (0, 0, 1)  # {2} is left without a task
    assert len(AdapterHeads(D, 3, groups, overlap="first").adapters) == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdapterHeads(D, 4, [[0, 1], [2]]), "Tasks .3. are in no group"),
        (lambda: AdapterHeads(D, 4, Grouping.of([[0, 1], [2]], 3)), "groups of 3"),
        (lambda: AdapterHeads(D, T, GROUPS, rank=0), "at least 1"),
        (lambda: AdapterHeads(D, T, GROUPS, overlap="all"), "refuse or first"),
        (lambda: Adapters(), "either `file`"),
        (lambda: Adapters(groups=GROUPS, rank=0), "at least 1"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_a_file_becomes_its_groups(tmp_path):
    file = tmp_path / "groups.json"
    Grouping.of(GROUPS, T).save(file)
    assert Adapters(file=str(file)) == Adapters(groups=Grouping.of(GROUPS, T).groups)
    file.write_text("{}")
    with pytest.raises(FileFormatError):
        Adapters(file=str(file))
    with pytest.raises(FileNotFoundError):
        Adapters(file=str(tmp_path / "none.json"))
