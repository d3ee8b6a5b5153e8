"""``gnn-mtl bench``: ratios of two things measured in one process."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from gnn_mtl.benchmarks import BENCHES
from gnn_mtl.cli._parse import out_console, parse


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the benches."""

    name: Annotated[
        Literal["sampler", "epoch", "refresh", "schedule", "coloring", "sdp", "gradtag"],
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
        from rich.table import Table

        columns = sorted({key for row in result["rows"] for key in row})
        table = Table(*columns, title=f"bench {options.name}")
        for row in result["rows"]:
            table.add_row(*(_text(row.get(key)) for key in columns))
        out_console().print(table)
    print(json.dumps(result))
    return 0


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
