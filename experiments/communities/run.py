"""Communities as labels (KDD 2023, KDD 2024): which should be learnt together, and who can tell?

    python experiments/communities/run.py --data ../shared/data                # everything
    python experiments/communities/run.py --part subsets --cells amazon100-v3  # one stage of it
    python experiments/communities/run.py --smoke --out /tmp/smoke --records /tmp/smoke-records

Stages: ``subsets`` (models really trained on subsets), ``methods``, ``fidelity`` (needs the first
two), ``planted`` (500 labels, no data needed). All are taken up where they were left; ``--out``
keeps runs and journals, ``--records`` one small file per cell and stage or method.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # products are small: threads would wait in turn

import torch
from cells import CELLS, SMOKE, Cell
from fidelity import compare, complete_seeds, truth
from methods import METHODS, run_methods
from planted500 import planted500

import gnn_mtl as gm
from gnn_mtl.records import manifest
from gnn_mtl.records._jsonl import read_lines
from gnn_mtl.runs import SubsetOracle, load_trained
from gnn_mtl.tasks import SubsetTable

HERE = Path(__file__).parent
PARTS = ("subsets", "methods", "fidelity", "planted")
SEEDS = (0, 1, 2)
SHORT = METHODS.index("joint_long")
"""The methods before this one are enough for a smoke test."""
Rows = list[dict[str, Any]]


def train_subsets(
    cell: Cell, graph: gm.TaskGraph, dataset: str, out: Path, workers: int
) -> SubsetTable:
    """Train the subsets of a cell that are not in its journal yet."""
    oracle = SubsetOracle(
        config=cell.config(dataset), graph=graph, seeds=cell.subset_seeds, metric=cell.metric,
        workers=workers, journal=out / cell.name / "subsets.jsonl",
    )  # fmt: skip
    return oracle(cell.masks(graph.num_tasks))


def trained_rows(cell: Cell, out: Path) -> Rows:
    """Return what the journal of a cell holds."""
    lines = read_lines(out / cell.name / "subsets.jsonl")
    return [row for _, row in lines if row["kind"] == "subset"]


def record_of(cell: Cell, rows: Rows) -> dict[str, Any]:
    """Return the subsets and what their members scored, by seed."""
    return {
        "metric": cell.metric,
        "columns": ["tasks", "seed", "best_epoch", "seconds", "loss", "ap"],
        "rows": [
            [
                row["tasks"], row["seed"], row.get("best_epoch"), round(row["seconds"], 1),
                *([round(v, 4) if v is not None else None for v in row["scores"][name]]
                  for name in ("loss", "ap")),
            ]
            for row in sorted(rows, key=lambda row: (row["seed"], row["tasks"]))
        ],
    }  # fmt: skip


def about(cell: Cell, graph: gm.TaskGraph) -> dict[str, Any]:
    """Return where a record comes from."""
    made = manifest(dataset={"name": cell.name}, seed=0)
    return {
        "cell": cell.name, "dataset_sha256": graph.fingerprint(),
        "nodes": {split: len(nodes) for split, nodes in graph.split_idx.items()},
        **{key: made[key] for key in ("created", "commit", "dirty")},
        "hardware": made["hardware"]["cpu"],
    }  # fmt: skip


def write(folder: Path, name: str, record: dict[str, Any]) -> None:
    """Write a record, a row a line."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, allow_nan=False)
    text = text.replace('"rows": [[', '"rows": [\n [').replace("]], [[", "]],\n [[")
    text = text.replace("], [[", "],\n [[").replace("}, {", "},\n {")
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def write_run(folder: Path, cell: Cell, method: str, run: dict[str, Any], config: Any) -> None:
    """Put the run into the file of its cell and method, in place of an older one of its seed."""
    file = folder / f"{cell.name}-{method}.json"
    old = json.loads(file.read_text())["runs"] if file.exists() else []
    runs = sorted([r for r in old if r["seed"] != run["seed"]] + [run], key=lambda one: one["seed"])
    plain = {k: v for k, v in config.to_dict().items() if k in ("encoder", "features", "train")}
    write(folder, file.stem, {"cell": cell.name, "method": method, "config": plain, "runs": runs})


def run_cell(cell: Cell, args: argparse.Namespace) -> None:
    graph, dataset = cell.stored(args.data, args.out)
    config = cell.config(dataset)
    masks = cell.masks(graph.num_tasks)
    if "subsets" in args.part:
        train_subsets(cell, graph, dataset, args.out, args.workers)
    rows = trained_rows(cell, args.out)
    seeds = complete_seeds(rows, masks)
    table = truth(rows, masks, cell.metric, seeds) if seeds else None
    if "subsets" in args.part:
        rows_kept = [row for row in rows if row["seed"] in seeds]
        write(args.records, f"{cell.name}-subsets", about(cell, graph) | record_of(cell, rows_kept))
        print(f"{cell.name}: {len(rows_kept)} trainings of {len(masks)} subsets", flush=True)
    if "methods" in args.part:
        for method, run in run_methods(
            cell, graph, dataset, args.out, args.seeds, args.methods, table
        ):
            write_run(args.records, cell, method, run, config)
            test = run["test"]
            print(
                f"{cell.name:<14} {method:<18} seed {run['seed']}: AP {test['ap']:.3f}, "
                f"AUROC {test['auroc']:.3f}, F1 {test['f1']:.3f}, {run['cost']['seconds']:.0f} s",
                flush=True,
            )
    if "fidelity" in args.part and table is not None:
        bases = {name: args.out / cell.name / f"{name}-seed0" for name in ("joint", "joint_long")}
        done = {
            name: load_trained(base) for name, base in bases.items() if (base / "DONE").exists()
        }
        if "joint" in done:
            models = {name: model for name, (_, _, model) in done.items()}
            seen = done["joint"][1]
            found = compare(cell.metric, rows, masks, seeds, models, seen, config.train)
            total = sum(row["seconds"] for row in rows if row["seed"] == seeds[0])
            record = {**about(cell, graph), "trained_seconds": round(total, 1), "rows": found}
            write(args.records, f"{cell.name}-fidelity", record)
            print(f"{cell.name}: {len(found)} rows of fidelity", flush=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=HERE.parents[2] / "shared" / "data")
    parser.add_argument("--out", type=Path, default=Path("runs/communities"))
    parser.add_argument("--records", type=Path, default=HERE / "records")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--cells", nargs="+", choices=[c.name for c in CELLS], default=None)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=None)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--workers", type=int, default=1, help="processes that train subsets")
    parser.add_argument("--smoke", action="store_true", help="generated graphs, a moment each")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    cells = [c for c in CELLS if args.cells is None or c.name in args.cells]
    args.methods = args.methods or (METHODS[:SHORT] if args.smoke else METHODS)
    if args.smoke:
        cells = [SMOKE]
    elif set(args.part) == {"planted"}:
        cells = []
    elif not args.data.is_dir():
        print(f"skipped: the graphs are not at {args.data}; pass their folder with --data")
        return 0
    for cell in cells:
        run_cell(cell, args)
    if "planted" in args.part:
        name = "smoke-planted500" if args.smoke else "planted500"
        write(args.records, name, planted500(args.out, is_smoke=args.smoke))
        print(f"{name}: done", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
