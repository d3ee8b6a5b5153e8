"""Aggregators inside SON-GOKU's groups, at equal label-gradients, on three real graphs.

    python experiments/aggregators-in-groups/run.py --data ../shared/data  # all there is not
    python experiments/aggregators-in-groups/run.py --datasets debian-tags --methods joint coloring
    python experiments/aggregators-in-groups/run.py --smoke --records /tmp/smoke

A run is written into ``--records`` as it finishes; those that are there are not run again.
``table.py`` makes the README of them.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # products are small: threads would wait in turn

import torch

import gnn_mtl as gm
from gnn_mtl.aggregation import FAMO, AdaTask, AggregatorConfig, GradOPS, NashMTL, PCGrad, UPGrad
from gnn_mtl.records import RunRecord
from gnn_mtl.runs import run_one

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)
LONG = "debian-tags-long"
"""The same graph with three times the budget: does what is found at 150 joint steps stay?"""
DATASETS = ("debian-tags", "yeast_go", "blogcatalog", LONG)
IN_GROUPS: dict[str, type[AggregatorConfig]] = {
    "pcgrad": PCGrad, "gradops": GradOPS, "adatask": AdaTask, "famo": FAMO, "nash_mtl": NashMTL,
    "upgrad": UPGrad,
}  # fmt: skip
METHODS = ("joint", "joint+nash_mtl", "coloring", *(f"coloring+{kind}" for kind in IN_GROUPS))
COST = ("seconds", "steps", "label_gradients", "probe_label_gradients", "refreshes", "backwards")


@dataclass(frozen=True)
class Plan:
    """How long everything is trained: as many label-gradients as so many joint steps have."""

    joint_steps: int = 150
    eval_every: int = 10


LONGER = Plan(joint_steps=450, eval_every=20)
SMOKE = Plan(joint_steps=6, eval_every=2)


def load(dataset: str, data: Path) -> gm.TaskGraph:
    """Return the graph with its published split, or a random one of 60/20/20."""
    if dataset == "planted":
        return gm.load_dataset("planted:num_nodes=400,num_tasks=12,num_groups=3,seed=0")
    if dataset.startswith("debian-tags"):
        return gm.load_dataset("debian-tags")
    split = "mlgnc_split0" if dataset == "blogcatalog" else "random"
    return gm.import_npz(data / dataset / f"{dataset}.npz", name=dataset, split=split)


def plan_of(dataset: str, plan: Plan) -> Plan:
    """Return the plan of a dataset, which for one is longer."""
    return LONGER if dataset == LONG else plan


def configure(dataset: str, method: str, seed: int, num_tasks: int, plan: Plan) -> gm.RunConfig:
    """Return the configuration of a run.

    Conflicts are the worst twentieth of the label pairs, of those with a negative cosine: a
    threshold that gives several colours on every graph, chosen without looking at a score.
    """
    steps_of_groups = 40  # no schedule of groups needs more steps for the budget
    train = gm.Train(
        epochs=plan.joint_steps * steps_of_groups, patience=None, eval_every=plan.eval_every,
        max_label_gradients=plan.joint_steps * num_tasks, device="cpu", num_workers=0,
    )  # fmt: skip
    schedule, _, kind = method.partition("+")
    more: dict[str, Any] = {"aggregator": IN_GROUPS[kind]()} if kind else {}
    if schedule == "coloring":
        more["scheduler"] = gm.Coloring(rule="density", edge_share=0.05)
    encoder = gm.SAGE(num_layers=1, dropout=0.5) if dataset.startswith("debian") else gm.SAGE()
    return gm.RunConfig(
        dataset=dataset, name=method, seed=seed, encoder=encoder, train=train, **more
    )


def runs(
    datasets: list[str], methods: list[str], seeds: list[int], data: Path, records: Path, plan: Plan
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Train what has no record yet; yield dataset, method and what is kept of the run."""
    for dataset in datasets:
        graph = None
        for seed in seeds:
            for method in methods:
                if seed in [run["seed"] for run in recorded(records, dataset, method)]:
                    continue
                graph = graph if graph is not None else load(dataset, data)
                config = configure(dataset, method, seed, graph.num_tasks, plan_of(dataset, plan))
                with tempfile.TemporaryDirectory() as folder:
                    cpu = time.process_time()
                    run = run_one(config, Path(folder) / "run", graph=graph)
                    yield dataset, method, summarise(run, time.process_time() - cpu)


def summarise(run: RunRecord, cpu: float) -> dict[str, Any]:
    """Return what is kept of a run: scores, cost, groups, where it comes from."""
    summary = run.summary
    assert summary is not None
    sizes = [[len(group) for group in refresh.groups] for refresh in run.refreshes]
    return {
        "seed": run.seed,
        "commit": run.manifest.commit,
        "dirty": run.manifest.dirty,
        "command": run.manifest.command,
        "dataset_sha256": run.manifest.dataset["sha256"],
        "hardware": run.manifest.hardware["cpu"],
        "created": run.manifest.created,
        "cpu_seconds": round(cpu, 1),
        "cost": {key: round(summary.cost[key], 2) for key in COST},
        "best_step": summary.best_step,
        "mean_groups": round(sum(map(len, sizes)) / max(1, len(sizes)), 2),
        "valid": {key: round(summary.valid[key], 5) for key in ("ap", "auroc")},
        "test": {key: round(summary.test[key], 5) for key in ("ap", "auroc", "f1")},
        "per_label_ap": [None if v != v else round(float(v), 5) for v in summary.per_label["ap"]],
    }


def file_of(records: Path, dataset: str, method: str) -> Path:
    return records / f"{dataset}-{method}.json"


def recorded(records: Path, dataset: str, method: str) -> list[dict[str, Any]]:
    """Return the runs there are."""
    file = file_of(records, dataset, method)
    return json.loads(file.read_text())["runs"] if file.exists() else []


def write(records: Path, dataset: str, method: str, run: dict[str, Any], plan: Plan) -> None:
    """Put the run into the file of its dataset and method, in place of an older one of its seed."""
    others = [one for one in recorded(records, dataset, method) if one["seed"] != run["seed"]]
    made = sorted([*others, run], key=lambda one: one["seed"])
    record = {
        "dataset": dataset, "method": method, "joint_steps": plan_of(dataset, plan).joint_steps,
        "runs": made,
    }  # fmt: skip
    records.mkdir(parents=True, exist_ok=True)
    unfinished = file_of(records, dataset, method).with_suffix(".part")
    unfinished.write_text(json.dumps(record, indent=1) + "\n")
    unfinished.replace(file_of(records, dataset, method))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=HERE.parents[2] / "shared" / "data")
    parser.add_argument("--records", type=Path, default=HERE / "records")
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=list(DATASETS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--smoke", action="store_true", help="a generated graph, six joint steps")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    plan, datasets = Plan(), args.datasets
    if args.smoke:
        plan, datasets, args.seeds = SMOKE, ["planted"], [0]
    elif not args.data.is_dir():
        datasets = [name for name in datasets if name.startswith("debian-tags")]
        print(f"skipped: the other graphs are not at {args.data}; pass their folder with --data")
    for dataset, method, run in runs(
        datasets, args.methods, args.seeds, args.data, args.records, plan
    ):
        write(args.records, dataset, method, run, plan)
        print(
            f"{dataset:<12} {method:<18} seed {run['seed']}: test AP {run['test']['ap']:.3f}, "
            f"{run['cost']['steps']:.0f} steps, {run['mean_groups']} groups, "
            f"{run['cpu_seconds']:.0f} CPU s",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
