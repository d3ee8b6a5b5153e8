"""``gnn-mtl group``: from an affinity file to groups."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import numpy as np
import tyro

from gnn_mtl._core.errors import UsageError
from gnn_mtl.cli._parse import parse, take_value
from gnn_mtl.grouping import COLORINGS, METHODS, bootstrap_affinities, group_tasks, stability
from gnn_mtl.tasks import Affinity, Grouping

NOT_FLAGS = ("affinity", "previous", "adjacency")
LEARNED = ("dmtg", "data_maps")
"""Methods that train a model instead of reading an affinity."""


def run(argv: Sequence[str]) -> int:
    """Group, write the file and print the groups."""
    rest = list(argv)
    method = take_value(rest, "--method") or "coloring"
    if method in LEARNED:
        from gnn_mtl.cli._learned_groups import run as run_learned

        return run_learned(method, rest)
    if method not in METHODS:
        close = difflib.get_close_matches(method, (*METHODS, *LEARNED), n=1)
        hint = f" Perhaps you meant {close[0]}." if close else ""
        known_ones = ", ".join((*METHODS, *LEARNED))
        raise UsageError(f"--method should be one of {known_ones}. Found {method}.{hint}")
    known = method_options(method, coloring=_value(rest, "--coloring"))
    _refuse_other_methods(rest, method, known)
    options: Any = parse(
        _options_class(known), rest, f"group --method {method}",
        f"Group the tasks of an affinity file. Methods: {', '.join(METHODS)}; the options shown "
        f"are those of {method}. Learned in a training of their own: {', '.join(LEARNED)}.",
    )  # fmt: skip
    given = dataclasses.asdict(options)
    path, out, bootstraps = (given.pop(name) for name in ("affinity", "out", "bootstraps"))
    affinity = Affinity.load(path)
    if "tau" in given:  # a conflict graph has no directions
        affinity = affinity.symmetrized()

    def form(one: Affinity) -> Grouping:
        return group_tasks(one, method=method, **given)

    groups = form(affinity)
    held = stability(bootstrap_affinities(affinity, bootstraps), form) if bootstraps else None
    groups.save(out, label_names=affinity.label_names)
    names = affinity.label_names or tuple(map(str, range(affinity.num_tasks)))
    for number, group in enumerate(groups.groups):
        print(f"group {number} ({len(group)}): {', '.join(names[t] for t in group)}")
    dataset = affinity.details.get("source") or "NAME|PATH"
    print(f"by: {groups.method}")
    pairs = ~np.eye(affinity.num_tasks, dtype=np.bool_)
    if unknown := int((pairs & ~affinity.known).sum()):
        taken = ", taken as no conflict" if "tau" in given else ""
        print(f"unknown: {unknown} of {int(pairs.sum())} ordered pairs{taken}")
    if held is not None:
        print(
            f"stability: adjusted Rand index {held.mean_ari:.2f} among groups of {bootstraps} "
            "bootstraps of the standard errors (1: they hold, 0: noise)"
        )
    print(f"groups: {out}\nnext:   gnn-mtl train --groups {out} --dataset {dataset}")
    return 0


def method_options(method: str, *, coloring: str | None = None) -> dict[str, tuple[Any, Any, str]]:
    """Return type, default and description of every option of a grouping method, by name.

    Read from the method's own signature and docstring, so a new method is offered as it is.

    Args:
        method: A name in ``METHODS``.
        coloring: Colouring whose own options are added, for methods that pass them on.
    """
    call = METHODS[method]
    fixed = dict(call.keywords) if isinstance(call, partial) else {}
    options = _keywords(call)
    passes_on = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(call).parameters.values())
    if passes_on and ("coloring" in options or "coloring" in fixed):
        default = options["coloring"][1] if "coloring" in options else None
        chosen = fixed.get("coloring") or coloring or default
        if chosen in COLORINGS:
            options = {**_keywords(COLORINGS[str(chosen)]), **options}
    return {name: value for name, value in options.items() if name not in fixed}


def _keywords(call: Callable[..., Any]) -> dict[str, tuple[Any, Any, str]]:
    function = call.func if isinstance(call, partial) else call
    hints, texts = get_type_hints(function), _descriptions(function)
    return {
        p.name: (hints[p.name], p.default, texts.get(p.name, ""))
        for p in inspect.signature(function).parameters.values()
        if p.kind is p.KEYWORD_ONLY and p.name not in NOT_FLAGS
    }


def _descriptions(function: Callable[..., Any]) -> dict[str, str]:
    """The Args section of a docstring, by argument."""
    text = inspect.getdoc(function) or ""
    section = re.search(r"^Args:\n((?:[ ]+.*\n?|\n)*)", text, flags=re.MULTILINE)
    entries = re.split(r"\n(?=    \S)", section.group(1).rstrip()) if section else []
    pairs = (entry.strip().split(":", 1) for entry in entries if ":" in entry)
    found = {name.strip("* "): " ".join(said.split()) for name, said in pairs}
    return {
        name: re.sub(r":\w+:`([^`]*)`|``([^`]*)``", r"\1\2", said) for name, said in found.items()
    }


def _options_class(known: dict[str, tuple[Any, Any, str]]) -> type:
    """A dataclass of the file, the method's options and the output."""

    def described(kind: Any, text: str, *more: Any) -> Any:  # noqa: ANN401
        return Annotated[(kind, tyro.conf.arg(help=text), *more)]

    file = described(Path, "File written by `gnn-mtl affinity`.", tyro.conf.Positional)
    fields: list[Any] = [("affinity", file)]
    for name, (kind, default, text) in known.items():
        if default is inspect.Parameter.empty:
            fields.append((name, described(kind, text)))
        else:
            fields.append((name, described(kind, text), dataclasses.field(default=default)))
    draws = "Also group so many draws of the affinity's standard errors; print how far they agree."
    fields.append(("bootstraps", described(int, draws), 0))
    fields.append(("out", described(Path, "File to write."), Path("groups.json")))
    return dataclasses.make_dataclass("Options", fields, frozen=True, kw_only=True)


def _refuse_other_methods(
    argv: Sequence[str], method: str, known: dict[str, tuple[Any, Any, str]]
) -> None:
    """Refuse an option of other methods than the chosen one, and name those that have it."""
    for argument in argv:
        if not argument.startswith("--"):
            continue
        name = argument.partition("=")[0].removeprefix("--").replace("-", "_").removeprefix("no_")
        owners = [other for other in METHODS if name in method_options(other)]
        if name not in known and owners:
            own = (
                "finds the number of groups itself"
                if name == "num_groups"
                else "has no such option"
            )
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{method} {own}; {flag} belongs to --method {', '.join(owners)}.")


def _value(argv: Sequence[str], name: str) -> str | None:
    """The value of a flag that stays among the arguments."""
    return take_value(list(argv), name) if any(a.partition("=")[0] == name for a in argv) else None
