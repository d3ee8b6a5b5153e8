"""What to do with groups of labels inside a model, and what learns them: planted and real labels.

    python experiments/groups-in-models/run.py                 # all parts, taken up where left
    python experiments/groups-in-models/run.py --part planted  # one of them
    python experiments/groups-in-models/run.py --smoke --records /tmp/smoke

Each unit (what shares a training) is written into ``--records`` as it finishes; those that are
there are not run again. ``table.py`` makes the README of them.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # products are small: threads would wait in turn

import numpy as np
import torch
from sklearn.metrics import adjusted_rand_score
from ways import CONTROLS, UNITS, Problem, Row

import gnn_mtl as gm
from gnn_mtl.affinity import label_cooccurrence
from gnn_mtl.grouping import group_tasks
from gnn_mtl.records import manifest
from gnn_mtl.runs import DataMapGroups, RunConfig, build_graph, learned_groups
from gnn_mtl.tasks import Grouping
from gnn_mtl.training import DMTG, Train

HERE = Path(__file__).parent
PARTS = ("planted", "recovery", "debian-tags")
LEARNED = ("data_maps", "dmtg")


@dataclass(frozen=True)
class Plan:
    """What is run of a part, and for how long."""

    seeds: tuple[int, ...]
    epochs: int
    more_epochs: int
    units: tuple[str, ...]
    controls: tuple[str, ...]
    num_nodes: int = 2000

    @property
    def train(self) -> Train:
        return Train(epochs=self.epochs, device="cpu", num_workers=0)


PLANS = {
    "planted": Plan((0, 1, 2), 40, 10, tuple(UNITS), tuple(CONTROLS)),
    "recovery": Plan((0, 1, 2), 20, 0, LEARNED, ()),
    "debian-tags": Plan(
        (0, 1, 2), 15, 5,
        ("joint", "separate", "branches", "adapters", "dmtg", "cross_learning", "fork_merge"),
        tuple(CONTROLS),
    ),
}  # fmt: skip
SMOKE = {
    "planted": Plan((0,), 2, 1, tuple(UNITS), ("adapters",), 400),
    "recovery": Plan((0,), 3, 0, LEARNED, (), 400),
}


def planted(plan: Plan, seed: int) -> gm.TaskGraph:
    """Return 24 labels in 4 groups, two by two opposed."""
    return gm.planted(plan.num_nodes, num_tasks=24, num_groups=4, conflict=0.8, seed=seed)


def problem(part: str, plan: Plan, seed: int) -> Problem:
    """Return the graph and the groups that are given: the true ones, or clusters of labels."""
    if part == "planted":
        graph = planted(plan, seed)
        groups = Grouping.from_assignments(graph.extras["task_groups"], "planted")
    else:
        graph = build_graph(RunConfig(dataset=part))
        groups = group_tasks(label_cooccurrence(graph), "sdp")
    return Problem(graph, groups, plan.train, plan.more_epochs, seed)


def at_random(given: Problem) -> Problem:
    """Return the problem with groups of the same sizes drawn at random."""
    groups = group_tasks(
        label_cooccurrence(given.graph), "random", sizes=given.groups.sizes, seed=given.seed
    )
    return replace(given, groups=groups)


def recovered(plan: Plan, seed: int, unit: str) -> Iterator[Row]:
    """Yield how near groups found by a training, or by the labels alone, are to the true ones."""
    graph = planted(plan, seed)
    truth = graph.extras["task_groups"]
    if unit == "cooccurrence":
        affinity = label_cooccurrence(graph)
        ways: dict[str, Callable[[], Grouping]] = {
            "label correlation, spectral": lambda: group_tasks(affinity, "spectral", num_groups=4),
            "label correlation, spectral, own number": lambda: group_tasks(affinity, "spectral"),
        }
    else:
        config = RunConfig(dataset="planted", seed=seed, train=plan.train)
        options = DMTG(num_groups=4, shared_layers=1) if unit == "dmtg" else DataMapGroups()
        name = {"dmtg": "DMTG", "data_maps": "data maps"}[unit]
        ways = {name: lambda: learned_groups(config, options, graph=graph)}
    for way, call in ways.items():
        groups = call()
        found = groups.memberships().argmax(axis=0)
        ari = round(float(adjusted_rand_score(truth, found)), 4)
        yield {"way": way, "ari": ari, "sizes": list(groups.sizes)}


def cells(part: str, plan: Plan) -> Iterator[tuple[str, int, Callable[[], list[Row]]]]:
    """Yield name, seed and what to do of every unit of a part."""
    for seed in plan.seeds:
        if part == "recovery":
            for unit in ("cooccurrence", *plan.units):
                yield unit, seed, lambda u=unit, s=seed: list(recovered(plan, s, u))
            continue
        given = problem(part, plan, seed)
        for unit in plan.units:
            yield unit, seed, lambda u=unit, p=given: list(UNITS[u](p))
        other = at_random(given)
        for unit in plan.controls:
            yield f"random_{unit}", seed, lambda u=unit, p=other: list(CONTROLS[u](p))


def write(file: Path, part: str, unit: str, plan: Plan, run: dict[str, Any]) -> None:
    """Put the run into the file of its unit, beside those of other seeds."""
    old = json.loads(file.read_text())["runs"] if file.exists() else []
    runs = sorted([*old, run], key=lambda one: one["seed"])
    settings = {k: v for k, v in asdict(plan).items() if k in ("epochs", "more_epochs")}
    text = json.dumps({"part": part, "unit": unit, **settings, "runs": runs}, indent=1)
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".part")
    unfinished.write_text(text + "\n")
    unfinished.replace(file)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--part", choices=PARTS, default=None, help="one part only")
    parser.add_argument("--seeds", nargs="+", type=int, default=None)
    parser.add_argument("--records", type=Path, default=HERE / "records")
    parser.add_argument("--smoke", action="store_true", help="a tiny graph, two epochs")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    for part, plan in (SMOKE if args.smoke else PLANS).items():
        if args.part not in (None, part):
            continue
        if args.seeds is not None:
            plan = replace(plan, seeds=tuple(args.seeds))
        for unit, seed, call in cells(part, plan):
            file = args.records / f"{part}-{unit}.json"
            if file.exists():
                runs = json.loads(file.read_text())["runs"]
                if seed in [run["seed"] for run in runs]:
                    continue
            started = time.process_time()
            rows = call()
            seconds = time.process_time() - started
            made = manifest(dataset={"name": part}, seed=seed)
            about = {k: made[k] for k in ("seed", "command", "commit", "dirty", "created")}
            about |= {"hardware": made["hardware"]["cpu"], "torch": made["packages"]["torch"]}
            run = about | {"cpu_seconds": round(seconds, 1), "rows": rows}
            write(file, part, unit, plan, run)
            shown = [row.get("test_ap", row.get("ari")) for row in rows]
            best = np.round(shown, 3).tolist()
            print(f"{part:<12} {unit:<18} seed {seed}: {best}, {seconds:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
