"""The graphs, splits and models of this experiment: what every stage starts from."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import gnn_mtl as gm
from gnn_mtl._core.errors import LabelWarning
from gnn_mtl.affinity._subset_design import draw_subsets
from gnn_mtl.datasets import save_npz
from gnn_mtl.datasets._communities import community_split
from gnn_mtl.nn import SIGN
from gnn_mtl.training import SubsetMetric

SPLIT_SEED = 1024


@dataclass(frozen=True)
class Cell:
    """A graph, its split, and how much is spent on it."""

    name: str
    dataset: str
    version: str
    """Rule of the split, see ``gnn_mtl.datasets.CommunityOptions``."""
    top: int | None = None
    """Use this many of the largest communities only."""
    subset_size: int = 15
    num_subsets: int = 100
    subset_seeds: tuple[int, ...] = (0, 1)
    metric: SubsetMetric = "loss"
    """Score of the subsets, and what stops their training."""
    num_groups: int = 20
    epochs: int = 60
    hidden: int = 64
    batch: int = 1000
    dim: int = 128
    patience: int = 5

    def load(self, data: Path) -> gm.TaskGraph:
        """Return the graph with its split."""
        if self.dataset == "planted":
            return gm.load_dataset("planted:num_nodes=900,num_tasks=8,num_groups=2,seed=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LabelWarning)  # of the random split, not used
            graph = gm.import_npz(
                data / self.dataset / f"{self.dataset}.npz", name=self.name, top=self.top,
                split="random",
            )  # fmt: skip
        everyone = np.arange(graph.num_nodes)
        y = sum(graph.targets(everyone, split)[0] for split in ("train", "valid", "test")) > 0
        members = [np.flatnonzero(y[:, task]) for task in range(graph.num_tasks)]
        split = community_split(
            members, np.ones(graph.num_nodes, dtype=bool), version=self.version, seed=SPLIT_SEED
        )
        return graph.with_split(split)

    def stored(self, data: Path, out: Path) -> tuple[gm.TaskGraph, str]:
        """Return the graph and the path of a file with it, written once."""
        graph = self.load(data)
        path = (out / self.name / "graph.npz").resolve()
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            save_npz(graph, path)
        return graph, str(path)

    def config(self, dataset: str, seed: int = 0) -> gm.RunConfig:
        """Return the configuration that all methods and subsets share.

        Optimizer, learning rate, batches and features are the papers' (SIGN, Adam, .01, 1,000
        nodes, VERSE 128); the network is smaller and is stopped early.
        """
        train = gm.Train(
            epochs=self.epochs, batch_size=self.batch, optimizer="adam", weight_decay=0.0, lr=0.01,
            lr_schedule="constant", warmup_steps=0, eval_every=2, num_workers=0,
            patience=self.patience,
            device="cpu", checkpoint_seconds=600.0, log_every=50,
        )  # fmt: skip
        return gm.RunConfig(
            dataset=dataset, seed=seed, train=train,
            encoder=SIGN(hidden_channels=self.hidden, hops=2),
            features=gm.Features(method="verse", dim=self.dim),
        )  # fmt: skip

    def masks(self, num_tasks: int) -> np.ndarray:
        """Return the subsets to train, bool ``[m, T]``."""
        return draw_subsets(num_tasks, self.subset_size, self.num_subsets, seed=0)


CELLS = (
    Cell("amazon100-v3", "amazon100_distinct", "v3"),
    Cell(
        "dblp20-v2", "dblp100", "v2", top=20, subset_size=5, num_subsets=40, metric="ap",
        num_groups=4, epochs=30, hidden=32, batch=2000, dim=64, patience=3,
    ),
)  # fmt: skip
SMOKE = replace(
    CELLS[0], name="smoke", dataset="planted", subset_size=3, num_subsets=14, num_groups=2,
    epochs=2, hidden=8, batch=200, dim=8,
)  # fmt: skip
