"""EMTL: the inferred weights are the derivative of losses plus the variance of contributions."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gnn_mtl._core.errors import UsageError
from gnn_mtl.aggregation import EMTL


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def gramian(norms):
    return torch.diag(norms**2)


@given(
    st.lists(st.tuples(st.floats(0.05, 5), st.floats(0.05, 5)), min_size=1, max_size=6),
    st.floats(0, 3),
)
def test_weights_are_the_derivative_cut_off_at_zero(pairs, strength):
    losses, norms = torch.tensor(pairs, dtype=torch.float64).T
    losses, norms = losses / losses.mean(), norms / norms.mean()
    losses = losses.requires_grad_()
    total = losses.sum() + strength * (losses / norms).var(correction=0)
    expected = torch.autograd.grad(total, losses)[0].clamp(min=0)
    expected = expected * len(pairs) / expected.sum()
    found = EMTL(strength=strength).build(6).weights(7 * gramian(norms), losses=3 * losses)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_by_hand():
    """Losses 1 and 3 with equal norms, in units of their means 0.5 and 1.5: the variance of those
    has derivative -0.5 and 0.5, so 1 - 0.5 and 1 + 0.5 at strength 1."""
    found = EMTL().build(2).weights(gramian(tensor(2, 2)), losses=tensor(1, 3))
    torch.testing.assert_close(found, tensor(0.5, 1.5), rtol=1e-6, atol=0)
    found = EMTL(strength=5).build(2).weights(gramian(tensor(2, 2)), losses=tensor(1, 3))
    torch.testing.assert_close(found, tensor(0, 2))
    found = EMTL(strength=0).build(2).weights(gramian(tensor(2, 9)), losses=tensor(1, 3))
    torch.testing.assert_close(found, tensor(1, 1))


def test_equal_contributions_are_the_plain_sum():
    found = EMTL(strength=3).build(3).weights(gramian(tensor(1, 2, 4)), losses=tensor(3, 6, 12))
    torch.testing.assert_close(found, tensor(1, 1, 1))


def test_a_descent_on_it_evens_out_the_contributions():
    """Three quadratics: with the weights' gradient the spread of L / |g| falls below the sum's."""
    goals = torch.eye(3, dtype=torch.float64) * tensor(1, 4, 2)[:, None]
    spread = {}
    for strength in (0.0, 5.0):
        aggregator, x = EMTL(strength=strength).build(3), torch.zeros(3, dtype=torch.float64)
        for _ in range(200):
            rows = x - goals
            losses = rows.square().sum(dim=1) / 2
            x = x - 0.02 * (aggregator.weights(rows @ rows.T, losses=losses) @ rows)
        contribution = losses / rows.norm(dim=1)
        spread[strength] = float(contribution.std() / contribution.mean())
    assert spread[5.0] < 0.8 * spread[0.0]


def test_norms_that_are_worlds_apart_give_finite_weights():
    norms, losses = torch.logspace(-9, 2, 40, dtype=torch.float64), torch.ones(40)
    for strength in (0.1, 1.0, 1e6):
        found = EMTL(strength=strength).build(40).weights(gramian(norms), losses=losses)
        assert bool((found.isfinite() & (found >= 0)).all())
        assert float(found.sum()) == pytest.approx(40)
    zero = EMTL().build(2).weights(gramian(tensor(1, 2)), losses=tensor(0, 0))
    torch.testing.assert_close(zero, tensor(1, 1))


def test_it_says_that_it_is_experimental_and_checks_its_option():
    assert EMTL.__doc__.startswith("Experimental")
    for strength in (-1, math.nan):
        with pytest.raises(UsageError, match="from 0 up"):
            EMTL(strength=strength)
