"""``build_report``: one self-contained HTML file from run folders."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gnn_mtl._core.errors import UsageError
from gnn_mtl._core.files import write_text
from gnn_mtl.records import find_runs, read_run
from gnn_mtl.reports._methods import studies
from gnn_mtl.reports._page import study_page
from gnn_mtl.reports._table import DASH
from gnn_mtl.reports._templates import render_page


def build_report(run_dirs: Iterable[str | os.PathLike[str]], out: str | os.PathLike[str]) -> Path:
    """Write a page about the runs: verdict, scores, curves, groups, labels, cost, settings.

    The page holds everything it shows, asks nothing of the network, and links every number to the
    run folders it comes from, relative to itself: move page and runs together. Runs on several
    graphs get a part each; unfinished runs are left out and named.

    Args:
        run_dirs: Run folders, or folders that hold some at any depth.
        out: The HTML file to write.

    Returns:
        The path written.

    Raises:
        RecordError: If there is no finished run, or two of one method and seed.
        FileFormatError: If a run folder is damaged.
        MissingExtraError: If matplotlib is not installed (extra ``plot``).
        StorageError: If the file cannot be written.
    """
    if isinstance(run_dirs, str | os.PathLike):
        raise UsageError(f"`run_dirs` should be a list of folders. Found one: {run_dirs}.")
    out = Path(out)
    found = studies([read_run(path) for path in find_runs(run_dirs)])
    pages = [study_page(study, index, out.parent) for index, study in enumerate(found, start=1)]
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    page = render_page("report.html", studies=pages, made=made, **_machine(found))
    write_text(out, page)
    return out


def _machine(found: list[Any]) -> dict[str, str]:
    """Hardware and versions of the first run, in a line."""
    manifest = found[0].methods[0].runs[0].manifest
    hardware, packages = manifest.hardware, manifest.packages
    parts = [str(hardware.get("cpu", "")), f"{hardware.get('cores', DASH)} cores"]
    if isinstance(hardware.get("memory_gb"), int | float):
        parts.append(f"{hardware['memory_gb']:g} GB")
    parts += [str(gpu) for gpu in hardware.get("gpus") or []]
    versions = [
        f"{name} {packages[name]}" for name in ("gnn-mtl", "torch", "python") if name in packages
    ]
    return {"hardware": ", ".join(part for part in parts if part), "versions": ", ".join(versions)}
