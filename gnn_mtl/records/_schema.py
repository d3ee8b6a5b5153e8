"""The typed contents of a run folder, and how each is parsed from plain JSON.

A parser raises ``ValueError`` with what was expected and found; the reader and the writer, which
know the file and the line, turn it into a typed error. Unknown keys are kept, not refused, so that
a newer minor version stays readable; a higher ``FORMAT_VERSION`` is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

FORMAT = "gnn-mtl/run"
FORMAT_VERSION = 1

CONFIG, MANIFEST, SUMMARY = "config.json", "manifest.json", "summary.json"
METRICS, GROUPINGS = "metrics.jsonl", "groupings.jsonl"
AFFINITY, CHECKPOINTS, DONE, LOCK = "affinity", "checkpoints", "DONE", ".lock"

Json = dict[str, Any]


@dataclass(frozen=True)
class TrainRow:
    """The state of training at one step; ``loss`` is NaN where it was not finite."""

    step: int
    epoch: int
    loss: float
    num_active: int
    lr: float
    seconds: float
    task: int | None = None
    extra: Json = field(default_factory=dict)


@dataclass(frozen=True)
class ValidRow:
    """Macro scores of the validation split at one step; NaN where undefined."""

    step: int
    epoch: int
    ap: float
    auroc: float
    f1: float
    seconds: float
    task: int | None = None
    extra: Json = field(default_factory=dict)


@dataclass(frozen=True)
class Refresh:
    """One regrouping: the groups in schedule order and the conflict graph they come from.

    ``tau``, ``num_edges``, ``density``, ``churn`` and ``negative_share`` are None where the
    schedule has no such thing (random or static groups). ``affinity`` is a path inside the folder.
    """

    step: int
    groups: tuple[tuple[int, ...], ...]
    tau: float | None = None
    num_edges: int | None = None
    density: float | None = None
    num_colors: int | None = None
    churn: float | None = None
    negative_share: float | None = None
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
    affinity: str | None = None
    extra: Json = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class RunSummary:
    """The outcome of a run: scores of the checkpoint chosen on validation, and what it cost.

    ``valid`` and ``test`` are macro scores over ``tasks``; ``per_label`` holds arrays over all
    tasks of the dataset, NaN where a label was not scored.
    """

    method: str
    status: str
    best_step: int | None
    best_epoch: int | None
    valid: dict[str, float]
    test: dict[str, float]
    per_label: dict[str, NDArray[np.float64]]
    tasks: tuple[int, ...]
    cost: dict[str, float]
    num_parameters: int | None
    extra: Json = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """Where, when and with what a run was made; ``dataset`` names the graph and its labels."""

    version: int
    created: str
    command: str
    commit: str | None
    dirty: bool | None
    seed: int
    packages: dict[str, str]
    hardware: Json
    dataset: Json
    label_names: tuple[str, ...]
    extra: Json = field(default_factory=dict)


def parse_metric(row: Json) -> TrainRow | ValidRow | None:
    """Parse one line of ``metrics.jsonl``; None for a kind this version does not know."""
    kind = row.get("kind")
    task = None if row.get("task") is None else _integer(row, "task")
    if kind == "train":
        known = ("kind", "step", "epoch", "loss", "num_active", "lr", "seconds", "task")
        return TrainRow(
            _integer(row, "step"), _integer(row, "epoch"), _number(row, "loss"),
            _integer(row, "num_active"), _number(row, "lr"), _number(row, "seconds"), task,
            _rest(row, known),
        )  # fmt: skip
    if kind == "valid":
        known = ("kind", "step", "epoch", "ap", "auroc", "f1", "seconds", "task")
        return ValidRow(
            _integer(row, "step"), _integer(row, "epoch"), _number(row, "ap"),
            _number(row, "auroc"), _number(row, "f1"), _number(row, "seconds"), task,
            _rest(row, known),
        )  # fmt: skip
    if not isinstance(kind, str):
        raise ValueError(f"`kind` should be 'train' or 'valid', found {kind!r}")
    return None


def parse_refresh(row: Json, num_tasks: int | None = None) -> Refresh | None:
    """Parse one line of ``groupings.jsonl``; None for a kind this version does not know."""
    if row.get("kind") != "refresh":
        if not isinstance(row.get("kind"), str):
            raise ValueError(f"`kind` should be 'refresh', found {row.get('kind')!r}")
        return None
    known = {name for name in Refresh.__dataclass_fields__ if name != "extra"} | {"kind"}
    affinity = row.get("affinity")
    if affinity is not None:
        parts = PurePosixPath(_text(row, "affinity")).parts
        if len(parts) != 2 or parts[0] != AFFINITY or parts[1] == ".." or "\\" in affinity:
            raise ValueError(f"`affinity` should be a file in {AFFINITY}/, found {affinity!r}")
    return Refresh(
        step=_integer(row, "step"),
        groups=_groups(row.get("groups"), num_tasks),
        tau=_optional(row, "tau"),
        num_edges=_optional_integer(row, "num_edges"),
        density=_optional(row, "density"),
        num_colors=_optional_integer(row, "num_colors"),
        churn=_optional(row, "churn"),
        negative_share=_optional(row, "negative_share"),
        warnings=tuple(str(item) for item in _list(row, "warnings")),
        seconds=_optional(row, "seconds") or 0.0,
        affinity=affinity,
        extra=_rest(row, known),
    )


def parse_summary(value: Json, num_tasks: int | None = None) -> RunSummary:
    """Parse ``summary.json``; with ``num_tasks`` the per-label arrays must have that length."""
    known = {name for name in RunSummary.__dataclass_fields__ if name != "extra"}
    per_label = {}
    for name in _mapping(value, "per_label"):
        numbers = np.array([_nan(item, name) for item in _list(value["per_label"], name)])
        if num_tasks is not None and numbers.size != num_tasks:
            raise ValueError(
                f"`per_label.{name}` should hold {num_tasks} numbers, found {numbers.size}"
            )
        per_label[name] = numbers
    tasks = tuple(_whole(item, "tasks") for item in _list(value, "tasks"))
    limit = math.inf if num_tasks is None else num_tasks
    if not all(0 <= task < limit for task in tasks):
        raise ValueError(f"`tasks` should be ids below {limit}, found {list(tasks)[:8]}")
    return RunSummary(
        method=_text(value, "method"),
        status=_text(value, "status"),
        best_step=_optional_integer(value, "best_step"),
        best_epoch=_optional_integer(value, "best_epoch"),
        valid=_numbers(value, "valid"),
        test=_numbers(value, "test"),
        per_label=per_label,
        tasks=tasks,
        cost=_numbers(value, "cost"),
        num_parameters=_optional_integer(value, "num_parameters"),
        extra=_rest(value, known),
    )


def parse_manifest(value: Json) -> Manifest:
    """Parse ``manifest.json`` of this or an earlier version."""
    if value.get("format") != FORMAT:
        raise ValueError(f"`format` should be {FORMAT!r}, found {value.get('format')!r}")
    known = {name for name in Manifest.__dataclass_fields__ if name != "extra"} | {"format"}
    dataset = _mapping(value, "dataset")
    _text(dataset, "name")
    names = tuple(str(name) for name in _list(dataset, "label_names"))
    if _integer(dataset, "num_tasks") != len(names):
        raise ValueError(
            f"`dataset.label_names` should hold {dataset['num_tasks']} names, found {len(names)}"
        )
    dirty = value.get("dirty")
    commit = value.get("commit")
    return Manifest(
        version=_integer(value, "version"),
        created=_text(value, "created"),
        command=_text(value, "command"),
        commit=None if commit is None else _text(value, "commit"),
        dirty=None if dirty is None else bool(dirty),
        seed=_integer(value, "seed"),
        packages={name: str(item) for name, item in _mapping(value, "packages").items()},
        hardware=dict(_mapping(value, "hardware")),
        dataset=dict(dataset),
        label_names=names,
        extra=_rest(value, known),
    )


def _groups(value: object, num_tasks: int | None) -> tuple[tuple[int, ...], ...]:
    if not isinstance(value, list) or not all(isinstance(group, list) and group for group in value):
        raise ValueError("`groups` should be a list of non-empty lists of task ids")
    groups = tuple(tuple(_whole(task, "groups") for task in group) for group in value)
    limit = math.inf if num_tasks is None else num_tasks
    if not all(0 <= task < limit for group in groups for task in group):
        raise ValueError(f"`groups` should hold task ids below {limit}")
    return groups


def _number(row: Mapping[str, Any], key: str) -> float:
    """A number; null means a value that was not finite."""
    if key not in row:
        raise ValueError(f"`{key}` is missing")
    return _nan(row[key], key)


def _nan(value: object, key: str) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"`{key}` should be a number or null, found {value!r:.60}")
    return float(value)


def _whole(value: object, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"`{key}` should hold whole numbers, found {value!r:.60}")
    return value


def _integer(row: Mapping[str, Any], key: str) -> int:
    if key not in row:
        raise ValueError(f"`{key}` is missing")
    return _whole(row[key], key)


def _optional(row: Mapping[str, Any], key: str) -> float | None:
    return None if row.get(key) is None else _nan(row[key], key)


def _optional_integer(row: Mapping[str, Any], key: str) -> int | None:
    return None if row.get(key) is None else _whole(row[key], key)


def _text(row: Mapping[str, Any], key: str) -> str:
    if not isinstance(row.get(key), str):
        raise ValueError(f"`{key}` should be a string, found {row.get(key)!r:.60}")
    return row[key]


def _list(row: Mapping[str, Any], key: str) -> list[Any]:
    value = row.get(key, [])
    if not isinstance(value, list):
        raise ValueError(f"`{key}` should be a list, found {value!r:.60}")
    return value


def _mapping(row: Mapping[str, Any], key: str) -> Json:
    value = row.get(key, {})
    if not isinstance(value, dict):
        raise ValueError(f"`{key}` should be an object, found {value!r:.60}")
    return value


def _numbers(row: Mapping[str, Any], key: str) -> dict[str, float]:
    return {name: _nan(item, f"{key}.{name}") for name, item in _mapping(row, key).items()}


def _rest(row: Mapping[str, Any], known: Any) -> Json:  # noqa: ANN401
    return {key: value for key, value in row.items() if key not in known}
