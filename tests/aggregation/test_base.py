"""The base classes: lengths of directions, gradients that are zero, ids, errors, state."""

import math
from dataclasses import FrozenInstanceError, dataclass
from typing import get_args

import numpy as np
import pytest
import torch

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.aggregation import (
    AggregatorConfig,
    GradientOptions,
    GramianMethod,
    Mean,
    Norm,
    PreferenceMethod,
    RowAggregator,
    Sum,
    Weighting,
)

ROWS = torch.tensor([[3.0, 0.0, 0.0], [0.0, 4.0, 0.0]], dtype=torch.float64)
"""Lengths 3 and 4; their sum has length 5."""


@dataclass(frozen=True, kw_only=True)
class Given(GramianMethod):
    """The weights it is told, over the lengths of the gradients."""

    kind = "given"
    values: tuple[float, ...] = (1.0, 1.0)
    per_length: bool = False

    def solve(self, gramian, **_):
        values = torch.tensor(self.values, dtype=torch.float64)[: len(gramian)]
        return values / gramian.diagonal().sqrt() if self.per_length else values


@dataclass(frozen=True, kw_only=True)
class Drawn(PreferenceMethod):
    """Random numbers times the preference."""

    kind = "drawn"

    def solve(self, gramian, *, preference, draw, **_):
        return preference * torch.from_numpy(draw.random(len(gramian)))


class Seen(Weighting):
    """How often a task has been seen, starting from 1."""

    kind = "seen"
    acts_on = "losses"

    def __init__(self, num_tasks, *, seed=0):
        super().__init__(num_tasks, seed=seed)
        self.state = {"seen": torch.zeros(num_tasks, dtype=torch.float64)}

    def _weights(self, tasks, losses, gramian):
        self.state["seen"][tasks] += 1
        return self.state["seen"][tasks].clone()


class Halves(RowAggregator):
    kind = "halves"

    def rows(self, jacobian, *, tasks=None):
        return jacobian / 2


def length(rows, norm, **options):
    return float(Given(norm=norm, **options).build(len(rows))(rows).norm())


def test_the_length_of_the_direction_is_as_told():
    """Weights 1 and 3: [3, 12] natively; over their length sqrt(153) times 5; times 2 / 4."""
    for norm, wanted in (
        ("native", [3.0, 12.0]),
        ("sum", [15 / math.sqrt(153), 60 / math.sqrt(153)]),
        ("tasks", [1.5, 6.0]),
        ("unit", [3 / math.sqrt(153), 12 / math.sqrt(153)]),
    ):
        direction = Given(norm=norm, values=(1.0, 3.0)).build(2)(ROWS)
        assert direction.tolist() == pytest.approx([*wanted, 0.0]), norm
    assert set(get_args(Norm)) == {"native", "sum", "tasks", "unit"}


@pytest.mark.parametrize("factor", [1e-9, 1e9])
def test_lengths_do_not_depend_on_units(factor):
    rows = ROWS * factor
    assert length(rows, "sum", values=(0.1, 0.7)) == pytest.approx(5 * factor)
    assert length(rows, "unit", values=(0.1, 0.7)) == pytest.approx(1.0)
    assert length(rows, "tasks", values=(1e-9, 1e-9)) == pytest.approx(5 * factor)


def test_a_direction_that_has_vanished_is_not_blown_up():
    """A pair that cancels but for one part in 1e9: noise, not a step as long as the sum."""
    pair = torch.tensor([[1.0, 0.0], [-0.5, 0.0]], dtype=torch.float64)
    for norm in ("sum", "unit", "native"):
        assert length(pair, norm, values=(1.0, 2.0 - 1e-9)) < 1e-8
    assert length(pair, "sum", values=(1.0, 1.0)) == pytest.approx(0.5)
    opposite = Given(norm="tasks", values=(1.0, -1.0)).build(2)
    assert opposite.weights(ROWS @ ROWS.T).tolist() == [1.0, -1.0]  # their sum is no scale


def test_a_direction_of_very_unequal_gradients_has_not_vanished():
    """Gradients of length 1e-5 and 1e5, each with weight one over its length: d = [1, 1]."""
    rows = torch.tensor([[1e-5, 0.0], [0.0, 1e5]], dtype=torch.float64)
    assert length(rows, "native", per_length=True) == pytest.approx(math.sqrt(2))
    assert length(rows, "unit", per_length=True) == pytest.approx(1.0)
    assert length(rows, "sum", per_length=True) == pytest.approx(1e5)


def test_tasks_without_a_gradient_take_no_part():
    rows = torch.cat([ROWS, torch.zeros(1, 3, dtype=torch.float64)])[[0, 2, 1]]
    weights = Given(norm="native", values=(1.0, 3.0)).build(3).weights(rows @ rows.T)
    assert weights.tolist() == [1.0, 0.0, 3.0]
    tiny = rows + 1e-14 * torch.ones(3, 3)  # below 1e-12 of the longest, so noise
    assert Given(norm="native", values=(1.0, 3.0)).build(3)(tiny)[1] == pytest.approx(12.0)
    losses = Seen(3)
    assert losses.weights(rows @ rows.T).tolist() == [1.0, 1.0, 1.0]
    assert losses.state["seen"].tolist() == [1.0, 0.0, 1.0]
    none = Given(norm="sum").build(3)
    assert none.weights(torch.zeros(3, 3)).tolist() == [0.0] * 3
    assert none(torch.zeros(3, 5)).tolist() == [0.0] * 5


def test_sum_and_mean():
    assert Sum().build(4)(ROWS, tasks=[3, 1]).tolist() == [3.0, 4.0, 0.0]
    assert Mean().build(4)(ROWS, tasks=[3, 1]).tolist() == [1.5, 2.0, 0.0]
    weights = Mean().build(9).weights(losses=torch.tensor([0.2, 5.0, 1.0, 0.1]))
    assert weights.tolist() == [0.25] * 4
    assert weights.dtype == torch.float64
    assert Halves(4)(ROWS).tolist() == [1.5, 2.0, 0.0]


def test_types_and_devices_of_gradients_are_kept():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        direction = Given(norm="native").build(2)(ROWS.to(dtype))
        assert direction.dtype == dtype
        assert direction.tolist() == [3.0, 4.0, 0.0]
    trained = ROWS.clone().requires_grad_()
    assert not Given().build(2)(trained).requires_grad


def test_state_is_by_task_id():
    aggregator = Seen(5)
    unit = torch.eye(2)
    assert aggregator.weights(unit, tasks=[4, 0]).tolist() == [1.0, 1.0]
    assert aggregator.weights(unit, tasks=[0, 2]).tolist() == [2.0, 1.0]
    assert aggregator.weights(unit, tasks=[2, 4]).tolist() == [2.0, 2.0]
    assert aggregator.state["seen"].tolist() == [2.0, 0.0, 2.0, 0.0, 2.0]


def test_a_saved_state_goes_on_and_stays_as_it_was():
    aggregator, fresh = Seen(3), Seen(3)
    aggregator.weights(torch.eye(2), tasks=[0, 2])
    saved = aggregator.state_dict()
    assert saved["kind"] == "seen"
    assert (saved["calls"], saved["num_tasks"]) == (1, 3)
    fresh.load_state_dict(saved)
    for _ in range(2):
        aggregator.weights(torch.eye(2), tasks=[0, 1])
        fresh.weights(torch.eye(2), tasks=[0, 1])
    assert fresh.state["seen"].tolist() == aggregator.state["seen"].tolist() == [3.0, 2.0, 1.0]
    assert fresh.calls == aggregator.calls == 3
    assert saved["seen"].tolist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    "change",
    [{"kind": "sum"}, {"num_tasks": 4}, {"seen": None}, {"seen": torch.zeros(4)}, {"kind": None}],
)
def test_a_state_of_another_aggregator_is_refused(change):
    saved = {**Seen(3).state_dict(), **change}
    with pytest.raises(UsageError, match=r"Expected the state of 'seen' for 3 tasks|shape"):
        Seen(3).load_state_dict({name: value for name, value in saved.items() if value is not None})


def test_every_call_draws_anew_and_a_resumed_run_the_same():
    method = Drawn(norm="native")
    one, other = method.build(3, seed=5), method.build(3, seed=5)
    first, second = one.weights(torch.eye(3)), one.weights(torch.eye(3))
    assert not torch.equal(first, second)
    other.weights(torch.eye(3))
    resumed = method.build(3, seed=5)
    resumed.load_state_dict(other.state_dict())
    assert torch.equal(resumed.weights(torch.eye(3)), second)
    assert not torch.equal(method.build(3, seed=6).weights(torch.eye(3)), first)


def test_preferences_follow_the_tasks():
    plain, told = Drawn(norm="native"), Drawn(norm="native", preference=(1.0, 2.0, 6.0))
    drawn = plain.build(3).weights(torch.eye(2), tasks=[2, 0])
    weighed = told.build(3).weights(torch.eye(2), tasks=[2, 0])
    assert (weighed / drawn).tolist() == pytest.approx([6 / 3.5, 1 / 3.5])  # mean 1 among them
    with pytest.raises(ShapeError, match=r"one number a task, 4\. Found 3"):
        told.build(4)
    for wrong in ((1.0, 0.0), (1.0, -2.0), (math.nan, 1.0), (math.inf, 1.0)):
        with pytest.raises(UsageError, match="`preference` should hold positive numbers"):
            Drawn(preference=wrong)


def test_configurations():
    config = Given(norm="unit", values=(1.0, 2.0))
    assert config.to_dict() == {
        "kind": "given", "norm": "unit", "values": (1.0, 2.0), "per_length": False,
    }  # fmt: skip
    assert list(config.to_dict())[0] == "kind"  # noqa: RUF015
    assert GradientOptions.__dataclass_fields__["norm"].default == "sum"
    with pytest.raises(FrozenInstanceError):
        config.norm = "sum"
    with pytest.raises(UsageError, match="`norm` should be one of sum, native, tasks, unit"):
        Given(norm="l2")
    with pytest.raises(TypeError):
        AggregatorConfig()
    assert (
        repr(Given().build(3)) == "Given(norm='sum', values=(1.0, 1.0), per_length=False).build(3)"
    )
    assert Given().build(3).kind == "given"


@pytest.mark.parametrize("build", [Sum().build, Given().build, Seen], ids=["sum", "given", "seen"])
def test_wrong_inputs_are_refused(build):
    call = build(3)
    for wrong in (ROWS[0], ROWS[None], ROWS[:0]):
        with pytest.raises(ShapeError):
            call(wrong)
    for bad in (math.nan, math.inf):
        with pytest.raises(UsageError, match="finite"):
            call(torch.where(ROWS == 3, bad, ROWS))
        with pytest.raises(UsageError, match="finite"):
            call(ROWS, losses=torch.tensor([1.0, bad]))
    for tasks in ([0], [0, 1, 2], []):
        with pytest.raises(ShapeError, match="`tasks` should name 2 tasks"):
            call(ROWS, tasks=tasks)
    for tasks in ([0, 3], [-1, 0], [1, 1]):
        with pytest.raises(UsageError, match="distinct ids below 3"):
            call(ROWS, tasks=tasks)
    with pytest.raises(ShapeError, match="`losses` should have shape"):
        call(ROWS, losses=torch.ones(3))
    with pytest.raises(UsageError, match=r"at least one task\. Found 0"):
        build(0)
    assert call.calls == 0


def test_what_weights_needs():
    with pytest.raises(UsageError, match="Found neither"):
        Sum().build(2).weights()
    with pytest.raises(UsageError, match="given needs the Gramian of the gradients"):
        Given().build(2).weights(losses=torch.ones(2))
    with pytest.raises(ShapeError, match="`gramian` should be square"):
        Given().build(3).weights(torch.ones(2, 3))
    with pytest.raises(UsageError, match="`gramian` should be finite"):
        Given().build(2).weights(torch.full((2, 2), torch.nan))
    with pytest.raises(UsageError, match="does not look at the losses after"):
        Sum().build(2).observe_after(torch.ones(2), tasks=[0, 1])
    with pytest.raises(UsageError, match="`norm` should be one of"):
        Seen.__mro__[1].__init__(object.__new__(Seen), 2, norm="l1")


def test_a_gramian_that_rounding_made_asymmetric_is_taken():
    gramian = np.array([[9.0, 1.0], [1.0 + 1e-9, 16.0]])
    seen = []

    @dataclass(frozen=True, kw_only=True)
    class Watch(Given):
        def solve(self, gramian, **_):
            seen.append(gramian)
            return torch.ones(2, dtype=torch.float64)

    Watch().build(2).weights(torch.from_numpy(gramian).float())
    assert torch.equal(seen[0], seen[0].T)
    assert seen[0].dtype == torch.float64
