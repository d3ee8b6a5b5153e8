"""The battery finds what is wrong with an aggregator, and says which part of the contract it is."""

from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import numpy as np
import pytest
import torch

from gnn_mtl._core.errors import UsageError
from gnn_mtl.aggregation import (
    Aggregator,
    AggregatorConfig,
    Promise,
    RowAggregator,
    Weighting,
)
from gnn_mtl.testing import aggregator_cases, aggregator_seconds, check_aggregator, measure_promises


class Plain(Weighting):
    """Sum, of which the wrong ones below are made by one change each."""

    kind = "plain"

    def __init__(self, num_tasks, *, seed=0, **options):
        super().__init__(num_tasks, seed=seed, **options)
        self.state = {"seen": torch.zeros(num_tasks, dtype=torch.float64)}

    def _weights(self, tasks, losses, gramian):
        self.state["seen"] = self.state["seen"].index_add(0, tasks, torch.ones_like(losses))
        return 1 + 1 / self.state["seen"][tasks]


def config_of(aggregator: type[Aggregator], **changes: Any) -> AggregatorConfig:
    """A configuration that builds it."""

    @dataclass(frozen=True, kw_only=True)
    class Config(AggregatorConfig):
        kind: ClassVar[str] = aggregator.kind

        def build(self, num_tasks, seed=0):
            return aggregator(num_tasks, seed=seed)

    for name, value in changes.items():
        setattr(Config, name, value)
    return Config()


def found(config: AggregatorConfig) -> str:
    with pytest.raises(AssertionError) as caught:
        check_aggregator(config, num_tasks=9)
    return str(caught.value)


def names(config: AggregatorConfig) -> set[str]:
    """The checks that failed."""
    return {line[2:].split(":")[0] for line in found(config).splitlines() if line[:2] == "- "}


def test_the_one_that_all_wrong_ones_come_from_is_right():
    check_aggregator(config_of(Plain), num_tasks=9)


class ByPosition(Plain):
    promises = frozenset({"permutation"})

    def _weights(self, tasks, losses, gramian):
        old = self.state["seen"][: len(tasks)]
        self.state["seen"] = self.state["seen"].clone()
        self.state["seen"][: len(tasks)] = gramian.diagonal()
        return 1 + old.sqrt()


class FadesEverywhere(Plain):
    def _weights(self, tasks, losses, gramian):
        self.state["seen"] = 0.5 + 0.9 * self.state["seen"]
        return 1 + self.state["seen"][tasks]


class FadesPairs(Plain):
    def __init__(self, num_tasks, *, seed=0):
        super().__init__(num_tasks, seed=seed)
        self.state = {"pairs": torch.ones(num_tasks, num_tasks, dtype=torch.float64)}

    def _weights(self, tasks, losses, gramian):
        pairs = self.state["pairs"].clone()
        pairs[tasks] *= 0.9  # in the columns of others too
        self.state["pairs"] = pairs
        return pairs[tasks].mean(dim=1)


class NotByTask(Plain):
    def __init__(self, num_tasks, *, seed=0):
        super().__init__(num_tasks, seed=seed)
        self.state = {"seen": torch.zeros(7, num_tasks, dtype=torch.float64)}

    def _weights(self, tasks, losses, gramian):
        return torch.ones_like(losses)


class Forgets(Plain):
    def __init__(self, num_tasks, *, seed=0):
        super().__init__(num_tasks, seed=seed)
        self.steps = 0

    def _weights(self, tasks, losses, gramian):
        self.steps += 1
        return super()._weights(tasks, losses, gramian) + self.steps


class OwnRandomState(Plain):
    def __init__(self, num_tasks, *, seed=0):
        super().__init__(num_tasks, seed=seed)
        self.draw = np.random.default_rng(seed)

    def _weights(self, tasks, losses, gramian):
        return torch.from_numpy(self.draw.random(len(tasks)) + 0.5)


class SavedAliases(Plain):
    def state_dict(self):
        return {**super().state_dict(), **self.state}

    def _weights(self, tasks, losses, gramian):
        self.state["seen"][tasks] += 1
        return 1 + 1 / self.state["seen"][tasks]


class TakesAnyState(Plain):
    def load_state_dict(self, state):
        self.calls, self.state["seen"] = state["calls"], state["seen"].clone()


class GlobalTorch(Plain):
    def _weights(self, tasks, losses, gramian):
        return torch.rand(len(tasks), dtype=torch.float64) + 0.5


class SeedsGlobals(Plain):
    def _weights(self, tasks, losses, gramian):
        np.random.seed(self.seed)  # noqa: NPY002
        return super()._weights(tasks, losses, gramian)


class GivesOutState(Plain):
    needs = "losses"

    def __init__(self, num_tasks, *, seed=0):
        super().__init__(num_tasks, seed=seed)
        self.state = {"seen": torch.ones(num_tasks, dtype=torch.float64)}

    def _weights(self, tasks, losses, gramian):
        return self.state["seen"][: len(tasks)]  # a view


class ChangesInputs(Plain):
    def __call__(self, jacobian, *, tasks=None, losses=None):
        direction = super().__call__(jacobian, tasks=tasks, losses=losses)
        jacobian.data.mul_(2.0)
        return direction


class KeepsGraph(Plain):
    def __call__(self, jacobian, *, tasks=None, losses=None):
        direction = super().__call__(jacobian, tasks=tasks, losses=losses)
        return direction + 0 * jacobian.sum()


class Doubles(Plain):
    def __call__(self, jacobian, *, tasks=None, losses=None):
        return 2 * super().__call__(jacobian, tasks=tasks, losses=losses)


class AlwaysDouble(Plain):
    def __call__(self, jacobian, *, tasks=None, losses=None):
        return super().__call__(jacobian, tasks=tasks, losses=losses).double()


class HalfPrecision(Plain):
    def __call__(self, jacobian, *, tasks=None, losses=None):
        rounded = jacobian.half() if jacobian.dtype == torch.float32 else jacobian
        return super().__call__(rounded, tasks=tasks, losses=losses).to(jacobian.dtype)


class Inverse(Plain):
    def _weights(self, tasks, losses, gramian):
        return torch.linalg.solve(gramian, torch.ones_like(losses)).abs()


class Overflows(Plain):
    def _weights(self, tasks, losses, gramian):
        return gramian.diagonal().exp() / gramian.diagonal().exp().sum()


class Untidy(Plain):
    def _weights(self, tasks, losses, gramian):
        return torch.ones(len(tasks), 1)


class NowhereAlone(Plain):
    def _weights(self, tasks, losses, gramian):
        return losses - losses.mean()


class CountsTheDead(Plain):
    def _alive_weights(self, tasks, losses, gramian):
        return torch.full_like(losses, 1 / len(losses))


class UsesGramianAnyway(Plain):
    needs = "losses"

    def weights(self, gramian=None, *, tasks=None, losses=None):
        found = super().weights(gramian, tasks=tasks, losses=losses)
        return found if gramian is None else found * gramian.diagonal().sqrt()


class Unchecked(Plain):
    def weights(self, gramian=None, *, tasks=None, losses=None):
        return torch.ones(len(gramian), dtype=torch.float64)


class RowsUnchecked(RowAggregator):
    kind = "rows"

    def rows(self, jacobian, *, tasks=None):
        return jacobian.clone()


class LeaksNaN(Plain):
    def weights(self, gramian=None, *, tasks=None, losses=None):
        gramian = None if gramian is None else gramian.nan_to_num(1.0, 1.0, 1.0)
        return super().weights(gramian, tasks=tasks, losses=losses)


@pytest.mark.parametrize(
    ("wrong", "check"),
    [
        (ByPosition, "state by task"), (FadesEverywhere, "state by task"),
        (FadesPairs, "state by task"), (NotByTask, "state by task"),
        (Forgets, "saved state"), (OwnRandomState, "saved state"), (SavedAliases, "saved state"),
        (TakesAnyState, "saved state"), (GlobalTorch, "determinism"),
        (SeedsGlobals, "determinism"), (GivesOutState, "inputs left alone"),
        (ChangesInputs, "inputs left alone"), (KeepsGraph, "inputs left alone"),
        (Doubles, "gramian form"), (UsesGramianAnyway, "gramian form"),
        (AlwaysDouble, "precision"), (HalfPrecision, "precision"), (Inverse, "finite"),
        (Overflows, "finite"), (Untidy, "finite"), (NowhereAlone, "one task"),
        (CountsTheDead, "no gradient"), (Unchecked, "errors"), (RowsUnchecked, "errors"),
        (LeaksNaN, "errors"),
    ],
)  # fmt: skip
def test_each_wrong_aggregator_is_caught(wrong, check):
    assert check in names(config_of(wrong))


def test_the_message_has_check_case_expected_and_found():
    said = found(config_of(Overflows))
    assert "finite: expected a finite direction in case 'scaled to 1e10'" in said
    assert "Found: plain returned weights that are not finite, [nan" in said
    assert "expected UsageError for an unknown task id. Found tensor" in found(config_of(Unchecked))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "another"}, "kind 'another' of what it builds"),
        ({"to_dict": lambda self: {"kind": self.kind, "a": 1}}, "unexpected keyword argument"),
        ({"__setattr__": object.__setattr__}, "expected a frozen dataclass"),
        ({"__hash__": None}, "unhashable type"),
    ],
)
def test_configurations_that_are_wrong(changes, said):
    said_in = found(config_of(Plain, **changes))
    assert "- configuration: " in said_in
    assert said in said_in


def test_a_class_without_a_kind_is_one_line():
    @dataclass(frozen=True, kw_only=True)
    class Nameless(AggregatorConfig):
        def build(self, num_tasks, seed=0):
            return Plain(num_tasks, seed=seed)

    assert found(Nameless()) == (
        'Nameless has no `kind`, its name in records. Write in the class: kind = "...".'
    )
    for wrong in (Nameless, "upgrad", Plain(3)):
        with pytest.raises(UsageError, match="Expected a configuration, such as UPGrad"):
            check_aggregator(wrong)


def test_options_that_are_no_json_are_found():
    @dataclass(frozen=True, kw_only=True)
    class Config(AggregatorConfig):
        kind = "plain"
        strength: complex = 1j

        def build(self, num_tasks, seed=0):
            return Plain(num_tasks, seed=seed)

    assert "configuration: no error expected. Found TypeError" in found(Config())
    assert names(Config(strength=float("nan"))) == {"configuration"}


def scheme(formula, promise):
    class Promises(Weighting):
        kind = "promises"
        promises = frozenset({promise})

        def _weights(self, tasks, losses, gramian):
            return formula(tasks, gramian)

    return config_of(Promises)


FALSE: dict[Promise, Any] = {
    "permutation": lambda tasks, gramian: 1 / (1.0 + torch.arange(len(tasks))).double(),
    "scaling": lambda tasks, gramian: 1 / (gramian.diagonal() + 1e-8),
    "task_scaling": lambda tasks, gramian: gramian.diagonal() ** -0.4,
    "nonnegative": lambda tasks, gramian: torch.linalg.pinv(gramian, hermitian=True).sum(dim=0),
    "non_conflicting": lambda tasks, gramian: gramian.diagonal() ** -0.5,
    "stationary": lambda tasks, gramian: torch.ones(len(tasks), dtype=torch.float64),
    "balanced": lambda tasks, gramian: torch.ones(len(tasks), dtype=torch.float64),
    "sum_without_conflict": lambda tasks, gramian: gramian.diagonal() ** -0.5,
}


def test_there_is_a_false_promise_of_each_kind():
    assert set(FALSE) == set(get_args(Promise))


@pytest.mark.parametrize("promise", FALSE)
def test_false_promises_are_caught(promise):
    said = found(scheme(FALSE[promise], promise))
    (line,) = [line for line in said.splitlines() if line.startswith("- promise")]
    assert line.startswith(f"- promise {promise}: expected a violation of at most")
    assert "in case" in line


def test_a_promise_that_fails_only_after_some_steps_is_caught():
    class Late(Plain):
        promises = frozenset({"sum_without_conflict"})

        def _weights(self, tasks, losses, gramian):
            self.state["seen"] = self.state["seen"].index_add(0, tasks, torch.ones_like(losses))
            return losses if self.calls >= 3 else torch.ones_like(losses)

    said = found(config_of(Late))
    assert "promise sum_without_conflict: " in said
    assert "in case 'no conflict, after 3 steps'." in said


def test_an_unknown_promise_is_refused():
    said = found(scheme(lambda tasks, gramian: torch.ones(len(tasks)).double(), "always_better"))
    assert "configuration: expected promises among" in said


def test_a_nearly_kept_promise_is_not_kept():
    """One part in a hundred thousand of a wrong direction, on an exactly stationary point."""

    def nearly(tasks, gramian):
        vectors = torch.linalg.eigh(gramian).eigenvectors
        return vectors[:, 0] * vectors[:, 0].sum().sign() + 3e-5 * vectors[:, -1]

    cases = {"stationary pair": aggregator_cases()["stationary pair"]}
    measured = measure_promises(scheme(nearly, "stationary"), cases, promises=["stationary"])
    assert 1e-6 < measured["stationary"].violation < 1e-3


def test_measured_and_not_promised():
    measured = measure_promises(config_of(Plain), num_tasks=9)
    assert set(measured) == set(get_args(Promise))
    assert measured["nonnegative"].violation == 0.0
    assert measured["permutation"].violation < 1e-12
    assert measured["non_conflicting"].violation > 0.1
    assert measured["non_conflicting"].case in {
        f"{case}{after}" for case in aggregator_cases() for after in ("", ", after 3 steps",
                                                                     ", after 30 steps")
    }  # fmt: skip


def test_a_typed_error_is_an_answer_except_on_plain_inputs():
    class Refuses(Plain):
        def _weights(self, tasks, losses, gramian):
            lengths = gramian.diagonal().sqrt()
            cosines = gramian / lengths[:, None] / lengths[None, :]
            if torch.linalg.matrix_rank(cosines, hermitian=True, tol=1e-9) < len(tasks):
                raise UsageError("The gradients are dependent.")
            return torch.ones_like(losses)

    class RefusesAll(Plain):
        def _weights(self, tasks, losses, gramian):
            raise UsageError("No.")

    assert check_aggregator(config_of(Refuses), num_tasks=9)[-1] == "errors"
    assert "finite" in names(config_of(RefusesAll))


def test_seconds_are_of_one_call():
    assert 0 < aggregator_seconds(config_of(Plain), 20) < 0.5
