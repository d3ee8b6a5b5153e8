"""Small pieces every subcommand parses with."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

from gnn_mtl._core.errors import UsageError

T = TypeVar("T")


def parse(cls: type[T], argv: Sequence[str], command: str, description: str) -> T:
    """Parse flags into a dataclass; usage errors exit with code 2 and a suggestion."""
    return tyro.cli(cls, args=list(argv), prog=f"gnn-mtl {command}", description=description)


def take_value(argv: list[str], name: str) -> str | None:
    """Remove ``name VALUE`` or ``name=VALUE`` from the arguments and return the value.

    Raises:
        UsageError: If the name is last or followed by another flag.
    """
    for index, argument in enumerate(argv):
        if argument == name:
            if index + 1 >= len(argv) or argv[index + 1].startswith("--"):
                raise UsageError(f"{name} needs a value.")
            del argv[index]
            return argv.pop(index)
        if argument.startswith(f"{name}="):
            del argv[index]
            return argument.split("=", 1)[1]
    return None


def peek_value(argv: Sequence[str], name: str) -> str | None:
    """Return what :func:`take_value` would, and leave the arguments as they are."""
    return take_value(list(argv), name)


def take_flag(argv: list[str], name: str) -> bool:
    """Remove ``name`` from the arguments and return whether it was there."""
    if name in argv:
        argv.remove(name)
        return True
    return False


def take_positional(argv: list[str]) -> str | None:
    """Remove the first argument if it is not a flag and return it."""
    return argv.pop(0) if argv and not argv[0].startswith("-") else None


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds in ``"0,1,2"`` or ``"0-9"``.

    Raises:
        UsageError: If the text is neither.
    """
    try:
        if "-" in text.strip("-"):
            first, last = map(int, text.split("-"))
            seeds = tuple(range(first, last + 1))
        else:
            seeds = tuple(int(part) for part in text.split(","))
    except ValueError:
        seeds = ()
    if not seeds:
        raise UsageError(f"--seeds should read like 0,1,2 or 0-9. Found {text!r}.")
    return seeds


def out_console() -> Any:  # noqa: ANN401
    """Return a console for tables: wide enough off a terminal not to cut them.

    Lines of text are better printed: a console breaks long paths.
    """
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160, markup=False, highlight=False)
