"""``import_npz``: graphs published as plain numpy arrays, without header or checksums.

Read are ``edge_index``, ``num_nodes``, ``directed``, labels as CSR (``y_indptr, y_indices,
y_shape``), ``label_names``, ``labelled``, features ``x`` or CSR ``x_indptr, x_indices, x_data,
x_shape``, published splits ``*_train, *_val, *_test`` (node ids), ``first_copy_of`` (labels that
repeat others) and edge kinds ``edge_*_bits``; any other array is kept in ``extras``.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from gnn_mtl._core.errors import (
    FileFormatError,
    GnnMtlError,
    LabelError,
    LabelWarning,
    SplitError,
    UsageError,
)
from gnn_mtl.datasets._features import clean_edge_attr
from gnn_mtl.datasets._layout import Arrays, check_lists, unpack_features
from gnn_mtl.datasets._npz import read_arrays
from gnn_mtl.datasets._splits import SPLITS
from gnn_mtl.datasets._task_graph import SplitLike, TaskGraph

NEEDED = ("edge_index", "num_nodes", "y_indptr", "y_indices", "y_shape")  # or a dense "y"
PUBLISHED = dict(zip(SPLITS, ("train", "val", "test"), strict=True))
LABEL_ROWS = ("community_row",)


def import_npz(
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    min_members: int = 1,
    top: int | None = None,
    drop_copies: bool = False,
    zero_rows: Literal["unlabelled", "negative"] = "unlabelled",
    split: str = "auto",
    edge_features: bool = False,
    keep_direction: bool = False,
    seed: int = 0,
) -> TaskGraph:
    """Read a graph published as plain arrays.

    Args:
        path: An ``.npz`` file.
        name: Name of the dataset; the file's by default.
        min_members: Keep labels with at least this many positives.
        top: Of those, keep this many with the most positives (of equal ones the first).
        drop_copies: Leave out labels that repeat an earlier one (``first_copy_of``).
        zero_rows: What a node without any label is where the file has no ``labelled``: unlabelled
            (Debian packages without tags, proteins without terms), or negative for every label.
        split: ``"auto"``: the first published split, else a random one; ``"random"``; ``"task"``
            for 20/20/60 per (node, task); or the name of a published one, such as ``"split1"``.
        edge_features: Turn ``edge_*_bits`` into 0/1 edge features.
        keep_direction: Pass messages along directed edges from source to target only.
        seed: Seed of a drawn split.

    Raises:
        FileNotFoundError: If there is no such file.
        FileFormatError: If the file is damaged or lacks an array, or arrays do not fit together.
        LabelError: If no label is left.
        SplitError: If there is no published split of that name.
        UsageError: If ``top`` is not positive.

    Warns:
        LabelWarning: If labels repeat others, or have no positive in training.
    """
    if top is not None and top < 1:
        raise UsageError(f"`top` should be at least 1. Found {top}.")
    arrays = read_arrays(path)
    if "y" in arrays and "y_indptr" not in arrays:
        arrays |= _as_lists(arrays.pop("y"))
    if missing := sorted(set(NEEDED) - set(arrays)):
        raise FileFormatError(
            f"{path} should hold {', '.join(NEEDED)}. Missing: {', '.join(missing)}."
        )
    name = name or Path(path).stem
    with _fitting(path):
        nodes = int(arrays["num_nodes"])
        y = _labels(arrays, nodes)
        keep = _choose_labels(y, arrays, min_members, top, drop_copies, name)
        known = arrays.get("labelled")
        if known is not None and known.ndim == 2:
            known = known[:, keep]
        elif known is None:
            known = (np.diff(y.indptr) > 0) | (zero_rows == "negative")
        names = arrays.get("label_names")
        if names is not None and names.shape != y.shape[1:]:
            raise LabelError(
                f"`label_names` should be {y.shape[1]} names, one a label. Found shape "
                f"{names.shape}."
            )
        edges = arrays["edge_index"]
        return TaskGraph.from_arrays(
            edges, y[:, keep], num_nodes=nodes, observed=known, split=_split(arrays, split),
            x=unpack_features(arrays, nodes),
            edge_attr=_edge_bits(arrays, edges.shape[-1]) if edge_features else None,
            label_names=[str(task) for task in keep] if names is None else names[keep].tolist(),
            name=name, directed=bool(arrays.get("directed", False)), keep_direction=keep_direction,
            extras=_extras(arrays, keep), seed=seed,
        )  # fmt: skip


@contextlib.contextmanager
def _fitting(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what arrays of other shapes or types do to the code into a FileFormatError."""
    try:
        yield
    except GnnMtlError:
        raise
    except (ArithmeticError, IndexError, TypeError, ValueError) as error:
        raise FileFormatError(
            f"{path} should hold arrays of numbers that fit together (docs/formats.md). Found: "
            f"{error}. Write it again."
        ) from error


def _as_lists(y: NDArray[Any]) -> Arrays:
    """A dense label matrix, NaN = unobserved, as positives per node and known cells."""
    if y.ndim != 2:
        raise LabelError(f"`y` should be a matrix [N, T]. Found shape {y.shape}.")
    known = ~np.isnan(y) if np.issubdtype(y.dtype, np.floating) else np.ones(y.shape, dtype=bool)
    if not np.isin(y[known], (0, 1)).all():
        raise LabelError("`y` should hold 0, 1, or NaN where unobserved. Found other values.")
    positive = sp.csr_matrix((y == 1) & known)
    return {
        "y_indptr": positive.indptr, "y_indices": positive.indices,
        "y_shape": np.array(y.shape), "labelled": known,
    }  # fmt: skip


def _labels(arrays: Arrays, num_nodes: int) -> sp.csr_matrix:
    indptr, indices = arrays["y_indptr"], arrays["y_indices"]
    rows, tasks = (int(size) for size in arrays["y_shape"])
    if rows != num_nodes:
        raise LabelError(f"Labels should have {num_nodes} rows, one a node. Found {rows}.")
    check_lists("y", indptr, indices, rows, tasks)
    ones = np.ones(len(indices), dtype=np.uint8)
    return sp.csr_matrix((ones, indices.astype(np.int32), indptr), shape=(rows, tasks))


def _choose_labels(
    y: sp.csr_matrix, arrays: Arrays, min_members: int, top: int | None, drop: bool, name: str
) -> NDArray[np.int64]:
    """Return the labels to keep, ascending, and warn of copies among them."""
    members = np.bincount(y.indices, minlength=y.shape[1])
    wanted = members >= min_members
    copies = np.zeros(len(members), dtype=np.bool_)
    if "first_copy_of" in arrays:
        copies = arrays["first_copy_of"] != np.arange(len(members))
    if drop:
        wanted &= ~copies
    order = np.argsort(-members, kind="stable")
    keep = np.sort(order[wanted[order]][:top])
    if len(keep) == 0:
        raise LabelError(
            f"Expected labels with {min_members} positives or more. The largest of {name} has "
            f"{int(members.max(initial=0))}; lower `min_members`."
        )
    if number := int(copies[keep].sum()):
        warnings.warn(
            f"{number} of {len(keep)} labels of {name} repeat an earlier label exactly, so that "
            "grouping looks good for the wrong reason. Leave them out with drop_copies=True.",
            LabelWarning,
            stacklevel=3,
        )
    return keep


def _published(arrays: Arrays) -> list[str]:
    return sorted(key[:-6] for key in arrays if key.endswith("_train"))


def _split(arrays: Arrays, split: str) -> SplitLike:
    if split in ("random", "task"):
        return split  # type: ignore[return-value]
    found = _published(arrays)
    if split == "auto":
        if not found:
            return "random"
        split = found[0]
    if split not in found:
        raise SplitError(
            f"`split` should be auto, random, task or a published one "
            f"({', '.join(found) or 'there is none'}). Found {split!r}."
        )
    try:
        return {part: arrays[f"{split}_{stored}"] for part, stored in PUBLISHED.items()}
    except KeyError as error:
        raise FileFormatError(f"The published split {split!r} lacks {error}.") from error


def _edge_bits(arrays: Arrays, num_edges: int) -> NDArray[np.float32] | None:
    """Return the edge kinds as 0/1 columns, as many as any edge uses."""
    keys = [key for key in arrays if key.startswith("edge_") and key.endswith("_bits")]
    columns = [
        (arrays[key][:, None] >> np.arange(int(arrays[key].max()).bit_length())) & 1 for key in keys
    ]
    return clean_edge_attr(np.concatenate(columns, axis=1), num_edges) if columns else None


def _extras(arrays: Arrays, keep: NDArray[np.int64]) -> dict[str, Any]:
    used = {*NEEDED, "directed", "labelled", "label_names", "x", "first_copy_of"}
    used |= {key for key in arrays if key.startswith("x_")}
    used |= {f"{prefix}_{part}" for prefix in _published(arrays) for part in PUBLISHED.values()}
    used |= {key for key in arrays if key.startswith("edge_")}
    rest = {key: array for key, array in arrays.items() if key not in used}
    return {key: array[keep] if key in LABEL_ROWS else array for key, array in rest.items()}
