"""``import_ppi``: the raw folder of PyG's ``PPI``, 24 protein networks of one tissue each.

The layout (Zitnik & Leskovec 2017, in the form of DGL's ``ppi.zip``) is that of ``process()`` in
torch_geometric 2.8.1: for train, valid and test a ``graph.json``, and ``feats``, ``labels`` and
``graph_id`` as ``.npy``. PyG's ``processed/*.pt`` are pickles and are not read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import FeatureError, FileFormatError, GraphError, LabelError
from gnn_mtl.datasets._build import both_ways
from gnn_mtl.datasets._convert import load_converted
from gnn_mtl.datasets._json_stream import JsonStream, json_stream
from gnn_mtl.datasets._pyg_raw import locate, open_array, open_rows, raw_folder
from gnn_mtl.datasets._splits import SPLITS, make_split
from gnn_mtl.datasets._targets import make_targets
from gnn_mtl.datasets._task_graph import TaskGraph
from gnn_mtl.graph import CSCGraph

READER_VERSION = 1
PARTS = dict(zip(SPLITS, ("train", "valid", "test"), strict=True))
FILES = tuple(
    f"{part}_{file}"
    for part in PARTS.values()
    for file in ("feats.npy", "graph_id.npy", "graph.json", "labels.npy")
)
LINKS_AT_ONCE = 1 << 13


def import_ppi(folder: str | os.PathLike[str], *, name: str | None = None) -> TaskGraph:
    """Read a raw folder of PyG's ``PPI`` as one graph: 24 tissues, whole ones in each part.

    No edge leads from one tissue, or one part, to another, so that training is inductive. As in PyG
    self-loops are dropped, and links between tissues too (there should be none). ``extras`` hold
    ``graph_id``, the tissue of each node.

    Args:
        folder: The folder with the twelve files, or the one above its ``raw``; may be read-only.
        name: Name of the dataset; the folder's by default.

    Raises:
        FileFormatError: If a file is missing, damaged, or not of that layout.
        GraphError: If edges point outside the graph.
        FeatureError: If features do not fit or are not finite.
        LabelError: If labels are not 0 and 1.
        StorageError: If there is no room to convert it.

    Note:
        Read once and kept as memory maps in the data folder.
    """
    raw, name = locate(folder, name, FILES)
    files = [(file, raw / file) for file in FILES]
    return load_converted(f"ppi-{name}-v{READER_VERSION}", files, lambda _: _read_ppi(raw, name))


def is_ppi_folder(folder: Path) -> bool:
    """Return whether a folder, or its ``raw``, holds files of PyG's ``PPI``."""
    return any((raw_folder(folder) / f"{part}_graph.json").is_file() for part in PARTS.values())


def _read_ppi(raw: Path, name: str) -> TaskGraph:
    x, y, tissues, edges, split = [], [], [], [], {}
    start = 0
    for part, prefix in PARTS.items():
        tissue = open_array(raw / f"{prefix}_graph_id.npy")
        if tissue.ndim != 1 or tissue.dtype.kind not in "iu" or len(tissue) == 0:
            raise FileFormatError(
                f"{prefix}_graph_id.npy in {raw} should hold one whole number a node. "
                f"Found {tissue.dtype} with shape {tissue.shape}."
            )
        nodes = len(tissue)
        x.append(
            np.asarray(
                open_rows(raw / f"{prefix}_feats.npy", nodes, FeatureError), dtype=np.float32
            )
        )
        y.append(open_rows(raw / f"{prefix}_labels.npy", nodes, LabelError))
        links = _links(raw / f"{prefix}_graph.json", nodes)
        within = (tissue[links[0]] == tissue[links[1]]) & (links[0] != links[1])
        edges.append(links[:, within] + start)
        tissues.append(tissue.astype(np.int64))
        split[part] = np.arange(start, start + nodes)
        start += nodes
    widths = {(a.shape[1], b.shape[1]) for a, b in zip(x, y, strict=True)}
    if len(widths) != 1:
        raise FileFormatError(
            f"The parts in {raw} should have equally many features and labels. "
            f"Found {sorted(widths)}."
        )
    csc = CSCGraph.from_edge_index(np.concatenate(edges, axis=1), start)
    directed = not csc.is_symmetric()
    labels = make_targets(np.concatenate(y))
    return TaskGraph(
        both_ways(csc) if directed else csc, labels, make_split(split, start, labels.num_tasks),
        x=np.concatenate(x), name=name, directed=directed,
        extras={"graph_id": np.concatenate(tissues)},
    )  # fmt: skip


def _links(path: Path, nodes: int) -> NDArray[np.int64]:
    """Return the links ``[2, E]`` of networkx' node-link JSON, both ways if it is undirected."""
    directed = False
    parts: list[NDArray[np.int64]] = [np.zeros((0, 2), dtype=np.int64)]
    with json_stream(path) as stream:
        found = set()
        for key in stream.members():
            found.add(key)
            if key == "directed":
                directed = stream.value() is True
            elif key == "links":
                parts += _pairs(stream, nodes, path)
            elif key == "nodes":
                for _ in stream.elements():
                    pass
            else:
                stream.value()
        if "links" not in found:
            raise ValueError(f"no links, but {', '.join(sorted(found)) or 'nothing'}")
    links = np.concatenate(parts).T
    return links if directed else np.concatenate([links, links[::-1]], axis=1)


def _pairs(stream: JsonStream, nodes: int, path: Path) -> Iterator[NDArray[np.int64]]:
    pairs: list[tuple[Any, Any]] = []
    for link in stream.elements():
        pairs.append((link["source"], link["target"]))
        if len(pairs) == LINKS_AT_ONCE:
            yield _checked(pairs, nodes, path)
            pairs.clear()
    if pairs:
        yield _checked(pairs, nodes, path)


def _checked(pairs: list[tuple[Any, Any]], nodes: int, path: Path) -> NDArray[np.int64]:
    values = np.array(pairs)
    if values.dtype.kind != "i" or values.min() < 0 or values.max() >= nodes:
        raise GraphError(
            f"Links of {path} should join node ids in [0, {nodes}). Found others. Fetch or copy it "
            "again."
        )
    return values.astype(np.int64)
