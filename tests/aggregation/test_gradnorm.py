"""GradNorm from the diagonal of the Gramian: against autograd's second derivatives."""

import math

import pytest
import torch

from gnn_mtl._core.errors import UsageError
from gnn_mtl.aggregation import GradNorm
from gnn_mtl.aggregation._gradnorm import gradnorm_gradient


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def gramian(*norms):
    return torch.diag(tensor(*norms) ** 2)


@pytest.mark.parametrize("alpha", [0.0, 0.12, 1.5])
def test_the_gradient_is_what_backward_through_the_norms_gives(alpha):
    """The paper's way: differentiate the network's gradient norms by the weights."""
    torch.manual_seed(0)
    x, y = torch.randn(20, 4, dtype=torch.float64), torch.randn(20, 3, dtype=torch.float64)
    y *= tensor(1, 5, 0.2)
    layer = torch.nn.Linear(4, 3).double()
    losses = (layer(x) - y).square().mean(dim=0)
    initial = tensor(2, 30, 0.5)
    weights = tensor(0.5, 0.7, 1.8).requires_grad_()
    norms = torch.stack(
        [
            torch.autograd.grad(w * loss, layer.weight, create_graph=True)[0].norm()
            for w, loss in zip(weights, losses, strict=True)
        ]
    )
    rate = (losses / initial).detach()
    target = norms.mean().detach() * (rate / rate.mean()) ** alpha
    (expected,) = torch.autograd.grad((norms - target).abs().sum(), weights)
    plain = (norms / weights).detach()
    found = gradnorm_gradient(weights.detach(), plain, rate, alpha)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


def test_alpha_0_evens_out_the_norms():
    aggregator, norms = GradNorm(alpha=0, lr=0.01).build(3), tensor(1, 2, 4)
    for _ in range(600):
        weights = aggregator.weights(gramian(*norms), losses=torch.ones(3))
        assert float(weights.sum()) == pytest.approx(3, rel=1e-9)
    weighted = weights * norms
    torch.testing.assert_close(weighted, weighted.mean().expand(3), rtol=0.05, atol=0)


def test_equal_tasks_keep_equal_weights_to_the_bit():
    aggregator = GradNorm().build(3)
    for step in range(50):
        found = aggregator.weights(
            gramian(0.1 + step, 0.1 + step, 0.1 + step), losses=torch.full((3,), 0.7 / (step + 1))
        )
        torch.testing.assert_close(found, tensor(1, 1, 1), rtol=0, atol=1e-12)


def test_rounding_is_no_reason_to_move():
    for size in range(1, 60):
        same = torch.full((size,), 0.1, dtype=torch.float64)
        assert not gradnorm_gradient(same, same, same).any()


def test_a_slow_task_is_pulled_along():
    """Equal norms; task 1's loss has not moved, the others' are down to a fifth."""
    aggregator = GradNorm(alpha=1.5).build(3)
    first = aggregator.weights(gramian(1, 1, 1), losses=torch.ones(3))
    torch.testing.assert_close(first, tensor(1, 1, 1))
    for _ in range(10):
        found = aggregator.weights(gramian(1, 1, 1), losses=tensor(0.2, 1, 0.2))
    assert found[1] > 1.1
    assert found[0] == found[2] < 1


def test_progress_is_measured_from_the_first_loss_of_the_task_or_from_log_2():
    first = GradNorm().build(2)
    first.weights(gramian(1), tasks=[1], losses=tensor(0.3))
    assert math.isnan(first.state["initial"][0])
    first.weights(gramian(1, 1), losses=tensor(0.9, 0.1))
    torch.testing.assert_close(first.state["initial"], tensor(0.9, 0.3), rtol=1e-6, atol=0)
    fixed = GradNorm(initial_loss="log2").build(2)
    fixed.weights(gramian(1, 1), losses=tensor(0.9, 0.1))
    torch.testing.assert_close(fixed.state["initial"], tensor(math.log(2), math.log(2)))


def test_the_weights_of_all_tasks_sum_to_their_number_in_changing_groups():
    aggregator = GradNorm(alpha=0, lr=0.1).build(6)
    groups = [[0, 1, 2], [3, 4], [5], [0, 3]]
    for step in range(40):
        group = groups[step % 4]
        before = aggregator.state["weights"].clone()
        norms = tensor(1, 10, 0.1, 2, 5, 7)[group]
        found = aggregator.weights(gramian(*norms), tasks=group, losses=torch.ones(len(group)))
        assert torch.equal(found, before[group])
        assert float(aggregator.state["weights"].sum()) == pytest.approx(6, rel=1e-12)
    assert aggregator.state["weights"][5] == 1
    assert float(aggregator.state["weights"].min()) > 0
    assert aggregator.state["weights"][1] < aggregator.state["weights"][0]


def test_units_of_the_gradients_do_not_matter():
    one, other = GradNorm().build(3), GradNorm().build(3)
    for step in range(20):
        losses = tensor(1, 0.5, 2) / (1 + tensor(0, 1, 2) * step)
        a = one.weights(gramian(1, 2, 3), losses=losses)
        b = other.weights(1e-8 * gramian(1, 2, 3), losses=losses)
        torch.testing.assert_close(a, b, rtol=1e-9, atol=0)
    assert float(a.std()) > 0.1


def test_a_task_without_a_gradient_takes_no_part():
    aggregator = GradNorm().build(3)
    before = {name: value.clone() for name, value in aggregator.state.items()}
    for _ in range(3):
        found = aggregator.weights(gramian(1, 0, 3), losses=torch.ones(3))
    assert found[1] == 1
    for name, value in aggregator.state.items():
        torch.testing.assert_close(value[1], before[name][1], rtol=0, atol=0, equal_nan=True)
    assert found[0] > 1 > found[2]


@pytest.mark.parametrize(
    ("options", "match"),
    [({"alpha": -1}, "from 0 up"), ({"lr": 0}, "positive"), ({"initial_loss": "last"}, "log2")],
)
def test_options_are_checked(options, match):
    with pytest.raises(UsageError, match=match):
        GradNorm(**options)
    with pytest.raises(UsageError, match="Gramian"):
        GradNorm().build(2).weights(losses=torch.ones(2))
