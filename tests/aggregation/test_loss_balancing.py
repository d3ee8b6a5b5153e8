"""Weights from losses: formulas, what is learned, windows, and state by task."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.aggregation import (
    DWA,
    EMTL,
    FAMO,
    IMTLL,
    SLAW,
    STCH,
    GeometricMean,
    GradNorm,
    RandomWeights,
    Uncertainty,
)
from gnn_mtl.aggregation._dwa import dwa_weights
from gnn_mtl.aggregation._slaw import slaw_weights

T = 6
METHODS = {
    "random_weights": RandomWeights(),
    "dirichlet": RandomWeights(distribution="dirichlet", concentration=0.3),
    "uncertainty": Uncertainty(lr=0.05),
    "regression": Uncertainty(likelihood="regression"),
    "imtl_l": IMTLL(lr=0.05),
    "dwa": DWA(window=2),
    "geometric_mean": GeometricMean(),
    "stch": STCH(),
    "stch_preferences": STCH(
        preference=(1, 2, 3, 4, 5, 6), ideal=(0.1, 0.0, 0.2, 0.1, 0.0, 0.3)
    ),
    "slaw": SLAW(beta=0.9),
    "famo": FAMO(),
    "gradnorm": GradNorm(),
    "gradnorm_log2": GradNorm(initial_loss="log2", alpha=0.5),
    "emtl": EMTL(),
}  # fmt: skip
by_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def visits(number, seed=0, num_tasks=T):
    """Changing sets of tasks with losses that fall, and a Gramian."""
    rng = np.random.default_rng(seed)
    for step in range(number):
        size = int(rng.integers(1, num_tasks + 1))
        tasks = rng.permutation(num_tasks)[:size].tolist()
        losses = torch.from_numpy(rng.uniform(0.1, 1.0, size) / (1 + step))
        rows = torch.from_numpy(rng.normal(size=(size, 4)))
        yield tasks, losses, rows @ rows.T


def visit(aggregator, tasks, losses, gramian):
    found = aggregator.weights(gramian, tasks=tasks, losses=losses)
    if aggregator.looks_after:
        aggregator.observe_after(losses * torch.linspace(0.5, 1.1, len(tasks)), tasks=tasks)
    return found


@by_method
def test_state_is_kept_by_task_and_a_resumed_one_goes_on_alike(method):
    straight, resumed = method.build(T, seed=3), method.build(T, seed=3)
    for step, given_ in enumerate(visits(16)):
        if step == 7:
            saved = straight.state_dict()
            kept = {k: v.clone() if torch.is_tensor(v) else v for k, v in saved.items()}
            resumed.load_state_dict(saved)
        before = {name: value.clone() for name, value in straight.state.items()}
        found = visit(straight, *given_)
        assert bool(((found >= 0) & found.isfinite()).all())
        rest = [task for task in range(T) if task not in given_[0]]
        for name, value in straight.state.items():
            assert value.shape == (T,)
            torch.testing.assert_close(
                value[rest], before[name][rest], rtol=0, atol=0, equal_nan=True
            )
        if step >= 7:
            assert torch.equal(visit(resumed, *given_), found)
    for name, value in kept.items():
        if torch.is_tensor(value):
            torch.testing.assert_close(saved[name], value, rtol=0, atol=0, equal_nan=True)


@by_method
def test_tasks_in_another_order_get_their_own_weights(method):
    one, other = method.build(T), method.build(T)
    for tasks, losses, gramian in visits(8):
        order = torch.from_numpy(np.random.default_rng(5).permutation(len(tasks)))
        found = one.weights(gramian, tasks=tasks, losses=losses)
        turned = other.weights(
            gramian[order][:, order], tasks=[tasks[i] for i in order], losses=losses[order]
        )
        torch.testing.assert_close(turned, found[order], rtol=1e-9, atol=1e-12)


@by_method
def test_the_head_and_the_direction_take_one_and_the_same_factor(method):
    aggregator = method.build(T)
    rows = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    other = method.build(T)
    losses = tensor(0.2, 0.5, 0.9)
    weights = aggregator.weights(rows @ rows.T, losses=losses)
    torch.testing.assert_close(other(rows, losses=losses), weights @ rows)
    assert aggregator.acts_on == "losses"


@pytest.mark.parametrize("number", [1, 500])
@by_method
def test_one_task_and_five_hundred(method, number):
    method = type(method)()
    aggregator = method.build(number)
    losses = torch.logspace(-9, 2, number, dtype=torch.float64)
    for _ in range(3):
        found = visit(aggregator, list(range(number)), losses, torch.diag(losses**2 + 1e-3))
        assert bool(found.isfinite().all())
        assert bool((found >= 0).all())
        assert float(found.sum()) > 0


LOSSES = st.lists(st.floats(1e-4, 10), min_size=1, max_size=6)


@given(LOSSES)
def test_geometric_mean_is_the_derivative_of_the_root_of_the_product(values):
    losses = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    total = losses.prod() ** (1 / len(values))
    (expected,) = torch.autograd.grad(total, losses)
    found = GeometricMean().build(6).weights(losses=losses)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)  # 1e-8 on a loss of 1e-4
    assert float(found @ losses.detach()) == pytest.approx(float(total.detach()), rel=1e-3)


@given(LOSSES, st.sampled_from([0.01, 0.1, 1.0]))
def test_stch_is_the_derivative_of_the_smooth_maximum(values, mu):
    losses = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    preference = torch.arange(1, len(values) + 1, dtype=torch.float64)
    ideal = torch.linspace(0, 0.1, len(values), dtype=torch.float64)
    share = preference / preference.mean()
    total = mu * torch.logsumexp(share * (losses - ideal) / mu, dim=0)
    (expected,) = torch.autograd.grad(total, losses)
    method = STCH(mu=mu, preference=tuple(preference.tolist()), ideal=tuple(ideal.tolist()))
    torch.testing.assert_close(method.build(len(values)).weights(losses=losses), expected)


def test_stch_by_hand():
    """At mu = 0.1 losses of 0.3 and 0.2 stand e to 1."""
    found = STCH(mu=0.1).build(2).weights(losses=tensor(0.3, 0.2))
    torch.testing.assert_close(found, tensor(math.e, 1) / (math.e + 1))
    found = STCH(mu=1e-3).build(3).weights(losses=tensor(0.3, 0.2, 0.9))
    torch.testing.assert_close(found, tensor(0, 0, 1))
    assert "permutation" in STCH().build(2).promises
    assert "permutation" not in STCH(preference=(1, 2)).build(2).promises


def test_torchjd_agrees_where_nothing_is_learned():
    scalarizers = pytest.importorskip("torchjd.scalarization")
    losses = tensor(0.7, 0.05, 0.3).requires_grad_()
    weight = tensor(0.5, 1.0, 1.5)
    for theirs, ours in (
        (scalarizers.GeometricMean(), GeometricMean()),
        (scalarizers.STCH(0.2, torch.ones(3)), STCH(mu=0.2)),
        (scalarizers.STCH(0.2, weight, 0.1 * weight), STCH(
            mu=0.2, preference=(1, 2, 3), ideal=(0.05, 0.1, 0.15)
        )),
    ):  # fmt: skip
        (expected,) = torch.autograd.grad(theirs(losses), losses)
        torch.testing.assert_close(
            ours.build(3).weights(losses=losses), expected, rtol=1e-6, atol=0
        )


@pytest.mark.parametrize(
    ("name", "method"),
    [("UW", Uncertainty(likelihood="regression", lr=0.03)), ("IMTLL", IMTLL(lr=0.03))],
)
def test_torchjd_and_torchs_adam_learn_the_same(name, method):
    scalarizer = getattr(pytest.importorskip("torchjd.scalarization"), name)(3).double()
    adam = torch.optim.Adam(scalarizer.parameters(), lr=0.03)
    aggregator = method.build(3)
    for step in range(30):
        losses = (tensor(0.7, 0.05, 3.0) / (1 + step / 10)).requires_grad_()
        adam.zero_grad()
        scalarizer(losses).backward()
        found = aggregator.weights(losses=losses)
        torch.testing.assert_close(found, losses.grad, rtol=1e-9, atol=0)
        adam.step()


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (Uncertainty(lr=0.05), lambda x: 1 / (2 * x)),  # s = log 2 L
        (Uncertainty(likelihood="regression", lr=0.05), lambda x: 1 / (2 * x)),  # s = log L, halved
        (IMTLL(lr=0.05), lambda x: 1 / x),  # s = -log L
    ],
)
def test_what_is_learned_settles_where_weighted_losses_are_alike(method, expected):
    aggregator, losses = method.build(3), tensor(0.5, 0.05, 4.0)
    assert torch.equal(aggregator.weights(losses=losses).log().diff(), tensor(0, 0))
    for _ in range(300):
        found = aggregator.weights(losses=losses)
    torch.testing.assert_close(found, expected(losses), rtol=1e-2, atol=0)
    for _ in range(250):  # a loss of zero may not take an infinite weight
        found = aggregator.weights(losses=tensor(0, 0, 0))
    assert float(found.max()) <= math.exp(6) * (1 + 1e-12)
    assert float(found.min()) >= 0.4 * math.exp(6)


def test_late_tasks_of_learned_weights_start_from_the_start():
    aggregator, fresh = Uncertainty().build(2), Uncertainty().build(2)
    for _ in range(40):
        aggregator.weights(tasks=[0], losses=tensor(0.1))
    for _ in range(5):
        found = aggregator.weights(tasks=[1], losses=tensor(0.1))
        assert torch.equal(found, fresh.weights(tasks=[0], losses=tensor(0.1)))


def test_random_weights_are_drawn_by_seed_and_call():
    for method in (RandomWeights(), RandomWeights(distribution="dirichlet")):
        one, other = method.build(T, seed=1), method.build(T, seed=2)
        drawn = [one.weights(losses=torch.ones(T)) for _ in range(1000)]
        assert not torch.equal(drawn[0], other.weights(losses=torch.ones(T)))
        assert not torch.equal(drawn[0], drawn[1])
        drawn = torch.stack(drawn)
        torch.testing.assert_close(drawn.sum(dim=1), torch.ones(1000, dtype=torch.float64))
        assert float((drawn.mean(dim=0) - 1 / T).abs().max()) < 0.03
    # Dirichlet(1) has variance (T - 1) / (T^2 (T + 1))
    assert float(drawn.var()) == pytest.approx((T - 1) / (T**2 * (T + 1)), rel=0.1)
    few = RandomWeights(distribution="dirichlet", concentration=1e-3).build(T)
    for _ in range(50):
        assert float(few.weights(tasks=[2, 4], losses=torch.ones(2)).sum()) == pytest.approx(1)


def test_a_tasks_luck_does_not_depend_on_its_company():
    alone, together = RandomWeights().build(T), RandomWeights().build(T)
    few = alone.weights(tasks=[1, 4], losses=torch.ones(2))
    many = together.weights(losses=torch.ones(T))[[1, 4]]
    torch.testing.assert_close(few, many / many.sum())


def test_dwa_by_hand():
    """Windows of two: means 2 then 1 (rate 1/2), and 2 then 2 (rate 1)."""
    aggregator = DWA(window=2).build(2)
    for losses in ((1.0, 1.0), (3.0, 3.0), (1.0, 2.0), (1.0, 2.0)):
        assert torch.equal(aggregator.weights(losses=tensor(*losses)), tensor(1, 1))
    e = torch.exp(tensor(0.25, 0.5))
    found = aggregator.weights(losses=tensor(9, 9))
    torch.testing.assert_close(found, 2 * e / e.sum())
    assert found[1] > found[0]
    torch.testing.assert_close(
        dwa_weights(tensor(1, 2, math.nan), tensor(1, 2, 5)), tensor(1, 1, 1)
    )


def test_dwa_is_torchjds_when_a_window_is_an_epoch():
    theirs = pytest.importorskip("torchjd.scalarization").DWA(temperature=1.5)
    ours = DWA(temperature=1.5, window=4).build(3)
    rng = np.random.default_rng(0)
    for step in range(24):
        losses = torch.from_numpy(rng.uniform(0.1, 1, 3)).requires_grad_()
        theirs(losses).backward()
        torch.testing.assert_close(ours.weights(losses=losses), losses.grad, rtol=1e-6, atol=0)
        if step % 4 == 3:
            theirs.step()


def test_dwa_turns_the_windows_of_every_task_by_its_own_visits():
    """Task 1 is visited four times less; its rate comes from its own two windows."""
    aggregator = DWA(window=1).build(2)
    for loss in (8.0, 4.0, 2.0, 1.0):
        aggregator.weights(tasks=[0], losses=tensor(loss))
    aggregator.weights(tasks=[1], losses=tensor(1.0))
    aggregator.weights(tasks=[1], losses=tensor(0.25))
    found = aggregator.weights(losses=tensor(1.0, 1.0))
    torch.testing.assert_close(found, 2 * torch.softmax(tensor(0.5, 0.25) / 2, dim=0))


def test_slaw_weighs_by_the_spread_of_recent_losses():
    beta, aggregator = 0.8, SLAW(beta=0.8).build(3)
    series = np.random.default_rng(1).normal(5, [0.1, 0.2, 1.0], size=(20, 3))
    mean, square = np.zeros(3), np.zeros(3)
    for step, losses in enumerate(series):
        found = aggregator.weights(losses=torch.from_numpy(losses))
        kept = step / (step + 1) if step < 5 else beta  # means of all up to 1 / (1 - 0.8) visits
        mean = kept * mean + (1 - kept) * losses
        square = kept * square + (1 - kept) * losses**2
        if step:
            inverse = 1 / np.sqrt(square - mean**2)
            np.testing.assert_allclose(found, 3 * inverse / inverse.sum(), rtol=1e-6)
        else:
            assert torch.equal(found, tensor(1, 1, 1))


def test_slaw_has_no_cancellation_and_new_tasks_leave_the_rest_alone():
    aggregator = SLAW().build(2)
    for step in range(6):
        found = aggregator.weights(losses=tensor(1e6 + 1e-4 * step, 1e6 + 1e-4 * (step % 2)))
    assert found[1] > 2 * found[0]  # 1e-4 apart at 1e6: squares would have lost it
    late = SLAW().build(3)
    for loss in (0.5, 0.4):
        late.weights(tasks=[0, 1], losses=tensor(loss, loss))
    torch.testing.assert_close(late.weights(losses=tensor(0.3, 0.3, 9)), tensor(1, 1, 1))
    torch.testing.assert_close(slaw_weights(tensor(1, 3, math.nan)), tensor(1.5, 0.5, 1))
    torch.testing.assert_close(slaw_weights(tensor(0, 1e-5)), tensor(1, 1))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: RandomWeights(distribution="uniform"), "normal, dirichlet"),
        (lambda: RandomWeights(concentration=0), "positive"),
        (lambda: Uncertainty(likelihood="poisson"), "classification, regression"),
        (lambda: Uncertainty(bound=-1), "positive"),
        (lambda: IMTLL(lr=math.nan), "positive"),
        (lambda: DWA(temperature=0), "positive"),
        (lambda: DWA(window=0), "1 or more"),
        (lambda: STCH(mu=0), "positive"),
        (lambda: STCH(preference=(1, -1)), "positive"),
        (lambda: STCH(ideal=(math.inf,)), "finite"),
        (lambda: SLAW(beta=1), r"\[0, 1\)"),
        (lambda: SLAW(eps=0), "positive"),
    ],
)
def test_options_are_checked(make, match):
    with pytest.raises(UsageError, match=match):
        make()


def test_options_by_label_need_one_each():
    for options in ({"preference": (1, 2)}, {"ideal": (0.0, 0.1)}):
        with pytest.raises(ShapeError, match="one number a task, 3"):
            STCH(**options).build(3)


@pytest.mark.parametrize("method", [GeometricMean(), DWA(), FAMO(), GradNorm(), EMTL()])
def test_negative_losses_are_refused_where_they_divide(method):
    with pytest.raises(UsageError, match=r"from 0 up.*-1"):
        method.build(2).weights(torch.eye(2), losses=tensor(1, -1))
