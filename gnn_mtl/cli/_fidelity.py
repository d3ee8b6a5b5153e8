"""``gnn-mtl affinity --fidelity``: every way of measuring conflict against the exact one."""

from __future__ import annotations

import json
from pathlib import Path

from gnn_mtl._core.files import write_text
from gnn_mtl.affinity import fidelity_study
from gnn_mtl.reports import build_fidelity
from gnn_mtl.runs import load_trained
from gnn_mtl.training import positive_weights, training_loader


def measure(folder: Path, out: Path, nodes: int) -> None:
    """Measure the run's model; write ``out`` as .json and as .html, and print the frontier."""
    config, graph, model = load_trained(folder)
    loader = training_loader(graph, model, config.train, seed=config.seed + 1, num_workers=0)
    most = max(1, nodes // config.train.batch_size)
    counts = tuple(sorted({1, max(1, most // 4), most}))
    weight = positive_weights(graph, config.train)
    study = fidelity_study(model, loader, counts=counts, pos_weight=weight)
    data = {"run": str(folder), "dataset": graph.name, **study.to_dict()}
    written, page = out.with_suffix(".json"), out.with_suffix(".html")
    write_text(written, json.dumps(data, indent=1) + "\n")
    command = f"gnn-mtl affinity {folder} --fidelity --nodes {nodes} --out {out}"
    build_fidelity(data, page, name=f"{graph.name}: {folder.name}", command=command)
    print(f"{'mode':32} {'nodes':>8} {'cost':>8} {'edge F1':>8} {'MAE':>8} {'r':>7}")
    for row in sorted(data["rows"], key=lambda row: row["cost"]):
        f1, r = ("-" if row[k] is None else f"{row[k]:.3f}" for k in ("edge_f1", "pearson"))
        print(
            f"{row['mode']:32} {row['nodes']:>8} {row['cost']:>8.3g} {f1:>8} "
            f"{row['cosine_mae']:>8.4f} {r:>7}"
        )
    print(f"fidelity: {page} and {written}")
