"""TAG, tried and to first order, against copies of the model that really step."""

import copy

import numpy as np
import pytest
import torch

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.affinity import (
    linear_look_ahead,
    look_ahead,
    loss_change,
    optimizer_rule,
    preconditioned_rule,
    relative_rule,
    sgd_rule,
    tag_affinity,
    tag_linear_affinity,
)
from gnn_mtl.nn import masked_bce

GOLDEN_TAG = [[0.095, 0.063333, -0.105], [0.09, 0.126667, -0.11], [-0.105, -0.07, 0.095]]
GOLDEN_LINEAR = [[0.1, 0.066667, -0.1], [0.1, 0.133333, -0.1], [-0.1, -0.066667, 0.1]]


def stepped_copy(model, batch, giver, make_optimizer):
    """Losses after one step on one task's loss, made by a copy of the model in evaluation mode."""
    twin = copy.deepcopy(model).eval()
    optimizer = make_optimizer(twin.shared_parameters())
    masked_bce(twin(batch), batch.y, batch.observed)[giver].backward()
    for parameter in twin.head_parameters():
        parameter.grad = None
    optimizer.step()
    with torch.no_grad():
        return masked_bce(twin(batch), batch.y, batch.observed)


def brute_force(model, batches, make_optimizer):
    """Mean over batches of ``1 - after / before``, ``[giver, recipient]``."""
    changes = []
    for batch in batches:
        with torch.no_grad():
            before = masked_bce(copy.deepcopy(model).eval()(batch), batch.y, batch.observed)
        after = [stepped_copy(model, batch, giver, make_optimizer) for giver in range(len(before))]
        changes.append(1 - torch.stack(after) / before)
    return torch.stack(changes).mean(0).numpy()


def test_golden_quadratics(quadratics):
    q = quadratics
    before, after = look_ahead(
        lambda shared: q.losses(shared[0], q.heads), [q.shared], q.lr * q.jacobian
    )
    np.testing.assert_allclose(loss_change(before, after), GOLDEN_TAG, atol=1e-6)
    steps = sgd_rule(q.lr)(q.jacobian)
    linear = linear_look_ahead(steps, q.jacobian, before)
    np.testing.assert_allclose(linear, GOLDEN_LINEAR, atol=1e-6)
    assert torch.equal(q.shared, torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("batch_size", [36, 12])
def test_tag_equals_copies_that_step(batch_size, make_model, make_batches):
    model, batches = make_model(), make_batches(batch_size=batch_size)
    found = tag_affinity(model, batches, lr=0.05)
    expected = brute_force(model, batches, lambda ps: torch.optim.SGD(ps, lr=0.05))
    np.testing.assert_allclose(found.values, expected, rtol=1e-9, atol=1e-13)
    assert not np.allclose(expected, expected.T)  # rows are givers
    assert (found.method, found.unit, found.symmetric) == ("tag", "relative_loss", False)
    assert (found.counts == len(batches)).all()
    assert np.isnan(found.stderr).all() == (len(batches) == 1)
    cost = found.details["cost"]
    assert cost["label_gradients"] == 5 * len(batches)
    assert cost["forwards"] >= (5 + 1) * len(batches)  # T look-aheads a batch


def test_linear_is_the_limit_of_small_steps(make_model, make_batches):
    model, batches = make_model(), make_batches()
    gaps = []
    for lr in (1e-1, 1e-2, 1e-3):
        tried = tag_affinity(model, batches, lr=lr).values
        linear = tag_linear_affinity(model, batches, lr=lr).values
        gaps.append(np.abs(tried - linear).max() / np.abs(linear).max())
    assert gaps[1] < 0.2 * gaps[0]
    assert gaps[2] < 0.2 * gaps[1] < 0.02


def test_linear_equals_finite_differences(make_model, make_batches):
    """Central differences of every recipient's loss along every giver's gradient."""
    model, (batch, *_) = make_model(), make_batches()
    model = model.eval()
    parameters = model.shared_parameters()
    losses = masked_bce(model(batch), batch.y, batch.observed)
    gradients = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses]
    expected = np.empty((5, 5))
    for giver, gradient in enumerate(gradients):
        moved = []
        for sign in (1e-6, -1e-6):
            twin = copy.deepcopy(model)
            with torch.no_grad():
                for p, g in zip(twin.shared_parameters(), gradient, strict=True):
                    p -= sign * g
                moved.append(masked_bce(twin(batch), batch.y, batch.observed))
        expected[giver] = ((moved[1] - moved[0]) / 2e-6 / losses).detach()
    found = tag_linear_affinity(model, [batch], lr=0.3).values
    np.testing.assert_allclose(found, 0.3 * expected, rtol=1e-5, atol=1e-9)
    plain = tag_linear_affinity(model, [batch], lr=0.3, relative=False).values
    np.testing.assert_allclose(
        plain, 0.3 * expected * losses.detach().numpy(), rtol=1e-5, atol=1e-9
    )


def trained(model, batches, make_optimizer, steps=3):
    """An optimizer with momentum from a few joint steps."""
    optimizer = make_optimizer(model.parameters())
    for batch in batches[:steps]:
        optimizer.zero_grad()
        masked_bce(model(batch), batch.y, batch.observed).sum().backward()
        optimizer.step()
    return optimizer


OPTIMIZERS = {
    "momentum": lambda ps: torch.optim.SGD(ps, lr=0.05, momentum=0.9, weight_decay=1e-2),
    "nesterov": lambda ps: torch.optim.SGD(ps, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda ps: torch.optim.Adam(ps, lr=0.01),
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=0.01, weight_decay=0.1),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_step_is_the_optimizers_own_with_its_momentum(kind, make_model, make_batches):
    """A port of TAG looks for the momentum where it never is and steps without."""
    model, batches = make_model(), make_batches()
    optimizer = trained(model, batches, OPTIMIZERS[kind])
    before = copy.deepcopy(optimizer.state_dict())
    weights = [p.detach().clone() for p in model.parameters()]
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    rule = optimizer_rule(optimizer, model.shared_parameters())
    found = tag_affinity(model, batches[:1], rule=rule)

    changes = []
    for giver in range(5):
        twin, other = copy.deepcopy((model.eval(), optimizer))
        other.zero_grad()
        masked_bce(twin(batches[0]), batches[0].y, batches[0].observed)[giver].backward()
        for parameter in twin.head_parameters():
            parameter.grad = None
        other.step()
        with torch.no_grad():
            start = masked_bce(model(batches[0]), batches[0].y, batches[0].observed)
            after = masked_bce(twin(batches[0]), batches[0].y, batches[0].observed)
        changes.append(1 - after / start)
    np.testing.assert_allclose(found.values, torch.stack(changes), rtol=1e-7, atol=1e-10)
    plain = tag_affinity(model, batches[:1], lr=optimizer.param_groups[0]["lr"]).values
    assert not np.allclose(found.values, plain, rtol=1e-2)

    after = optimizer.state_dict()
    for state, other in zip(before["state"].values(), after["state"].values(), strict=True):
        for name, value in state.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(other[name]))
    for p, weight, gradient in zip(model.parameters(), weights, gradients, strict=True):
        assert torch.equal(p, weight)
        assert p.grad is None if gradient is None else torch.equal(p.grad, gradient)


def test_white_box_term_of_etap_adds_torchs_velocity(quadratics):
    q = quadratics
    shared = torch.nn.Parameter(q.shared.clone())
    optimizer = torch.optim.SGD([shared], lr=q.lr, momentum=0.9)
    shared.grad = torch.tensor([0.5, -1.0], dtype=torch.float64)
    optimizer.step()
    velocity = optimizer.state[shared]["momentum_buffer"].clone()
    steps = optimizer_rule(optimizer, [shared])(q.jacobian)
    np.testing.assert_allclose(steps, q.lr * (q.jacobian + 0.9 * velocity), atol=1e-12)
    losses = q.losses(shared.detach(), q.heads)
    expected = q.lr * (q.jacobian + 0.9 * velocity) @ q.jacobian.T / losses
    np.testing.assert_allclose(linear_look_ahead(steps, q.jacobian, losses), expected, atol=1e-12)


def test_preconditioned_rule_is_linear_and_adams_without_momentum(make_model, make_batches):
    model, batches = make_model(), make_batches()
    optimizer = trained(model, batches, OPTIMIZERS["adam"])
    parameters = model.shared_parameters()
    rule = preconditioned_rule(optimizer, parameters)
    rows = torch.randn(3, sum(p.numel() for p in parameters), dtype=torch.float64)
    torch.testing.assert_close(rule(2 * rows), 2 * rule(rows))
    scale = []
    for p in parameters:
        state = optimizer.state[p]
        spread = (state["exp_avg_sq"] / (1 - 0.999 ** float(state["step"]))).sqrt() + 1e-8
        scale.append((0.01 / spread).flatten())
    torch.testing.assert_close(rule(rows), rows * torch.cat(scale))
    with pytest.raises(UsageError, match="second moment"):
        preconditioned_rule(torch.optim.Adam(parameters), parameters)
    with pytest.raises(UsageError, match="missing"):
        optimizer_rule(torch.optim.SGD(parameters[:1], lr=1.0), parameters)


def test_relative_steps_have_one_length():
    parameters = [torch.full((2, 2), 3.0), torch.zeros(5)]
    rows = torch.randn(4, 9) * torch.tensor([1e-6, 1.0, 1e3, 1.0])[:, None]
    steps = relative_rule(0.01, parameters)(rows)
    torch.testing.assert_close(steps.norm(dim=1), torch.full((4,), 0.06))
    torch.testing.assert_close(
        torch.cosine_similarity(steps, rows), torch.ones(4), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("estimate", [tag_affinity, tag_linear_affinity])
def test_nothing_is_left_behind(estimate, make_model, make_batches):
    """A port leaves batch-norm statistics of T extra forwards behind; adding steps back drifts."""
    model, batches = make_model(), make_batches()
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    first = estimate(model, batches)
    again = estimate(model, batches)
    np.testing.assert_array_equal(first.values, again.values)  # dropout would differ
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_only_the_giver_steps(make_model, make_batches):
    """A port steps on all tasks' loss whatever the giver: equal rows."""
    values = tag_affinity(make_model(), make_batches(), lr=0.05).values
    assert np.abs(values[0] - values[1]).max() > 1e-4


def test_batches_without_labels_or_positives_say_nothing(make_model, make_batches):
    model, batches = make_model(), make_batches(batch_size=6)
    found = tag_affinity(model, batches)
    positives = np.array(
        [[int((b.y[b.observed[:, t], t] > 0).sum()) for t in range(5)] for b in batches]
    )
    assert (positives == 0).any()
    assert (found.counts == (positives > 0).sum(0)).all()  # by column, whatever the giver
    strict = tag_affinity(model, batches, min_positives=3, min_observed=5)
    observed = np.array([b.observed.sum(0).tolist() for b in batches])
    assert (strict.counts == ((positives >= 3) & (observed >= 5)).sum(0)).all()
    # the mean is over what was measured, not over all batches
    kept = [b for b, p in zip(batches, positives, strict=True) if p[0] > 0]
    alone = tag_affinity(model, kept).values
    np.testing.assert_allclose(found.values[:, 0], alone[:, 0], rtol=1e-12)


def test_losses_near_zero_do_not_outweigh_the_rest():
    change = loss_change(
        np.array([1e-9, 1.0]), np.array([[2e-9, 0.5]]), floor=np.array([1e-2, 1e-2])
    )
    np.testing.assert_allclose(change, [[-1e-7, 0.5]])
    assert np.isnan(loss_change(np.array([0.0]), np.array([0.0]))).all()
    assert np.isnan(loss_change(np.array([np.nan]), np.array([1.0]))).all()
    np.testing.assert_allclose(loss_change(np.array([2.0]), np.array([0.5]), relative=False), [1.5])


def test_wrong_input(make_model, make_batches):
    model, batches = make_model(), make_batches()
    with pytest.raises(UsageError, match="at least one batch"):
        tag_affinity(model, [])
    for lr in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="lr"):
            tag_affinity(model, batches, lr=lr)
    with pytest.raises(UsageError, match="min_observed"):
        tag_linear_affinity(model, batches, min_observed=0)
    with pytest.raises(UsageError, match="share"):
        relative_rule(0.0, model.shared_parameters())
    with pytest.raises(ShapeError, match="same parameters"):
        look_ahead(lambda p: p[0], [torch.zeros(2)], torch.zeros(1, 3))
    with pytest.raises(ShapeError, match="steps"):
        linear_look_ahead(torch.zeros(1, 3), torch.zeros(2, 4), torch.ones(2))
    with pytest.raises(ShapeError, match="losses"):
        linear_look_ahead(torch.zeros(1, 3), torch.zeros(2, 3), torch.ones(3))
