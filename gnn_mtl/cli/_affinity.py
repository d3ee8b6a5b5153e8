"""``gnn-mtl affinity``: measure how the tasks of a dataset or a trained run affect each other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro

from gnn_mtl._core.errors import UsageError
from gnn_mtl.affinity import (
    LABEL_METHODS,
    MODEL_METHODS,
    SUBSET_METHODS,
    affinity_facts,
    estimate_affinity,
    relative_rule,
)
from gnn_mtl.cli._fidelity import measure as measure_fidelity
from gnn_mtl.cli._parse import parse, peek_value, take_flag, take_value
from gnn_mtl.datasets import TaskGraph, load_dataset, sample_overlap
from gnn_mtl.nn import LabelModel
from gnn_mtl.runs import RunConfig, default_folder, load_trained, train
from gnn_mtl.tasks import Affinity
from gnn_mtl.training import Train, training_loader

BY_SUBSETS = (*SUBSET_METHODS, "trained", "higher_order", "pairwise", "surrogate")
if TYPE_CHECKING:
    Method = str
else:
    Method = Literal[(*MODEL_METHODS, *LABEL_METHODS, *BY_SUBSETS)]

LOOK_AHEADS = ("tag", "tag_linear")
SECTIONS = 8


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the measurement."""

    run: Annotated[Path | None, tyro.conf.Positional] = None
    """A finished run folder; its model with the best validation score is measured."""
    dataset: str | None = None
    """Instead of a run: a dataset by name or path. A joint model is trained on it first and kept as
    a run, unless the method reads labels only."""
    method: Method = "last_layer"
    """Cosines of gradients: last_layer (exact, cheap), last_layer_sketch, full (all layers), ...;
    what a step on one task does to every loss: tag (tried), tag_linear (to first order); how labels
    go together, no model needed: cooccurrence (phi), jaccard, lift. Whole subsets of labels, each
    with options of its own (add --help): gradtag predicts them, trained trains them; higher_order,
    pairwise and surrogate read the table these two write."""
    nodes: int = 4096
    """Training nodes the measurement is made on, in batches of the run's size."""
    debias: bool = False
    """Take sampling noise out of the cosines; labels whose signal is below it become unknown."""
    step: Literal["sgd", "relative"] = "sgd"
    """The step of tag and tag_linear: lr times the gradient, or of equal length for every label."""
    lr: float | None = None
    """Length of that step: the learning rate (default: the run's), or the share of the parameters'
    norm (default .01)."""
    epochs: int = 10
    """Epochs of the base model that --dataset trains."""
    seed: int = 0
    """Seed of that base model; of a run, its own is used."""
    root: str | None = None
    """Folder of datasets; default: the user's cache."""
    device: str = "auto"
    """Where the base model is trained and measured: auto, cpu, cuda."""
    fidelity: bool = False
    """Instead of one matrix: every way of measuring cosines, on up to --nodes nodes, against exact
    ones over the whole training split; written as OUT.json and OUT.html."""
    out: Path = Path("affinity.npz")
    """File to write."""


def run(argv: Sequence[str]) -> int:
    """Measure, write the file and print a summary."""
    rest = list(argv)
    if take_flag(rest, "--no-download"):
        os.environ["GNN_MTL_NO_DOWNLOAD"] = "1"
    method = peek_value(rest, "--method")
    if method in BY_SUBSETS:
        from gnn_mtl.cli._subsets import run as run_subsets

        take_value(rest, "--method")
        return run_subsets(str(method), rest)
    named = take_value(rest, "--run")
    options = parse(
        Options, rest if named is None else [named, *rest], "affinity",
        "How the tasks affect each other: of a trained run (RUN or --run RUN), or of a dataset.",
    )  # fmt: skip
    if (options.run is None) == (options.dataset is None):
        raise UsageError("Give a run folder to measure, or --dataset NAME|PATH; one of the two.")
    if options.nodes < 1 or options.epochs < 1:
        raise UsageError(
            f"--nodes and --epochs should be at least 1. Found {options.nodes}, {options.epochs}."
        )
    if options.fidelity:
        _refuse_one_way(options)
        measure_fidelity(options.run or _trained_base(options), options.out, options.nodes)
        return 0
    graph, dataset, affinity = _measured(options)
    affinity = replace(affinity, details={**affinity.details, "source": dataset})
    affinity.save(options.out)
    print(summary(affinity))
    for line in _trust(affinity, graph):
        print(line)
    how = "--tau 0.1" if affinity.unit == "cosine" else "--rule quantile --edge-share 0.1"
    print(f"affinity: {options.out}\nnext:     gnn-mtl group {options.out} {how}")
    return 0


def _measured(options: Options) -> tuple[TaskGraph, str, Affinity]:
    """The graph, its name for the next command, and the affinity."""
    if options.method in LABEL_METHODS:
        config = None if options.run is None else RunConfig.load(options.run)
        name = config.dataset if config is not None else str(options.dataset)
        root = options.root if config is None else config.root
        graph = load_dataset(name, root)
        return graph, name, estimate_affinity(None, graph, method=options.method)
    folder = options.run or _trained_base(options)
    config, graph, model = load_trained(folder)
    size = config.train.batch_size
    if options.method not in LOOK_AHEADS:  # enough batches to tell the noise by
        nodes = min(options.nodes, len(graph.split_idx["train"]))
        size = max(1, min(size, nodes // SECTIONS))
    loader = training_loader(graph, model, config.train, seed=config.seed, batch_size=size)
    affinity = estimate_affinity(
        model, loader, method=options.method, label_names=graph.label_names,
        max_batches=max(1, round(options.nodes / size)),
        **_method_options(options, config, model),
    )  # fmt: skip
    details = {**affinity.details, "run": str(folder), "dataset": graph.name}
    return graph, config.dataset, replace(affinity, details=details)


def base_run(dataset: str, root: str | None, epochs: int, seed: int, device: str) -> Path:
    """Return the folder of a joint run of the dataset, trained now unless it is there."""
    config = RunConfig(
        dataset=dataset, root=root, name=f"base-{epochs}-epochs", seed=seed,
        train=Train(epochs=epochs, device=device),
    )  # fmt: skip
    folder = default_folder(config)
    if (folder / "DONE").exists():
        print(f"base run: {folder} (trained before)")
    else:
        train(config, folder, resume=(folder / "config.json").exists())
        print(f"base run: {folder}")
    return folder


def _trained_base(options: Options) -> Path:
    return base_run(
        str(options.dataset), options.root, options.epochs, options.seed, options.device
    )


def _method_options(options: Options, config: RunConfig, model: LabelModel) -> dict[str, Any]:
    """What the flags say to the method; a flag it has no use for is refused."""
    if options.method not in LOOK_AHEADS:
        if options.step != "sgd" or options.lr is not None:
            raise UsageError(f"--step and --lr belong to tag and tag_linear, not {options.method}.")
        return {"debias": options.debias}
    if options.debias:
        raise UsageError(f"--debias is for cosines of gradients, not {options.method}.")
    if options.step == "relative":
        share = 0.01 if options.lr is None else options.lr
        return {"rule": relative_rule(share, model.shared_parameters())}
    return {"lr": config.train.lr if options.lr is None else options.lr}


def _refuse_one_way(options: Options) -> None:
    """Refuse flags that say how one matrix is measured: --fidelity measures every way."""
    for name in ("method", "debias", "step", "lr"):
        if getattr(options, name) != getattr(Options, name):
            raise UsageError(
                f"--fidelity measures every way of its own. Found --{name} beside it; leave one "
                "of the two out."
            )


def summary(affinity: Affinity) -> str:
    """Return a line on the known pairs."""
    values = affinity.values
    if affinity.symmetric:
        values = values[np.triu_indices(affinity.num_tasks, 1)]
    else:
        values = values[~np.eye(affinity.num_tasks, dtype=np.bool_)]
    known = values[~np.isnan(values)]
    pairs = "pairs" if affinity.symmetric else "ordered pairs"
    facts = f"{affinity.num_tasks} tasks, {len(known)} known {pairs}"
    if len(known):
        unit = affinity.unit.replace("_", " ")
        facts += f": median {unit} {np.median(known):.3{'f' if unit == 'cosine' else 'g'}}"
        facts += f", {np.mean(known < 0):.1%} negative"
        if unit == "cosine":
            facts += f", {np.mean(known < -0.25):.1%} below -0.25"
    return facts


def _trust(affinity: Affinity, graph: TaskGraph) -> list[str]:
    """Lines on noise and shared samples, where there is something to say."""
    facts = affinity_facts(affinity, overlap=sample_overlap(graph))
    lines = []
    if facts["noise"] is not None:
        much = "; use more --nodes" if facts["noise"] > 0.5 else ""
        lines.append(f"noise:    a standard error is {facts['noise']:.2f} of the spread{much}")
    flags = facts["flags"]
    if flags and flags["green"] is not None and flags["green"] < 1.0:
        lines.append(
            f"overlap:  {flags['red']:.0%} of the pairs share under 30 % of their training nodes, "
            f"{flags['amber']:.0%} under 40 %: there, alignment may be of inputs, not of tasks"
        )
    return lines
