"""Rows of active tasks move as torch's Adam moves them; rows of the others do not move at all."""

import itertools
import math

import pytest
import torch
from torch import nn

from gnn_mtl._core.errors import UsageError
from gnn_mtl.training import TaskRowAdam, lr_factor

T = 4
SHAPES = [(T, 6), (T,), (T, 3, 2)]
KINDS = [(False, 0.0), (False, 0.1), (True, 0.0), (True, 0.1)]


@pytest.fixture(params=KINDS, ids=lambda k: f"{'adamw' if k[0] else 'adam'} {k[1]}")
def kind(request):
    return request.param


def new_parameters(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(s, generator=generator, dtype=dtype)) for s in SHAPES]


def gradients(step, dtype=torch.float32):
    generator = torch.Generator().manual_seed(100 + step)
    scale = 10.0 ** (step % 5 - 3)
    return [scale * torch.randn(s, generator=generator, dtype=dtype) for s in SHAPES]


def torch_adam(parameters, kind, lr):
    decoupled, weight_decay = kind
    return (torch.optim.AdamW if decoupled else torch.optim.Adam)(
        parameters, lr=lr, weight_decay=weight_decay
    )


def ours(parameters, kind, lr):
    return TaskRowAdam(parameters, lr, weight_decay=kind[1], decoupled=kind[0])


def set_gradients(parameters, grads):
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = grad.clone()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
def test_all_active_is_torch_adam(kind, dtype, tolerance):
    mine, theirs = new_parameters(dtype), new_parameters(dtype)
    optimizer, oracle = ours(mine, kind, 1e-2), torch_adam(theirs, kind, 1e-2)
    for step in range(200):
        lr = 1e-2 * (1 - step / 400)
        optimizer.lr = oracle.param_groups[0]["lr"] = lr
        set_gradients(mine, gradients(step, dtype))
        set_gradients(theirs, gradients(step, dtype))
        optimizer.step(range(T))
        oracle.step()
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_each_row_is_torch_adam_over_the_steps_of_its_task(kind):
    """Task 0 is always active, the others at their own times."""
    active = [
        tuple(t for t in range(T) if t == 0 or (step * (t + 2)) % 3 == 0) for step in range(200)
    ]
    mine = new_parameters(torch.float64)
    optimizer = ours(mine, kind, 1e-2)
    for step, tasks in enumerate(active):
        set_gradients(mine, gradients(step, torch.float64))
        optimizer.step(tasks)
    for task in range(T):
        rows = [nn.Parameter(p[task].detach().clone()) for p in new_parameters(torch.float64)]
        oracle = torch_adam(rows, kind, 1e-2)
        for step, tasks in enumerate(active):
            if task in tasks:
                set_gradients(rows, [g[task] for g in gradients(step, torch.float64)])
                oracle.step()
        for parameter, row in zip(mine, rows, strict=True):
            torch.testing.assert_close(parameter[task], row.detach(), rtol=0, atol=1e-7)


def test_inactive_rows_are_bitwise_unchanged(kind):
    parameters = new_parameters()
    optimizer = ours(parameters, kind, 1e-2)
    set_gradients(parameters, gradients(0))
    optimizer.step(range(T))  # everybody has moments now

    def rows(task):
        tensors = [*parameters, *optimizer.first, *optimizer.second, optimizer.steps]
        return [t[task].detach().clone() for t in tensors]

    for step, tasks in enumerate([(2,), (0, 3), (), (3, 1)], start=1):
        before = [rows(task) for task in range(T)]
        set_gradients(parameters, gradients(step))
        for parameter in parameters:  # what an inactive row's gradient holds is not read
            parameter.grad[[task for task in range(T) if task not in tasks]] = torch.nan
        optimizer.step(tasks)
        for task in range(T):
            after = rows(task)
            same = [torch.equal(a, b) for a, b in zip(before[task], after, strict=True)]
            assert not any(same) if task in tasks else all(same), (step, task)
    assert optimizer.steps.tolist() == [2, 2, 2, 3]


def test_order_and_repetition_of_the_tasks_do_not_matter(kind):
    results = []
    for tasks in ((1, 3), (3, 1), (3, 1, 1, 3)):
        parameters = new_parameters()
        optimizer = ours(parameters, kind, 1e-2)
        set_gradients(parameters, gradients(0))
        optimizer.step(tasks)
        results.append([*parameters, optimizer.steps])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_state_goes_on_exactly(kind):
    def run(parameters, optimizer, steps):
        for step in steps:
            set_gradients(parameters, gradients(step))
            optimizer.step((step % T, 3))

    straight = new_parameters()
    run(straight, ours(straight, kind, 1e-2), range(20))
    first = new_parameters()
    optimizer = ours(first, kind, 1e-2)
    run(first, optimizer, range(10))
    state = {name: tensor.clone() for name, tensor in optimizer.state_dict().items()}
    second = [nn.Parameter(p.detach().clone()) for p in first]
    resumed = ours(second, kind, 1e-2)
    resumed.load_state_dict(state)
    run(second, resumed, range(10, 20))
    assert all(torch.equal(a, b) for a, b in zip(straight, second, strict=True))


def test_parameters_without_a_gradient_stay():
    parameters = new_parameters()
    before = [p.detach().clone() for p in parameters]
    optimizer = TaskRowAdam(parameters, 1e-2, weight_decay=0.1)
    set_gradients(parameters, gradients(0))
    parameters[1].grad = None
    optimizer.step(range(T))
    assert torch.equal(parameters[1], before[1])
    assert not torch.equal(parameters[0], before[0])
    optimizer.zero_grad()
    assert all(p.grad is None for p in parameters)


@pytest.mark.gpu
def test_cuda_equals_cpu(kind):
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    here = new_parameters()
    there = [nn.Parameter(p.detach().cuda()) for p in here]
    optimizers = ours(here, kind, 1e-2), ours(there, kind, 1e-2)
    for step in range(30):
        set_gradients(here, gradients(step))
        set_gradients(there, [g.cuda() for g in gradients(step)])
        for optimizer in optimizers:
            optimizer.step((step % T, 1))
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(a, b.cpu(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "parameters", [[], [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(4))]]
)
def test_bad_parameters_are_refused(parameters):
    with pytest.raises(UsageError, match=r"`parameters`|first dimension"):
        TaskRowAdam(parameters, 1e-2)


def test_lr_factor():
    warm = [lr_factor(s, 100, schedule="cosine", warmup_steps=4) for s in range(4)]
    assert warm == [0.25, 0.5, 0.75, 1.0]
    for schedule, middle in (("constant", 1.0), ("linear", 0.5), ("cosine", 0.5)):
        factors = [lr_factor(s, 104, schedule=schedule, warmup_steps=4) for s in range(4, 104)]
        assert factors[0] == 1.0
        assert math.isclose(factors[50], middle)
        assert all(a >= b for a, b in itertools.pairwise(factors))
    assert math.isclose(lr_factor(54, 104, schedule="linear", warmup_steps=4), 0.5)
    quarter = 0.5 * (1 + math.cos(math.pi / 4))
    assert math.isclose(lr_factor(25, 100, schedule="cosine"), quarter)
    assert lr_factor(100, 100, schedule="linear") == lr_factor(500, 100, schedule="linear") == 0.0
    assert lr_factor(7, 5, schedule="cosine", warmup_steps=9) == 8 / 9
    with pytest.raises(UsageError, match="lr_schedule"):
        lr_factor(0, 1, schedule="step")
