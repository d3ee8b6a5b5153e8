"""Methods × seeds: a recipe unfolds into runs, finished ones are kept, the rest are trained."""

from __future__ import annotations

import multiprocessing
import os
import tomllib
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from gnn_mtl._core.errors import ConfigError
from gnn_mtl._core.progress import Progress
from gnn_mtl.datasets import TaskGraph, load_dataset
from gnn_mtl.records import RunRecord, read_run
from gnn_mtl.runs._config import RunConfig
from gnn_mtl.runs._label_propagation import METHOD as LABEL_PROPAGATION
from gnn_mtl.runs._label_propagation import label_propagation_config, train_label_propagation
from gnn_mtl.runs._shallow import METHOD as SHALLOW
from gnn_mtl.runs._shallow import shallow_config, train_shallow
from gnn_mtl.runs._train import folder_name, refuse_other_config, refuse_other_data, train


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Methods to compare on equal terms.

    A recipe file holds the keys of :class:`RunConfig` common to all methods, ``seeds``, and one
    ``[[methods]]`` table per method with the keys in which it differs. Methods named
    ``spectral_lr`` and ``label_propagation`` are the baselines without a network.

    Attributes:
        methods: One configuration per method, each with a ``name``.
        seeds: Seeds every method is run with.
    """

    methods: tuple[RunConfig, ...]
    seeds: tuple[int, ...] = (0, 1, 2)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Sweep:
        """Read a recipe (``.toml``).

        Raises:
            ConfigError: If it is not TOML, has an unknown key, or two methods of one name.
        """
        try:
            value = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} should be a recipe (.toml). Found: {error}") from error
        seeds = value.pop("seeds", [0, 1, 2])
        if not isinstance(seeds, list) or not seeds or not all(type(s) is int for s in seeds):
            raise ConfigError(f"{path}: `seeds` should be a list of integers. Found {seeds!r}.")
        methods = value.pop("methods", [{}])
        if not isinstance(methods, list) or not methods or not all(map(_is_table, methods)):
            raise ConfigError(f"{path}: `methods` should be [[methods]] tables. Found {methods!r}.")
        configs = tuple(
            RunConfig.from_dict(_merge(value, method), source=str(path)) for method in methods
        )
        names = [config.method for config in configs]
        if len(set(names)) != len(names):
            raise ConfigError(f"{path}: every method needs its own `name`. Found {sorted(names)}.")
        return cls(methods=configs, seeds=tuple(seeds))

    def runs(self) -> list[RunConfig]:
        """Return every run, seeds innermost."""
        return [replace(method, seed=seed) for method in self.methods for seed in self.seeds]


def run_sweep(
    configs: Sequence[RunConfig], out: str | os.PathLike[str], *, jobs: int = 1
) -> list[RunRecord]:
    """Train every configuration in its own folder ``out/METHOD-seedN``.

    A finished run of the same configuration is kept as it is, an interrupted one is resumed, and a
    folder of another configuration is refused.

    Args:
        configs: The runs; their methods and seeds must differ.
        out: Folder of the run folders.
        jobs: Runs trained at a time, each in a process of its own; 1 trains here.

    Raises:
        RecordError: If a folder holds a run of another configuration.
    """
    folders = [Path(out) / folder_name(config) for config in configs]
    if len(set(folders)) != len(folders):
        raise ConfigError("Every run of a sweep needs its own method name and seed.")
    with Progress("runs", len(configs)) as progress:
        if jobs <= 1:
            for config, folder in zip(configs, folders, strict=True):
                run_one(config, folder, graph=_dataset(config.dataset, config.root))
                progress.advance(note=folder.name)
        else:
            context = multiprocessing.get_context("spawn")
            threads = max(1, torch.get_num_threads() // jobs)
            with ProcessPoolExecutor(
                jobs, mp_context=context, initializer=torch.set_num_threads, initargs=(threads,)
            ) as pool:
                for folder in pool.map(_worker, configs, folders):
                    progress.advance(note=folder.name)
    return [read_run(folder) for folder in folders]


def run_one(config: RunConfig, folder: Path, *, graph: TaskGraph | None = None) -> RunRecord:
    """Train one run, or keep or resume what the folder already holds of it.

    Raises:
        RecordError: If the folder holds a run of another configuration or on other data.
    """
    graph = _dataset(config.dataset, config.root) if graph is None else graph
    if config.method == SHALLOW:
        plain, make = shallow_config(config), train_shallow
    elif config.method == LABEL_PROPAGATION:
        plain, make = label_propagation_config(config), train_label_propagation
    else:
        plain, make = config.to_dict(), train
    refuse_other_config(folder, plain)
    if (folder / "DONE").exists():
        refuse_other_data(folder, graph.fingerprint())
        return read_run(folder)
    resume = (folder / "config.json").exists()
    return make(config, folder, resume=resume, graph=graph)


@lru_cache(maxsize=1)
def _dataset(name: str, root: str | None) -> TaskGraph:
    """The dataset of the runs at hand, loaded once."""
    return load_dataset(name, root)


def _worker(config: RunConfig, folder: Path) -> Path:
    run_one(config, folder)
    return folder


def _merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with the keys of ``change``; another ``kind`` replaces a table whole."""
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        merged[key] = value
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            is_same_kind = value.get("kind", old.get("kind")) == old.get("kind")
            merged[key] = _merge(old, value) if is_same_kind else value
    return merged


def _is_table(value: object) -> bool:
    return isinstance(value, Mapping)
