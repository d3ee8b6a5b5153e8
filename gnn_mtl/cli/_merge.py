"""``gnn-mtl merge``: one model in place of one per group."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import tyro

from gnn_mtl.cli._parse import out_console, parse, take_flag
from gnn_mtl.records import read_run
from gnn_mtl.reports import rich_table, score_table
from gnn_mtl.runs import Merge, RunConfig, merge_run


@dataclass(frozen=True, kw_only=True)
class Options(Merge):
    """Merge the models of a separate run into one."""

    run: Annotated[Path, tyro.conf.Positional]
    """A finished run of `gnn-mtl train --scheduler.kind separate`."""
    out: Path | None = None
    """Folder of the merged run; default: RUN-merged-METHOD."""


def run(argv: Sequence[str]) -> int:
    """Merge, score, write the run and print both scores."""
    rest = list(argv)
    if take_flag(rest, "--no-download"):
        os.environ["GNN_MTL_NO_DOWNLOAD"] = "1"
    options = parse(
        Options, rest, "merge",
        "One model in place of one per group: trunks are merged, every task keeps its head, and a "
        "prediction is one forward pass. Nothing is trained.",
    )  # fmt: skip
    folder = options.run
    out = options.out or folder.with_name(f"{folder.name}-merged-{options.method}")
    chosen = Merge(**{field.name: getattr(options, field.name) for field in fields(Merge)})
    merged = merge_run(folder, out, chosen)
    out_console().print(rich_table(score_table([read_run(folder), merged])))
    if getattr(RunConfig.load(folder).scheduler, "base", None) is None:
        print(
            "The models were trained from scratch, and such trunks seldom merge. Fine-tune them "
            "from a joint run: --scheduler.init base --scheduler.base RUN."
        )
    print(f"run folder: {out}\nreport:     gnn-mtl report {folder} {out} --out report.html")
    return 0
