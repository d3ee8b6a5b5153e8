"""``gnn-mtl affinity`` by subsets of tasks: predicted (Grad-TAG), trained, or read from a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import FileFormatError, UsageError
from gnn_mtl._core.files import sha256
from gnn_mtl._core.seeding import generator
from gnn_mtl.affinity import (
    SubsetSurrogate,
    gradtag_table,
    pair_affinity,
    pair_coverage,
    subset_affinity,
    subset_masks,
    valid_batches,
)
from gnn_mtl.cli._affinity import base_run, summary
from gnn_mtl.cli._parse import parse, parse_seeds, take_value
from gnn_mtl.cli._subset_options import (
    Design,
    GradTagOptions,
    TableOptions,
    TrainedOptions,
    Written,
)
from gnn_mtl.datasets import TaskGraph, load_dataset
from gnn_mtl.graph import LabelInputs, NeighborLoader
from gnn_mtl.nn import LabelModel
from gnn_mtl.runs import MACHINE_SETTINGS, RunConfig, SubsetOracle, load_trained
from gnn_mtl.tasks import Affinity, SubsetTable
from gnn_mtl.training import Train, positive_weights, training_loader

FEATURE_BYTES = 256 << 20
SMALL_GRAPH = 32_768
ELSEWHERE = (
    "run", "dataset", "epochs", "root", "device", "trained", "out", "table", "normalize",
    "min_count",
)  # fmt: skip
"""Options that do not decide the scores, or do so through the weights or the configuration."""
PREDICTED = ("one_step", "linearised", "surrogate:linear", "surrogate:kernel")


def run(method: str, argv: Sequence[str]) -> int:
    """Score subsets or read their table, write the affinity, print a summary."""
    rest = list(argv)
    named = take_value(rest, "--run")
    rest = rest if named is None else [named, *rest]
    said = f"affinity --method {method}"
    if method == "gradtag":
        predicted = parse(GradTagOptions, rest, said, "Predict how tasks do in subsets (Grad-TAG).")
        return _finish(predicted, *_gradtag(predicted))
    if method == "trained":
        asked = parse(TrainedOptions, rest, said, "Train one model per subset of tasks.")
        return _finish(asked, *_trained(asked))
    read = parse(TableOptions, rest, said, "Turn the scores of subsets into an affinity.")
    table = SubsetTable.load(read.table)
    return _write(read, _of_table(table, method, read), str(table.details.get("dataset", "")))


def _gradtag(options: GradTagOptions) -> tuple[SubsetTable, str, bool]:
    """The table, the dataset's name, and whether the table was there already."""
    if options.negatives is not None and options.mode != "pairs":
        raise UsageError("--negatives belongs to --mode pairs.")
    if bool(options.run) == (options.dataset is not None):
        raise UsageError("Give run folders to measure, or --dataset NAME|PATH; one of the two.")
    if options.dim < 1 or options.epochs < 1 or (options.nodes is not None and options.nodes < 1):
        raise UsageError(
            "--dim, --epochs and --nodes should be at least 1. Found "
            f"{options.dim}, {options.epochs} and {options.nodes}."
        )
    folders = options.run or (
        base_run(str(options.dataset), options.root, options.epochs, options.seed, options.device),
    )
    dataset = RunConfig.load(folders[0]).dataset
    settings = {
        **{k: v for k, v in asdict(options).items() if k not in ELSEWHERE},
        "trained": None if options.trained is None else sha256(options.trained),
        "weights": [_weights(folder) for folder in folders],
    }
    found = _reusable(_table_path(options), settings)
    if found is not None:
        return found, dataset, True
    trained = None if options.trained is None else SubsetTable.load(options.trained)
    if trained is not None and not set(PREDICTED).isdisjoint(trained.source.split("+")):
        raise UsageError(
            f"--trained should be a table of subsets really trained. {options.trained} holds "
            f"predictions ({trained.source}); write one with --method trained."
        )
    loaded = [load_trained(folder) for folder in folders]
    if len({config.dataset for config, *_ in loaded}) > 1:
        raise UsageError("Base models should be of one dataset. Found several.")
    config, graph, first = loaded[0]
    train, valid = _loaders(graph, first, config, options)
    retrain = None
    if options.retrain:
        retrain = SubsetOracle(
            config=config, seeds=(config.seed,), metric=options.metric,
            journal=_table_path(options).with_suffix(".journal"),
        )  # fmt: skip
    table = gradtag_table(
        [model for *_, model in loaded], train, valid, _masks(graph.num_tasks, options),
        dim=options.dim, lam=options.lam, mode=options.mode, weighting=options.weighting,
        scoring=options.scoring, metric=options.metric, parameters=options.parameters,
        negatives=options.negatives, pos_weight=positive_weights(graph, config.train),
        trained=trained,
        audits=options.audits, tolerance=options.tolerance, seed=options.seed,
        retrain=retrain, label_names=graph.label_names,
    )  # fmt: skip
    details = {
        **table.details, "runs": [str(folder) for folder in folders], "dataset": dataset,
        "settings": settings,
    }  # fmt: skip
    table = replace(table, details=details)
    table.save(_table_path(options))
    return table, dataset, False


def _trained(options: TrainedOptions) -> tuple[SubsetTable, str, bool]:
    """The table, the dataset's name, and whether the table was there already."""
    if (options.run is None) == (options.dataset is None):
        raise UsageError("Give a run folder, or --dataset NAME|PATH; one of the two.")
    if options.normalize == "relative" and not options.baseline:
        raise UsageError("--normalize relative compares with tasks trained alone: add --baseline.")
    if options.finetune and options.run is None:
        raise UsageError("--finetune starts from the weights of a run. Give its folder.")
    if options.run is not None:
        config = RunConfig.load(options.run)
    else:
        config = RunConfig(
            dataset=str(options.dataset), root=options.root,
            train=Train(epochs=options.epochs, device=options.device),
        )  # fmt: skip
    path = _table_path(options)
    oracle = SubsetOracle(
        config=config, seeds=parse_seeds(options.seeds), metric=options.metric,
        train_share=options.train_share, base=options.run if options.finetune else None,
        workers=options.workers, journal=path.with_suffix(".journal"),
    )  # fmt: skip
    settings = {
        **{k: v for k, v in asdict(options).items() if k not in (*ELSEWHERE, "workers")},
        "config": _decisive(config),
    }
    found = _reusable(path, settings)
    if found is not None:
        return found, config.dataset, True
    graph = load_dataset(config.dataset, config.root)
    masks = _masks(graph.num_tasks, options)
    table = replace(oracle, graph=graph)(masks, baseline=options.baseline)
    details = {**table.details, "dataset": config.dataset, "settings": settings}
    table = replace(table, details=details, label_names=graph.label_names)
    table.save(path)
    return table, config.dataset, False


def _decisive(config: RunConfig) -> dict[str, Any]:
    """What of a configuration decides the scores of trained subsets, wherever they are trained."""
    plain = config.to_dict()
    train = {key: value for key, value in plain["train"].items() if key not in MACHINE_SETTINGS}
    kept = {name: plain[name] for name in ("dataset", "encoder", "head", "features")}
    return kept | {"train": train}


def _weights(folder: Path) -> str:
    """The checksum of a run's best weights."""
    path = folder / "checkpoints" / "best.safetensors"
    if not path.exists():
        load_trained(folder)  # says what is missing
    return sha256(path)


def _masks(num_tasks: int, options: Design) -> NDArray[np.bool_]:
    return subset_masks(num_tasks, options.subset_size, options.num_subsets, seed=options.seed)


def _loaders(
    graph: TaskGraph, model: LabelModel, config: RunConfig, options: GradTagOptions
) -> tuple[NeighborLoader, NeighborLoader]:
    """Batches of training and validation nodes, as large as the features' memory allows.

    On a large graph, where neighbours multiply, no larger than those of the training.
    """
    nodes = len(graph.split_idx["train"])
    if options.nodes is not None:
        nodes = min(nodes, options.nodes)
    fit = FEATURE_BYTES // (4 * graph.num_tasks * options.dim)
    limit = nodes if graph.num_nodes <= SMALL_GRAPH else config.train.batch_size
    if isinstance(graph, LabelInputs):  # a batch hides its own labels: leave half to be read
        limit = min(limit, len(graph.split_idx["train"]) // 2)
    size = max(1, min(fit, limit, nodes))
    drawn = None
    if nodes < len(graph.split_idx["train"]):
        order = generator(options.seed, "nodes").permutation(graph.split_idx["train"])
        drawn = np.sort(order[:nodes])
    loader = training_loader(
        graph, model, config.train, seed=options.seed, batch_size=size, input_nodes=drawn,
        shuffle=False,
    )  # fmt: skip
    most = None if options.nodes is None else max(1, round(options.nodes / size))
    return loader, valid_batches(loader, most)


def _of_table(table: SubsetTable, method: str, options: TableOptions) -> Affinity:
    """The affinity of a table by that method."""
    given = {"normalize": options.normalize, "min_count": options.min_count}
    if method != "surrogate" and (options.kernel or options.subset_size or options.num_subsets):
        raise UsageError("--kernel, --subset-size and --num-subsets belong to --method surrogate.")
    if not options.kernel and (options.subset_size or options.num_subsets):
        raise UsageError("--subset-size and --num-subsets are of predictions: add --kernel.")
    if method == "pairwise":
        return pair_affinity(table, **given)  # type: ignore[arg-type]
    if method == "higher_order":
        return subset_affinity(table, **given)  # type: ignore[arg-type]
    surrogate = SubsetSurrogate("kernel" if options.kernel else "linear").fit(table)
    r2, _ = surrogate.cross_validated_r2(table)
    if np.isnan(r2):
        print("surrogate: nothing to predict, the scores do not vary over held-out subsets")
    else:
        print(f"surrogate: predicts {r2:.1%} of the variation over held-out subsets")
    if not options.kernel:
        return surrogate.affinity(normalize=options.normalize)
    masks = subset_masks(table.num_tasks, options.subset_size, options.num_subsets)
    return subset_affinity(surrogate.predict(masks), **given)  # type: ignore[arg-type]


def _table_path(options: Design) -> Path:
    return options.table or options.out.with_suffix(".subsets.npz")


def _reusable(path: Path, settings: dict[str, Any]) -> SubsetTable | None:
    """The table there, if it has these settings; a trained one of others is not overwritten."""
    if not path.exists():
        return None
    try:
        found = SubsetTable.load(path)
    except FileFormatError as error:
        raise UsageError(
            f"{path} should be a table of subsets to reuse. Found another file; choose another "
            "--table."
        ) from error
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}
    if found.details.get("settings") == plain:
        return found
    if found.source not in PREDICTED:
        raise UsageError(
            f"{path} holds scores of other settings that were trained, so it is not overwritten. "
            "Choose another --table, or remove it."
        )
    return None


def _finish(options: Design, table: SubsetTable, dataset: str, reused: bool) -> int:
    """Say what was scored, and write the affinity."""
    coverage = pair_coverage(table.masks)
    size = int(table.masks.sum(axis=1).max())
    missing = f", {coverage.missing:.1%} in none" if coverage.missing else ""
    print(
        f"subsets:  {table.num_subsets} of {size} tasks, every pair in {coverage.fewest} to "
        f"{coverage.most}{missing}"
    )
    for line in _gradtag_lines(table.details):
        print(line)
    there = " (there already, with these settings)" if reused else ""
    print(f"table:    {_table_path(options)}{there}")
    found = subset_affinity(table, normalize=options.normalize, min_count=options.min_count)
    if table.details.get("method") == "gradtag":
        found = replace(found, method="gradtag")
    cells = found.known & ~np.eye(found.num_tasks, dtype=np.bool_)
    if found.stderr is not None and cells.any() and np.ptp(found.values[cells]) > 0:
        noise = np.median(found.stderr[cells]) / found.values[cells].std()
        if np.isfinite(noise):
            print(
                f"noise:    a standard error is {noise:.2f} of the spread; less: gnn-mtl affinity "
                f"{_table_path(options)} --method surrogate"
            )
    return _write(options, found, dataset)


def _gradtag_lines(details: dict[str, Any]) -> list[str]:
    """The penalty and the audit in words."""
    if details.get("method") != "gradtag":
        return []
    return [
        f"penalty:  {details['lam']:g} ({details['lam_choice']['by']})",
        *(
            f"audit:    logits off by {audit['error']:.2%} (squared), without the gradient by "
            f"{audit['error_without_gradient']:.2%}; steps of {audit['step']:.2g} of the weights, "
            f"of all tasks at once {audit['step_of_all_tasks']:.2g}" + _verdict(audit)
            for audit in details["audit"]
        ),
    ]


def _verdict(audit: dict[str, Any]) -> str:
    """What is wrong with an audit, if anything."""
    if audit["error"] >= audit["error_without_gradient"]:
        return "; the linearisation is no better than nothing: raise --lam"
    if audit["step_of_all_tasks"] > audit["step"]:
        return "; all tasks together still move the base model: train it longer"
    return ""


def _write(options: Written, affinity: Affinity, dataset: str) -> int:
    affinity = replace(affinity, details={**affinity.details, "source": dataset or None})
    affinity.save(options.out)
    print(summary(affinity))
    print(f"affinity: {options.out}")
    if (affinity.known & ~np.eye(affinity.num_tasks, dtype=np.bool_)).any():
        print(f"next:     gnn-mtl group {options.out} --method sdp")
    else:
        print("next:     score more or larger subsets; nothing is known to group by")
    return 0
