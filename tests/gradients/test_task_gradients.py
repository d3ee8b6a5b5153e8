"""One row per task: against plain autograd and finite differences in float64."""

import pytest
import torch

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.gradients import TaskGradients, task_gradients
from gnn_mtl.nn import masked_bce


@pytest.fixture
def losses_of(make_model, make_batch):
    """(function from nothing to the losses of tasks 4, 0, 3, 2; shared parameters)."""
    model, batch, tasks = make_model("sage", norm="layer").eval(), make_batch(), (4, 0, 3, 2)
    return (
        lambda: masked_bce(model(batch, tasks), batch.y, batch.observed, tasks),
        model.shared_parameters(),
    )


def test_equals_the_plain_loop(make_model, make_batch, oracle):
    model, batch = make_model("gat" + "v2", "mlp head"), make_batch()
    tasks = (4, 0, 3, 2)
    model.eval()
    losses = masked_bce(model(batch, tasks), batch.y, batch.observed, tasks)
    found = task_gradients(losses, model.shared_parameters(), tasks=tasks)
    expected = oracle(model, batch, model.shared_parameters(), tasks)
    torch.testing.assert_close(found.jacobian, expected, rtol=1e-10, atol=1e-12)
    assert found.tasks == tasks
    assert found.valid.tolist() == [True, True, False, True]  # task 3 has no label
    assert found.label_gradients == 4
    assert not found.jacobian.requires_grad


def test_equals_finite_differences(losses_of):
    losses, parameters = losses_of
    found = task_gradients(losses(), parameters).jacobian
    generator = torch.Generator().manual_seed(1)
    step = 1e-6
    for _ in range(10):
        directions = [
            torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters
        ]
        values = []
        for sign in (1, -2, 1):  # to +step, then to -step, then back
            with torch.no_grad():
                for parameter, direction in zip(parameters, directions, strict=True):
                    parameter.add_(direction, alpha=sign * step)
            values.append(losses().detach())
        slope = (values[0] - values[1]) / (2 * step)
        flat = torch.cat([d.flatten() for d in directions])
        torch.testing.assert_close(found @ flat, slope, rtol=1e-4, atol=1e-7)


def test_parameters_that_do_not_matter_or_do_not_train():
    used, unused, fixed = (torch.ones(2, requires_grad=True) for _ in range(3))
    fixed.requires_grad_(False)
    losses = torch.stack([used.sum(), (used * fixed).sum() * 2])
    found = task_gradients(losses, iter([unused, fixed, used]), retain_graph=True)
    assert found.jacobian.tolist() == [[0, 0, 1, 1], [0, 0, 2, 2]]
    assert found.tasks == (0, 1)
    losses.sum().backward()  # the graph was kept
    assert used.grad.tolist() == [3, 3]


def test_rows_that_are_zero_or_not_finite_are_invalid():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    for factor, valid in ((1.0, True), (0.0, False), (torch.nan, False), (torch.inf, False)):
        assert task_gradients(x.sum()[None] * factor, [x]).valid.tolist() == [valid]


def test_no_loss_gives_no_row():
    x = torch.ones(3, requires_grad=True)
    found = task_gradients(torch.zeros(0), [x])
    assert found.jacobian.shape == (0, 3)
    assert found.tasks == ()


def test_bad_arguments_are_refused():
    x = torch.ones(3, requires_grad=True)
    with pytest.raises(ShapeError, match="one loss per task"):
        task_gradients(x.sum(), [x])
    with pytest.raises(ShapeError, match="name 3 tasks"):
        task_gradients(x * 2, [x], tasks=(0, 1))
    for parameters in ([], [torch.ones(2)]):
        with pytest.raises(UsageError, match="at least one trainable"):
            task_gradients(x * 2, parameters)
    with pytest.raises(ShapeError, match="should have shape"):
        TaskGradients((0, 1), torch.zeros(3, 2), torch.ones(2, dtype=torch.bool))
    with pytest.raises(ShapeError, match="should have shape"):
        TaskGradients((0, 1), torch.zeros(2, 2), torch.ones(3, dtype=torch.bool))
