"""FAMO: its convex combination, its logits, and whose losses after an update it takes."""

import math

import pytest
import torch

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.aggregation import FAMO, Uncertainty
from gnn_mtl.aggregation._famo import famo_gradient, famo_weights


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_torchjd_agrees_over_a_training():
    scalarizer = pytest.importorskip("torchjd.scalarization").FAMO(3).double()
    aggregator = FAMO().build(3)
    x = tensor(1.0, -2.0).requires_grad_()
    goals = torch.tensor([[1.0, 1.0], [-1.0, 0.5], [3.0, 0.0]], dtype=torch.float64)
    scales = tensor(0.01, 1.0, 20.0)

    def losses():
        return scales * (x - goals).square().sum(dim=1)

    for _ in range(40):
        before = losses()
        (expected,) = torch.autograd.grad(scalarizer(before), x, retain_graph=True)
        weights = aggregator.weights(losses=before)
        (found,) = torch.autograd.grad(weights @ before, x)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=0)
        with torch.no_grad():
            x -= 0.05 * found
        scalarizer.update(losses())
        aggregator.observe_after(losses(), tasks=range(3))
        torch.testing.assert_close(
            aggregator.state["logits"], scalarizer._w.detach(), rtol=1e-8, atol=1e-12
        )
    assert float(aggregator.state["logits"].std()) > 0.01


def test_weights_by_hand():
    """Equal logits: 1/0.1 to 1/0.4, that is 4 to 1."""
    torch.testing.assert_close(famo_weights(tensor(0.1, 0.4), tensor(0, 0)), tensor(0.8, 0.2))
    weights = famo_weights(tensor(0.1, 0.4, 0.0), tensor(0, math.log(4), 0))
    assert float(weights.sum()) == pytest.approx(1)
    assert float(weights[2]) > 1 - 1e-6
    # e^700 to 1, and losses of 0: nothing overflows
    assert bool(famo_weights(tensor(0, 1e9), tensor(-700, 700)).isfinite().all())


def test_the_gradient_is_that_of_the_softmax():
    logits = tensor(0.3, -1, 2).requires_grad_()
    before, after = tensor(1, 2, 3), tensor(0.5, 2.5, 1)
    shares = torch.softmax(logits, dim=0)
    (expected,) = torch.autograd.grad(shares @ (before / after).log(), logits)
    found = famo_gradient(logits.detach(), before, after)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_who_improved_less_gets_a_larger_logit():
    aggregator = FAMO().build(4)
    for _ in range(3):
        aggregator.weights(tasks=[3, 1], losses=tensor(1, 1))
        aggregator.observe_after(tensor(0.9, 0.5), tasks=[3, 1])
    logits = aggregator.state["logits"]
    assert logits[3] > 0 > logits[1]
    assert torch.equal(logits[[0, 2]], tensor(0, 0))


def test_losses_in_other_units_change_no_share():
    one, other = FAMO().build(3), FAMO().build(3)
    units = tensor(1, 100, 0.1)
    for step in range(5):
        losses, after = tensor(0.5, 1, 2) / (1 + step), tensor(0.4, 0.9, 2.1) / (1 + step)
        a, b = one.weights(losses=losses), other.weights(losses=losses * units)
        b = b * units
        torch.testing.assert_close(b / b.sum(), a, rtol=1e-5, atol=0)
        one.observe_after(after, tasks=range(3))
        other.observe_after(after * units, tasks=range(3))
    torch.testing.assert_close(one.state["logits"], other.state["logits"], rtol=1e-4, atol=1e-8)


def test_losses_after_come_in_any_order_and_without_those_that_broke():
    one, other = FAMO().build(5), FAMO().build(5)
    for aggregator in (one, other):
        aggregator.weights(tasks=[4, 0, 2], losses=tensor(1, 2, 3))
    one.observe_after(tensor(0.5, 1.9, 2), tasks=[4, 0, 2])
    other.observe_after(tensor(2, 0.5, 1.9), tasks=[2, 4, 0])
    assert torch.equal(one.state["logits"], other.state["logits"])
    moved = one.state["logits"].clone()
    one.weights(tasks=[4, 0, 2], losses=tensor(1, 2, 3))
    one.observe_after(tensor(0.5, math.nan, 2.9), tasks=[4, 0, 2])
    assert one.state["logits"][0] == moved[0]
    assert one.state["logits_steps"].tolist() == [1, 0, 2, 0, 2]
    one.weights(tasks=[1], losses=tensor(1))
    one.observe_after(tensor(math.inf), tasks=[1])
    assert one.state["logits_steps"][1] == 0


def test_only_the_losses_of_the_last_weights_are_taken_and_only_once():
    aggregator = FAMO().build(3)
    with pytest.raises(UsageError, match="asked for last, once"):
        aggregator.observe_after(tensor(1, 1), tasks=[0, 1])
    aggregator.weights(tasks=[0, 1], losses=tensor(1, 1))
    for tasks in ([0, 2], [0], [0, 1, 2]):
        with pytest.raises(UsageError, match="same batch"):
            aggregator.observe_after(torch.ones(len(tasks)), tasks=tasks)
    with pytest.raises(ShapeError, match=r"\[2\]"):
        aggregator.observe_after(torch.ones(3), tasks=[0, 1])
    with pytest.raises(UsageError, match="distinct"):
        aggregator.observe_after(torch.ones(2), tasks=[0, 0])
    assert torch.equal(aggregator.state["logits"], torch.zeros(3, dtype=torch.float64))
    aggregator.observe_after(tensor(0.5, 1), tasks=[1, 0])
    with pytest.raises(UsageError, match="once"):
        aggregator.observe_after(tensor(0.5, 1), tasks=[1, 0])
    aggregator.weights(tasks=[0, 1], losses=tensor(1, 1))
    aggregator.load_state_dict(aggregator.state_dict())
    with pytest.raises(UsageError, match="once"):
        aggregator.observe_after(tensor(0.5, 1), tasks=[1, 0])


def test_methods_that_do_not_look_after_say_so():
    assert FAMO().build(2).looks_after
    assert not Uncertainty().build(2).looks_after
    with pytest.raises(UsageError, match="does not look"):
        Uncertainty().build(2).observe_after(tensor(1), tasks=[0])


@pytest.mark.parametrize("options", [{"lr": 0}, {"weight_decay": -1}, {"lr": math.inf}])
def test_options_are_checked(options):
    with pytest.raises(UsageError, match="should be a"):
        FAMO(**options)
