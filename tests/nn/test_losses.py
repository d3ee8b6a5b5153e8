"""``masked_bce`` against scikit-learn's log loss, label by label."""

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from gnn_mtl._core.errors import ShapeError
from gnn_mtl.nn import masked_bce

B, T = 30, 5


@pytest.fixture
def cells():
    """(logits, y with NaN where unobserved, observed); task 3 is never observed."""
    rng = np.random.default_rng(0)
    observed = torch.from_numpy(rng.random((B, T)) < 0.7)
    observed[:, 3] = False
    y = torch.from_numpy((rng.random((B, T)) < 0.4).astype(np.float32))
    y[~observed] = torch.nan
    logits = torch.from_numpy(rng.normal(0, 2, (B, T))).requires_grad_()
    return logits, y, observed


def oracle(logits, y, observed, task, pos_weight=1.0):
    seen = observed[:, task].numpy()
    label = y[:, task].numpy()[seen]
    chance = torch.sigmoid(logits[:, task]).detach().numpy()[seen]
    weight = np.where(label == 1, pos_weight, 1.0)
    total = log_loss(label, chance, sample_weight=weight, normalize=False, labels=[0, 1])
    return total / seen.sum()


def test_equals_scikit_learn_and_missing_cells_do_not_count(cells):
    logits, y, observed = cells
    losses = masked_bce(logits, y, observed)
    for task in (0, 1, 2, 4):
        np.testing.assert_allclose(losses[task].item(), oracle(*cells, task), rtol=1e-10)
    assert losses[3].item() == 0.0
    losses.sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad[~observed].any()
    assert logits.grad[observed].all()


def test_positive_weights(cells):
    logits, y, observed = cells
    weights = torch.tensor([1.0, 2.5, 7.0, 3.0, 0.5])
    losses = masked_bce(logits, y, observed, pos_weight=weights)
    for task in (0, 1, 2, 4):
        expected = oracle(*cells, task, float(weights[task]))
        np.testing.assert_allclose(losses[task].item(), expected, rtol=1e-6)
    some = masked_bce(logits[:, [4, 1]], y, observed, [4, 1], pos_weight=weights)
    torch.testing.assert_close(some, losses[[4, 1]])


@pytest.mark.parametrize("tasks", [(0,), (4, 1), (2, 3, 0), (), tuple(range(T))])
def test_a_subset_of_tasks(cells, tasks):
    logits, y, observed = cells
    everything = masked_bce(logits, y, observed)
    chosen = masked_bce(logits[:, list(tasks)], y, observed, tasks)
    torch.testing.assert_close(chosen, everything[list(tasks)])
    torch.testing.assert_close(masked_bce(logits, y, observed, tasks), chosen)
    assert masked_bce(logits, y, observed, torch.tensor(tasks).long()).shape == (len(tasks),)


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, 37.0])
def test_hidden_targets_are_never_read(cells, poison):
    logits, y, observed = cells
    other = torch.where(observed, y, poison)
    assert torch.equal(masked_bce(logits, other, observed), masked_bce(logits, y, observed))


def test_each_task_has_the_gradient_of_its_own_mean(cells):
    logits, y, observed = cells
    (grad,) = torch.autograd.grad(masked_bce(logits, y, observed).sum(), logits)
    count = observed.sum(dim=0).clamp(min=1)
    expected = torch.where(observed, torch.sigmoid(logits) - y.nan_to_num(), 0.0) / count
    torch.testing.assert_close(grad, expected)


def test_large_logits_stay_finite():
    logits = torch.tensor([[500.0, -500.0]], requires_grad=True)
    losses = masked_bce(logits, torch.tensor([[0.0, 1.0]]), torch.ones(1, 2, dtype=torch.bool))
    assert losses.tolist() == [500.0, 500.0]
    losses.sum().backward()
    assert logits.grad.tolist() == [[1.0, -1.0]]


@pytest.mark.parametrize(
    ("change", "tasks", "message"),
    [
        ({"y": (B, T + 1)}, None, r"\[B, T\]"),
        ({"y": (B * T,), "observed": (B * T,)}, None, r"\[B, T\]"),
        ({"logits": (B - 1, T)}, None, "as many rows"),
        ({"logits": (B, T - 1)}, None, "one column per task"),
        ({"logits": (B, 2)}, (0, 1, 2), "one column per task, 3"),
    ],
)
def test_shapes_are_checked(change, tasks, message):
    shapes = {"logits": (B, T), "y": (B, T), "observed": (B, T)} | change
    with pytest.raises(ShapeError, match=message):
        masked_bce(
            torch.zeros(shapes["logits"]), torch.zeros(shapes["y"]),
            torch.ones(shapes["observed"], dtype=torch.bool), tasks,
        )  # fmt: skip
