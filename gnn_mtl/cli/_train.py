"""``gnn-mtl train``: one run, or one per seed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gnn_mtl.cli._parse import out_console, parse_seeds, take_flag, take_positional, take_value
from gnn_mtl.cli._run_flags import parse_run_config
from gnn_mtl.reports import rich_table, score_table
from gnn_mtl.runs import RunConfig, default_folder, run_sweep, train
from gnn_mtl.schedulers import Joint


def run(argv: Sequence[str]) -> int:
    """Train from a recipe, a run folder or flags, and print the scores."""
    rest = list(argv)
    source = take_positional(rest)
    if take_flag(rest, "--no-download"):
        os.environ["GNN_MTL_NO_DOWNLOAD"] = "1"
    out, resume = take_value(rest, "--out"), take_flag(rest, "--resume")
    seeds = take_value(rest, "--seeds")
    default = RunConfig() if source is None else RunConfig.load(source)
    if resume and source is None and out is not None and (Path(out) / "config.json").exists():
        default = RunConfig.load(out)
    elif resume and source is not None and Path(source).is_dir() and out is None:
        out = source
    elif source is None and (base := take_value(list(rest), "--scheduler.base")) is not None:
        default = replace(RunConfig.load(base), name=None, scheduler=Joint())  # the same network
    config = parse_run_config(rest, default, "train")
    if seeds is not None:
        folder = Path(out) if out else default_folder(config).parent
        configs = [replace(config, seed=seed) for seed in parse_seeds(seeds)]
        records = run_sweep(configs, folder)
    else:
        folder = Path(out) if out else default_folder(config)
        records = [train(config, folder, resume=resume)]
    out_console().print(rich_table(score_table(records)))
    print(f"run folder: {folder}\nreport:     gnn-mtl report {folder} --out report.html")
    return 0
