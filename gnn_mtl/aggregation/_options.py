"""The types of a configuration's options, checked before anything is done with them."""

from __future__ import annotations

import dataclasses
from typing import Any

from gnn_mtl._core.errors import UsageError

TYPES: dict[str, tuple[str, tuple[type, ...]]] = {
    "bool": ("True or False", (bool,)),
    "int": ("a whole number", (int,)),
    "float": ("a number", (int, float)),
    "str": ("text", (str,)),
}


def check_options(config: Any) -> None:  # noqa: ANN401
    """Raise UsageError for a number, text or tuple of another type; lists become tuples.

    Args:
        config: A frozen dataclass; options of other types are left to it.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        annotation = str(getattr(field.type, "__name__", field.type))
        if isinstance(field.default, tuple):
            if not isinstance(value, tuple | list):
                _refuse(config, field.name, "a tuple", value)
            object.__setattr__(config, field.name, _tuples(value))
        elif annotation in TYPES:
            wanted, types = TYPES[annotation]
            if not isinstance(value, types) or (isinstance(value, bool) and annotation != "bool"):
                _refuse(config, field.name, wanted, value)


def _refuse(config: Any, name: str, wanted: str, value: object) -> None:  # noqa: ANN401
    raise UsageError(
        f"`{name}` of {type(config).__name__} should be {wanted}. Found {value!r}, "
        f"a {type(value).__name__}."
    )


def _tuples(value: Any) -> Any:  # noqa: ANN401
    return tuple(map(_tuples, value)) if isinstance(value, tuple | list) else value
