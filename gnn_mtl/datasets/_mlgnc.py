"""``import_mlgnc``: the dataset folders of MLGNC (Zhao et al., TMLR 2023), text files and splits.

Read in Tianqi-py/MLGNC @e7f609fb, ``data/``; which file is used how is taken from its loaders
(``models/LANC.py``, ``models/GCN-LPA.py``):

- ``pcg_removed_isolated_nodes``: ``edges_undir.csv``, ``features.csv``, ``labels.csv``; splits in
  ``pcg_removed_isolated_nodes_0.6/split_0.pt`` to ``split_2.pt`` beside it.
- ``HumanGo``, ``EukaryoteGo``: ``edge_list.csv`` with a header and, after the two ends, a column of
  evidence for each kind of interaction; ``features.csv``, ``labels.csv``, ``split.pt``.
- ``dblp``: ``dblp.edgelist`` (tabs), ``labels.txt``, ``features.txt`` (a zip in parts there, not
  seen), splits in ``dblp_0.6`` within; splits 1 and 2 have the validation nodes of split 0, which
  overlap their training and test nodes: they are refused.
- ``Hyperspheres_10_10_0``: ``features.csv`` and ``labels.csv`` with headers; ``edge_index.csv``
  (sources in one line, targets in the next) is what the loader opens, but the repository holds only
  a zip of edges that could not be opened: that file is read as the loader reads it, untested on the
  original.
- A split file is a dict of node ids under ``train_mask``, ``val_mask``, ``test_mask``.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import FeatureError, FileFormatError, GraphError, SplitError
from gnn_mtl.datasets._ogb_csv import check_ids
from gnn_mtl.datasets._ogb_torch import read_torch_file
from gnn_mtl.datasets._task_graph import SplitLike, TaskGraph

MASKS = {"train": "train_mask", "valid": "val_mask", "test": "test_mask"}
LABELS = ("labels.csv", "labels.txt")
FEATURES = ("features.csv", "features.txt")
EDGES = ("edges_undir.csv", "edge_list.csv", "edge_index.csv", "*.edgelist")
LARGEST_BYTES = 1 << 32
LONGEST_HEADER = 1 << 20


def import_mlgnc(
    folder: str | os.PathLike[str],
    *,
    name: str | None = None,
    split: str = "auto",
    features: bool = True,
    edge_features: bool = False,
    seed: int = 0,
) -> TaskGraph:
    """Read a dataset folder of the MLGNC repository.

    Edges are undirected; self-loops (HumanGo and EukaryoteGo have some) are dropped and pairs given
    twice are merged.

    Args:
        folder: The folder; nothing is written to it.
        name: Name of the dataset; the folder's by default.
        split: ``"auto"``: the first published split, else a random one; ``"random"``; ``"task"``
            for one per (node, task); or the name of a published one: ``"split0"``, ``"split1"``...,
            or ``"split"`` for ``split.pt``.
        features: Read the node features; False where the file is not at hand (dblp).
        edge_features: Keep further columns of the edge list as edge features; of a pair given twice
            the first line counts.
        seed: Seed of a drawn split.

    Raises:
        FileFormatError: If a file is missing or damaged, or has another number of rows.
        GraphError: If edge ids are out of range.
        LabelError: If labels are not 0 and 1.
        FeatureError: If features are not finite, or edge features are asked for and not there.
        SplitError: If there is no published split of that name, or it is none.

    Warns:
        LabelWarning: If tasks have no positive in training.
    """
    folder = Path(folder).expanduser()
    names, y = read_table(_find(folder, LABELS))
    x = read_table(_find(folder, FEATURES), len(y))[1] if features else None
    edges, attributes = _edges(_find(folder, EDGES), len(y))
    if edge_features and attributes is None:
        raise FeatureError(
            f"edge_features=True needs an edge list with more than two columns. {folder} has none."
        )
    return TaskGraph.from_arrays(
        edges, y, split=choose_split(split, find_splits(folder)), x=x,
        edge_attr=attributes if edge_features else None, label_names=names,
        name=name or folder.resolve().name, seed=seed,
    )  # fmt: skip


def is_mlgnc_folder(folder: Path) -> bool:
    """Return whether a folder holds labels or edges under MLGNC's names."""
    return any(next(folder.glob(pattern), None) for pattern in (*LABELS, *EDGES))


def find_splits(place: Path) -> dict[str, Path]:
    """Return the published splits of ``place``, by name: beside it or in it.

    Args:
        place: The folder of a dataset, or a ``.mat`` file without its suffix.
    """
    name = place.resolve().name
    folders = (place.parent / f"{name}_0.6", place / f"{name}_0.6")
    numbered = (file for folder in folders for file in sorted(folder.glob("split_*.pt")))
    found = {file.stem.replace("_", ""): file for file in numbered}
    return found | ({"split": place / "split.pt"} if (place / "split.pt").is_file() else {})


def choose_split(split: str, found: Mapping[str, Path]) -> SplitLike:
    """Return the split a user named: drawn, or read from one of the files found.

    Raises:
        SplitError: If there is none of that name, or the file holds something else.
        FileFormatError: If the file is damaged.
    """
    if split in ("random", "task"):
        return split  # type: ignore[return-value]
    if split == "auto":
        if not found:
            return "random"
        split = next(iter(found))
    if split not in found:
        raise SplitError(
            f"`split` should be auto, random, task or a published one "
            f"({', '.join(found) or 'there is none'}). Found {split!r}."
        )
    return _read_split(found[split])


def _read_split(path: Path) -> dict[str, NDArray[Any]]:
    content: Any = read_torch_file(path)
    parts = {}
    for part, key in MASKS.items():
        ids = content.get(key) if isinstance(content, Mapping) else None
        if not isinstance(ids, np.ndarray) or ids.ndim != 1 or ids.dtype.kind not in "iub":
            raise SplitError(
                f"{path} should hold a vector of node ids under {key!r}. Found "
                f"{type(ids).__name__}. Fetch or copy it again."
            )
        parts[part] = ids
    return parts


def read_table(path: Path, rows: int | None = None) -> tuple[list[str] | None, NDArray[np.float64]]:
    """Return the header, if there is one, and the numbers ``[rows, columns]`` of a text file.

    Raises:
        FileFormatError: If the file is missing, empty, no table of numbers, or its rows have
            different lengths or another number than ``rows``.
    """
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes, more than {LARGEST_BYTES}")
        with path.open("rb") as file:
            first = file.readline(LONGEST_HEADER).decode("utf-8")
            if not first.strip():
                raise ValueError("an empty first line")
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":
                raise ValueError("no line break at the end, as in a file that was cut off")
        delimiter = "," if "," in first else None
        header = [word.strip() for word in first.strip().split(delimiter)]
        has_header = not any(map(_is_number, header))
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # "input contained no data"
            table = np.loadtxt(
                path, delimiter=delimiter, skiprows=int(has_header), ndmin=2, comments=None,
                encoding="utf-8",
            )  # fmt: skip
    except (ValueError, OSError, OverflowError, UserWarning) as error:
        found = "none" if isinstance(error, FileNotFoundError) else error
        raise FileFormatError(
            f"{path} should be a whole text file of numbers, as many in each line. "
            f"Found: {found}. Fetch or copy it again."
        ) from error
    if rows is not None and len(table) != rows:
        raise FileFormatError(
            f"{path} should have {rows} rows of numbers, one a node. Found {len(table)}. "
            "Fetch or copy it again."
        )
    return header if has_header else None, table


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _find(folder: Path, patterns: tuple[str, ...]) -> Path:
    """Return the one file of ``folder`` under one of the names."""
    found = [file for pattern in patterns for file in sorted(folder.glob(pattern))]
    if len(found) != 1:
        names = ", ".join(file.name for file in found)
        raise FileFormatError(
            f"{folder} should hold one of {', '.join(patterns)}. Found {names or 'none'}. "
            "Fetch or copy the dataset again."
        )
    return found[0]


def _edges(path: Path, nodes: int) -> tuple[NDArray[np.int64], NDArray[np.float64] | None]:
    """Return edges ``[2, E]`` without self-loops, and what further columns say of them."""
    _, table = read_table(path)
    if path.name == "edge_index.csv":
        table = table.T
    if table.shape[1] < 2 or (table.shape[1] > 2 and path.name != "edge_list.csv"):
        raise GraphError(
            f"{path} should have two columns, the ends of an edge. Found {table.shape[1]}."
        )
    check_ids(table[:, :2], nodes, path, 0)
    table = table[table[:, 0] != table[:, 1]]
    return table[:, :2].T.astype(np.int64), table[:, 2:] if table.shape[1] > 2 else None
