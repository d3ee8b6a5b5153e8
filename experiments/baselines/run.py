"""Defaults against published and measured scores on BlogCatalog, PPI, PCG and DBLP-100.

    python experiments/baselines/run.py --data ../shared/data       # all cells, three seeds
    python experiments/baselines/run.py --cells pcg-50 --seeds 0 --methods sage
    python experiments/baselines/run.py --smoke --out /tmp/smoke --records /tmp/smoke-records

A cell is a dataset under a protocol. Finished runs are kept. Every run has its folder in ``--out``;
``--records`` gets one small file per cell and method, from which ``table.py`` makes the README.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # products are small: threads would wait in turn

import numpy as np

import gnn_mtl as gm
from gnn_mtl.datasets import TaskNodeSplit, save_npz
from gnn_mtl.records import RunRecord
from gnn_mtl.runs import load_trained, run_one
from gnn_mtl.training import labels_per_node

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)

METHODS: dict[str, dict[str, Any]] = {
    "sage": {},  # every value the default: joint GraphSAGE on spectral (and own) features
    "sage_netmf": {"features": gm.Features(method="netmf")},
    "sage_structural": {"features": gm.Features(use="structural")},
    "sage_labels": {"features": gm.Features(labels=True)},
    "spectral_lr": {"name": "spectral_lr"},
    "netmf_lr": {"name": "spectral_lr", "features": gm.Features(method="netmf")},
    "label_propagation": {"name": "label_propagation"},
}
KEPT = (
    "ap", "auroc", "f1", "f1_micro", "f1_top_k", "f1_top_k_micro", "f1_true_k", "f1_true_k_micro",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A dataset and how it is split."""

    dataset: str
    protocol: str
    """Percent of the labelled nodes that train, a fifth of them to validate; ``published``: the
    splits of Zhao et al. (TMLR 2023); ``v2``: per (node, task) of Li et al. (KDD 2023)."""

    @property
    def name(self) -> str:
        return f"{self.dataset}-{self.protocol}"

    def load(self, data: Path, seed: int) -> gm.TaskGraph:
        """Return the graph with the split of that seed."""
        if self.dataset == "planted":
            graph = gm.load_dataset("planted:num_nodes=1300,num_tasks=6,seed=0")
        else:
            file = data / self.dataset / f"{self.dataset}.npz"
            split = "random"
            if self.protocol == "published":
                prefix = "mlgnc_split" if self.dataset == "blogcatalog" else "split"
                split = f"{prefix}{seed}"
            graph = gm.import_npz(file, name=self.name, split=split)
        if self.protocol == "published":
            return graph
        if self.protocol == "v2":
            return graph.with_split(sparse_task_split(graph, 1024 + seed))
        return graph.with_split(share_split(graph, int(self.protocol) / 100, seed))


CELLS = tuple(
    Cell(dataset, protocol)
    for dataset, protocols in {
        "blogcatalog": ("10", "50", "90", "published"),
        "ppi_homo": ("10", "50", "90"),
        "pcg": ("10", "50", "90", "published"),
        "dblp100": ("50", "v2"),
    }.items()
    for protocol in protocols
)
SMOKE = Cell("planted", "50")


def share_split(graph: gm.TaskGraph, share: float, seed: int) -> dict[str, np.ndarray]:
    """Draw ``share`` of the labelled nodes, a fifth of them for validation; the rest are tested."""
    nodes = np.random.default_rng(seed).permutation(np.flatnonzero(graph.labelled()))
    used = round(share * len(nodes))
    valid = round(used / 5)
    return {"train": nodes[valid:used], "valid": nodes[:valid], "test": nodes[used:]}


def sparse_task_split(graph: gm.TaskGraph, seed: int) -> TaskNodeSplit:
    """Draw the ``v2`` cells: at most ten training positives a task, ``int()`` as in their code.

    Of a task with n members ``int(n / 5)`` train, or ``int(n * (10 / n))`` where n > 100; as many
    as ``int(n / 5)`` validate, the others are tested. Nodes outside are cut 20/20/60.
    """
    rng = np.random.default_rng(seed)
    everyone = np.arange(graph.num_nodes)
    y = sum(graph.targets(everyone, split)[0] for split in ("train", "valid", "test")) > 0
    masks = np.zeros((3, *y.shape), dtype=bool)
    for task in range(graph.num_tasks):
        for is_member in (True, False):
            nodes = rng.permutation(np.flatnonzero(y[:, task] == is_member))
            train = valid = int(len(nodes) * 0.2)
            if is_member and len(nodes) > 100:
                train = int(len(nodes) * (10 / len(nodes)))
            for mask, part in zip(masks, np.split(nodes, [train, train + valid]), strict=True):
                mask[part, task] = True
    return TaskNodeSplit(*masks)


def configure(cell: Cell, method: str) -> gm.RunConfig:
    """Return the configuration of a method; the smoke cell trains for a moment only."""
    config = gm.RunConfig(dataset=cell.name, **METHODS[method])
    if cell == SMOKE:
        return replace(config, train=replace(config.train, epochs=4, eval_every=2))
    return config


def run_cell(
    cell: Cell, methods: Sequence[str], seeds: Sequence[int], data: Path, out: Path
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Train the methods on a cell; yield the method and what its record says of the run."""
    for seed in seeds:
        graph = cell.load(data, seed)
        path = (out / cell.name / f"split{seed}.npz").resolve()
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            save_npz(graph, path)
        for method in methods:
            config = replace(configure(cell, method), dataset=str(path), seed=seed)
            if config.features.use == "structural" and graph.x is None:
                continue  # what `sage` is already
            batch = max(config.train.batch_size, config.train.probe_batch_size)
            if config.features.labels and len(graph.split_idx["train"]) <= batch:
                continue  # a batch hides the labels of its seeds, here all there are
            run = run_one(config, path.parent / f"{method}-seed{seed}", graph=graph)
            yield method, summarise(run, graph)


def summarise(run: RunRecord, graph: gm.TaskGraph) -> dict[str, Any]:
    """Return what is kept of a run: scores with the pooled F1 too, cost, commit."""
    summary = run.summary
    assert summary is not None
    scores = {"valid": summary.valid, "test": summary.test}
    if (run.path / "checkpoints" / "best.safetensors").exists():  # networks: add the pooled F1
        _, seen, model = load_trained(run.path)
        top_k = labels_per_node(seen)
        scores = {s: gm.evaluate_split(model, seen, s, top_k=top_k).macro for s in scores}
        assert math.isclose(scores["test"]["ap"], summary.test["ap"], abs_tol=1e-6)
    # scikit-learn counts a label without a test positive as F1 = 0, as the published tables do.
    scored = np.isfinite(summary.per_label["ap"]).mean()
    scores["test"] = {**scores["test"], "f1_true_k_all": scores["test"]["f1_true_k"] * scored}
    return {
        "seed": run.seed,
        "commit": run.manifest.commit,
        "dirty": run.manifest.dirty,
        "dataset_sha256": run.manifest.dataset["sha256"],
        "nodes": {split: len(nodes) for split, nodes in graph.split_idx.items()},
        "best_epoch": summary.best_epoch,
        "num_parameters": summary.num_parameters,
        "cost": {k: round(summary.cost[k], 2) for k in ("seconds", "steps", "label_gradients")},
        "chosen": {k: v for k, v in summary.extra.items() if k != "format"},
        **{
            s: {k: round(v, 5) for k, v in scores[s].items() if k in (*KEPT, "f1_true_k_all")}
            for s in scores
        },
        "hardware": run.manifest.hardware["cpu"],
        "created": run.manifest.created,
    }


def write_record(folder: Path, cell: Cell, method: str, run: dict[str, Any]) -> None:
    """Put the run into the file of its cell and method, in place of an older one of its seed."""
    file = folder / f"{cell.name}-{method}.json"
    old = json.loads(file.read_text())["runs"] if file.exists() else []
    runs = sorted([r for r in old if r["seed"] != run["seed"]] + [run], key=lambda one: one["seed"])
    record = {
        **asdict(cell), "method": method,
        "config": configure(cell, method).to_dict(), "runs": runs,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=1) + "\n")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=HERE.parents[2] / "shared" / "data")
    parser.add_argument("--out", type=Path, default=Path("runs/baselines"))
    parser.add_argument("--records", type=Path, default=HERE / "records")
    parser.add_argument("--cells", nargs="+", choices=[c.name for c in CELLS], default=None)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--smoke", action="store_true", help="a generated graph, four epochs")
    args = parser.parse_args(argv)
    cells = [c for c in CELLS if args.cells is None or c.name in args.cells]
    if args.smoke:
        cells = [SMOKE]
    elif not args.data.is_dir():
        print(f"skipped: the graphs are not at {args.data}; pass their folder with --data")
        return 0
    for cell in cells:
        for method, run in run_cell(cell, args.methods, args.seeds, args.data, args.out):
            write_record(args.records, cell, method, run)
            test, seconds = run["test"], run["cost"]["seconds"]
            print(
                f"{cell.name:<22} {method:<18} seed {run['seed']}: AP {test['ap']:.3f}, "
                f"micro/macro-F1 {test['f1_true_k_micro']:.3f}/{test['f1_true_k_all']:.3f}, "
                f"{seconds:.0f} s",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
