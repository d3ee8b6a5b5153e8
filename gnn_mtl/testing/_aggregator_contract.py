"""``check_aggregator``: the contract that every aggregator keeps."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from gnn_mtl._core.errors import GnnMtlError, UsageError
from gnn_mtl._core.seeding import generator
from gnn_mtl.aggregation import AggregatorConfig, Weighting
from gnn_mtl.aggregation._base import WeightsError
from gnn_mtl.testing._aggregator_bookkeeping import (
    SIZE,
    configuration,
    determinism,
    errors,
    inputs_left_alone,
    saved_state,
    state_by_task,
)
from gnn_mtl.testing._aggregator_cases import aggregator_cases
from gnn_mtl.testing._aggregator_promises import LARGE, PROMISES, TOLERANCE, measure_promises
from gnn_mtl.testing._aggregator_subject import Subject, feed
from gnn_mtl.testing._expect import expect, place, same


def check_aggregator(
    config: AggregatorConfig, *, num_tasks: int | None = None, seed: int = 0
) -> list[str]:
    """Check that a method keeps the contract of aggregators and everything it promises.

    Finite directions or typed errors on every one of :func:`aggregator_cases`; the promises of
    :data:`~gnn_mtl.aggregation.Promise`, on native weights; one task; a task without gradient; the
    Gramian form against the Jacobian form; state by task id that stands still for tasks that take
    no part and survives saving; determinism, without the global random states; inputs left alone;
    float32 against float64; a configuration that is frozen, plain and complete; typed errors.

    Args:
        config: The method, as configured.
        num_tasks: Number of tasks of the graph, where the configuration depends on it; larger cases
            are then left out. At least 7.
        seed: Seed of inputs and random choices.

    Returns:
        The names of what was checked, promises as "promise NAME".

    Raises:
        AssertionError: If anything does not hold, with all that does not: check, case, expected
            and found; in one line if the class has no ``kind``.
        UsageError: If it is no configuration.

    Example:
        >>> from gnn_mtl.aggregation import Sum
        >>> "promise nonnegative" in check_aggregator(Sum())
        True
    """
    if not isinstance(config, AggregatorConfig):
        raise UsageError(f"Expected a configuration, such as UPGrad(). Found {config!r}.")
    if not isinstance(getattr(config, "kind", None), str):
        name = type(config).__name__
        raise AssertionError(
            f'{name} has no `kind`, its name in records. Write in the class: kind = "...".'
        )
    subject = Subject(config, num_tasks, seed)
    checked: list[str] = []
    failures: list[str] = []
    for check in (*CHECKS, _promises):
        name = check.__name__.strip("_").replace("_", " ")
        try:
            found = check(subject)
            checked += [name] if found is None else found
        except AssertionError as error:
            failures += str(error).splitlines() if check is _promises else [f"{name}: {error}"]
        except Exception as error:  # whatever a method raises is a finding about it
            raised = f"{type(error).__name__}: {error} ({place(error)})"
            failures.append(f"{name}: no error expected. Found {raised}")
    if failures:
        raise AssertionError(f"{config!r} breaks the contract:\n- " + "\n- ".join(failures))
    return checked


def aggregator_seconds(config: AggregatorConfig, num_tasks: int = 500, *, seed: int = 0) -> float:
    """Return the CPU seconds of one call with so many tasks, the first call left out.

    Args:
        config: The method.
        num_tasks: Number of tasks T; gradients are noise of twice that length around a common part.
        seed: Seed of inputs and random choices.
    """
    draw = generator(seed, "testing", "seconds")
    noise = draw.standard_normal((num_tasks, 2 * num_tasks))
    common = 0.2 * draw.standard_normal(2 * num_tasks)
    jacobian = torch.from_numpy((noise + common) * np.exp(draw.standard_normal((num_tasks, 1))))
    subject = Subject(config, num_tasks, seed)
    aggregator, ids = subject.build(num_tasks), subject.ids(num_tasks)
    seconds = 0.0
    for step in range(2):
        start = time.process_time()
        feed(aggregator, jacobian, ids, subject.losses(num_tasks, step))
        seconds = time.process_time() - start
    return seconds


def finite(subject: Subject) -> None:
    """Finite directions of the right shape, or typed errors, in every case and both norms."""
    for name, jacobian in _cases(subject).items():
        large = len(jacobian) > LARGE
        for tested in (subject,) if large else (subject, subject.native()):
            what = f"a finite direction in case {name!r} ({tested.config!r})"
            try:
                outcome = tested.run(jacobian, steps=0 if large else 2)
            except WeightsError as error:
                raise AssertionError(f"expected {what}. Found: {error}") from error
            except GnnMtlError:
                if name in ("typical", "two tasks", "single task"):
                    raise
                continue
            expect(bool(outcome.direction.isfinite().all()), what, outcome.direction)
            expect(outcome.direction.shape == jacobian.shape[1:], what, outcome.direction.shape)
            if outcome.weights is not None:
                right = outcome.weights.dtype == torch.float64 and not outcome.weights.requires_grad
                right &= outcome.weights.shape == jacobian.shape[:1]
                expect(
                    right, f"float64 weights [{len(jacobian)}] in case {name!r}", outcome.weights
                )


def one_task(subject: Subject) -> None:
    """A task alone goes downhill."""
    jacobian = aggregator_cases(subject.seed)["single task"]
    outcome = subject.run(jacobian)
    if outcome.weights is not None:
        expect(float(outcome.weights[0]) > 0, "a positive weight of a task alone", outcome.weights)
    expect(float(outcome.direction @ jacobian[0]) > 0, "descent of a task alone", outcome.direction)


def no_gradient(subject: Subject) -> None:
    """A task without gradient does not change the weights of the others."""
    aggregator = subject.warmed(aggregator_cases(subject.seed)["typical"], 2)
    if not isinstance(aggregator, Weighting) or aggregator.needs == "losses":
        return
    jacobian = aggregator_cases(subject.seed)["zero row"]
    alive = jacobian.any(dim=1)
    ids, losses = torch.tensor(subject.ids(5)), subject.losses(5, 2)
    without = copy.deepcopy(aggregator)
    found = feed(aggregator, jacobian, ids.tolist(), losses).weights
    wanted = feed(without, jacobian[alive], ids[alive].tolist(), losses[alive]).weights
    assert found is not None  # noqa: S101
    assert wanted is not None  # noqa: S101
    same(found[alive], wanted, "that a task without gradient takes no part", 1e-8)


def gramian_form(subject: Subject) -> None:
    """From the gradients, from their inner products, from losses alone: the same direction."""
    for name in ("typical", "badly scaled", "rank-deficient", "stationary", "no gradient"):
        jacobian = _cases(subject)[name]
        ids, losses = subject.ids(len(jacobian)), subject.losses(len(jacobian), 2)
        try:
            whole, parts = (subject.warmed(jacobian, 2) for _ in range(2))
            outcome = feed(parts, jacobian, ids, losses)
        except GnnMtlError:
            continue
        found = whole(jacobian, tasks=ids, losses=losses)
        difference = float((found - outcome.direction).norm())
        what = f"a call to equal weights @ jacobian, or the rows' sum, in case {name!r}"
        expect(difference <= 1e-9 * outcome.reach, what, f"a difference of {difference:.3g}")
        if isinstance(whole, Weighting) and whole.needs == "losses":
            blind = subject.warmed(jacobian, 2)
            assert isinstance(blind, Weighting)  # noqa: S101
            assert outcome.weights is not None  # noqa: S101
            same(
                blind.weights(tasks=ids, losses=losses), outcome.weights, "no use of a Gramian", 0.0
            )


def precision(subject: Subject) -> None:
    """Gradients in float32 give what the same numbers in float64 give, in float32."""
    for name in ("typical", "scaled to 1e-10", "scaled to 1e10", "no conflict"):
        single = _cases(subject)[name].float()
        ids, losses = subject.ids(len(single)), subject.losses(len(single), 2).float()
        one, other = (subject.warmed(single.double(), 2) for _ in range(2))
        try:
            wanted = other(single.double(), tasks=ids, losses=losses)
        except GnnMtlError:
            continue
        found = one(single, tasks=ids, losses=losses)
        expect(found.dtype == torch.float32, "a direction of the gradients' type", found.dtype)
        same(found.double(), wanted, f"float32 gradients to give the same, case {name!r}", 1e-5)


def _promises(subject: Subject) -> list[str]:
    """Everything the method promises; the names of it."""
    made = subject.build(SIZE).promises
    measured = measure_promises(
        subject.config, promises=[promise for promise in PROMISES if promise in made],
        num_tasks=subject.num_tasks, seed=subject.seed,
    )  # fmt: skip
    broken = [
        f"promise {promise}: expected a violation of at most {TOLERANCE[promise]:.0e}. "
        f"Found {violation:.3g} in case {case!r}."
        for promise, (violation, case) in measured.items()
        if not violation <= TOLERANCE[promise]
    ]
    if broken:
        raise AssertionError("\n".join(broken))
    return [f"promise {promise}" for promise in measured]


CHECKS: tuple[Callable[[Subject], list[str] | None], ...] = (
    configuration, finite, one_task, no_gradient, gramian_form, state_by_task, saved_state,
    determinism, inputs_left_alone, precision, errors,
)  # fmt: skip


def _cases(subject: Subject) -> dict[str, Tensor]:
    cases = aggregator_cases(subject.seed)
    return {name: rows for name, rows in cases.items() if subject.fits(len(rows))}
