"""The tolerance over time: its ends, its shape, and what it refuses."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnn_mtl._core.errors import UsageError
from gnn_mtl.schedulers import Coloring, ColoringScheduler, TauSchedule


@pytest.mark.parametrize(
    ("kind", "halfway"),
    [("log", 0.5), ("linear", 0.625), ("cosine", 0.625)],
)
def test_values_along_the_way(kind, halfway):
    tau = TauSchedule(kind=kind, initial=1.0, target=0.25, warmup_steps=100, anneal_steps=400)
    assert [tau.at(step) for step in (0, 99, 100)] == [1.0] * 3
    assert tau.at(300) == pytest.approx(halfway)
    assert [tau.at(step) for step in (500, 501, 10**6)] == [0.25] * 3
    assert not tau.is_settled(499)
    assert tau.is_settled(500)


def test_log_is_geometric():
    tau = TauSchedule(kind="log", initial=0.8, target=0.1, anneal_steps=300)
    assert tau.at(200) / tau.at(100) == pytest.approx(tau.at(100) / tau.at(0))
    assert tau.at(100) == pytest.approx(0.4)


def test_cosine_starts_and_ends_flat():
    tau = TauSchedule(kind="cosine", anneal_steps=1000)
    assert 1.0 - tau.at(10) < 1e-3
    assert tau.at(990) - 0.25 < 1e-3
    assert tau.at(250) == pytest.approx(1.0 - 0.75 * (1 - math.sqrt(0.5)) / 2)


def test_constant_is_constant():
    tau = TauSchedule(kind="constant", target=0.1)
    assert {tau.at(step) for step in range(100)} == {0.1}
    warm = TauSchedule(kind="constant", target=0.1, warmup_steps=10)
    assert [warm.at(9), warm.at(10)] == [1.0, 0.1]


@pytest.mark.parametrize("kind", ["log", "linear", "cosine"])
def test_no_steps_to_anneal_is_a_jump(kind):
    tau = TauSchedule(kind=kind, target=0.3, warmup_steps=5)
    assert [tau.at(4), tau.at(5)] == [1.0, 0.3]


@given(
    st.sampled_from(["constant", "log", "linear", "cosine"]),
    st.floats(0.01, 1),
    st.floats(0.01, 1),
    st.integers(0, 30),
    st.integers(1, 50),
)
@settings(max_examples=80, deadline=None)
def test_monotone_between_its_ends(kind, initial, target, warmup, anneal):
    tau = TauSchedule(
        kind=kind, initial=initial, target=target, warmup_steps=warmup,
        anneal_steps=0 if kind == "constant" else anneal,
    )  # fmt: skip
    values = [tau.at(step) for step in range(warmup + anneal + 2)]
    sign = 1 if target >= initial else -1
    assert all(sign * (b - a) >= -1e-12 for a, b in zip(values, values[1:], strict=False))  # noqa: RUF007
    assert values[-1] == target


@pytest.mark.parametrize("tau", [0.0, -0.5])
def test_log_needs_a_positive_target_and_names_the_way_out(tau):
    for make in (Coloring, lambda **options: ColoringScheduler(3, **options)):
        with pytest.raises(UsageError, match='tau_schedule="linear"'):
            make(tau=tau, tau_schedule="log", anneal_steps=10)
    Coloring(tau=tau, tau_schedule="linear", anneal_steps=10)
    with pytest.raises(UsageError, match="linear"):
        Coloring(tau=0.25, tau_initial=0.0, tau_schedule="log")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"tau": 1.01}, r"`tau` should lie in \[-1, 1\]"),
        ({"tau": -1.01}, r"`tau` should lie in \[-1, 1\]"),
        ({"tau": float("nan")}, r"`tau` should lie in \[-1, 1\]"),
        ({"tau_initial": 2.0}, "tau_initial"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"anneal_steps": -1, "tau_schedule": "log"}, "anneal_steps"),
        ({"anneal_steps": 5}, "does not anneal"),
        ({"tau_schedule": "exponential"}, "tau_schedule"),
        ({"refresh_period": 0}, "refresh_period"),
        ({"ema_beta": 1.0}, "ema_beta"),
        ({"ema_beta": -0.1}, "ema_beta"),
        ({"ema_beta": float("nan")}, "ema_beta"),
        ({"min_coverage": 0}, "min_coverage"),
        ({"coloring": "rainbow"}, "coloring"),
        ({"order": "alphabetical"}, "order"),
        ({"scale": "max"}, "scale"),
    ],
)
def test_values_out_of_range(options, match):
    for make in (Coloring, lambda **values: ColoringScheduler(3, **values)):
        with pytest.raises(UsageError, match=match):
            make(**options)
