"""``gnn-mtl group --method dmtg|data_maps``: groups that come out of a training."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from gnn_mtl._core.errors import UsageError
from gnn_mtl.cli._parse import parse, take_flag, take_value
from gnn_mtl.runs import LEARNED, RunConfig, build_graph, learned_groups


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """What is trained, and where the groups go."""

    run: Annotated[Path | None, tyro.conf.Positional] = None
    """Run folder or recipe (.toml) whose dataset, network and budget are used."""
    dataset: str | None = None
    """Dataset, with the defaults of `gnn-mtl train`, instead of a run."""
    root: str | None = None
    """Folder of datasets; default: the user's cache."""
    epochs: int | None = None
    """Passes over the training nodes; default: the run's."""
    seed: int | None = None
    """Seed of the training; default: the run's."""
    device: str | None = None
    """auto, cpu, cuda or cuda:1; default: the run's."""
    out: Path = Path("groups.json")
    """File to write."""


def run(method: str, argv: Sequence[str]) -> int:
    """Train, write the groups and print them."""
    rest = list(argv)
    if take_flag(rest, "--no-download"):
        os.environ["GNN_MTL_NO_DOWNLOAD"] = "1"
    named = take_value(rest, "--run")
    options = parse(
        _options_class(method), rest if named is None else [named, *rest],
        f"group --method {method}", f"{LEARNED[method].__doc__} This trains a model.",
    )  # fmt: skip
    config = _config(options)
    given = {f.name: getattr(options, f.name) for f in dataclasses.fields(LEARNED[method])}
    graph = build_graph(config)
    groups = learned_groups(config, LEARNED[method](**given), graph=graph)
    groups.save(options.out, label_names=graph.label_names)
    for number, group in enumerate(groups.groups):
        print(f"group {number} ({len(group)}): {', '.join(graph.label_names[t] for t in group)}")
    print(
        f"groups: {options.out}\n"
        f"next:   gnn-mtl train --groups {options.out} --dataset {config.dataset}"
    )
    return 0


def _options_class(method: str) -> Any:  # noqa: ANN401
    return dataclasses.make_dataclass(
        "Options", [], bases=(LEARNED[method], Source), frozen=True, kw_only=True
    )


def _config(options: Source) -> RunConfig:
    if (options.run is None) == (options.dataset is None):
        raise UsageError("Give a run folder or a recipe, or --dataset NAME|PATH.")
    if options.run is not None:
        config = RunConfig.load(options.run)
    else:
        config = RunConfig(dataset=str(options.dataset))
    changes = {
        name: value for name in ("root", "seed") if (value := getattr(options, name)) is not None
    }
    budget = {
        name: value
        for name in ("epochs", "device")
        if (value := getattr(options, name)) is not None
    }
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **budget), **changes)
