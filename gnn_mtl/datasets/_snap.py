"""The door to SNAP's graphs with ground-truth communities: find, fetch, read, convert once, open.

A set is two text files, ``com-dblp.ungraph.txt`` and ``com-dblp.top5000.cmty.txt``, gzipped or not,
in ``ROOT/com-dblp`` or ``ROOT`` itself.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gnn_mtl._core.errors import DatasetNotFoundError, FileFormatError, UsageError
from gnn_mtl._core.files import write_json
from gnn_mtl.datasets._communities import (
    CommunityOptions,
    Version,
    community_graph,
    warn_repeats,
)
from gnn_mtl.datasets._convert import find_converted, load_converted, open_converted
from gnn_mtl.datasets._data_dir import (
    FOLDER_VARIABLE,
    OFFLINE_VARIABLE,
    data_dir,
    is_offline,
)
from gnn_mtl.datasets._download import download as fetch_file
from gnn_mtl.datasets._snap_text import read_communities, read_edges
from gnn_mtl.datasets._task_graph import TaskGraph

READER_VERSION = 1
URL = "https://snap.stanford.edu/data/bigdata/communities/{}"
EDGES = ".ungraph.txt"
COMMUNITIES = (".top5000.cmty.txt", ".all.cmty.txt", ".all.dedup.cmty.txt")
PACKED = ".gz"
SLACK = 1.5
"""How much larger than expected a file may be; SNAP's sizes are known roughly."""


@dataclass(frozen=True, kw_only=True)
class SnapInfo:
    """What is known of one of SNAP's sets.

    Attributes:
        name: Name, such as ``"snap-dblp"``.
        stem: What SNAP's files begin with.
        version: The split of the KDD 2023 benchmark.
        edge_bytes: About how large the gzipped edges are.
        community_bytes: About how large the gzipped top 5,000 communities are.
        sums: SHA-256 of both, where known.
    """

    name: str
    stem: str
    version: Version
    edge_bytes: int
    community_bytes: int
    sums: tuple[str | None, str | None] = (None, None)

    @property
    def files(self) -> list[tuple[str, int, str | None]]:
        """Name, size and checksum of what SNAP publishes."""
        sizes = (self.edge_bytes, self.community_bytes)
        ends = (EDGES, COMMUNITIES[0])
        names = (f"{self.stem}{end}{PACKED}" for end in ends)
        return list(zip(names, sizes, self.sums, strict=True))


SNAP_SETS = {
    info.name: info
    for info in (
        SnapInfo(
            name="snap-amazon", stem="com-amazon", version="v3",
            edge_bytes=4_000_000, community_bytes=147_000,
        ),
        SnapInfo(
            name="snap-dblp", stem="com-dblp", version="v2",
            edge_bytes=4_138_463, community_bytes=320_139,
            sums=(
                "9eb0bd30312ddd04e2624f7c36c0983a2e99b116f0385be5a7fce6d6170f4cb3",
                "6b23675b3c0ef35c7ba2520e967d3dba3a7cec771ae16a2ef6a95426efb30b7a",
            ),
        ),
        SnapInfo(
            name="snap-youtube", stem="com-youtube", version="v1",
            edge_bytes=11_000_000, community_bytes=196_000,
        ),
        SnapInfo(
            name="snap-livejournal", stem="com-lj", version="v2",
            edge_bytes=125_000_000, community_bytes=1_000_000,
        ),
        SnapInfo(
            name="snap-orkut", stem="com-orkut", version="v2",
            edge_bytes=450_000_000, community_bytes=4_000_000,
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class _Files:
    """The two files of a set, and what the set is called."""

    name: str
    version: Version
    edges: Path
    communities: Path


def load_snap(
    name: str,
    root: str | os.PathLike[str] | None = None,
    *,
    download: bool = True,
    **options: Any,  # noqa: ANN401
) -> TaskGraph:
    """Return one of SNAP's graphs with its largest communities as tasks.

    Looked at are ``root/com-dblp`` and ``root`` itself, the same in the data folder, and what an
    earlier call converted; otherwise the two files are fetched.

    Args:
        name: ``"snap-amazon"``, ``"snap-dblp"``, ``"snap-youtube"``, ``"snap-livejournal"`` or
            ``"snap-orkut"``.
        root: Folder of datasets; may be read-only.
        download: Fetch what is not here; ``GNN_MTL_NO_DOWNLOAD=1`` forbids it too.
        **options: Those of :class:`CommunityOptions`: ``k``, ``min_members``, ``distinct``,
            ``ties``, ``graph``, ``background``, ``masks``, ``version``, ``truncate``, ``seed``.

    Returns:
        The graph, memory-mapped, without features; see
        :func:`gnn_mtl.datasets._communities.community_graph` for its ``extras``.

    Raises:
        UsageError: If there is no such set or option.
        DatasetNotFoundError: If a file is not here and cannot be fetched; the message holds the
            address, the place, the size and what to do.
        DataError: If the files are damaged.
        StorageError: If there is no room.

    Warns:
        LabelWarning: If communities repeat others, or have no positive in training.

    Example:
        The set of the KDD 2023 paper, node for node and mask for mask::

            load_snap("snap-dblp", distinct=False, truncate=True)
    """
    info = _known(name)
    chosen = make_options(options)
    files = _find(info, root)
    if files is None:
        ready = find_converted(_stem(info.name, chosen))
        if ready is not None:
            graph = open_converted(ready)
            warn_repeats(graph)
            return graph
        files = find_files(fetch_snap(name, root, download=download) / f"{info.stem}{EDGES}")
    return _load(files, chosen)


def import_snap(path: str | os.PathLike[str], **options: Any) -> TaskGraph:  # noqa: ANN401
    """Return the graph of a folder in SNAP's form, its largest communities as tasks.

    Args:
        path: A folder with ``NAME.ungraph.txt`` and ``NAME.top5000.cmty.txt`` (or
            ``NAME.all.cmty.txt``), gzipped or not, or the first of these files. Nothing is written
            to it.
        **options: See :func:`load_snap`.

    Raises:
        UsageError: If there is no such option.
        DataError: If a file is missing or damaged, or they do not fit together.
        StorageError: If there is no room.

    Warns:
        LabelWarning: If communities repeat others, or have no positive in training.
    """
    return _load(find_files(Path(path).expanduser()), make_options(options))


def fetch_snap(
    name: str,
    root: str | os.PathLike[str] | None = None,
    *,
    download: bool = True,
    max_bytes: int | None = None,
) -> Path:
    """Make sure that a set is in ``root`` and return its folder, ``root/com-dblp``.

    Args:
        name: Name of the set.
        root: Folder of datasets; by default the data folder.
        download: Fetch what is not here.
        max_bytes: Refuse to fetch a larger file; by default half as much again as expected.

    Raises:
        UsageError: If there is no such set.
        DatasetNotFoundError: If a file is not here and cannot be fetched.
        FileFormatError: If one is larger than allowed, or not what its checksum says.
        StorageError: If there is no room.
    """
    info = _known(name)
    folder = (data_dir() if root is None else Path(root).expanduser()) / info.stem
    for file, size, digest in info.files:
        if _is_here(folder, file):
            continue
        if not download or is_offline():
            raise DatasetNotFoundError(_how_to_get(info, folder, "Downloads are switched off."))
        limit = int(size * SLACK) if max_bytes is None else max_bytes
        url = URL.format(file)
        try:
            found = fetch_file(url, folder / file, max_bytes=limit, sha256=digest)
        except DatasetNotFoundError as error:
            raise DatasetNotFoundError(_how_to_get(info, folder, str(error))) from error
        write_json(folder / f"{file}.json", {"url": url, "sha256": found})
    return folder


def is_snap(path: Path) -> bool:
    """Return whether ``path`` is a folder with SNAP's edges or communities, or a file of edges."""
    communities = tuple(f"{end}{packed}" for end in COMMUNITIES for packed in ("", PACKED))
    names = [file.name for file in path.iterdir()] if path.is_dir() else []
    return bool(_stems(path)) or any(name.endswith(communities) for name in names)


def local_files(name: str, base: Path) -> list[Path]:
    """Return the two files of a set where they lie in ``base``, or nothing."""
    info = _known(name)
    for folder in (base / info.stem, base):
        files = [_either(folder, file.removesuffix(PACKED)) for file, _, _ in info.files]
        if None not in files:
            return [file for file in files if file is not None]
    return []


def make_options(given: dict[str, Any]) -> CommunityOptions:
    """Return the options given by name.

    Raises:
        UsageError: If there is no such option, or a value does not fit.
    """
    names = [field.name for field in fields(CommunityOptions)]
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise UsageError(f"Options are {', '.join(names)}. Found {name!r}.{hint}")
    return CommunityOptions(**given)


def find_files(path: Path) -> _Files:
    """Return the files at ``path``: a folder, or a file of edges (gzipped, if only that is there).

    Raises:
        FileFormatError: If one of the two is missing.
        UsageError: If a folder holds several sets.
    """
    folder = path if path.is_dir() else path.parent
    stems = _stems(path) or ({_stem_of(path.name)} & _stems(folder) if folder != path else set())
    if not stems:
        raise FileFormatError(
            f"{path} should hold SNAP's edges, NAME{EDGES} or {EDGES}{PACKED}. Found none. Fetch "
            "or copy it again."
        )
    if len(stems) > 1:
        raise UsageError(
            f"{path} holds several sets: {', '.join(sorted(stems))}. Pass the path of one file, "
            f"for example {folder / (min(stems) + EDGES)}."
        )
    (stem,) = stems
    edges = path if path.is_file() else _either(folder, stem + EDGES)
    communities = next(
        (found for end in COMMUNITIES if (found := _either(folder, stem + end))), None
    )
    if edges is None or communities is None:
        wanted = ", ".join(f"{stem}{end}" for end in COMMUNITIES)
        raise FileFormatError(
            f"{folder} should hold communities beside {stem}{EDGES}: one of {wanted}, or with "
            f"{PACKED}. Found none. Fetch or copy it again."
        )
    info = next((info for info in SNAP_SETS.values() if info.stem == stem), None)
    return _Files(info.name if info else stem, info.version if info else "v1", edges, communities)


def _known(name: str) -> SnapInfo:
    if name not in SNAP_SETS:
        raise UsageError(f"SNAP's sets are {', '.join(SNAP_SETS)}. Found {name!r}.")
    return SNAP_SETS[name]


def _find(info: SnapInfo, root: str | os.PathLike[str] | None) -> _Files | None:
    bases = ([] if root is None else [Path(root).expanduser()]) + [data_dir()]
    found = next((files for base in bases if (files := local_files(info.name, base))), None)
    return None if found is None else find_files(found[0])


def _load(files: _Files, options: CommunityOptions) -> TaskGraph:
    def make(scratch: Path) -> TaskGraph:
        edges = read_edges(files.edges, scratch / "edges")
        communities = read_communities(files.communities, edges.ids)
        return community_graph(
            edges.chunks, len(edges.ids), communities, options, paper_version=files.version,
            name=files.name, orig_id=edges.ids,
        )  # fmt: skip

    sources = [(path.name, path) for path in (files.edges, files.communities)]
    graph = load_converted(_stem(files.name, options), sources, make)
    warn_repeats(graph)
    return graph


def _stem(name: str, options: CommunityOptions) -> str:
    return f"{name.replace('-', '_')}-v{READER_VERSION}-{options.tag()}"


def _stems(path: Path) -> set[str]:
    """Return what the files of edges at ``path`` are called without their ending."""
    files = path.iterdir() if path.is_dir() else [path]
    return {stem for file in files if (stem := _stem_of(file.name)) and file.is_file()}


def _stem_of(name: str) -> str:
    stem, end, rest = name.partition(EDGES)
    return stem if end and rest in ("", PACKED) else ""


def _is_here(folder: Path, file: str) -> bool:
    return _either(folder, file.removesuffix(PACKED)) is not None


def _either(folder: Path, file: str) -> Path | None:
    """Return a file as it is or gzipped, whichever is there."""
    return next((path for end in ("", PACKED) if (path := folder / f"{file}{end}").is_file()), None)


def _how_to_get(info: SnapInfo, folder: Path, reason: str) -> str:
    names = [file for file, _, _ in info.files]
    fetch = " ; ".join(f"curl -fL -C - -o {name} {URL.format(name)}" for name in names)
    size = (info.edge_bytes + info.community_bytes) / 1e6
    return (
        f"Expected {info.name} in {folder}, its parent or {data_dir()}: {' and '.join(names)}. "
        f"Found neither or one of them. {reason} They are about {size:.1f} MB. On a machine with a "
        f"network: {fetch} ; copy both to {folder} and call again. ({FOLDER_VARIABLE} names "
        f"another place; {OFFLINE_VARIABLE} is {'set' if is_offline() else 'not set'}.)"
    )
