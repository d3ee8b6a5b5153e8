"""``gnn-mtl affinity``: measure the tasks of a trained run against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from gnn_mtl.affinity import estimate_affinity
from gnn_mtl.cli._parse import parse
from gnn_mtl.runs import load_trained
from gnn_mtl.training import training_loader


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the measurement."""

    run: Annotated[Path, tyro.conf.Positional]
    """A finished run folder; its model with the best validation score is measured."""
    method: Literal["last_layer", "last_layer_sketch", "full"] = "last_layer"
    """Gradients whose cosines are taken."""
    nodes: int = 4096
    """Training nodes the gradients are averaged over."""
    out: Path = Path("affinity.npz")
    """File to write."""


def run(argv: Sequence[str]) -> int:
    """Measure, write the file and print a summary."""
    options = parse(
        Options, argv, "affinity", "Cosines between the tasks' gradients, after training."
    )
    config, graph, model = load_trained(options.run)
    loader = training_loader(graph, model, config.train, seed=config.seed)
    batches = max(1, round(options.nodes / config.train.batch_size))
    affinity = estimate_affinity(
        model, loader, method=options.method, max_batches=batches, label_names=graph.label_names
    )
    affinity.save(options.out)
    values = affinity.values[np.triu_indices(affinity.num_tasks, 1)]
    known = values[~np.isnan(values)]
    facts = f"{affinity.num_tasks} tasks, {len(known)} known pairs"
    if len(known):
        facts += (
            f": median cosine {np.median(known):.3f}, {np.mean(known < 0):.1%} negative, "
            f"{np.mean(known < -0.25):.1%} below -0.25"
        )
    print(facts)
    print(f"affinity: {options.out}\nnext:     gnn-mtl group {options.out} --tau 0.1")
    return 0
