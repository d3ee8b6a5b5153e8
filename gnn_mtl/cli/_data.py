"""``gnn-mtl data``: list, show, fetch, verify, import and make datasets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro

from gnn_mtl._core.errors import UsageError
from gnn_mtl.cli._data_show import list_all, show
from gnn_mtl.cli._parse import parse, take_positional
from gnn_mtl.datasets import (
    TaskGraph,
    catalog,
    fetch_dataset,
    import_any,
    load_dataset,
    local_copies,
    save_folder,
    save_npz,
    verify,
)

HELP = """\
usage: gnn-mtl data ACTION [options]

  list [--json]            datasets by name: size, licence, and what of them is here
  show NAME|PATH [--json]  labels, splits, homophily, overlap of tasks, licence, citation;
       [--html FILE]       the same as a page with pictures
  fetch NAME [--root DIR]  get a dataset: resumed, size limited, files checked
  verify NAME|PATH         checksums and invariants; exit code 3 if anything is wrong
  import PATH --out O      read a file or folder of any layout known (OGB, SNAP, .mat, MLGNC, PyG's
                           raw files, plain arrays in .npz) into the project's own
  make planted --out O     generate a graph with known task groups

O is a file (.npz) or a folder of memory maps. gnn-mtl data ACTION --help shows the options.
"""


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """Options of fetch."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """Name of the dataset (gnn-mtl data list)."""
    root: Path | None = None
    """Folder of datasets; default: $GNN_MTL_DATA, or the user's cache."""
    max_gigabytes: float | None = None
    """Refuse more than this; default somewhat more than there should be."""


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Options of verify."""

    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME|PATH")]
    """Name of a dataset that is here, or a graph as .npz file or folder."""
    root: Path | None = None
    """Folder of datasets a name is looked up in."""


@dataclass(frozen=True, kw_only=True)
class Import:
    """Options of import."""

    file: Annotated[Path, tyro.conf.Positional]
    """A file or folder of any layout known. An .npz of plain arrays (edge_index, num_nodes, labels
    as CSR or dense) takes all options below, the others some; one that does not fit is refused."""
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


def _fetch(argv: list[str]) -> int:
    options = parse(Fetch, argv, "data fetch", "Get a dataset by name.")
    most = options.max_gigabytes
    if most is not None and not 0 < most < math.inf:
        raise UsageError(f"--max-gigabytes should be a number above 0. Found {most}.")
    limit = None if most is None else max(int(most * 1e9), 1)
    print(fetch_dataset(options.name, options.root, max_bytes=limit))
    return 0


def _verify(argv: list[str]) -> int:
    options = parse(Verify, argv, "data verify", "Check every checksum and invariant.")
    findings = 0
    for path in _to_verify(options):
        found = verify(path)
        for finding in found:
            print(finding)
        print(f"{path}: {len(found)} finding(s)" if found else f"{path}: ok")
        findings += len(found)
    return 3 if findings else 0


def _to_verify(options: Verify) -> list[Path]:
    """Return the path given, or the copies of a name in the project's layout.

    Reading what a publisher packed checks it, and converts it where that is worth while.
    """
    path, entry = Path(options.path), catalog().get(options.path)
    if entry is None or path.exists():
        return [path]
    graph = load_dataset(entry.name, options.root, download=False)
    copies = local_copies(entry.name, options.root)
    if not any(copy.is_own_layout for copy in copies):
        print(f"{graph.name}: read whole{f' from {copies[0].path}' if copies else ''}, ok")
    return [copy.path for copy in copies if copy.is_own_layout]


def _import(argv: list[str]) -> int:
    options = parse(Import, argv, "data import", "Read a graph of any layout known.")
    changed = {
        field.name: getattr(options, field.name)
        for field in fields(options)
        if field.name not in ("file", "out") and getattr(options, field.name) != field.default
    }
    return _save(import_any(options.file, **changed), options.out)


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
    "list": list_all,
    "fetch": _fetch,
    "show": show,
    "verify": _verify,
    "import": _import,
    "make": _make,
}
