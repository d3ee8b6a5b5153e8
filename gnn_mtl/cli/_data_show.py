"""``gnn-mtl data list`` and ``data show``: what is known of datasets, as tables and as JSON."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from gnn_mtl._core.errors import DatasetNotFoundError
from gnn_mtl._core.files import finite
from gnn_mtl.cli._parse import parse
from gnn_mtl.datasets import (
    CatalogEntry,
    LocalCopy,
    catalog,
    describe,
    how_to_get,
    load_dataset,
    local_copies,
    sample_overlap,
)

if TYPE_CHECKING:
    from rich.table import Table

WIDTH = 100
NUMBERS = ("nodes", "edges", "tasks")
Rows = list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class List:
    """Options of list."""

    root: Path | None = None
    """Folder of datasets, looked at besides $GNN_MTL_DATA or the user's cache."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, kw_only=True)
class Show:
    """Options of show."""

    dataset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME|PATH")]
    """Name or path."""
    root: Path | None = None
    """Folder of datasets."""
    json: bool = False
    """Print JSON."""
    html: Path | None = None
    """Write a one-page profile here, too."""


def list_all(argv: Sequence[str]) -> int:
    """Print a line for every named dataset: size, licence, and whether it is here."""
    options = parse(List, argv, "data list", "Datasets by name.")
    known = {name: (entry, local_copies(name, options.root)) for name, entry in catalog().items()}
    if options.json:
        print(json.dumps([_as_json(*pair) for pair in known.values()]))
        return 0
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD if sys.stdout.isatty() else None, pad_edge=False)
    for heading in ("name", "nodes", "edges", "tasks", "what it is", "licence", "here"):
        justify: Literal["left", "right"] = "right" if heading in NUMBERS else "left"
        table.add_column(heading, justify=justify, no_wrap=heading in ("name", *NUMBERS))
    for name, (entry, copies) in known.items():
        sizes = [_short(number) for number in (entry.nodes, entry.edges)]
        tasks = "any" if entry.tasks is None else str(entry.tasks)
        table.add_row(name, *sizes, tasks, entry.what, entry.licence, _here(entry, copies))
    _print(table)
    return 0


def show(argv: Sequence[str]) -> int:
    """Print what a dataset holds; of a named one that is not here, what is known and how to get it.

    Never fetches. The exit code of a dataset that is not here is 3: its data were asked for.
    """
    options = parse(Show, argv, "data show", "Say what a dataset holds.")
    name = options.dataset.partition(":")[0]
    entry = catalog().get(name)
    try:
        graph = load_dataset(options.dataset, options.root, download=False)
    except DatasetNotFoundError as error:
        if entry is None or local_copies(name, options.root):
            raise
        return _show_absent(entry, options, str(error))
    copies = [] if entry is None else local_copies(name, options.root)
    overlap = sample_overlap(graph)
    facts = describe(graph, overlap=overlap)
    facts["differs"] = "" if entry is None else entry.differences(facts)
    if options.html is not None:
        from gnn_mtl.reports import build_profile

        build_profile(
            graph, options.html, facts=facts, overlap=overlap, entry=entry, copies=copies,
            command=shlex.join(["gnn-mtl", "data", "show", *argv]),
        )  # fmt: skip
    if options.json:
        print(json.dumps(finite(facts | _as_json(entry, copies))))
        return 0
    groups = [*_measured(facts), *_published(entry), _whereabouts(options.dataset, copies, facts)]
    _print(_sections(graph.name, groups))
    if options.html is not None:
        print(options.html)
    return 0


def _show_absent(entry: CatalogEntry, options: Show, message: str) -> int:
    how = how_to_get(entry, options.root)
    if options.json:
        print(json.dumps(_as_json(entry, []) | {"name": entry.name, "how_to_get": how}))
        return 3
    listed = [
        ("what it is", entry.what),
        ("nodes", _count(entry.nodes)),
        ("edges", f"{_count(entry.edges)}{', directed' if entry.directed else ''}"),
        ("tasks", _count(entry.tasks)),
        ("features", entry.features),
        ("split", entry.split),
    ]
    _print(_sections(f"{entry.name} (not here; as published)", (listed, *_published(entry))))
    print(f"gnn-mtl data: {message}\nTo get it: {how}", file=sys.stderr)
    return 3


def _measured(facts: dict[str, Any]) -> Iterable[Rows]:
    """Yield what was counted on the graph itself, in groups of lines."""
    yield [
        ("nodes", f"{facts['nodes']:,}, {facts['isolated']:,} isolated"),
        ("edges", f"{facts['edges']:,}{', directed' if facts['directed'] else ''}"
                  f", messages {facts['messages']}, {facts['self_loops']:,} loops"),
        ("stored degree", f"mean {facts['degree_mean']:,}, median {facts['degree_median']:g}, "
                          f"max {facts['degree_max']:,}"),
        ("features", f"{facts['features']:,} ({facts['features_kind']}), "
                     f"{facts['edge_features']} an edge"),
    ]  # fmt: skip
    yield [
        ("tasks", f"{facts['tasks']:,}"),
        ("labelled nodes", f"{facts['labelled_nodes']:,}, {facts['cells_observed']:.1%} of all "
                           "(node, task) cells known"),
        ("positives a label", f"min {facts['positives_min']:,}, median "
                              f"{facts['positives_median']:,g}, max {facts['positives_max']:,}"),
        ("labels a node", f"mean {facts['labels_per_node']}, two or more on "
                          f"{facts['nodes_with_two']:.1%}"),
        ("homophily", f"{_number(facts['homophily'])} along edges, "
                      f"{_number(facts['homophily_random'])} between random nodes"),
        ("of one class only", f"{facts['one_class_labels']} labels; "
                              f"{facts['no_positive_in_training']} without positive in training"),
    ]  # fmt: skip
    sizes = ", ".join(f"{part} {size:,}" for part, size in facts["split_sizes"].items())
    yield [("split", f"per {'node' if facts['split'] == 'node' else '(node, task)'}: {sizes}")]
    yield list(_overlap_rows(facts))


def _overlap_rows(facts: dict[str, Any]) -> Iterable[tuple[str, str]]:
    overlap, correlation = facts["overlap"], facts["label_correlation"]
    if overlap is not None:
        for measure in ("jaccard", "containment"):
            spread = overlap[measure]
            yield (
                f"shared training nodes, {measure}",
                f"{spread['min']:.2f} to {spread['max']:.2f}, median {spread['median']:.2f}",
            )
        yield (
            "flags of pairs of tasks",
            f"red {overlap['red']:.1%} (below .30), amber {overlap['amber']:.1%}, "
            f"green {overlap['green']:.1%} (.40 up); a heuristic",
        )
    if correlation is not None:
        yield (
            "labels that go together",
            f"{correlation['beyond']:.1%} of pairs beyond chance (5 % by chance, |phi| > "
            f"{correlation['threshold']:.3f}), strongest {correlation['strongest']:.2f}",
        )
    if facts["closest_labels"]:
        pairs = [f"{share:.2f}  {one} + {other}" for one, other, share in facts["closest_labels"]]
        yield "most alike (Jaccard)", "\n".join(pairs[:5])
    copies = [f"{copy} = {first}" for first, copy in facts["duplicates"]]
    rest = f"\nand {len(copies) - 5} more" if len(copies) > 5 else ""
    yield "repeated labels", "\n".join(copies[:5]) + rest if copies else "none"


def _published(entry: CatalogEntry | None) -> Iterable[Rows]:
    """Yield what the catalog says of licence, citation and source."""
    if entry is None:
        return
    size = entry.download_bytes
    rows = [("licence", entry.licence), ("cite", entry.citation), ("from", entry.source)]
    if size != 0:
        rows.append(("to fetch", "unknown" if size is None else f"about {_bytes(size)}"))
    rows.append(("numbers", entry.numbers_from))
    yield rows + ([("note", entry.note)] if entry.note else [])


def _whereabouts(given: str, copies: list[LocalCopy], facts: dict[str, Any]) -> Rows:
    """Return where the data lie, and whether they are what their publisher counted."""
    lines = [f"{copy.kind}, {_bytes(copy.num_bytes)}: {copy.path}" for copy in copies]
    rows = [("here", "\n".join(lines) or given)]
    if facts["differs"]:
        rows.append(("not as published", facts["differs"]))
    return rows


def _sections(title: str, groups: Iterable[Rows]) -> Table:
    from rich.table import Table

    table = Table(
        title=title, box=None, show_header=False, pad_edge=False, title_justify="left",
        title_style="bold",
    )  # fmt: skip
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for number, rows in enumerate(filter(None, groups)):
        if number:
            table.add_row("", "")
        for row in rows:
            table.add_row(*row)
    return table


def _print(table: Table) -> None:
    """Print a table: as wide as the terminal, or as plain text of at most 100 columns."""
    from rich.console import Console

    if sys.stdout.isatty():
        Console(markup=False, highlight=False).print(table)
        return
    console = Console(width=WIDTH, markup=False, highlight=False, color_system=None)
    with console.capture() as printed:
        console.print(table)
    print("\n".join(line.rstrip() for line in printed.get().splitlines()))


def _as_json(entry: CatalogEntry | None, copies: list[LocalCopy]) -> dict[str, Any]:
    return {
        "catalog": None if entry is None else entry.to_dict(),
        "here": bool(copies) or (entry is not None and entry.family == "generated"),
        "copies": [
            {"kind": copy.kind, "path": str(copy.path), "bytes": copy.num_bytes} for copy in copies
        ],
    }


def _here(entry: CatalogEntry, copies: list[LocalCopy]) -> str:
    if entry.family == "generated":
        return "any time"
    if not copies:
        return "not here"
    total = sum(copy.num_bytes for copy in copies)
    return f"{copies[-1].kind}, {_bytes(total)}"


def _short(number: int | None) -> str:
    """Write 39,561,252 as 39.6M."""
    if number is None:
        return "any"
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def _bytes(number: int) -> str:
    for size, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number} B"


def _count(number: int | None) -> str:
    return "any" if number is None else f"{number:,}"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
