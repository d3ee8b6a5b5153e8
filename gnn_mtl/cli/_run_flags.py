"""From flags to a run's configuration: kinds are read first, tyro parses the rest."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import tyro

from gnn_mtl._core.errors import UsageError
from gnn_mtl.cli._parse import take_value
from gnn_mtl.runs import KINDS, RunConfig, kind_class
from gnn_mtl.runs._config import kinds_with
from gnn_mtl.schedulers import Separate, Static
from gnn_mtl.tasks import Grouping

ALIASES = {
    "--epochs": "--train.epochs",
    "--max-steps": "--train.max-steps",
    "--batch-size": "--train.batch-size",
    "--lr": "--train.lr",
    "--device": "--train.device",
    "--deterministic": "--train.deterministic",
}
OF_GROUPS: dict[str, type[Static | Separate]] = {"static": Static, "separate": Separate}
OTHERS = ("--out", "--resume", "--seeds", "--groups", "--help")


def parse_run_config(argv: Sequence[str], default: RunConfig, command: str) -> RunConfig:
    """Parse the flags of a run on top of ``default``.

    ``--scheduler.kind coloring`` (and ``--aggregator.kind``, ``--encoder.kind``, ``--head.kind``)
    chooses the configuration class whose fields the other flags then set; ``--groups FILE`` is a
    static grouping from a file, or the groups of separate models (``--scheduler.kind separate``).

    Raises:
        ConfigError: On an unknown kind.
    """
    rest = [_alias(argument) for argument in argv]
    groups = take_value(rest, "--groups")
    for family in KINDS:
        kind = take_value(rest, f"--{family}.kind")
        if family == "scheduler" and groups is None and kind == default.scheduler.kind:
            continue
        if family == "scheduler" and (groups is not None or kind in OF_GROUPS):
            default = _with_groups(default, kind, groups or take_value(rest, "--scheduler.file"))
        else:
            default = dataclasses.replace(default, **{family: _part(default, family, kind, rest)})
    _suggest(rest)
    _refuse_other_kinds(rest, default)
    with _first_paragraph(*(type(getattr(default, family)) for family in KINDS)):
        return _parsed(rest, default, command)


def _parsed(rest: list[str], default: RunConfig, command: str) -> RunConfig:
    return tyro.cli(
        RunConfig, args=rest, default=default, prog=f"gnn-mtl {command}",
        description="Train one run. Choose parts by --scheduler.kind "
        f"{'|'.join(KINDS['scheduler'])}, --aggregator.kind {'|'.join(KINDS['aggregator'])}, "
        f"--encoder.kind {'|'.join(KINDS['encoder'])}, "
        f"--head.kind {'|'.join(KINDS['head'])}; the options shown are those of the kinds chosen. "
        "Also: --out DIR, --resume, --seeds 0,1,2, --groups FILE, --no-download, and short forms "
        f"{', '.join(ALIASES)}.",
        config=(tyro.conf.AvoidSubcommands,),
    )  # fmt: skip


@contextlib.contextmanager
def _first_paragraph(*classes: type) -> Iterator[None]:
    """Let help say what a class does in a line: equations are for its documentation."""
    whole = {cls: cls.__doc__ for cls in classes}
    try:
        for cls, text in whole.items():
            cls.__doc__ = inspect.cleandoc(text or "").partition("\n\n")[0]
        yield
    finally:
        for cls, text in whole.items():
            cls.__doc__ = text


def _with_groups(default: RunConfig, kind: str | None, file: str | None) -> RunConfig:
    """The configuration with the groups of a file; static unless ``kind`` or it says separate."""
    if kind is None:
        kind = default.scheduler.kind if default.scheduler.kind in OF_GROUPS else "static"
    if kind not in OF_GROUPS:
        raise UsageError(
            f"--groups is a static schedule, or separate models. Found --scheduler.kind {kind}."
        )
    if file is None:
        raise UsageError(f"A {kind} schedule needs its groups: --groups FILE.")
    groups = Grouping.load(file).groups
    plan: Static | Separate = OF_GROUPS[kind](groups=groups)
    if isinstance(default.scheduler, Static | Separate) and default.scheduler.kind == kind:
        plan = dataclasses.replace(default.scheduler, groups=groups, file=None)  # keep the rest
    return dataclasses.replace(default, scheduler=plan)


def _part(default: RunConfig, family: str, kind: str | None, rest: list[str]) -> Any:  # noqa: ANN401
    """The configuration of the kind chosen; groups of a file take the place of those it had."""
    part = getattr(default, family)
    same = kind in (None, part.kind)
    cls = type(part) if same else kind_class(family, str(kind), "command line")
    given: dict[str, Any] = {}
    if family != "scheduler" and "file" in {field.name for field in dataclasses.fields(cls)}:
        file = take_value(rest, f"--{family}.file")
        given = {} if file is None else {"file": file, "groups": ()}
    return dataclasses.replace(part, **given) if same else cls(**given)


def _refuse_other_kinds(argv: Sequence[str], default: RunConfig) -> None:
    """Refuse a field of another kind than the chosen one, and name the kinds that have it."""
    for argument in argv:
        family, dot, name = argument.partition("=")[0].removeprefix("--").partition(".")
        if not dot or family not in KINDS:
            continue
        name = name.replace("-", "_").removeprefix("no_")
        owners = kinds_with(family, name)
        chosen = getattr(default, family).kind
        if owners and chosen not in owners:
            raise UsageError(
                f"--{family}.{name} belongs to --{family}.kind {' or '.join(owners)}. "
                f"Found kind {chosen}."
            )


def _suggest(argv: Sequence[str]) -> None:
    """Refuse a misspelt short form, of which tyro knows none; it suggests dotted names itself."""
    for family in KINDS:
        if any(argument.partition("=")[0] == f"--{family}" for argument in argv):
            raise UsageError(f"unknown option --{family}. Perhaps you meant --{family}.kind.")
    own = [f"--{field.name}" for field in dataclasses.fields(RunConfig)]
    for argument in argv:
        name = argument.partition("=")[0]
        if name.startswith("--") and "." not in name and name not in (*own, *OTHERS):
            near = difflib.get_close_matches(name, [*OTHERS, *ALIASES, *own], n=1, cutoff=0.75)
            if near:
                raise UsageError(f"unknown option {name}. Perhaps you meant {near[0]}.")


def _alias(argument: str) -> str:
    """Replace a short form by the full name of the flag."""
    name, equals, value = argument.partition("=")
    return ALIASES.get(name, name) + equals + value
