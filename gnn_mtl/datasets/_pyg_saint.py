"""``import_saint``: raw folders of GraphSAINT's layout, as PyG's ``Yelp`` and ``AmazonProducts``.

The layout (Zeng et al., ICLR 2020) is that of their ``process()`` in torch_geometric 2.8.1:
``adj_full.npz, feats.npy, class_map.json, role.json``. PyG's ``processed/*.pt`` are pickles and are
not read. Everything is streamed: AmazonProducts has 264M directed edges and half a gigabyte of
JSON.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import FeatureError, GraphError, LabelError, SplitError
from gnn_mtl._core.progress import Progress
from gnn_mtl.datasets._bits import BitMatrix
from gnn_mtl.datasets._build import both_ways
from gnn_mtl.datasets._convert import load_converted
from gnn_mtl.datasets._json_stream import json_stream
from gnn_mtl.datasets._ogb_csv import reading
from gnn_mtl.datasets._ogb_npz import Member, open_member
from gnn_mtl.datasets._pyg_raw import as_float32, locate, open_rows, raw_folder
from gnn_mtl.datasets._splits import SPLITS, make_split
from gnn_mtl.datasets._targets import BitTargets
from gnn_mtl.datasets._task_graph import TaskGraph
from gnn_mtl.graph import CSCGraph

READER_VERSION = 1
FILES = ("adj_full.npz", "feats.npy", "class_map.json", "role.json")
ROLES = dict(zip(SPLITS, ("tr", "va", "te"), strict=True))
EDGES_AT_ONCE = 1 << 21
NODES_AT_ONCE = 1 << 13


def import_saint(
    folder: str | os.PathLike[str], *, name: str | None = None, keep_direction: bool = False
) -> TaskGraph:
    """Read a raw folder of GraphSAINT's layout: PyG's ``Yelp``, ``AmazonProducts``.

    Nodes, edges (self-loops among them), features, labels and the three masks are those of PyG's
    class. Edge weights in ``adj_full.npz`` are not read, as in PyG; a node that ``class_map.json``
    leaves out is unlabelled.

    Args:
        folder: The folder with the four files, or the one above its ``raw``; may be read-only.
        name: Name of the dataset; the folder's by default.
        keep_direction: Pass messages along directed edges from source to target only.

    Returns:
        The graph, its arrays memory-mapped.

    Raises:
        FileFormatError: If a file is missing, damaged, or not of that layout.
        GraphError: If edges point outside the graph.
        FeatureError: If features do not fit or are not finite.
        LabelError: If labels are not lists of 0 and 1, as many for each node.
        SplitError: If the parts are not a split.
        StorageError: If there is no room to convert it.

    Note:
        Read once and kept as memory maps in the data folder. Memory is about 8 bytes a directed
        edge, twice that if they have directions, and a bit a label.
    """
    raw, name = locate(folder, name, FILES)
    stem = f"saint-{name}-v{READER_VERSION}{'-directed' if keep_direction else ''}"
    return load_converted(
        stem, [(file, raw / file) for file in FILES],
        lambda scratch: _read_saint(raw, name, keep_direction, scratch),
        keep_direction=keep_direction,
    )  # fmt: skip


def is_saint_folder(folder: Path) -> bool:
    """Return whether a folder, or its ``raw``, holds files of GraphSAINT's layout."""
    return any((raw_folder(folder) / file).is_file() for file in ("adj_full.npz", "class_map.json"))


def _read_saint(raw: Path, name: str, keep_direction: bool, scratch: Path) -> TaskGraph:
    csc, directed = _saint_edges(raw / "adj_full.npz", keep_direction, scratch)
    x = as_float32(open_rows(raw / "feats.npy", csc.num_nodes, FeatureError), scratch / "x")
    labels = _class_map(raw / "class_map.json", csc.num_nodes)
    split = make_split(_roles(raw / "role.json"), csc.num_nodes, labels.num_tasks)
    return TaskGraph(csc, labels, split, x=x, name=name, directed=directed)


def _saint_edges(path: Path, keep_direction: bool, scratch: Path) -> tuple[CSCGraph, bool]:
    """Return the graph of a CSR matrix, row = source, and whether it has directions."""
    shape, indptr, indices = _csr_members(path, ("shape", "indptr", "indices"))
    sides = shape.read().tolist() if shape.size == 2 else []
    if len(sides) != 2 or sides[0] != sides[1] or indptr.shape != (sides[0] + 1,):
        raise GraphError(
            f"{path} should hold a square CSR matrix, with one more `indptr` than nodes. Found "
            f"shape {sides} and `indptr` of shape {indptr.shape}."
        )
    starts = indptr.read().astype(np.int64)
    nodes, edges = int(sides[0]), indices.size
    if nodes == 0 or starts[0] != 0 or starts[-1] != edges or (np.diff(starts) < 0).any():
        raise GraphError(
            f"`indptr` in {path} should run from 0 to the {edges} entries and never decrease."
        )
    targets = indices.stream(scratch / "indices")

    def chunks() -> Iterator[tuple[NDArray[np.integer], NDArray[np.integer]]]:
        with Progress("building the graph (edges)", edges) as progress:
            for start in range(0, edges, EDGES_AT_ONCE):
                stop = min(start + EDGES_AT_ONCE, edges)
                yield _row_of(starts, start, stop), np.array(targets[start:stop])
                progress.advance(stop - start)

    csc = CSCGraph.from_edge_chunks(chunks, nodes)
    if csc.is_symmetric():
        return csc, False
    return (csc if keep_direction else both_ways(csc)), True


def _row_of(indptr: NDArray[np.int64], start: int, stop: int) -> NDArray[np.int32]:
    """Return the row of each entry ``start`` to ``stop`` of a CSR matrix."""
    first = int(np.searchsorted(indptr, start, side="right")) - 1
    last = int(np.searchsorted(indptr, stop, side="left"))
    bounds = np.clip(indptr[first : last + 1], start, stop)
    return np.repeat(np.arange(first, last, dtype=np.int32), bounds[1:] - bounds[:-1])


def _csr_members(path: Path, names: tuple[str, ...]) -> list[Member]:
    """Return arrays of a file of ``scipy.sparse.save_npz`` (which holds one of text too)."""
    with reading(path), zipfile.ZipFile(path) as archive:
        there = archive.namelist()
        if missing := [name for name in names if f"{name}.npy" not in there]:
            raise ValueError(f"no {', '.join(missing)}, but {', '.join(there) or 'nothing'}")
        members = [open_member(path, archive, archive.getinfo(f"{name}.npy")) for name in names]
        if any(len(member.shape) != 1 or member.dtype.kind not in "iu" for member in members):
            raise ValueError(f"something other than vectors of whole numbers as {', '.join(names)}")
        return members


def _class_map(path: Path, nodes: int) -> BitTargets:
    """Return the labels of ``{"node": [0, 1, ...], ...}``, taken a few thousand at a time."""
    positive: BitMatrix | None = None
    known = np.zeros(nodes, dtype=np.bool_)
    ids: list[int] = []
    rows: list[Any] = []

    def store() -> None:
        nonlocal positive
        values = _label_rows(rows, path)
        if positive is None:
            positive = BitMatrix.zeros(nodes, values.shape[1])
        if values.shape[1] != positive.num_columns:
            raise LabelError(
                f"{path} should hold {positive.num_columns} labels for each node. "
                f"Found {values.shape[1]}."
            )
        batch = np.array(ids)
        if known[batch].any() or len(np.unique(batch)) < len(batch):
            raise LabelError(f"{path} should hold each node once. Found some twice.")
        positive.set_rows(batch, values)
        known[batch] = True
        ids.clear()
        rows.clear()

    with json_stream(path) as stream, Progress("reading labels (nodes)", nodes) as progress:
        for key in stream.members():
            if not (key.isdecimal() and int(key) < nodes):
                raise LabelError(
                    f"Keys of {path} should be node ids in [0, {nodes}). Found {key[:40]!r}."
                )
            ids.append(int(key))
            rows.append(stream.value())
            if len(ids) == NODES_AT_ONCE:
                store()
                progress.advance(NODES_AT_ONCE)
        if ids:
            store()
    if positive is None:
        raise LabelError(f"{path} should hold labels. Found none.")
    return BitTargets(positive, known)


def _label_rows(rows: list[Any], path: Path) -> NDArray[np.bool_]:
    try:
        values = np.array(rows)
    except ValueError:  # lists of different lengths
        values = np.array(None)
    if values.ndim != 2 or values.shape[1] == 0 or values.dtype.kind not in "biuf":
        raise LabelError(
            f"{path} should hold a list of labels for each node, all as long. Found others: a "
            "folder with one class a node is not a multi-label dataset."
        )
    if not ((values == 0) | (values == 1)).all():
        raise LabelError(f"Labels in {path} should be 0 or 1. Found other numbers.")
    return values == 1


def _roles(path: Path) -> dict[str, NDArray[np.int64]]:
    with json_stream(path) as stream:
        content = stream.value()
    parts = {}
    for part, role in ROLES.items():
        ids = content.get(role) if isinstance(content, dict) else None
        if not isinstance(ids, list) or not all(type(node) is int for node in ids):
            raise SplitError(f"{path} should hold a list of node ids under {role!r}.")
        try:
            parts[part] = np.array(ids, dtype=np.int64)
        except OverflowError as error:
            raise SplitError(f"Node ids under {role!r} in {path} are too large.") from error
    return parts
