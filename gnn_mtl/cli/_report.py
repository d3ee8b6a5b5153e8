"""``gnn-mtl report``: one HTML page from run folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from gnn_mtl._core.errors import UsageError
from gnn_mtl.cli._parse import parse
from gnn_mtl.reports import build_report


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the report."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders, or folders that hold some."""
    out: Path = Path("report.html")
    """The page to write."""


def run(argv: Sequence[str]) -> int:
    """Write the page and print where it is."""
    options = parse(Options, argv, "report", "Write one self-contained HTML page.")
    if not options.runs:
        raise UsageError("gnn-mtl report needs run folders, or folders that hold some.")
    print(build_report(options.runs, options.out))
    return 0
