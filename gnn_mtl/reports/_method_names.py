"""What methods are called: by name, by what tells configurations apart, by their aggregator."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

SHOWN = 3
"""Options named in a label at most."""


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:  # noqa: ANN401
    """Return nested objects as one level of dotted keys."""
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat.update(flatten(item, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def method_names(keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Name every configuration, adding what differs where several share a name.

    All options that differ are named if they are at most three, or else as many of three as tell
    the configurations apart. Options that only come with a kind, which is named, say nothing more.

    Args:
        keys: Name of the method and its flat configuration as JSON.
    """
    names: dict[tuple[str, str], str] = {}
    for key in keys:
        same = [other for other in keys if other[0] == key[0]]
        flat = [json.loads(other[1]) for other in same]
        mine = json.loads(key[1])
        shown = _shown(flat)
        detail = ", ".join(
            f"{name.removesuffix('.kind').split('.')[-1]}={str(mine.get(name))[:24]}"
            for name in shown
        )
        names[key] = f"{key[0]} ({detail})" if detail else key[0]
        if names[key] in (names[other] for other in names if other != key):
            names[key] += f" #{same.index(key) + 1}"
    return names


def _shown(flat: Sequence[dict[str, Any]]) -> list[str]:
    """The options to name: those that differ, the kinds first."""
    every = sorted({name for one in flat for name in one})
    differing = [name for name in every if _differs(name, flat)]
    kinds = [name for name in differing if name.endswith(".kind")]
    rest = [
        name
        for name in differing
        if name not in kinds and _differs_within(name, flat, f"{name.partition('.')[0]}.kind")
    ]
    found = [*kinds, *rest]
    if len(found) <= SHOWN:
        return found
    return next((found[:n] for n in range(1, SHOWN) if _tell_apart(found[:n], flat)), found[:SHOWN])


def _differs(name: str, flat: Sequence[dict[str, Any]]) -> bool:
    return len({json.dumps(one.get(name), sort_keys=True) for one in flat}) > 1


def _differs_within(name: str, flat: Sequence[dict[str, Any]], kind: str) -> bool:
    """Whether an option differs between configurations of one kind."""
    kinds = {json.dumps(one.get(kind)) for one in flat}
    return any(_differs(name, [x for x in flat if json.dumps(x.get(kind)) == k]) for k in kinds)


def _tell_apart(names: Sequence[str], flat: Sequence[dict[str, Any]]) -> bool:
    return len({tuple(str(one.get(name)) for name in names) for one in flat}) == len(flat)


def aggregator_options(config: dict[str, Any]) -> dict[str, Any]:
    """Return what settles how gradients are combined; nothing for the plain sum."""
    flat = flatten(config)
    if flat.get("aggregator.kind", "sum") == "sum":
        return {}
    return {
        name: value
        for name, value in flat.items()
        if name.startswith("aggregator.") or name in ("train.gramian", "train.gramian_every")
    }


def aggregator_name(config: dict[str, Any]) -> str:
    """Return the aggregator's name in tables: its kind, and the method of another library's."""
    options = aggregator_options(config)
    kind, method = options.get("aggregator.kind", "sum"), options.get("aggregator.method")
    return f"{kind}-{method}" if kind == "torchjd" and method else str(kind)


def aggregator_flags(config: dict[str, Any]) -> str:
    """Return the options on the command line that choose the aggregator's kind and method."""
    options = aggregator_options(config)
    kind, method = options.get("aggregator.kind", "sum"), options.get("aggregator.method")
    more = f" --aggregator.method {method}" if kind == "torchjd" and method else ""
    return f"--aggregator.kind {kind}{more}"
