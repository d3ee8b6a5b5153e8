"""Label propagation: the baseline without features and without learning.

Where labels are communities it beats embeddings and networks alike, so a graph network reported
there has to be compared with it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from gnn_mtl._core.progress import Progress
from gnn_mtl.datasets import TaskGraph, load_dataset
from gnn_mtl.graph import CSCGraph
from gnn_mtl.metrics import average_precision, macro
from gnn_mtl.records import RunRecord
from gnn_mtl.runs._baseline import Fitted, run_baseline
from gnn_mtl.runs._config import RunConfig

METHOD = "label_propagation"
ALPHAS = (0.5, 0.8, 0.9, 0.95, 0.99)
ITERATIONS = (1, 2, 3, 5, 8, 12, 20, 30)
PRIOR_MASS = 0.1
CELLS_AT_ONCE = 1 << 24

Floats = NDArray[np.float32]


def train_label_propagation(
    config: RunConfig,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    graph: TaskGraph | None = None,
) -> RunRecord:
    """Propagate the training labels over the edges; write a run folder.

    The share :data:`ALPHAS` that moves on at every step and the number of steps
    :data:`ITERATIONS` are chosen by macro average precision on the validation split. Features,
    encoder, schedule, optimizer and seed of the configuration are not used. See :func:`propagate`.

    Args:
        config: Dataset and seed (which only names the run).
        out: The run folder.
        resume: Do again what an interrupted run began in that folder.
        graph: The dataset, if it is loaded already.
    """
    return run_baseline(
        _choose_steps,
        label_propagation_config(config),
        Path(out),
        graph=load_dataset(config.dataset, config.root) if graph is None else graph,
        resume=resume,
    )


def label_propagation_config(config: RunConfig) -> dict[str, Any]:
    """Return the part of a configuration that decides label propagation, as plain values."""
    plain = config.to_dict()
    kept = {key: plain[key] for key in ("dataset", "root", "seed")}
    chosen = {
        "alphas": list(ALPHAS), "iterations": list(ITERATIONS), "prior_mass": PRIOR_MASS,
    }  # fmt: skip
    return {**kept, "name": METHOD, "baseline": chosen}


def propagate(
    graph: TaskGraph,
    alpha: float,
    iterations: tuple[int, ...],
    *,
    operator: sp.csr_matrix | None = None,
) -> Iterator[tuple[int, Floats]]:
    r"""Yield (steps, scores ``[N, T]``) of label propagation from the training labels.

    Local and global consistency (Zhou, Bousquet, Lal, Weston & Schölkopf, NIPS 2003):
    :math:`F \leftarrow \alpha S F + (1 - \alpha) Y`, :math:`S = D^{-1/2} A D^{-1/2}`, for the
    training positives :math:`Y` and, which is ours, in the same way for the training cells
    :math:`O`, positive or not. The score is the share of positives among the labels that arrive,

    .. math:: (F + c\,\pi) / (G + c),

    with the label's share of training positives :math:`\pi` as prior, worth :math:`c` = 0.1 labels.
    The division makes an unlabelled neighbour say nothing (rather than no) and gives every task its
    own denominator where the split is per (node, task). A cell outside the training split is no
    source of anything, so no label takes part in its own prediction, and what a node knows of
    other tasks does not either.

    Args:
        graph: The dataset; only training labels are read.
        alpha: Share that moves on at every step, in (0, 1).
        iterations: Numbers of steps to yield scores of, ascending.
        operator: S, if it is made already.

    Note:
        O(E T) a step; two matrices ``[N, T]`` (one where all tasks share their training nodes).
    """
    operator = _normalised(graph.csc) if operator is None else operator
    positive, observed = graph.targets(np.arange(graph.num_nodes), "train")
    known = observed.astype(np.float32)
    if graph.split_kind == "node" and (observed == observed[:, :1]).all():
        known = known[:, :1]
    counts = np.maximum(graph.observed_counts("train"), 1)
    prior = (graph.positives("train") / counts).astype(np.float32)
    hits, mass = positive.copy(), known.copy()
    step = np.float32(alpha)
    for done in range(1, iterations[-1] + 1):
        hits = step * (operator @ hits) + (1 - step) * positive
        mass = step * (operator @ mass) + (1 - step) * known
        if done in iterations:
            yield done, (hits + PRIOR_MASS * prior) / (mass + np.float32(PRIOR_MASS))


def _choose_steps(graph: TaskGraph) -> Fitted:
    """Try every share and number of steps on the validation split, a block of tasks at a time."""
    blocks = _blocks(graph)
    parts = [graph.select_tasks(tasks) for tasks in blocks]
    operator = _normalised(graph.csc)
    nodes = graph.split_idx["valid"]
    ap = np.full((len(ALPHAS), len(ITERATIONS), graph.num_tasks), np.nan)
    with Progress("label propagation", len(ALPHAS) * len(blocks)) as progress:
        for tasks, part in zip(blocks, parts, strict=True):
            y, observed = part.targets(nodes, "valid")
            for row, alpha in enumerate(ALPHAS):
                for column, (_, scores) in enumerate(
                    propagate(part, alpha, ITERATIONS, operator=operator)
                ):
                    ap[row, column, tasks] = average_precision(scores[nodes], y, observed)
                progress.advance()
    means = np.array([[macro(cell) for cell in row] for row in ap])
    best = divmod(int(np.nanargmax(means)), len(ITERATIONS))
    alpha, steps = ALPHAS[best[0]], ITERATIONS[best[1]]
    logits: dict[str, list[Floats]] = {split: [] for split in ("valid", "test")}
    for part in parts:
        ((_, scores),) = propagate(part, alpha, (steps,), operator=operator)
        for split, found in logits.items():
            found.append(_logit(scores[graph.split_idx[split]]))
    return Fitted(
        {split: np.concatenate(found, axis=1) for split, found in logits.items()},
        num_parameters=0,
        extra={"alpha": alpha, "iterations": steps},
    )


def _blocks(graph: TaskGraph) -> list[NDArray[np.int64]]:
    width = max(1, CELLS_AT_ONCE // graph.num_nodes)
    tasks = np.arange(graph.num_tasks)
    return [tasks[start : start + width] for start in range(0, len(tasks), width)]


def _normalised(csc: CSCGraph) -> sp.csr_matrix:
    """D^-1/2 A D^-1/2 as float32, isolated nodes with empty rows."""
    ones = np.ones(csc.num_edges, dtype=np.float32)
    adjacency = sp.csr_matrix((ones, csc.indices, csc.indptr), shape=(csc.num_nodes,) * 2)
    out_degree = np.bincount(csc.indices, minlength=csc.num_nodes)
    left, right = (
        sp.diags(1 / np.sqrt(np.maximum(degree, 1)), dtype=np.float32)
        for degree in (csc.degrees, out_degree)
    )
    return (left @ adjacency @ right).tocsr()


def _logit(share: Floats) -> Floats:
    share = np.clip(share, 1e-7, 1 - 1e-7)
    return np.log(share) - np.log1p(-share)
