"""Checks and gathers of node and edge features: dense, memory-mapped or sparse."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from gnn_mtl._core.errors import FeatureError, UsageError

Features: TypeAlias = NDArray[np.floating] | sp.csr_matrix
VALUES_AT_ONCE = 1 << 24


def clean_features(x: Any, num_nodes: int, *, check_finite: bool = True) -> Features | None:  # noqa: ANN401
    """Return features as float ``[N, F]``, dense or CSR, after checking shape and values.

    float32 and float16 arrays, memory maps among them, are kept as they are; other numbers become
    float32.

    Raises:
        FeatureError: If the shape does not fit, or a value is NaN or infinite (the first bad row is
            named).
    """
    if x is None:
        return None
    if not sp.issparse(x):
        x = np.asanyarray(x)
        if x.dtype.kind not in "biuf":
            raise FeatureError(f"Features should be numbers. Found dtype {x.dtype}.")
    if x.ndim != 2 or x.shape[0] != num_nodes:
        raise FeatureError(
            f"Features should have shape [{num_nodes}, F], one row a node. Found {tuple(x.shape)}."
        )
    if sp.issparse(x):
        x = sp.csr_matrix(x, dtype=np.float32)
        x.sum_duplicates()
        if check_finite and not np.isfinite(x.data).all():
            first = int(np.flatnonzero(~np.isfinite(x.data))[0])
            _raise_bad_row(int(np.searchsorted(x.indptr, first, side="right")) - 1, x.data[first])
        return x
    if x.dtype not in (np.float32, np.float16):
        with np.errstate(over="ignore"):
            x = x.astype(np.float32)
    if check_finite:
        check_rows_finite(x)
    return x


def check_rows_finite(x: NDArray[np.floating], what: str = "node") -> None:
    """Raise a FeatureError naming the first row of ``x`` that is not finite; reads in chunks."""
    step = max(1, VALUES_AT_ONCE // max(x.shape[1], 1))
    for start in range(0, len(x), step):
        good = np.isfinite(x[start : start + step]).all(axis=1)
        if not good.all():
            row = start + int(np.flatnonzero(~good)[0])
            values = np.asarray(x[row])
            _raise_bad_row(row, values[~np.isfinite(values)][0], what)


def clean_edge_attr(
    edge_attr: Any,  # noqa: ANN401
    num_rows: int | None,
    *,
    check_finite: bool = True,
) -> NDArray[np.float32] | None:
    """Return edge features as float32 ``[E, D]``, one row for each column of the edge list.

    Raises:
        FeatureError: If the shape does not fit, or a value is NaN or infinite.
    """
    if edge_attr is None:
        return None
    values = np.asarray(edge_attr)
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim != 2 or (num_rows is not None and len(values) != num_rows):
        raise FeatureError(
            f"Edge features should have one row for each of the {num_rows} columns of "
            f"`edge_index`. Found shape {values.shape}."
        )
    if values.dtype != np.float32:
        values = values.astype(np.float32)
    if check_finite:
        check_rows_finite(values, "edge")
    return values


def check_edge_rows(
    edge_ids: NDArray[np.integer] | None, edge_attr: NDArray[np.float32] | None
) -> None:
    """Raise a FeatureError if stored edges do not point at rows of the edge features."""
    if edge_attr is None:
        return
    if edge_ids is None:
        raise FeatureError(
            "Edge features need a graph with `edge_ids`. Found none. "
            "Build it with keep_edge_ids=True."
        )
    if len(edge_ids) and int(edge_ids.max()) >= len(edge_attr):
        raise FeatureError(
            f"`edge_ids` should point into the {len(edge_attr)} rows of the edge features. "
            f"Found {int(edge_ids.max())}."
        )


def check_nodes(nodes: ArrayLike, num_nodes: int) -> NDArray[np.integer]:
    """Return node ids as an array; raise UsageError if one is outside ``[0, num_nodes)``."""
    ids = np.asarray(nodes)
    if len(ids) and not (ids.min() >= 0 and ids.max() < num_nodes):
        wrong = ids.min() if ids.min() < 0 else ids.max()
        raise UsageError(f"Node ids should lie in [0, {num_nodes}). Found {wrong}.")
    return ids


def gather_features(x: Features, nodes: NDArray[np.integer]) -> NDArray[np.float32]:
    """Return rows of ``x`` as dense float32 ``[B, F]``."""
    if sp.issparse(x):
        return x[nodes].toarray()
    return np.asarray(x[nodes], dtype=np.float32)


def _raise_bad_row(row: int, value: np.floating, what: str = "node") -> None:
    raise FeatureError(
        f"Features should be finite. Found {value} at {what} {row}. Fill in or drop such values."
    )
