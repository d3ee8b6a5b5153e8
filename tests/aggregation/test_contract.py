"""What every aggregator keeps: the battery of ``gnn_mtl.testing`` on all there are."""

import importlib
import pkgutil
import typing
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import gnn_mtl.aggregation
from gnn_mtl.aggregation import AGGREGATORS, AggregatorConfig, Promise, TorchJD
from gnn_mtl.testing import TOLERANCE, aggregator_seconds, check_aggregator, measure_promises

SMALL = 9
"""Tasks of the graph where a configuration allows few, or all cases are more than needed."""
OWN = {kind: config for kind, config in AGGREGATORS.items() if kind != "torchjd"}
FEW = {"pareto_mtl"}


def _choices(config: type[AggregatorConfig], name: str) -> tuple[object, ...]:
    """The values of an option that names one of several."""
    hint = typing.get_type_hints(config)[name]
    if hint is bool:
        return (True, False)
    return typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()


def _variants() -> dict[str, AggregatorConfig]:
    """Every method with each value of each option that names one of several, and preferences."""
    found: dict[str, AggregatorConfig] = {}
    for kind, config in OWN.items():
        default = config()
        for field in fields(config):
            if field.name == "preference":
                weights = tuple(0.5 + 0.3 * task for task in range(SMALL))
                found[f"{kind} preference"] = replace(default, preference=weights)
            elif field.name != "norm":
                for value in _choices(config, field.name):
                    if value != getattr(default, field.name):
                        found[f"{kind} {field.name}={value}"] = replace(
                            default, **{field.name: value}
                        )
    return found


VARIANTS = _variants()
TORCHJD = typing.get_args(typing.get_type_hints(TorchJD)["method"])


def test_nothing_is_left_out():
    """Every configuration of the package that can be built is exported and known by its kind."""
    for module in pkgutil.iter_modules(gnn_mtl.aggregation.__path__):
        importlib.import_module(f"gnn_mtl.aggregation.{module.name}")
    waiting, found = [AggregatorConfig], set()
    while waiting:
        for config in waiting.pop().__subclasses__():
            waiting.append(config)
            if config.__module__.startswith("gnn_mtl.") and not config.__abstractmethods__:
                found.add(config)
    assert found == set(AGGREGATORS.values())
    for kind, config in AGGREGATORS.items():
        assert config.kind == kind
        assert getattr(gnn_mtl.aggregation, config.__name__) is config
        assert config.__name__ in gnn_mtl.aggregation.__all__
    assert len(OWN) >= 28


@pytest.mark.parametrize("kind", OWN)
def test_the_contract(kind):
    checked = check_aggregator(OWN[kind](), num_tasks=SMALL if kind in FEW else None)
    promised = OWN[kind]().build(SMALL).promises
    assert {f"promise {promise}" for promise in promised} <= set(checked)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_contract_with_other_options(variant):
    check_aggregator(VARIANTS[variant], num_tasks=SMALL, seed=1)


@pytest.mark.parametrize("method", [
    name if name in {"upgrad", "pcgrad", "config", "stch"} else pytest.param(
        name, marks=pytest.mark.slow) for name in TORCHJD])  # fmt: skip
def test_the_contract_of_the_adapter(method):
    pytest.importorskip("torchjd")
    check_aggregator(TorchJD(method=method), num_tasks=SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(OWN.keys() - FEW))
def test_500_tasks_take_less_than_2_seconds(kind):
    assert aggregator_seconds(OWN[kind](), 500) < 2.0


def test_every_promise_is_made_and_kept_by_someone():
    made = {promise for kind in OWN for promise in OWN[kind]().build(SMALL).promises}
    assert made == set(typing.get_args(Promise))


exponents = st.floats(-3, 3)
MAKERS = {
    "stationary": lambda rows, ratios: torch.cat([rows, -(ratios @ rows)[None]]),
    "balanced": lambda rows, ratios: torch.cat([rows, -(ratios @ rows)[None]]),
    "sum_without_conflict": lambda rows, ratios: rows.abs(),
}


@st.composite
def jacobians(draw, kind=None):
    """Gradients of up to 8 tasks in up to 12 dimensions, of lengths from 1e-3 to 1e3."""
    size, width = draw(st.integers(1, 7)), draw(st.integers(2, 12))
    rows = torch.from_numpy(draw(arrays(float, (size, width), elements=st.integers(-9, 9))))
    rows[~rows.any(dim=1), 0] = 1.0
    rows = torch.nn.functional.normalize(rows, dim=1)
    lengths = 10 ** torch.from_numpy(draw(arrays(float, size, elements=exponents)))
    ratios = torch.from_numpy(draw(arrays(float, size, elements=st.floats(0.1, 3.0))))
    rows = MAKERS.get(kind, lambda rows, ratios: rows)(rows * lengths[:, None], ratios / lengths)
    return rows[rows.norm(dim=1) > 1e-9 * rows.norm(dim=1).max()]


PROMISED = [(kind, promise) for kind in OWN for promise in sorted(OWN[kind]().build(8).promises)]


@pytest.mark.parametrize("number", [6, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("kind", "promise"), PROMISED)
def test_promises_on_any_gradients(kind, promise, number):
    @settings(max_examples=number, deadline=None, derandomize=True, database=None)
    @given(jacobians(promise))
    def holds(jacobian):
        measured = measure_promises(
            OWN[kind](), {promise: jacobian}, promises=[promise], num_tasks=SMALL
        )
        assert measured[promise].violation <= TOLERANCE[promise]

    holds()
