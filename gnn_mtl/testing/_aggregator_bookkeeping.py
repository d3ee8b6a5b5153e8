"""The bookkeeping of an aggregator: options, state, randomness, inputs, errors."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl._core.seeding import generator
from gnn_mtl.aggregation import Weighting
from gnn_mtl.testing._aggregator_promises import PROMISES
from gnn_mtl.testing._aggregator_subject import Subject, feed
from gnn_mtl.testing._expect import (
    expect,
    global_state,
    global_states,
    raised,
    same,
    unmoved,
)

SIZE, WIDTH, TOTAL = 4, 17, 13
"""Tasks, parameters and tasks of the graph of the inputs that test the bookkeeping."""


def configuration(subject: Subject) -> None:
    """Frozen, hashable, said in full by JSON values, and what it builds has its kind."""
    config = subject.config
    expect(hash(config) == hash(copy.copy(config)), "a hashable dataclass", config)
    try:
        config.kind = config.kind  # type: ignore[misc]
    except FrozenInstanceError:
        pass
    else:
        raise AssertionError("expected a frozen dataclass. Found one that can be changed.")
    record = config.to_dict()
    expect(record.get("kind") == config.kind and bool(config.kind), "the kind first", record)
    again = type(config)(**{name: value for name, value in record.items() if name != "kind"})
    expect(again == config, f"that to_dict() says all of {config!r}", again)
    plain = json.loads(json.dumps(record, allow_nan=False))
    expect(json.dumps(plain) == json.dumps(record), "JSON values", record)
    built = subject.build(SIZE)
    expect(built.kind == config.kind, f"kind {config.kind!r} of what it builds", built.kind)
    expect(built.promises <= set(PROMISES), f"promises among {PROMISES}", built.promises)


def state_by_task(subject: Subject) -> None:
    """Two tasks that took no part keep what is known about them; the others are known by id."""
    tested = Subject(subject.config, subject.num_tasks or TOTAL, subject.seed)
    total = tested.num_tasks or TOTAL
    ids, rows, losses = tested.ids(SIZE + 2), inputs(tested, SIZE + 2), tested.losses(SIZE + 2)
    aggregator = tested.build(total)
    feed(aggregator, rows, ids, losses, after=0.9 * losses)
    for picked in ([0, 1, 2, 3], [5, 3, 1], [2]):
        active = [ids[index] for index in picked]
        still = torch.ones(total, dtype=torch.bool)
        still[active] = False
        before = {name: value.clone() for name, value in aggregator.state.items()}
        feed(aggregator, rows[picked], active, losses[picked], after=0.8 * losses[picked])
        for name, old in before.items():
            new = aggregator.state[name]
            what = f"state[{name!r}] of shape [{total}, ...], by task"
            expect(new.shape == old.shape and new.shape[:1] == (total,), what, list(new.shape))
            unmoved(new[still], old[still], f"state[{name!r}] of tasks that took no part")
            if new.ndim > 1 and new.shape[1] == total:
                unmoved(new[:, still], old[:, still], f"state[{name!r}] of pairs with such tasks")
    if "permutation" in aggregator.promises:
        other = copy.deepcopy(aggregator)
        found = feed(aggregator, rows[:3], ids[:3], losses[:3]).direction
        turned = feed(other, rows[[2, 0, 1]], [ids[2], ids[0], ids[1]], losses[[2, 0, 1]]).direction
        same(turned, found, "the same direction, after others, from tasks in another order", 1e-8)


def saved_state(subject: Subject) -> None:
    """A loaded state goes on to the bit, and what was saved does not change later."""
    for steps in (3, 27):
        aggregator, fresh = subject.warmed(inputs(subject), steps), subject.build(SIZE)
        saved = aggregator.state_dict()
        plain = {name: value for name, value in saved.items() if not isinstance(value, Tensor)}
        expect(json.loads(json.dumps(plain)) == plain, "tensors and JSON values", plain)
        kept = copy.deepcopy(saved)
        fresh.load_state_dict(saved)
        for step in range(steps, steps + 3):
            losses = subject.losses(SIZE, step)
            found, wanted = (
                feed(one, inputs(subject, step=step), subject.ids(SIZE), losses, after=0.9 * losses)
                for one in (fresh, aggregator)
            )
            what = f"the same bits {step - steps + 1} steps after loading"
            same(found.direction, wanted.direction, what, 0.0)
        for name, value in kept.items():
            if isinstance(value, Tensor):
                unmoved(saved[name], value, f"what was saved as {name!r}")
        for other in ({"kind": "another"}, {"num_tasks": 999}):
            failed = raised(UsageError, fresh.load_state_dict, kept | other, f"a state of {other}")
            expect(not failed, "a refusal", failed)


def determinism(subject: Subject) -> None:
    """The same seed, the same bits; global random states are neither used nor changed."""
    found = []
    with global_states():
        for seed in (1, 2):
            torch.manual_seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            random.seed(seed)
            before = global_state()
            found.append(
                [subject.run(inputs(subject), steps=steps).direction for steps in (0, 1, 3)]
            )
            expect(global_state() == before, "that global random states are left alone", "a change")
    for one, other in zip(*found, strict=True):
        same(one, other, "the same bits from the same seed", 0.0)


def inputs_left_alone(subject: Subject) -> None:
    """Inputs are not modified and results hold neither a graph nor the state itself."""
    aggregator = subject.warmed(inputs(subject), 2)
    rows, losses = inputs(subject).requires_grad_(), subject.losses(SIZE).requires_grad_()
    given = (rows.detach().clone(), losses.detach().clone())
    found = aggregator(rows, tasks=(ids := subject.ids(SIZE)), losses=losses)
    expect(not found.requires_grad, "a direction without a graph", found.grad_fn)
    if isinstance(aggregator, Weighting):
        gramian = (rows @ rows.T).detach()
        before = gramian.clone()
        weights = aggregator.weights(gramian, tasks=ids, losses=losses)
        expect(not weights.requires_grad, "weights without a graph", weights.grad_fn)
        expect(torch.equal(gramian, before), "that the Gramian is not modified", "a change")
        state = {name: value.clone() for name, value in aggregator.state.items()}
        weights.fill_(99.0)
        for name, value in state.items():
            unmoved(aggregator.state[name], value, f"state[{name!r}], when weights are changed,")
    for value, before in zip((rows, losses), given, strict=True):
        expect(torch.equal(value.detach(), before), "that inputs are not modified", "a change")
    expect(ids == subject.ids(SIZE), "that `tasks` is not modified", ids)


def errors(subject: Subject) -> None:
    """Typed errors for wrong shapes, ids and numbers; all that is wrong at once."""
    rows, ids, losses = inputs(subject), subject.ids(SIZE), subject.losses(SIZE)
    total = subject.build(SIZE).num_tasks
    nan, infinite = rows.clone(), rows.clone()
    nan[1, 2], infinite[1, 2] = float("nan"), float("inf")
    given: dict[str, tuple[type[Exception], Callable[[Any], object]]] = {
        "one gradient instead of a Jacobian": (ShapeError, lambda a: a(rows[0])),
        "three dimensions": (ShapeError, lambda a: a(rows[None])),
        "no task": (ShapeError, lambda a: a(rows[:0], tasks=[])),
        "NaN in a gradient": (UsageError, lambda a: a(nan, tasks=ids, losses=losses)),
        "an infinite gradient": (UsageError, lambda a: a(infinite, tasks=ids, losses=losses)),
        "too few task ids": (ShapeError, lambda a: a(rows, tasks=ids[:-1])),
        "an unknown task id": (UsageError, lambda a: a(rows, tasks=[*ids[:-1], total])),
        "a negative task id": (UsageError, lambda a: a(rows, tasks=[*ids[:-1], -1])),
        "a task id twice": (UsageError, lambda a: a(rows, tasks=[*ids[:-1], ids[0]])),
        "a graph without tasks": (UsageError, lambda _: subject.config.build(0)),
    }
    aggregator = subject.build(SIZE)
    if isinstance(aggregator, Weighting):
        given |= {
            "too few losses": (ShapeError, lambda a: a(rows, tasks=ids, losses=losses[:-1])),
            "infinite losses": (UsageError, lambda a: a(rows, tasks=ids, losses=losses / 0)),
            "neither Gramian nor losses": (UsageError, lambda a: a.weights(tasks=ids)),
        }
        if aggregator.needs == "gramian":
            gramian = rows @ rows.T
            given |= {
                "no Gramian": (UsageError, lambda a: a.weights(tasks=ids, losses=losses)),
                "a Gramian that is not square": (
                    ShapeError, lambda a: a.weights(gramian[:, :2], tasks=ids, losses=losses)
                ),
                "NaN in the Gramian": (
                    UsageError, lambda a: a.weights(gramian / 0 * 0, tasks=ids, losses=losses)
                ),
            }  # fmt: skip
    missed = [raised(error, call, subject.build(SIZE), what)
              for what, (error, call) in given.items()]  # fmt: skip
    if any(missed):
        raise AssertionError("; ".join(filter(None, missed)))


def inputs(subject: Subject, size: int = SIZE, step: int = 0) -> Tensor:
    """A Jacobian ``[size, WIDTH]`` of this step."""
    draw = generator(subject.seed, "testing", "inputs", step)
    return torch.from_numpy(draw.standard_normal((size, WIDTH)))
