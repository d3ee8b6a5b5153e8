"""``gnn-mtl data``: list, show, verify, import and make datasets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from gnn_mtl._core.errors import UsageError
from gnn_mtl.cli._parse import out_console, parse, take_positional
from gnn_mtl.datasets import (
    TaskGraph,
    describe,
    fetch_ogb,
    import_npz,
    import_ogb,
    list_datasets,
    load_dataset,
    save_folder,
    save_npz,
    verify,
)

HELP = """\
usage: gnn-mtl data ACTION [options]

  list                     datasets by name
  show NAME|PATH [--json]  nodes, edges, labels, splits, homophily
  fetch NAME [--root DIR]  get one of OGB's sets: resumed, size limited, archive checked
  verify PATH              checksums and invariants; exit code 3 if anything is wrong
  import FILE.npz --out O  read a graph published as plain arrays into the project's layout
  import OGB_DIR --out O   the same for a folder in OGB's layout (DatasetSaver's too)
  make planted --out O     generate a graph with known task groups

O is a file (.npz) or a folder of memory maps. gnn-mtl data ACTION --help shows the options.
"""


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """Options of fetch."""

    name: Annotated[str, tyro.conf.Positional]
    """Name of the dataset (gnn-mtl data list)."""
    root: Path | None = None
    """Folder of datasets; default: $GNN_MTL_DATA, or the user's cache."""
    max_gigabytes: float | None = None
    """Refuse more than this; default a tenth above the listed size."""


@dataclass(frozen=True, kw_only=True)
class Show:
    """Options of show."""

    dataset: Annotated[str, tyro.conf.Positional]
    """Name or path."""
    root: str | None = None
    """Folder of datasets."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Options of verify."""

    path: Annotated[Path, tyro.conf.Positional]
    """A graph as .npz file or folder."""


@dataclass(frozen=True, kw_only=True)
class Import:
    """Options of import."""

    file: Annotated[Path, tyro.conf.Positional]
    """An .npz with edge_index, num_nodes and labels as CSR or dense; or a folder in OGB's layout,
    for which only --out is read."""
    out: Path
    """File (.npz) or folder to write."""
    name: str | None = None
    """Name of the dataset; default: the file's."""
    min_members: int = 1
    """Keep labels with at least this many positives."""
    top: int | None = None
    """Keep this many labels, those with the most positives."""
    drop_copies: bool = False
    """Leave out labels that repeat an earlier one."""
    zero_rows: Literal["unlabelled", "negative"] = "unlabelled"
    """What a node without any label is where the file does not say."""
    edge_features: bool = False
    """Turn edge_*_bits into 0/1 edge features."""
    keep_direction: bool = False
    """Pass messages along directed edges from source to target only."""
    split: str = "auto"
    """auto (the published one, else random), random, task, or the name of a published one."""
    seed: int = 0
    """Seed of a drawn split."""


@dataclass(frozen=True, kw_only=True)
class Make:
    """Options of make."""

    kind: Annotated[Literal["planted"], tyro.conf.Positional]
    """What to generate."""
    out: Path
    """File (.npz) or folder to write."""
    num_nodes: int = 2_000
    """Nodes."""
    num_edges: int | None = None
    """Undirected edges; default 8 a node."""
    num_tasks: int = 24
    """Labels."""
    num_groups: int = 4
    """Groups of labels that share latent factors."""
    num_features: int = 32
    """Feature columns; 0 for none."""
    conflict: float = 0.0
    """How far paired groups are opposed, 0 to 1."""
    seed: int = 0
    """Seed."""


def run(argv: Sequence[str]) -> int:
    """Do the action that comes first."""
    rest = list(argv)
    action = take_positional(rest)
    if action is None:
        print(HELP, end="")
        return 0 if rest else 2
    if action not in ACTIONS:
        raise UsageError(f"unknown action {action!r}; known: {', '.join(ACTIONS)}.")
    return ACTIONS[action](rest)


def _list(_argv: list[str]) -> int:
    for name, text in list_datasets().items():
        print(f"{name:<16} {text}")
    return 0


def _show(argv: list[str]) -> int:
    options = parse(Show, argv, "data show", "Say what a dataset holds.")
    facts = describe(load_dataset(options.dataset, options.root))
    if options.json:
        print(json.dumps(facts))
        return 0
    from rich.table import Table

    table = Table("", "", show_header=False, title=str(facts["name"]))
    for key, value in facts.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        text = f"{value:,}" if is_number else str(value)
        table.add_row(key.replace("_", " "), text)
    out_console().print(table)
    return 0


def _verify(argv: list[str]) -> int:
    options = parse(Verify, argv, "data verify", "Check every checksum and invariant.")
    findings = verify(options.path)
    for finding in findings:
        print(finding)
    print(f"{options.path}: {len(findings)} finding(s)" if findings else f"{options.path}: ok")
    return 3 if findings else 0


def _fetch(argv: list[str]) -> int:
    options = parse(Fetch, argv, "data fetch", "Get one of OGB's datasets.")
    limit = None if options.max_gigabytes is None else int(options.max_gigabytes * 1e9)
    print(fetch_ogb(options.name, options.root, max_bytes=limit))
    return 0


def _import(argv: list[str]) -> int:
    options = parse(Import, argv, "data import", "Read a graph published as plain arrays.")
    if options.file.is_dir():
        return _save(import_ogb(options.file), options.out)
    graph = import_npz(
        options.file,
        name=options.name,
        min_members=options.min_members,
        top=options.top,
        drop_copies=options.drop_copies,
        zero_rows=options.zero_rows,
        edge_features=options.edge_features,
        keep_direction=options.keep_direction,
        split=options.split,
        seed=options.seed,
    )
    return _save(graph, options.out)


def _make(argv: list[str]) -> int:
    from gnn_mtl.datasets import planted

    options = parse(Make, argv, "data make", "Generate a graph with known task groups.")
    graph = planted(
        options.num_nodes,
        options.num_edges,
        options.num_tasks,
        options.num_groups,
        num_features=options.num_features,
        conflict=options.conflict,
        seed=options.seed,
    )
    return _save(graph, options.out)


def _save(graph: TaskGraph, out: Path) -> int:
    (save_npz if out.suffix == ".npz" else save_folder)(graph, out)
    print(
        f"{graph.name}: {graph.num_nodes:,} nodes, {graph.csc.num_edges:,} stored edges, "
        f"{graph.num_tasks} tasks -> {out}"
    )
    return 0


ACTIONS = {
    "list": _list,
    "fetch": _fetch,
    "show": _show,
    "verify": _verify,
    "import": _import,
    "make": _make,
}
