"""What the batteries say when something does not hold: expected and found."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Value = TypeVar("Value")
LINE = 200


def expect(holds: bool, expected: str, found: object) -> None:
    """Raise AssertionError if it does not hold."""
    if not holds:
        raise AssertionError(f"expected {expected}. Found {short(found)}.")


def short(found: object) -> str:
    """What was found, on one line."""
    line = " ".join(str(found).split())
    return line if len(line) <= LINE else f"{line[:LINE]} ..."


def same(found: Tensor, wanted: Tensor, expected: str, tolerance: float) -> None:
    """Expect two tensors to be equal, up to this share of the largest number."""
    difference = float((found - wanted).abs().max())
    largest = float(wanted.abs().max())
    expect(difference <= tolerance * largest, expected,
            f"a difference of {difference:.3g}, of numbers up to {largest:.3g}")  # fmt: skip


def unmoved(new: Tensor, old: Tensor, expected: str) -> None:
    """Expect the same bits; NaN equals NaN."""
    equal = (new == old) | (new.isnan() & old.isnan())
    expect(bool(equal.all()), f"{expected} to stay", "a change")


def raised(
    error: type[Exception], call: Callable[[Value], object], value: Value, given: str
) -> str:
    """Return what went wrong where ``call(value)`` should raise; empty if it does."""
    try:
        found = call(value)
    except error:
        return ""
    except Exception as other:
        return f"expected {error.__name__} for {given}. Found {short(repr(other))}"
    return f"expected {error.__name__} for {given}. Found {short(found)}"


def place(error: BaseException) -> str:
    """File and line where it was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "unknown place"


def global_state() -> list[object]:
    """The global random states of torch, numpy and Python."""
    numbers = np.random.get_state(legacy=False)  # noqa: NPY002
    return [torch.random.get_rng_state().tolist(), _plain(numbers), random.getstate()]


def _plain(state: object) -> object:
    """Arrays as lists, at any depth."""
    if isinstance(state, dict):
        return {name: _plain(value) for name, value in state.items()}
    return state.tolist() if isinstance(state, np.ndarray) else state


@contextmanager
def global_states() -> Iterator[None]:
    """Put the global random states back."""
    kept = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        np.random.set_state(kept[0])  # noqa: NPY002
        random.setstate(kept[1])
