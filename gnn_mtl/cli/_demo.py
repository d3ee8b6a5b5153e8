"""``gnn-mtl demo``: the comparison on the embedded graph, as a table and a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gnn_mtl._core.optional import require
from gnn_mtl.cli._parse import out_console, parse
from gnn_mtl.reports import build_report, compare_runs, comparison_table, rich_table, score_table
from gnn_mtl.runs import run_demo


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the demo."""

    out: Path = Path("runs/demo")
    """Folder for runs/, summary.json and report.html; an earlier demo there is replaced."""
    budget_seconds: float = 220.0
    """Time all trainings together may take; the number of steps adapts to it."""


def run(argv: Sequence[str]) -> int:
    """Run the demo and print its table."""
    options = parse(
        Options, argv, "demo",
        "Joint training, SON-GOKU colouring, models of Grad-TAG's groups, matched random groups, a "
        "shallow baseline and single-task models on the embedded graph, three seeds each.",
    )  # fmt: skip
    require("matplotlib", extra="plot", purpose="The report")
    console = out_console()
    demo = run_demo(
        options.out,
        say=partial(print, flush=True),
        budget_s=options.budget_seconds,
    )
    console.print(rich_table(score_table(demo.records)))
    console.print(rich_table(comparison_table(compare_runs(demo.records))))
    report = build_report([options.out / "runs"], options.out / "report.html")
    print(f"report:  {report}\nnumbers: {options.out / 'summary.json'}")
    return 0
