"""A run of one model per group becomes a run of one model, whose predictions are one forward."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from gnn_mtl._core.errors import RecordError, UsageError
from gnn_mtl._core.seeding import derive_seed
from gnn_mtl.datasets import TaskGraph, load_dataset
from gnn_mtl.nn import LabelModel
from gnn_mtl.records import RunRecord, RunWriter, manifest, read_run
from gnn_mtl.runs._build import build_model, load_base, with_inputs
from gnn_mtl.runs._config import RunConfig
from gnn_mtl.runs._summary import (
    METRICS,
    PER_LABEL,
    num_parameters,
    score_test,
    timed_validation,
)
from gnn_mtl.runs._train import describe_dataset, refuse_other_data
from gnn_mtl.schedulers import Separate
from gnn_mtl.training import (
    MergeMethod,
    evaluate_split,
    labels_per_node,
    load_weights,
    merge_models,
    refresh_batch_norm,
    save_weights,
    training_loader,
)


@dataclass(frozen=True, kw_only=True)
class Merge:
    """How the models of the groups become one."""

    method: MergeMethod = "average"
    """average: the mean of the trunks; ties: the large changes on whose sign they agree (TIES,
    arXiv 2306.01708);
    low_rank: the mean of the changes, each cut to a rank."""
    density: float = 0.2
    """ties: share of the entries of each model's change that is kept."""
    scale: float = 1.0
    """ties: factor of the merged change."""
    rank: int = 16
    """low_rank: singular values kept of each model's change of each matrix."""
    batch_norm: Literal["measure", "average"] = "measure"
    """Running statistics of batch norms: measured anew on an epoch of training batches, or
    averaged."""


def merge_run(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: Merge | None = None,
    *,
    graph: TaskGraph | None = None,
) -> RunRecord:
    """Merge the models of a separate run, score the result and write it as a run of its own.

    Each task keeps the head of the model that serves it; trunks are merged, by their mean, by TIES
    (Yadav et al., arXiv 2306.01708) or at low rank. Nothing is trained.
    What the models have in common to merge from is the run they were fine-tuned from, or their
    initial weights, which are equal for one seed. Merging helps where they did not part far:
    fine-tuned models. The new run keeps the configuration and the training cost of the old one;
    its name and ``summary.json`` (``merged``) say what was merged and how.

    Args:
        folder: A finished run of kind ``separate``.
        out: Folder of the new run.
        options: How to merge.
        graph: The dataset, if it is loaded already.

    Raises:
        RecordError: If the folder holds no finished separate run, or of another dataset, or ``out``
            holds a run already.
        UsageError: If the options are out of range or the models cannot be merged.
    """
    options, folder, out = options or Merge(), Path(folder), Path(out)
    source, config = read_run(folder, finished=True), RunConfig.load(folder)
    plan = config.scheduler
    if not isinstance(plan, Separate):
        raise RecordError(
            f"{folder} should be a run of one model per group (--scheduler.kind separate). Found "
            f"{config.scheduler.kind}."
        )
    if (folder / "checkpoints" / "best.safetensors").exists():
        raise RecordError(
            f"{folder} should hold one model per group. Found one model, that is, a run merged "
            "already; give the run it was merged from."
        )
    if folder.resolve() == out.resolve():
        raise UsageError(f"The merged run needs a folder of its own. Found {out} for both.")
    graph = load_dataset(config.dataset, config.root) if graph is None else graph
    made = manifest(dataset=describe_dataset(graph), seed=config.seed)
    refuse_other_data(folder, made["dataset"]["sha256"])
    graph = with_inputs(graph, config)
    model = _merged(folder, config, plan, graph, options)
    device = next(model.parameters()).device
    valid = evaluate_split(model, graph, "valid", device=device, top_k=labels_per_node(graph))
    test = score_test(model, graph)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    name = f"{config.method}-merged-{options.method}"
    summary |= {
        "method": name,
        "valid": {metric: valid.macro[metric] for metric in METRICS},
        "test": {metric: test.macro[metric] for metric in METRICS},
        "per_label": {
            **{metric: test.per_label[metric].tolist() for metric in PER_LABEL},
            "positives_test": test.positives.tolist(),
        },
        "cost": summary["cost"] | timed_validation(model, graph),
        "num_parameters": num_parameters(model),
        "merged": {"run": str(folder), "models": len(plan.grouping(graph.num_tasks)),
                   **options.__dict__},
    }  # fmt: skip
    summary.pop("served_by", None)
    with RunWriter.open(out) as writer:
        writer.write_config(replace(config, name=name).to_dict())
        writer.write_manifest(made)
        for refresh in source.refreshes:
            writer.log_grouping(
                step=refresh.step, groups=refresh.groups, num_colors=len(refresh.groups)
            )
        writer.log_valid(
            step=summary["best_step"], epoch=summary["best_epoch"], ap=valid.macro["ap"],
            auroc=valid.macro["auroc"], f1=valid.macro["f1"], seconds=summary["cost"]["seconds"],
        )  # fmt: skip
        save_weights(writer.checkpoints / "best.safetensors", model)
        writer.write_summary(summary)
        writer.finish()
    return read_run(out)


def _merged(
    folder: Path, config: RunConfig, plan: Separate, graph: TaskGraph, options: Merge
) -> LabelModel:
    grouping = plan.grouping(graph.num_tasks)
    models = []
    for number, group in enumerate(grouping.groups):
        model = build_model(config, graph.select_tasks(group))
        load_weights(folder / "checkpoints" / f"group-{number:04d}" / "best.safetensors", model)
        models.append(model)
    base = build_model(config, graph)
    if plan.base is not None:
        base = load_base(plan.base, config, graph)
    served = json.loads((folder / "summary.json").read_text(encoding="utf-8")).get("served_by")
    merged = merge_models(
        models, grouping, method=options.method, base=base, owners=served,
        density=options.density, scale=options.scale, rank=options.rank,
    )  # fmt: skip
    if options.batch_norm == "measure":
        sealed, seed = graph.sealed(), derive_seed(config.seed, "merge")
        loader = training_loader(sealed, merged, config.train, seed=seed)
        refresh_batch_norm(merged, loader.epoch_batches(0))
    return merged
