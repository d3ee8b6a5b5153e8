"""``gnn-mtl compare``: methods × seeds on equal terms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gnn_mtl._core.errors import RecordError, UsageError
from gnn_mtl.cli._parse import out_console, parse_seeds, take_value
from gnn_mtl.records import find_runs, read_run
from gnn_mtl.reports import (
    build_report,
    compare_runs,
    comparison_table,
    render_table,
    rich_table,
    score_table,
)
from gnn_mtl.runs import Sweep, run_sweep

HELP = """\
usage: gnn-mtl compare RECIPE.toml [--seeds 0,1,2] [--jobs N] [--out DIR] [--reference METHOD]
       gnn-mtl compare RUN_DIRS... [--reference METHOD]

Trains what a recipe lists (finished runs are kept, interrupted ones resumed), or takes runs that
exist, and prints mean ± unbiased std over seeds, paired tests against the reference (Holm
corrected) and wins and losses per label.

  --seeds      0,1,2 or 0-9; default those of the recipe
  --jobs       runs trained at a time, default 1
  --out        folder of the run folders, default runs/RECIPE
  --reference  method the others are tested against, default joint
  --report     also write this HTML page
  --markdown   print tables as markdown
"""


def run(argv: Sequence[str]) -> int:
    """Compare the runs of a recipe or of folders."""
    rest = list(argv)
    if not rest or "--help" in rest or "-h" in rest:
        print(HELP, end="")
        return 0 if rest else 2
    seeds, out = take_value(rest, "--seeds"), take_value(rest, "--out")
    jobs, reference = take_value(rest, "--jobs"), take_value(rest, "--reference") or "joint"
    report = take_value(rest, "--report")
    markdown = "--markdown" in rest
    rest = [argument for argument in rest if argument != "--markdown"]
    unknown = [argument for argument in rest if argument.startswith("-")]
    if unknown:
        raise UsageError(f"unknown option {unknown[0]}; see gnn-mtl compare --help.")
    if len(rest) == 1 and rest[0].endswith(".toml"):
        sweep = Sweep.load(rest[0])
        if seeds is not None:
            sweep = Sweep(methods=sweep.methods, seeds=parse_seeds(seeds))
        folder = Path(out) if out else Path("runs") / Path(rest[0]).stem
        records = run_sweep(sweep.runs(), folder, jobs=_positive(jobs))
    else:
        given = {"--seeds": seeds, "--out": out, "--jobs": jobs}
        if useless := [name for name, value in given.items() if value is not None]:
            raise UsageError(f"{', '.join(useless)} goes with a RECIPE.toml, not with run folders.")
        records = [read_run(path) for path in find_runs(rest)]
        if not any(record.done for record in records):
            raise RecordError(f"No finished run folder was found in {', '.join(rest)}.")
    console = out_console()
    for table in (score_table(records), comparison_table(compare_runs(records, reference))):
        if markdown:
            print(render_table(table, "markdown"))
        else:
            console.print(rich_table(table))
    if report is not None:
        print(f"report: {build_report([r.path for r in records], report)}")
    return 0


def _positive(text: str | None) -> int:
    if text is None:
        return 1
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"--jobs should be a positive number. Found {text!r}.")
    return int(text)
