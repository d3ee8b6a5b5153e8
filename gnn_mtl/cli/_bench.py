"""``gnn-mtl bench``: ratios of two things measured in one process."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro
from rich.table import Table

from gnn_mtl.benchmarks import BENCHES
from gnn_mtl.cli._parse import out_console, parse


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the benches."""

    name: Annotated[
        Literal[
            "sampler", "epoch", "refresh", "schedule", "coloring", "sdp", "gradtag", "aggregate"
        ],
        tyro.conf.Positional,
    ]
    """What to measure."""
    json: bool = False
    """Print nothing but the JSON object."""
    quick: bool = False
    """A smaller size that ends within a minute."""


def run(argv: Sequence[str]) -> int:
    """Measure, print the rows as a table, and one JSON object last."""
    options = parse(Options, argv, "bench", "Measure this machine.")
    result = BENCHES[options.name](quick=options.quick)
    if not options.json:
        console = out_console()
        for table in _tables(options.name, result["rows"]):
            console.print(table)
    print(json.dumps(result))
    return 0


def _tables(name: str, rows: Sequence[Mapping[str, object]]) -> list[Table]:
    """One table for the rows that measure the same; what they all share goes into its title."""
    kinds: dict[frozenset[str], list[Mapping[str, object]]] = {}
    for row in rows:
        kinds.setdefault(frozenset(k for k, v in row.items() if v is not None), []).append(row)
    tables = []
    for keys, same in kinds.items():
        columns = [key for key in same[0] if key in keys]
        shared = [k for k in columns if len(same) > 1 and len({str(row[k]) for row in same}) == 1]
        said = ", ".join(f"{key} {_text(same[0][key])}" for key in shared)
        shown = [key for key in columns if key not in shared] or columns
        table = Table(*shown, title=f"bench {name}" + (f": {said}" if said else ""))
        for row in same:
            table.add_row(*(_text(row[key]) for key in shown))
        tables.append(table)
    return tables


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
