"""Reads a raw folder in OGB's form, CSV or npz, one node type or several, in bounded memory.

What comes out is what OGB's own loader gives (ogb 1.3.6, ``ogb.io.read_graph_raw``), value for
value, with two differences: an undirected edge stays stored once, and of a set with several node
types only the labelled type and the relations within it are kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import FileFormatError, GraphError, LabelError
from gnn_mtl.datasets._ogb_csv import (
    check_ids,
    map_file,
    read_ids,
    read_table,
    read_text,
    stream_table,
)
from gnn_mtl.datasets._ogb_npz import Member, need, npz_members
from gnn_mtl.datasets._ogb_sets import OGBInfo, RawGraph
from gnn_mtl.datasets._ogb_split import read_label_names, read_split

ROWS_AT_ONCE = 1 << 20


def read_raw(folder: Path, info: OGBInfo, scratch: Path) -> RawGraph:
    """Read a dataset folder; large arrays go to files in ``scratch`` and come back as maps.

    Args:
        folder: Folder with ``raw`` and ``split``; nothing is written to it.
        info: What is known of the set.
        scratch: An empty folder that outlives the result.

    Raises:
        FileFormatError: If a file is missing, damaged, or not as long as it should be.
        GraphError: If edge ids are out of range.
        LabelError: If there are no labels.
        SplitError: If the split lacks a part.
        StorageError: If there is no room.
    """
    reader = {
        (False, False): _read_csv, (True, False): _read_csv_types,
        (False, True): _read_npz, (True, True): _read_npz_types,
    }[info.is_hetero, info.binary]  # fmt: skip
    return reader(folder, info, scratch)


def _read_csv(folder: Path, info: OGBInfo, scratch: Path) -> RawGraph:
    raw = folder / "raw"
    nodes = _one_graph(read_ids(raw / "num-node-list.csv.gz"), raw / "num-node-list.csv.gz")
    edges = _one_graph(read_ids(raw / "num-edge-list.csv.gz"), raw / "num-edge-list.csv.gz")
    labels = stream_table(raw / "node-label.csv.gz", scratch / "y", nodes, np.float64)
    return RawGraph(
        nodes,
        _csv_edges(raw / "edge.csv.gz", scratch / "edges", edges, nodes),
        labels,
        read_split(folder / "split" / info.split, None),
        _csv_features(raw / "node-feat.csv.gz", scratch / "x", nodes),
        _csv_features(raw / "edge-feat.csv.gz", scratch / "edge_attr", edges),
        {name: read_table(_extra_file(raw, name), nodes) for name in info.node_files},
        read_label_names(folder, info, labels),
    )


def _read_csv_types(folder: Path, info: OGBInfo, scratch: Path) -> RawGraph:
    raw = folder / "raw"
    kind = _marked_type(raw / "nodetype-has-label.csv.gz")
    where = raw / "num-node-dict.csv.gz"
    header, *counts = read_text(where) or [[]]
    nodes = _one_graph([row[header.index(kind)] for row in counts] if kind in header else [], where)
    labels = stream_table(
        raw / "node-label" / kind / "node-label.csv.gz", scratch / "y", nodes, "f8"
    )
    triplets = (tuple(row) for row in read_text(raw / "triplet-type-list.csv.gz"))
    relations = [raw / "relations" / name for name in _within(triplets, kind)]
    parts, features = [], None
    for number, relation in enumerate(relations):
        count = relation / "num-edge-list.csv.gz"
        edges = _one_graph(read_ids(count), count)
        parts.append(_csv_edges(relation / "edge.csv.gz", scratch / f"edges{number}", edges, nodes))
        if len(relations) == 1:
            features = _csv_features(relation / "edge-feat.csv.gz", scratch / "edge_attr", edges)
    tables = raw / "node-feat" / kind
    extras = {name: tables / f"{name}.csv.gz" for name in info.node_files}
    return RawGraph(
        nodes,
        parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1),
        labels,
        read_split(folder / "split" / info.split, kind),
        _csv_features(tables / "node-feat.csv.gz", scratch / "x", nodes),
        features,
        {name: read_table(path, nodes) for name, path in extras.items() if path.is_file()},
        read_label_names(folder, info, labels),
    )


def _read_npz(folder: Path, info: OGBInfo, scratch: Path) -> RawGraph:
    path, label_path = folder / "raw" / "data.npz", folder / "raw" / "node-label.npz"
    data = npz_members(path)
    nodes = _one_graph(need(data, "num_nodes_list", path).read(), path)
    edges = _one_graph(need(data, "num_edges_list", path).read(), path)
    labels = _npz_labels(need(npz_members(label_path), "node_label", label_path), nodes, scratch)
    node, edge = data.pop("node_feat", None), data.get("edge_feat")
    other = {name: member for name, member in data.items() if name.startswith("node_")}
    return RawGraph(
        nodes,
        _npz_edges(need(data, "edge_index", path), edges, nodes, scratch / "edges"),
        labels,
        read_split(folder / "split" / info.split, None),
        None if node is None else _npz_rows(node, nodes, scratch / "x"),
        None if edge is None else _npz_rows(edge, edges, scratch / "edge_attr"),
        {name: _npz_rows(member, nodes, scratch / name) for name, member in other.items()},
        read_label_names(folder, info, labels),
    )


def _read_npz_types(folder: Path, info: OGBInfo, scratch: Path) -> RawGraph:
    raw = folder / "raw"
    label_path, nodes_path = raw / "node-label.npz", raw / "num_nodes_dict.npz"
    label_members = npz_members(label_path)
    if len(label_members) != 1:
        raise LabelError(
            f"{label_path} should hold the labels of one node type. Found "
            f"{', '.join(sorted(label_members)) or 'none'}. Keep one of them."
        )
    ((kind, member),) = label_members.items()
    nodes = _one_graph(need(npz_members(nodes_path), kind, nodes_path).read(), nodes_path)
    labels = _npz_labels(member, nodes, scratch)
    edge_path, count_path = raw / "edge_index_dict.npz", raw / "num_edges_dict.npz"
    members, counts = npz_members(edge_path), npz_members(count_path)
    names = _within((tuple(name.split("___")) for name in members), kind)
    sizes = [_one_graph(need(counts, name, count_path).read(), count_path) for name in names]
    parts = [
        _npz_edges(members[name], size, nodes, scratch / f"edges{number}")
        for number, (name, size) in enumerate(zip(names, sizes, strict=True))
    ]
    features = _typed(raw / "edge_feat_dict.npz", names[0]) if len(names) == 1 else None
    own = _typed(raw / "node_feat_dict.npz", kind)
    extras = {
        path.stem.removesuffix("_dict"): found
        for path in sorted(raw.glob("node_*.npz"))
        if path.stem != "node_feat_dict" and (found := _typed(path, kind)) is not None
    }
    return RawGraph(
        nodes,
        parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1),
        labels,
        read_split(folder / "split" / info.split, kind),
        None if own is None else _npz_rows(own, nodes, scratch / "x"),
        None if features is None else _npz_rows(features, sizes[0], scratch / "edge_attr"),
        {name: _npz_rows(found, nodes, scratch / name) for name, found in extras.items()},
        read_label_names(folder, info, labels),
    )


def _one_graph(counts: Iterable[Any], path: Path) -> int:
    """Return the only entry of a list of counts, checked."""
    found = [str(count) for count in counts]
    if len(found) != 1 or not found[0].isdecimal() or int(found[0]) > 2**48:
        raise FileFormatError(
            f"{path} should hold the size of one graph. Found {', '.join(found[:4]) or 'nothing'}. "
            "Fetch or copy the dataset again."
        )
    return int(found[0])


def _csv_edges(path: Path, out: Path, edges: int, nodes: int) -> NDArray[np.integer]:
    if edges == 0:
        return np.zeros((2, 0), dtype=np.int32)
    pairs = stream_table(path, out, edges, np.int32, below=nodes)
    if pairs.shape[1] != 2:
        raise FileFormatError(
            f"{path} should have two columns, source and target. Found {pairs.shape[1]}."
        )
    return pairs.T


def _csv_features(path: Path, out: Path, rows: int) -> NDArray[np.float32] | None:
    return stream_table(path, out, rows, np.float32) if path.is_file() else None


def _extra_file(raw: Path, name: str) -> Path:
    """Return the path of an extra table; OGB's proteins archive calls node_species ``species``."""
    path, old = raw / f"{name}.csv.gz", raw / f"{name.removeprefix('node_')}.csv.gz"
    return old if old.is_file() and not path.is_file() else path


def _npz_edges(member: Member, edges: int, nodes: int, out: Path) -> NDArray[np.integer]:
    if member.shape != (2, edges) or member.dtype.kind not in "iu":
        raise FileFormatError(
            f"{member.name} of {member.path} should hold integers of shape (2, {edges}). "
            f"Found {member.dtype} with shape {member.shape}."
        )
    found = member.stream(out)
    for start in range(0, edges, ROWS_AT_ONCE):
        check_ids(found[:, start : start + ROWS_AT_ONCE].T, nodes, member.path, start)
    return found


def _npz_rows(member: Member, rows: int, out: Path) -> NDArray[Any]:
    if len(member.shape) not in (1, 2) or member.shape[0] != rows:
        raise FileFormatError(
            f"{member.name} of {member.path} should have {rows} rows. Found shape {member.shape}."
        )
    found = member.stream(out)
    if found.ndim == 1:
        return found[:, None]
    if found.flags.c_contiguous:
        return found
    by_rows = out.with_suffix(".rows")
    with by_rows.open("wb") as file:
        for start in range(0, rows, ROWS_AT_ONCE):
            np.ascontiguousarray(found[start : start + ROWS_AT_ONCE]).tofile(file)
    return map_file(by_rows, found.dtype, found.shape)


def _npz_labels(member: Member, nodes: int, scratch: Path) -> NDArray[Any]:
    if len(member.shape) != 2:
        raise LabelError(
            f"{member.name} of {member.path} should have shape [{nodes}, T]. Found {member.shape}."
        )
    return _npz_rows(member, nodes, scratch / "y")


def _typed(path: Path, name: str) -> Member | None:
    return npz_members(path).get(name) if path.is_file() else None


def _within(triplets: Iterable[tuple[str, ...]], kind: str) -> list[str]:
    """Return the relations from a node type to itself, in OGB's order."""
    found = [
        "___".join(triplet)
        for triplet in sorted(triplets)
        if len(triplet) == 3 and triplet[0] == triplet[2] == kind
    ]
    if not found or any(set(name) & set("/\\") for name in found):
        raise GraphError(
            f"A set with several node types should have a relation from {kind!r}, the labelled "
            f"type, to itself. Found {', '.join(found) or 'none'}."
        )
    return found


def _marked_type(path: Path) -> str:
    """Return the one node type whose column says True."""
    table = read_text(path)
    found = [kind for kind, is_marked in zip(*table[:2], strict=False) if is_marked == "True"]
    if len(table) != 2 or len(found) != 1 or set(found[0]) & set("/\\"):
        raise FileFormatError(f"{path} should mark one node type. Found {found or 'none'}.")
    return found[0]
