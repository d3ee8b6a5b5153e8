"""Synthetic but realistic run folders: six methods on 66 labels, on three seeds."""

from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from gnn_mtl.records import RunWriter
from gnn_mtl.tasks import Affinity, conflict_graph

FACETS = {
    "role": "program shared-lib devel-lib plugin documentation data metapackage",
    "interface": "commandline x11 text-mode daemon web shell 3d",
    "implemented-in": "c c++ python perl java ruby haskell ocaml lisp",
    "uitoolkit": "gtk qt sdl ncurses tk wxwidgets",
    "works-with": "audio video image text mail db archive font vcs 3dmodel",
    "field": "biology chemistry astronomy mathematics electronics statistics physics",
    "use": "viewing editing converting gameplaying monitor searching printing",
    "game": "arcade puzzle board strategy card",
    "network": "client server service hiavailability",
    "admin": "configuring package-management monitoring backup",
}
NAMES = [f"{facet}::{name}" for facet, names in FACETS.items() for name in names.split()]
STEPS = range(0, 401, 20)


def affinity_at(step, seed, num_tasks):
    """Cosines of labels in latent blocks that sharpen with training, some pairs never measured."""
    rng = np.random.default_rng([seed, step])
    axes = np.random.default_rng(7).normal(size=(num_tasks, 6)) + 0.8
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    cosine = (0.25 + 0.2 * step / 400) * axes @ axes.T + rng.normal(0, 0.03, (num_tasks,) * 2)
    cosine = np.clip((cosine + cosine.T) / 2, -1, 1)
    for a, b in rng.integers(0, num_tasks, size=(num_tasks // 2, 2)):
        cosine[a, b] = cosine[b, a] = np.nan
    np.fill_diagonal(cosine, 1.0)
    return Affinity(cosine, "last_layer")


def write_run(
    folder, *, name, kind, seed, tau=None, gain=0.0, tasks=None, curves=True, num_tasks=66,
    dataset="debian-tags", label_names=None, groups=None, share=1.0, cost=1.0, done=True,
    summary_changes=None, config_changes=None, affinities=True,
):  # fmt: skip
    rng = np.random.default_rng([seed, sum(map(ord, name))])
    names = list(label_names or NAMES[:num_tasks])
    shared = np.random.default_rng(5)
    positives = np.exp(shared.uniform(2.3, 6.8, num_tasks)).astype(int)
    level = np.clip(
        0.08 + 0.055 * np.log(positives) + shared.normal(0, 0.09, num_tasks), 0.03, 0.95
    )
    taste = np.random.default_rng(sum(map(ord, kind))).normal(0, 0.02, num_tasks)
    noise = rng.normal(0, 0.12 / np.sqrt(positives), num_tasks)
    ap = np.clip(level + gain + taste * (gain != 0) + noise, 0.005, 0.995)
    ap[3:4] = np.nan
    if tasks is not None:
        ap[np.setdiff1d(np.arange(num_tasks), tasks)] = np.nan
    auroc = np.clip(0.72 + 0.25 * ap + rng.normal(0, 0.01, num_tasks), 0.5, 0.999)
    f1 = np.clip(ap - 0.07 + rng.normal(0, 0.01, num_tasks), 0, 1)
    writer = RunWriter.open(Path(folder))
    writer.write_config(
        {"name": name, "dataset": dataset, "seed": seed,
         "scheduler": {"kind": kind, **({"tau": tau, "refresh_period": 32} if tau else {})},
         "encoder": {"kind": "sage", "hidden_channels": 128, "num_layers": 2},
         "train": {"lr": 0.01, "epochs": 40, "batch_size": 1024}, **(config_changes or {})}
    )  # fmt: skip
    writer.write_manifest(
        {"format": "gnn-mtl/run", "version": 1, "created": "2026-11-22T09:30:00+00:00",
         "command": f"gnn-mtl train --dataset {dataset} --scheduler.kind {kind} --seed {seed}",
         "commit": "3f9c2a7be1" * 4, "dirty": False,
         "packages": {"python": "3.11.7", "torch": "2.13.0", "gnn-mtl": "0.1.0"},
         "hardware": {"cpu": "Xeon Platinum 8481C", "cores": 2, "memory_gb": 23.4, "gpus": []},
         "dataset": {"name": dataset, "sha256": "ab12" * 16, "num_nodes": 30215,
                     "num_edges": 147822, "num_tasks": num_tasks, "label_names": names},
         "seed": seed}
    )  # fmt: skip
    macro = np.nanmean(ap)
    for step in STEPS if curves else ():
        grown = macro * (1 - 0.9 * np.exp(-step / 90 * (0.8 + 0.4 * share)))
        writer.log_train(step=step, epoch=step // 20, loss=0.7 * np.exp(-step / 200), lr=0.01,
                         num_active=int(num_tasks * share), seconds=step * 0.05 * cost)  # fmt: skip
        writer.log_valid(step=step, epoch=step // 20, ap=grown + rng.normal(0, 0.003),
                         auroc=0.8, f1=grown / 2, seconds=step * 0.05 * cost)  # fmt: skip
    for step in range(0, 400, 32) if groups is not None or tau is not None else ():
        affinity, found, edges = None, groups, None
        if tau is not None:
            affinity = affinity_at(step, seed, num_tasks)
            conflicts = conflict_graph(affinity, tau)
            colors = nx.greedy_color(nx.from_numpy_array(conflicts), "largest_first")
            found = [[t for t in colors if colors[t] == c] for c in sorted(set(colors.values()))]
            edges = int(conflicts.sum()) // 2
        pairs = num_tasks * (num_tasks - 1) / 2
        writer.log_grouping(
            step=step, tau=tau, groups=found, num_edges=edges, num_colors=len(found), churn=0.1,
            density=None if edges is None else edges / pairs, seconds=0.11,
            affinity=affinity if affinities else None,
        )  # fmt: skip
    if done:
        seconds = 20.0 * cost * (1 + 0.03 * rng.normal())
        writer.write_summary({
            "status": "done", "method": name, "best_step": 380, "best_epoch": 19,
            "valid": {"ap": macro + 0.01, "auroc": np.nanmean(auroc), "f1": np.nanmean(f1)},
            "test": {"ap": macro, "auroc": np.nanmean(auroc), "f1": np.nanmean(f1),
                     "f1_top_k": np.nanmean(f1) + 0.04, "f1_true_k": np.nanmean(f1) + 0.09},
            "per_label": {"ap": ap, "auroc": np.where(np.isnan(ap), np.nan, auroc), "f1": f1,
                          "positives_test": positives},
            "tasks": list(range(num_tasks)) if tasks is None else list(tasks),
            "cost": {"seconds": seconds, "steps": 400 if curves else 0,
                     "label_gradients": int(400 * num_tasks * share) if curves else 0,
                     "probe_label_gradients": 13 * num_tasks if tau is not None else 0,
                     "refreshes": 13 if tau is not None else 0,
                     "refresh_seconds": 1.4 if tau is not None else 0.0,
                     "eval_seconds": 2.2, "peak_rss_mb": 812 + 40 * rng.random()},
            "num_parameters": 148_930, **(summary_changes or {}),
        })  # fmt: skip
        writer.finish()
    writer.close()
    return Path(folder)


def write_study(folder, seeds=(0, 1, 2), *, coloring_gain=-0.006):
    """The demo's methods."""
    sample = list(range(1, 66, 6))
    random_groups = [list(range(start, 66, 4)) for start in range(4)]
    for seed in seeds:
        for options in (
            {"name": "joint", "kind": "joint"},
            {"name": "single", "kind": "single", "gain": -0.02, "tasks": sample, "curves": False,
             "cost": 1.9},
            {"name": "random", "kind": "random", "gain": -0.012, "groups": random_groups,
             "share": 0.25},
            {"name": "coloring_default", "kind": "coloring", "tau": 0.5, "gain": 0.0},
            {"name": "coloring_multi", "kind": "coloring", "tau": 0.1, "gain": coloring_gain,
             "share": 0.25, "cost": 1.07},
            {"name": "spectral_lr", "kind": "shallow", "gain": -0.07, "curves": False, "cost": 0.2},
        ):  # fmt: skip
            write_run(Path(folder) / options["name"] / f"seed-{seed}", seed=seed, **options)
    return Path(folder)


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    """A folder with the demo's methods on three seeds; read only."""
    return write_study(tmp_path_factory.mktemp("study") / "runs")


@pytest.fixture(name="write_run")
def write_run_fixture():
    return write_run


@pytest.fixture(name="write_study")
def write_study_fixture():
    return write_study
