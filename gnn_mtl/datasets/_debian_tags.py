"""Builds ``debian-tags`` from the package index of a Debian release.

Nodes are application packages (tag ``role::program``) and the libraries several of them need; links
are dependencies; labels are the volunteers' debtags (``use::editing``, ``uitoolkit::gtk`` ...);
features are the words of the one-line descriptions. Libraries are unlabelled, not negative.

With the index of a Debian system (``apt-get update`` fetches it)::

    LISTS=/var/lib/apt/lists
    /usr/lib/apt/apt-helper cat-file $LISTS/*_bookworm_main_binary-amd64_Packages* > Packages
    python -m gnn_mtl.datasets._debian_tags Packages data/debian-tags

writes ``debian-tags.npz`` and ``SHA256SUMS``. The index may also be a ``.gz`` or ``.xz`` file from
a mirror, or ``-`` for standard input. It is read line by line.
"""

from __future__ import annotations

import argparse
import gzip
import lzma
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from gnn_mtl._core.errors import DataError, FileFormatError
from gnn_mtl._core.files import sha256, write_text
from gnn_mtl.datasets._npz import save_npz
from gnn_mtl.datasets._task_graph import TaskGraph

NAME = "debian-tags"
LINKS = ("Depends", "Pre-Depends", "Recommends", "Enhances")
FIELDS = frozenset({"Package", "Provides", "Tag", "Description", *LINKS})
FACETS = (
    "use::", "works-with::", "interface::", "uitoolkit::", "field::", "game::", "network::",
    "implemented-in::", "sound::", "admin::", "web::", "science::", "biology::", "hardware::",
    "security::", "mail::", "suite::", "scope::",
)  # fmt: skip
STOP_WORDS = frozenset({
    "the", "a", "an", "of", "for", "and", "to", "in", "with", "on", "is", "by", "from", "or", "as",
    "at", "it", "its", "this", "that", "be", "are", "not",
})  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """The thresholds of the graph.

    Attributes:
        min_applications: A label is a facet tag with at least this many applications.
        max_needed_by: Packages that more packages than this link to are left out as hubs.
        min_users: An unlabelled package is kept if at least this many labelled ones link to it.
        max_providers: A virtual package stands for at most this many of its providers.
        min_word_packages: A word is in at least this many packages of the index ...
        min_word_nodes: ... and of the graph.
        seed: Seed of the stored split.
    """

    min_applications: int = 120
    max_needed_by: int = 1500
    min_users: int = 3
    max_providers: int = 5
    min_word_packages: int = 40
    min_word_nodes: int = 15
    seed: int = 0


@dataclass
class PackageIndex:
    """What the graph needs of a package index, packages sorted by name.

    Attributes:
        names: Package names.
        edges: Distinct (package, needed package) pairs, int64 ``[2, E]``, no self-loops.
        tags: Tags of each package.
        words: Words of each one-line description.
    """

    names: list[str] = field(default_factory=list)
    edges: NDArray[np.int64] = field(default_factory=lambda: np.zeros((2, 0), dtype=np.int64))
    tags: list[set[str]] = field(default_factory=list)
    words: list[set[str]] = field(default_factory=list)


def parse_stanzas(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    """Yield the needed fields of each package of an index, reading line by line.

    Raises:
        FileFormatError: If a line is neither ``Field: value``, a continuation, nor blank.
    """
    stanza: dict[str, str] = {}
    key = ""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            if stanza:
                yield stanza
            stanza, key = {}, ""
        elif line[0] in " \t":
            if key in FIELDS and key != "Description":  # its further lines are the long text
                stanza[key] += " " + line.strip()
        else:
            key, colon, value = line.partition(":")
            if not colon:
                raise FileFormatError(
                    f"A package index should hold `Field: value` lines. Found {line[:40]!r} in "
                    f"line {number}. Is it a decompressed `Packages` file?"
                )
            if key in FIELDS:
                stanza[key] = value.strip()
    if stanza:
        yield stanza


def read_index(lines: Iterable[str], *, max_providers: int = 5) -> PackageIndex:
    """Read a package index: of several versions of a package the first counts."""
    first: dict[str, dict[str, str]] = {}
    for stanza in parse_stanzas(lines):
        if "Package" in stanza:
            first.setdefault(stanza["Package"], stanza)
    names = sorted(first)
    number = {name: k for k, name in enumerate(names)}
    providers: dict[str, list[int]] = defaultdict(list)
    for name in names:
        for virtual in _package_names(first[name].get("Provides", "")):
            providers[virtual].append(number[name])
    pairs: set[tuple[int, int]] = set()
    for name in names:
        for link in LINKS:
            for needed in _package_names(first[name].get(link, "")):
                found = [number[needed]] if needed in number else providers[needed][:max_providers]
                pairs.update((number[name], other) for other in found if other != number[name])
    edges = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2).T
    return PackageIndex(
        names, edges, [_tags(first[name].get("Tag", "")) for name in names],
        [set(re.findall(r"[a-z][a-z0-9+]{1,19}", first[name].get("Description", "").lower()))
         for name in names],
    )  # fmt: skip


def build_debian_tags(index: PackageIndex, recipe: Recipe | None = None) -> TaskGraph:
    """Build the graph of applications and libraries from a package index.

    Returns:
        The largest component, undirected, with a fixed 60/20/20 split of the labelled packages and
        ``extras`` ``package`` (name of each node) and ``vocabulary`` (word of each feature).

    Raises:
        DataError: If no tag reaches ``min_applications``, as in an index without tags.
    """
    recipe = recipe or Recipe()
    source, target = index.edges
    needed_by = np.bincount(target, minlength=len(index.names))
    program = np.array(["role::program" in tags for tags in index.tags], dtype=np.bool_)
    counts = Counter(tag for k in np.flatnonzero(program) for tag in index.tags[k])
    label_names = sorted(
        tag for tag, count in counts.items()
        if tag.startswith(FACETS) and count >= recipe.min_applications
    )  # fmt: skip
    if not label_names:
        raise DataError(
            f"A Debian index should have tags with {recipe.min_applications} applications or more. "
            f"Found none among {len(index.names)} packages; use main/binary-amd64 of a release."
        )
    y = _membership(index.tags, label_names)
    labelled = program & (np.diff(y.indptr) > 0)
    usable = needed_by[target] <= recipe.max_needed_by
    users = np.bincount(target[labelled[source] & usable], minlength=len(index.names))
    keep = labelled | (users >= recipe.min_users)
    inside = usable & keep[source] & keep[target]
    nodes, edges = _largest_component(np.flatnonzero(keep), source[inside], target[inside])
    known = labelled[nodes]
    everyday = Counter(word for words in index.words for word in words)
    common = sorted(
        word for word, count in everyday.items()
        if count >= recipe.min_word_packages and word not in STOP_WORDS
    )  # fmt: skip
    x = _membership([index.words[node] for node in nodes], common)
    frequent = np.flatnonzero(
        np.bincount(x.indices, minlength=len(common)) >= recipe.min_word_nodes
    )
    return TaskGraph.from_arrays(
        edges, sp.csr_matrix(y[nodes].multiply(known[:, None])), num_nodes=len(nodes),
        observed=known, x=x[:, frequent], label_names=label_names, name=NAME, seed=recipe.seed,
        extras={
            "package": np.array([index.names[node] for node in nodes]),
            "vocabulary": np.array([common[word] for word in frequent]),
        },
    )  # fmt: skip


def open_index(path: str) -> AbstractContextManager[Iterable[str]]:
    """Open the lines of a package index: plain, ``.gz``, ``.xz``, or ``-`` for standard input."""
    if path == "-":
        return nullcontext(sys.stdin)
    opener = {".gz": gzip.open, ".xz": lzma.open}.get(Path(path).suffix, open)
    return opener(path, mode="rt", encoding="utf-8")  # type: ignore[operator]


def write_sums(folder: Path) -> None:
    """Write ``SHA256SUMS`` of the ``.npz`` files of a folder, as sha256sum does."""
    lines = [f"{sha256(path)}  {path.name}\n" for path in sorted(folder.glob("*.npz"))]
    write_text(folder / "SHA256SUMS", "".join(lines))


def main(arguments: Sequence[str] | None = None) -> TaskGraph:
    """Build the graph from the command line and write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("packages", help="a Packages file (plain, .gz, .xz), or -")
    parser.add_argument("out", type=Path, help="folder to write debian-tags.npz and SHA256SUMS to")
    options = parser.parse_args(arguments)
    recipe = Recipe()
    with open_index(options.packages) as lines:
        index = read_index(lines, max_providers=recipe.max_providers)
    graph = build_debian_tags(index, recipe)
    save_npz(graph, options.out / f"{NAME}.npz")
    write_sums(options.out)
    return graph


def _package_names(relation: str) -> Iterator[str]:
    """Yield the package names of a relation field; alternatives all count, versions do not."""
    for alternative in re.split(r"[,|]", relation):
        name = re.split(r"[\s(\[]", alternative.strip())[0].split(":")[0]
        if name:
            yield name


def _tags(value: str) -> set[str]:
    return {tag for tag in re.split(r"\s*,\s*", value) if "::" in tag}


def _membership(sets: Sequence[Collection[str]], columns: Sequence[str]) -> sp.csr_matrix:
    """Return the 0/1 matrix: which row's set holds which column's word."""
    number = {column: k for k, column in enumerate(columns)}
    lists = [sorted(number[word] for word in words if word in number) for words in sets]
    indptr = np.cumsum([0, *map(len, lists)])
    indices = np.array([k for row in lists for k in row], dtype=np.int32)
    ones = np.ones(len(indices), dtype=np.float32)
    return sp.csr_matrix((ones, indices, indptr), shape=(len(lists), len(columns)))


def _largest_component(
    nodes: NDArray[np.int64], source: NDArray[np.int64], target: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the nodes of the largest component and its edges renumbered."""
    source, target = np.searchsorted(nodes, source), np.searchsorted(nodes, target)
    ones = np.ones(len(source), dtype=np.int8)
    adjacency = sp.coo_matrix((ones, (source, target)), shape=(len(nodes), len(nodes)))
    _, component = connected_components(adjacency, directed=False)
    big = component == np.bincount(component).argmax()
    new = np.cumsum(big) - 1
    inside = big[source]
    return nodes[big], np.stack([new[source[inside]], new[target[inside]]])


if __name__ == "__main__":
    main()
