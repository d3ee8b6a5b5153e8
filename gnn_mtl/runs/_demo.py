"""The demo: does scheduling labels help on the embedded graph, against honest baselines?"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gnn_mtl._core.errors import UsageError
from gnn_mtl._core.files import write_json
from gnn_mtl._core.seeding import generator
from gnn_mtl._core.threads import one_thread
from gnn_mtl.affinity import gradtag_table, subset_affinity, valid_batches
from gnn_mtl.datasets import TaskGraph, load_dataset
from gnn_mtl.grouping import group_tasks, random_groups
from gnn_mtl.metrics import summarize
from gnn_mtl.nn import SAGE
from gnn_mtl.records import RunRecord, RunSummary
from gnn_mtl.runs._build import load_base, with_inputs
from gnn_mtl.runs._config import RunConfig
from gnn_mtl.runs._shallow import METHOD as SHALLOW
from gnn_mtl.runs._shallow import train_shallow
from gnn_mtl.runs._train import folder_name, train
from gnn_mtl.schedulers import Coloring, Joint, Random, Separate, Single
from gnn_mtl.tasks import Affinity, Grouping
from gnn_mtl.training import Train, training_loader

SEEDS = (0, 1, 2)
METHODS = (
    "joint", "single", "random", "coloring_default", "coloring_multi", "joint_half", "gradtag",
    "gradtag_random", SHALLOW,
)  # fmt: skip
SINGLE_LABELS = 6
TRAINING_BUDGET_S = 220.0
STEPS = (100, 540)
TAU_DEFAULT = 0.25
TAU_GRID = (0.2, 0.15, 0.1, 0.05, 0.02, 0.0)
SEVERAL = 3
NUM_GROUPS = 4
DIRECTIONS = 64

ENCODER = SAGE(num_layers=1, dropout=0.5)
"""By validation AP the better of one and two layers on this graph, at a third of the time."""

Say = Callable[[str], None]
Groups = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Demo:
    """What the demo did.

    Attributes:
        records: Every run, in the order of the table.
        summary: ``summary.json``: for each method its test scores, cost and seeds.
        steps: Optimizer steps each model was given at most.
    """

    records: tuple[RunRecord, ...]
    summary: dict[str, Any]
    steps: int


def run_demo(out: Path, *, say: Say, budget_s: float = TRAINING_BUDGET_S) -> Demo:
    """Train every method of the demo with three seeds and write ``summary.json``.

    Joint training, SON-GOKU colouring at the released default tau and at one that yields several
    colours, random groups of the sizes that colouring had (same steps, same sizes, other members),
    one model per group of Grad-TAG and per random group of these sizes, a shallow baseline, and
    single-task models for a sample of labels. All get the same number of optimizer steps, chosen
    from the speed measured here so that the whole fits the budget. Models of groups go on from a
    joint run of half the steps (``joint_half``) and share the other half.

    Args:
        out: Folder for ``runs/`` and ``summary.json``; runs of an earlier demo there are replaced.
        say: Called with one line of text at every stage.
        budget_s: Seconds of training all methods together may take.
    """
    with one_thread():
        return _run_demo(out, say, budget_s)


def _run_demo(out: Path, say: Say, budget_s: float) -> Demo:
    started = time.perf_counter()
    graph = load_dataset("debian-tags")
    runs = out / "runs"
    _clear(runs)
    base = RunConfig(dataset="debian-tags", encoder=ENCODER, train=Train(patience=5))
    singles = stratified_labels(graph, SINGLE_LABELS)
    per_step, per_epoch = _measure_speed(base, graph)
    models = len(SEEDS) * (5.5 + len(singles) * 0.7)
    steps = int(np.clip(budget_s / (models * per_step), *STEPS))
    epochs = max(1, round(steps / per_epoch))
    base = replace(base, train=replace(base.train, epochs=epochs, eval_every=max(1, epochs // 12)))
    say(
        f"debian-tags: {graph.num_nodes:,} packages, {graph.csc.num_edges // 2:,} links, "
        f"{graph.num_tasks} labels. A step takes {per_step * 1e3:.0f} ms here, so every model gets "
        f"{epochs} epochs = {epochs * per_epoch} steps."
    )
    records: list[RunRecord] = []

    def run(config: RunConfig) -> RunRecord:
        record = train(config, runs / folder_name(config), graph=graph)
        records.append(record)
        say(_line(record, time.perf_counter() - started))
        return record

    def methods(name: str, scheduler: Any) -> list[RunRecord]:  # noqa: ANN401
        return [run(replace(base, name=name, scheduler=scheduler, seed=seed)) for seed in SEEDS]

    methods("joint", Joint())
    default = methods("coloring_default", Coloring(tau=TAU_DEFAULT))
    tau = several_colors(recorded_affinities(default[0]))
    say(
        f"tau = {tau} is the largest of {TAU_GRID} that gives at least {SEVERAL} colours on the "
        "gradients recorded above."
    )
    multi = methods("coloring_multi", Coloring(tau=tau))
    for record, seed in zip(multi, SEEDS, strict=True):
        rows = [{"step": r.step, "groups": r.groups} for r in record.refreshes]
        run(replace(base, name="random", scheduler=Random.following(rows), seed=seed))
    half = _shorter(base.train, max(1, round(epochs / 2)))
    halves = [
        run(replace(base, name="joint_half", scheduler=Joint(), train=half, seed=seed))
        for seed in SEEDS
    ]
    groups = gradtag_groups(halves[0], graph, out)
    sizes = tuple(len(group) for group in groups)
    part = _shorter(base.train, max(1, round((epochs - half.epochs) / len(groups))))
    say(
        f"Grad-TAG on joint_half, seed {SEEDS[0]}: {len(groups)} groups of {sizes} labels. Their "
        f"models go on from the joint_half of their seed, {part.epochs} epochs each, so that all "
        "steps together are those of joint; so do those of random groups."
    )
    for name in ("gradtag", "gradtag_random"):
        for record, seed in zip(halves, SEEDS, strict=True):
            control = name == "gradtag_random"
            chosen = _random_groups(sizes, graph.num_tasks, seed) if control else groups
            plan = Separate(groups=chosen, init="base", base=str(record.path), control=control)
            run(replace(base, name=name, scheduler=plan, train=part, seed=seed))
    for seed in SEEDS:
        config = replace(base, name=SHALLOW, seed=seed)
        records.append(train_shallow(config, runs / folder_name(config), graph=graph))
        say(_line(records[-1], time.perf_counter() - started))
    names = ", ".join(graph.label_names[task] for task in singles)
    say(
        f"Single-task models for {len(singles)} of {graph.num_tasks} labels, spread evenly from "
        f"the rarest to the most frequent: {names}."
    )
    methods("single", Single(tasks=singles))
    summary = summarize_methods(records)
    write_json(out / "summary.json", summary)
    return Demo(tuple(records), summary, epochs * per_epoch)


def _clear(runs: Path) -> None:
    """Remove the runs of an earlier demo; refuse a folder that holds anything else."""
    names = {f"{method}-seed{seed}" for method in METHODS for seed in SEEDS}
    found = sorted(path.name for path in runs.glob("*"))
    if foreign := [name for name in found if name not in names]:
        raise UsageError(
            f"{runs} should be free for the runs of the demo. Found other things: {foreign[:5]}. "
            "Choose another --out."
        )
    for name in found:
        shutil.rmtree(runs / name)


def stratified_labels(graph: TaskGraph, number: int) -> tuple[int, ...]:
    """Return ``number`` labels spread evenly over the ranking by training positives."""
    order = np.argsort(graph.positives("train"), kind="stable")
    places = np.linspace(0, len(order) - 1, min(number, len(order))).round().astype(int)
    return tuple(sorted(order[places].tolist()))


def gradtag_groups(record: RunRecord, graph: TaskGraph, out: Path) -> Groups:
    """Group the labels by what Grad-TAG predicts from a finished run; keep table and affinity."""
    config = RunConfig.load(record.path)
    graph = with_inputs(graph, config)
    model = load_base(record.path, config, graph)
    loader = training_loader(graph, model, config.train, seed=config.seed, shuffle=False)
    table = gradtag_table(
        model, loader, valid_batches(loader), dim=DIRECTIONS, audits=0,
        label_names=graph.label_names,
    )  # fmt: skip
    affinity = subset_affinity(table)
    number = min(NUM_GROUPS, graph.num_tasks)
    groups: Grouping = group_tasks(affinity, method="sdp", num_groups=number)
    table.save(out / "gradtag.subsets.npz")
    affinity.save(out / "gradtag.npz")
    groups.save(out / "gradtag.json", label_names=graph.label_names)
    return groups.groups


def _shorter(config: Train, epochs: int) -> Train:
    return replace(config, epochs=epochs, eval_every=max(1, epochs // 6))


def _random_groups(sizes: tuple[int, ...], num_tasks: int, seed: int) -> Groups:
    drawn = random_groups(sizes, num_tasks, generator=generator(seed, "gradtag_random"))
    return tuple(tuple(group) for group in drawn)


def recorded_affinities(record: RunRecord) -> list[Affinity]:
    """Return the affinity matrices a run kept of its refreshes."""
    found = [record.affinity(refresh) for refresh in record.refreshes]
    return [affinity for affinity in found if affinity is not None]


def several_colors(affinities: list[Affinity]) -> float:
    """Return the largest tau of the grid whose median number of colours is at least three."""
    for tau in TAU_GRID:
        colors = [len(group_tasks(a, method="coloring", tau=tau)) for a in affinities]
        if colors and np.median(colors) >= SEVERAL:
            return tau
    return TAU_GRID[-1]


def summarize_methods(records: list[RunRecord]) -> dict[str, Any]:
    """Return each method's mean test scores, cost and seeds, as ``summary.json`` holds them."""
    groups: dict[str, list[RunRecord]] = {}
    for record in records:
        groups.setdefault(record.method, []).append(record)
    summary = {}
    for name, runs in groups.items():
        done = [run.summary for run in runs if run.summary is not None]
        ap = summarize([one.test["ap"] for one in done])
        auroc = summarize([one.test["auroc"] for one in done])
        summary[name] = {
            "test_ap": ap.mean,
            "test_auroc": auroc.mean,
            "test_ap_std": ap.std,
            "test_auroc_std": auroc.std,
            "seconds": _mean_cost(done, "seconds"),
            "steps": _mean_cost(done, "steps"),
            "label_gradients": _mean_cost(done, "label_gradients"),
            "seeds": [run.seed for run in runs],
            "tasks": list(done[0].tasks),
            "runs": [f"runs/{run.path.name}" for run in runs],
        }
    return summary


def _mean_cost(summaries: list[RunSummary], name: str) -> float:
    return float(np.mean([summary.cost[name] for summary in summaries]))


def _measure_speed(config: RunConfig, graph: TaskGraph) -> tuple[float, int]:
    """Seconds of a joint step here, and steps of an epoch."""
    with tempfile.TemporaryDirectory() as folder:
        short = replace(config, train=replace(config.train, max_steps=4))
        train(short, Path(folder) / "warm-up", graph=graph)
        timed = replace(config, train=replace(config.train, max_steps=24))
        summary = train(timed, Path(folder) / "timed", graph=graph).summary
    assert summary is not None  # noqa: S101 - train returns finished runs
    cost = summary.cost
    per_epoch = -(-len(graph.split_idx["train"]) // config.train.batch_size)
    return cost["seconds"] / cost["steps"], per_epoch


def _line(record: RunRecord, seconds: float) -> str:
    assert record.summary is not None  # noqa: S101 - only finished runs are printed
    test = record.summary.test
    return (
        f"[{seconds:5.0f} s] {record.method:<16} seed {record.seed}: test AP "
        f"{test['ap']:.4f}, AUROC {test['auroc']:.4f}, {record.summary.cost['seconds']:.1f} s"
    )
