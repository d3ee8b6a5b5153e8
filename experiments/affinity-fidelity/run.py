"""How faithful are measured conflicts, and to what? Three parts next to ``bench refresh``.

    python experiments/affinity-fidelity/run.py which truth real   # about ten minutes of one core
    python experiments/affinity-fidelity/run.py --smoke --records /tmp/smoke

``which``: cosines of one trained model by several definitions of its exact gradient. ``truth``:
pairs of tasks really trained. ``real``: every mode on the embedded graph debian-tags. The full-size
planted graph is ``gnn-mtl bench refresh --json``, kept as ``records/refresh.json``.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

import gnn_mtl as gm
from gnn_mtl.affinity import (
    edge_tau,
    estimate_affinity,
    fidelity,
    fidelity_study,
    gain_fidelity,
    gradient_cosine,
)
from gnn_mtl.datasets import TaskGraph, planted
from gnn_mtl.gradients import StreamedGradients, probe, task_gradients
from gnn_mtl.graph import NeighborLoader
from gnn_mtl.nn import LabelModel, LinearHeads, SAGEEncoder, masked_bce
from gnn_mtl.records import manifest
from gnn_mtl.schedulers import JointScheduler
from gnn_mtl.tasks import Affinity
from gnn_mtl.training import Train, evaluate_split, fit, training_loader

HERE = Path(__file__).parent


def trained(graph: TaskGraph, config: Train, hidden: int, seed: int) -> LabelModel:
    """Return a two-layer GraphSAGE with the best weights of a joint training."""
    torch.manual_seed(seed)
    encoder = SAGEEncoder(graph.num_features, hidden, 2, norm="batch", dropout=0.3)
    model = LabelModel(encoder, LinearHeads(hidden, graph.num_tasks))
    fit(model, graph, JointScheduler(graph.num_tasks), config, seed=seed)
    return model


def summed(loader: NeighborLoader, rows: Callable[[Any], torch.Tensor], epochs: int) -> Affinity:
    """Cosines of rows over whole epochs, each batch weighted by its observed nodes."""
    total = torch.zeros(())
    for epoch in range(epochs):
        for batch in loader.epoch_batches(epoch):
            total = total + rows(batch) * batch.observed.sum(dim=0)[:, None]
    return gradient_cosine(total)


def which(smoke: bool) -> dict[str, Any]:
    """The same weights, several exact gradients: sampled, all neighbours, with dropout."""
    nodes, edges, tasks, size = (600, 3000, 8, 64) if smoke else (40_000, 350_000, 48, 1024)
    graph = planted(nodes, edges, tasks, 4, num_features=64, conflict=0.5, seed=0)
    config = Train(epochs=2 if smoke else 15, batch_size=size, eval_every=5, num_workers=0)
    model = trained(graph, config, 16 if smoke else 128, seed=0)

    def loader(seed: int, fan_out: int = 10) -> NeighborLoader:
        return NeighborLoader(
            graph, "train", num_neighbors=[fan_out] * 2, batch_size=size, num_workers=0, seed=seed
        )

    def frozen(batch: Any) -> torch.Tensor:
        return probe(model, batch, mode="full").jacobian

    def dropped(batch: Any) -> torch.Tensor:
        losses = masked_bce(model(batch), batch.y, batch.observed)
        return task_gradients(losses, model.shared_parameters()).jacobian

    exact = summed(loader(1), frozen, 2)
    found = {
        "sampled, other neighbours": summed(loader(2), frozen, 2),
        "all neighbours": summed(loader(1, fan_out=-1), frozen, 1),
    }
    model.eval()
    model.encoder.dropout.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found["with dropout"] = summed(loader(1), dropped, 1)
        found["with dropout, other draws"] = summed(loader(2), dropped, 1)
    tau = edge_tau(exact)
    rows = [
        {"against": "sampled, frozen", "gradient": name, **fidelity(other, exact, tau).to_dict()}
        for name, other in found.items()
    ]
    drop = found["with dropout"]
    rows.append({
        "against": "with dropout", "gradient": "with dropout, other draws",
        **fidelity(found["with dropout, other draws"], drop, edge_tau(drop)).to_dict(),
    })  # fmt: skip
    return {"nodes": nodes, "tasks": tasks, "tau": tau, "rows": rows}


def truth(smoke: bool) -> dict[str, Any]:
    """Predicted against real gains of training two tasks together."""
    nodes, tasks, epochs, seeds = (300, 3, 1, (0,)) if smoke else (3000, 6, 15, (0, 1, 2))
    graph = planted(nodes, 4 * nodes, tasks, 3, num_features=16, conflict=0.8, seed=1)
    config = Train(epochs=epochs, batch_size=256, eval_every=5, num_workers=0, patience=None)

    def scores(subset: Sequence[int], seed: int) -> list[float]:
        part = graph.select_tasks(list(subset))
        model = trained(part, config, 16, seed)
        return [float(ap) for ap in evaluate_split(model, part, "valid").per_label["ap"]]

    gains: dict[tuple[int, ...], list[float]] = {}
    halves: list[dict[tuple[int, ...], list[float]]] = []
    for seed in seeds:
        alone = [scores([task], seed)[0] for task in range(tasks)]
        one = {
            pair: [s - alone[t] for t, s in zip(pair, scores(pair, seed), strict=True)]
            for pair in combinations(range(tasks), 2)
        }
        halves.append(one)
        for pair, values in one.items():
            old = gains.get(pair, [0.0, 0.0])
            gains[pair] = [a + b / len(seeds) for a, b in zip(old, values, strict=True)]
    model = trained(graph, config, 16, 0)
    batches = training_loader(graph, model, config, seed=9)
    stream = StreamedGradients(model)
    for batch in batches.epoch_batches(0):
        stream.measure(batch)
    estimates = {
        "full": estimate_affinity(model, batches, method="full"),
        "last_layer": estimate_affinity(model, batches, method="last_layer"),
        "streamed": gradient_cosine(stream.gradients().jacobian),
        "tag_linear": estimate_affinity(model, batches, method="tag_linear", lr=config.lr),
        "cooccurrence": estimate_affinity(None, graph, method="cooccurrence"),
    }
    rows = [
        {"method": name, **gain_fidelity(estimate, gains).to_dict()}
        for name, estimate in estimates.items()
    ]
    noise = None
    if len(halves) > 1:
        values = [torch.tensor([g for gain in half.values() for g in gain]) for half in halves]
        pairs = [torch.corrcoef(torch.stack(p))[0, 1].item() for p in combinations(values, 2)]
        noise = sum(pairs) / len(pairs)
    table = [{"pair": list(pair), "gains": values} for pair, values in gains.items()]
    return {"nodes": nodes, "seeds": list(seeds), "gain_correlation_between_seeds": noise,
            "gains": table, "rows": rows}  # fmt: skip


def real(smoke: bool) -> dict[str, Any]:
    """Every mode on debian-tags, and the exact cosines by each layer alone."""
    if smoke:
        graph = planted(400, 1600, 6, 2, num_features=8, seed=0)
        config = Train(epochs=1, batch_size=64, num_workers=0)
    else:
        loaded = gm.RunConfig(dataset="debian-tags")
        graph = gm.runs.build_graph(loaded)
        config = Train(epochs=20, batch_size=256, num_workers=0)
    model = trained(graph, config, 16 if smoke else 128, 0)
    batches = training_loader(graph, model, config, seed=1)
    study = fidelity_study(model, batches, counts=(1,) if smoke else (1, 4, 16))
    total = torch.zeros(())
    for batch in batches.epoch_batches(1):
        mass = batch.observed.sum(dim=0)[:, None]
        rows = probe(model, batch, mode="full").jacobian * mass
        total = total + torch.where(mass > 0, rows, 0.0)
    exact = gradient_cosine(total)
    names = [name for name, _ in model.encoder.named_parameters()]
    sizes = [p.numel() for p in model.shared_parameters()]
    blocks = dict(zip(names, total.split(sizes, dim=1), strict=True))
    layers = []
    for layer, starts in {
        "first convolution": ("convs.0",), "last convolution": ("convs.1",), "norms": ("norms",),
    }.items():  # fmt: skip
        chosen = torch.cat([b for name, b in blocks.items() if name.startswith(starts)], dim=1)
        share = (chosen.norm(dim=1) / total.norm(dim=1)).square().nanmean()
        layers.append({
            "layer": layer, "share_of_squared_norm": float(share),
            **fidelity(gradient_cosine(chosen), exact, study.tau).to_dict(),
        })  # fmt: skip
    return {"dataset": graph.name, "layers": layers, **study.to_dict()}


PARTS: dict[str, Callable[[bool], dict[str, Any]]] = {"which": which, "truth": truth, "real": real}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the named parts and write a record of each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default all")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, seconds")
    parser.add_argument("--records", type=Path, default=HERE / "records")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    options.records.mkdir(parents=True, exist_ok=True)
    for part in options.parts or PARTS:
        found = PARTS[part](options.smoke)
        made = manifest(dataset={}, seed=0)
        head = {"commit": made["commit"], "command": f"experiments/affinity-fidelity/run.py {part}"}
        path = options.records / f"{part}.json"
        path.write_text(json.dumps({**head, **found}, indent=1) + "\n", encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
