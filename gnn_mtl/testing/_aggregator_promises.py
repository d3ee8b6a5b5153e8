"""How far an aggregator is from each thing it may promise, as a number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, get_args

import torch
from torch import Tensor

from gnn_mtl._core.errors import GnnMtlError
from gnn_mtl._core.seeding import generator
from gnn_mtl.aggregation import AggregatorConfig, Promise
from gnn_mtl.testing._aggregator_cases import aggregator_cases
from gnn_mtl.testing._aggregator_subject import Outcome, Subject

PROMISES: tuple[Promise, ...] = get_args(Promise)

TOLERANCE: dict[Promise, float] = {
    "permutation": 1e-6,
    "scaling": 1e-6,
    "task_scaling": 1e-6,
    "nonnegative": 1e-9,
    "non_conflicting": 1e-6,
    "stationary": 1e-6,
    "balanced": 1e-6,
    "sum_without_conflict": 1e-6,
}
"""Largest violation that counts as rounding; see :func:`violation` for the units."""

CANCELLED = 1e-2
"""Where less than this share of the gradients' lengths is left, angles are not known as well."""

FACTORS: tuple[float, ...] = (1e-10, 1e10)
HISTORIES: dict[str, tuple[int, ...]] = {
    "typical": (0, 3, 30),
    **dict.fromkeys(
        ("badly scaled", "rank-deficient", "stationary", "no conflict", "all conflicting"), (0, 3)
    ),
}
"""Numbers of steps after which a case comes, where it is not the first step only."""

LARGE = 40
"""Cases of more tasks than this are tried less often."""


class Measured(NamedTuple):
    """The worst violation of a promise, and the case in which it was found."""

    violation: float
    case: str


def measure_promises(
    config: AggregatorConfig,
    cases: Mapping[str, Tensor] | None = None,
    *,
    promises: Iterable[Promise] = PROMISES,
    num_tasks: int | None = None,
    seed: int = 0,
) -> dict[Promise, Measured]:
    """Return how far the method is from each promise, whether it makes it or not.

    Native weights, afresh and, if there is a state, after some steps. Cases on which it raises a
    typed error are left out; a property that a method has and does not promise shows here.

    Args:
        config: The method.
        cases: Jacobians ``[S, P]`` by name; default: those of the battery.
        promises: Which ones.
        num_tasks: Number of tasks of the graph, where the configuration depends on it.
        seed: Seed of inputs and random choices.
    """
    subject = Subject(config, num_tasks, seed).native()
    found = {promise: Measured(0.0, "") for promise in promises}
    for name, jacobian in (aggregator_cases(seed) if cases is None else cases).items():
        if not subject.fits(len(jacobian)):
            continue
        for steps in HISTORIES.get(name, (0,)) if subject.remembers else (0,):
            try:
                outcome = subject.run(jacobian, steps=steps)
                for promise in filter(lambda p: applies(p, name, jacobian), found):
                    worst = violation(promise, subject, jacobian, outcome, steps=steps)
                    if not worst <= found[promise].violation:
                        case = f"{name}, after {steps} steps" if steps else name
                        found[promise] = Measured(worst, case)
            except GnnMtlError:
                continue
    return found


def applies(promise: Promise, name: str, jacobian: Tensor) -> bool:
    """Whether the promise says anything about the case."""
    if promise == "stationary":
        return "stationary" in name or name == "antiparallel pair"
    if promise == "balanced":
        return name.startswith(("stationary", "balanced"))
    if promise == "sum_without_conflict":
        return bool((jacobian @ jacobian.T >= -1e-12 * _squares(jacobian)).all()) and bool(
            jacobian.any(dim=1).all()
        )
    return True


def violation(
    promise: Promise, subject: Subject, jacobian: Tensor, found: Outcome, *, steps: int = 0
) -> float:
    """Return how far the promise is from being kept: 0 is exactly, about 1 not at all.

    Lengths are relative to the sum of the lengths of what is added up, r. ``permutation``: change
    of one weighted gradient (of the direction, if the gradients are dependent and the weights
    perhaps not unique) over r; ``scaling`` and ``task_scaling``: distance of the two unit
    directions; ``nonnegative``: a negative weighted gradient's length over r; ``non_conflicting``:
    minus the least cosine with a gradient; ``stationary`` and ``balanced``: length of the direction
    over r; ``sum_without_conflict``: the spread of the weights over the largest. Cosines and
    distances of directions count less where almost everything cancels, as rounding counts more.

    Args:
        promise: Which one; the Jacobian has to be one about which it says something.
        subject: The method, with native weights.
        jacobian: Gradients, float64 ``[S, P]``.
        found: What it did with them.
        steps: Number of steps with other gradients before.
    """
    lengths = jacobian.norm(dim=1)
    draw = generator(subject.seed, "testing", promise, len(jacobian))
    if promise == "permutation":
        order = torch.from_numpy(draw.permutation(len(jacobian)))
        other = subject.run(jacobian, order=order, steps=steps)
        if found.weights is None or other.weights is None or not _independent(jacobian):
            return _ratio((other.direction - found.direction).norm(), found.reach)
        change = (other.weights - found.weights[order]) * lengths[order]
        return _ratio(change.abs().max(), found.reach)
    if promise == "scaling":
        factors = FACTORS[-1:] if len(jacobian) > LARGE else FACTORS
        others = (subject.run(jacobian, factor=factor, steps=steps) for factor in factors)
        return max(_turn(found, other) for other in others)
    if promise == "task_scaling":
        rows = torch.from_numpy(10 ** draw.uniform(-1.5, 1.5, (len(jacobian), 1)))
        return _turn(found, subject.run(jacobian, factor=rows, steps=steps))
    if promise == "non_conflicting":
        against = -(jacobian @ found.direction) / lengths.clamp(min=1e-300)
        length = float(found.direction.norm()) + CANCELLED * found.reach
        return max(_ratio(against.max(), length), 0.0)
    if promise in ("stationary", "balanced"):
        return found.share
    if found.weights is None:  # the other two are about weights
        whole = _turn(found, Outcome(jacobian.sum(dim=0), None, float(lengths.sum())))
        return whole if promise == "sum_without_conflict" else 1.0
    if promise == "nonnegative":
        return max(_ratio((-found.weights * lengths).max(), found.reach), 0.0)
    spread = found.weights.max() - found.weights.min()
    return _ratio(spread, float(found.weights.max())) if found.weights.max() > 0 else 1.0


def _turn(found: Outcome, other: Outcome) -> float:
    """Distance of the two unit directions, less where little is left of them."""
    share = max(found.share, other.share)
    if min(found.share, other.share) == 0.0:
        return share / (share + CANCELLED)
    units = (o.direction / o.direction.norm() for o in (found, other))
    return float((next(units) - next(units)).norm()) * share / (share + CANCELLED)


def _ratio(value: Tensor, to: float) -> float:
    return float(value) / to if to > 0 else 0.0


def _squares(jacobian: Tensor) -> Tensor:
    """Products of the lengths of all pairs ``[S, S]``."""
    lengths = jacobian.norm(dim=1)
    return lengths[:, None] * lengths[None, :]


def _independent(jacobian: Tensor) -> bool:
    """Whether the gradients that are not zero are independent, and not barely so."""
    alive = jacobian[jacobian.any(dim=1)]
    if not len(alive) or len(alive) > jacobian.shape[1]:
        return False
    values = torch.linalg.svdvals(torch.nn.functional.normalize(alive, dim=1))
    return bool(values[-1] > 1e-4 * values[0])
