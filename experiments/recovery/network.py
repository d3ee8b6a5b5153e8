"""A GraphSAGE on labels in planted groups: does the conflict graph of its gradients find them?"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score, f1_score, roc_auc_score

import gnn_mtl as gm
from gnn_mtl.affinity import label_cooccurrence
from gnn_mtl.gradients import task_gramian
from gnn_mtl.grouping import ConflictRule, affinity_propagation, welsh_powell
from gnn_mtl.linalg import cosine_of_gramian

TAU = 0.25
Array = NDArray[Any]
Row = dict[str, Any]


@dataclass(frozen=True)
class Planted:
    """Labels in groups, groups 2k and 2k + 1 opposed, and the training on them."""

    num_groups: int
    num_nodes: int = 6000
    num_tasks: int = 24
    conflict: float = 0.9
    epochs: int = 60
    hidden_channels: int = 64

    def graph(self, seed: int) -> gm.TaskGraph:
        return gm.planted(
            self.num_nodes, num_tasks=self.num_tasks, num_groups=self.num_groups,
            conflict=self.conflict, seed=seed,
        )  # fmt: skip

    def trained(self, graph: gm.TaskGraph, seed: int) -> Iterator[tuple[str, gm.LabelModel, Row]]:
        """Yield the model as it is born, early in its training, and where it validates best."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            sage = gm.SAGE(
                hidden_channels=self.hidden_channels, num_layers=2, norm="batch", dropout=0.3
            )
            encoder = sage.build(graph.num_features)
            model = gm.LabelModel(encoder, gm.Linear().build(encoder.out_channels, graph.num_tasks))
        ap = gm.evaluate_split(model, graph, "valid").macro["ap"]
        yield "init", model, {"epoch": 0, "valid_ap": ap}
        # a constant rate, so that one epoch alone is the first epoch of all
        budget = gm.Train(
            lr=1e-2, lr_schedule="constant", warmup_steps=10, weight_decay=1e-4, batch_size=256,
            num_neighbors=(10, 10), patience=6, epochs=1, eval_every=1, num_workers=0, device="cpu",
        )  # fmt: skip
        shorter = replace(budget, max_steps=max(1, len(graph.split_idx["train"]) // 512))
        longer = replace(budget, epochs=self.epochs, eval_every=2)
        for name, config in (("half epoch", shorter), ("1 epoch", budget), ("best", longer)):
            learner = copy.deepcopy(model)
            fit = gm.fit(learner, graph, gm.JointScheduler(graph.num_tasks), config, seed=seed)
            yield name, learner, {"epoch": fit.best_epoch, "valid_ap": fit.valid["ap"]}


PLANTED = (Planted(2), Planted(4))
SMOKE = Planted(2, num_nodes=400, num_tasks=6, epochs=2, hidden_channels=8)
NODES = (256, 1024, None)
"""Training nodes measured on; None = all."""
MODES = ("last_layer", "full")


def score(cosine: Array, groups: Array) -> Row:
    """Return how well an affinity tells the groups; an unknown pair counts as 0."""
    known = np.nan_to_num(cosine, nan=0.0)
    np.fill_diagonal(known, 1.0)
    affinity = gm.Affinity(known, "cosine")
    pairs = np.triu_indices(len(groups), 1)
    same = (groups[:, None] == groups)[pairs]
    opposed = ((groups[:, None] ^ 1) == groups)[pairs]
    edges = gm.conflict_graph(affinity, TAU)
    rule = ConflictRule(name="quantile", edge_share=float(opposed.mean()))
    as_many = rule.edges(affinity, rule.tau(affinity))
    colors = gm.Grouping.of(welsh_powell(edges), len(groups))
    clusters = affinity_propagation(affinity).groups
    return {
        "same_auroc": roc_auc_score(same, known[pairs]),
        "edges": int(edges[pairs].sum()),
        "edges_right": int(edges[pairs][opposed].sum()),
        "f1_as_many": f1_score(opposed, as_many[pairs], zero_division=0.0),
        "colors_ari": agreement(colors.groups, groups),
        "clusters_ari": agreement(clusters, groups),
        "unknown": float(np.isnan(cosine[pairs]).mean()),
        "mean_same": float(known[pairs][same].mean()),
        "mean_opposed": float(known[pairs][opposed].mean()),
    }


def agreement(classes: Iterable[Iterable[int]], groups: Array) -> float:
    """Return the adjusted Rand index of a partition with the planted one: 0 by chance, 1 equal."""
    found = np.empty(len(groups), dtype=int)
    for number, members in enumerate(classes):
        found[list(members)] = number
    return float(adjusted_rand_score(groups, found))


def labels_of(graph: gm.TaskGraph, nodes: Array) -> gm.TaskGraph:
    """Return the graph with only these nodes to train on."""
    return graph.with_split({**graph.split_idx, "train": nodes})


def network_rows(planted: Planted, seed: int, nodes: Sequence[int | None]) -> Iterator[Row]:
    """Yield one row a checkpoint, number of nodes and estimator."""
    graph = planted.graph(seed)
    groups = graph.extras["task_groups"]
    train = np.random.default_rng([seed, 1]).permutation(graph.split_idx["train"])
    place: Row = {"groups": planted.num_groups, "seed": seed}
    for number in nodes:
        some = train[:number]
        phi = label_cooccurrence(labels_of(graph, some)).values
        yield {
            **place, "state": "-", "epoch": 0, "valid_ap": None, "nodes": len(some),
            "estimator": "phi", "gradients": "-", **score(phi, groups),
        }  # fmt: skip
    for state, model, reached in planted.trained(graph, seed):
        for number, mode in itertools.product(nodes, MODES):
            some = train[:number]
            blocks = gm.NeighborLoader(
                graph, num_neighbors=[10, 10], batch_size=-(-len(some) // 8), input_nodes=some,
                seed=seed, num_workers=0,
            )  # fmt: skip
            found = task_gramian(model, list(blocks.epoch_batches(0)), mode=mode, per_batch=True)
            unbiased = found.unbiased()
            for estimator, gramian in (
                ("plain", found.gramian),
                ("eight blocks", unbiased),
                ("noise alone", found.gramian - unbiased),
            ):
                cosine = cosine_of_gramian(gramian).numpy()
                yield {
                    **place, "state": state, **reached, "nodes": len(some),
                    "estimator": estimator, "gradients": mode, **score(cosine, groups),
                }  # fmt: skip


def network(smoke: bool) -> Row:
    """Return the whole second part."""
    rows: list[Row] = []
    cases, seeds, nodes = ((SMOKE,), (0,), (64, None)) if smoke else (PLANTED, range(5), NODES)
    for planted, seed in itertools.product(cases, seeds):
        rows += network_rows(planted, seed, nodes)
        reached = rows[-1]["valid_ap"]
        print(f"{planted.num_groups} groups, seed {seed}: AP {reached:.3f}", flush=True)
    rounded = [
        {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in rows
    ]
    return {"tau": TAU, "planted": tuple(map(asdict, cases)), "rows": rounded}
