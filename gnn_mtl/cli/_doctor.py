"""``gnn-mtl doctor``: what is here, what is missing and what for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from gnn_mtl._core.doctor import examine
from gnn_mtl.cli._parse import out_console, parse


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the doctor."""

    json: bool = False
    """Print JSON instead of a table."""


def run(argv: Sequence[str]) -> int:
    """Print the findings; exit code 0 if everything needed is here, 2 if not."""
    options = parse(Options, argv, "doctor", "Say what is installed, and what is missing for what.")
    findings = examine()
    if options.json:
        print(json.dumps([finding.__dict__ for finding in findings]))
    else:
        from rich.table import Table

        table = Table("", "part", "found", "for", "to get it")
        for f in findings:
            mark = "ok" if f.is_here else ("MISSING" if f.is_needed else "-")
            table.add_row(mark, f.name, f.found, f.purpose, "" if f.is_here else f.remedy)
        out_console().print(table)
    return 0 if all(f.is_here for f in findings if f.is_needed) else 2
