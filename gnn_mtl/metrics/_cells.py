"""What a metric may look at: the observed cells of ``logits``, ``y``; and the mean over labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gnn_mtl._core.errors import DataError, LabelError, ShapeError

BLOCK_BYTES = 64 << 20
Bools = NDArray[np.bool_]
Floats = NDArray[np.floating]


def checked(
    logits: ArrayLike, y: ArrayLike, observed: ArrayLike | None
) -> tuple[Floats, NDArray[np.generic], Bools | None]:
    """Return the three as arrays of one shape ``[N, T]``; a vector becomes one column."""
    scores, labels = _columns(logits), _columns(y)
    if scores.dtype.kind in "biu":
        scores = scores.astype(np.float64)
    mask = None if observed is None else _columns(observed)
    if scores.ndim != 2 or scores.shape[1] == 0:
        raise ShapeError(f"`logits` should be [nodes, tasks]. Found shape {scores.shape}.")
    if labels.shape != scores.shape:
        raise ShapeError(
            f"`y` should have the shape of `logits`, {scores.shape}. Found {labels.shape}."
        )
    if mask is not None and (mask.shape != scores.shape or mask.dtype != np.bool_):
        raise ShapeError(
            f"`observed` should be boolean of shape {scores.shape}. "
            f"Found {mask.dtype} of shape {mask.shape}."
        )
    return cast(Floats, scores), labels, cast("Bools | None", mask)


def column_blocks(
    scores: Floats, labels: NDArray[np.generic], mask: Bools | None
) -> Iterator[tuple[slice, Floats, Bools, Bools]]:
    """Yield ``(columns, scores, positive, seen)``, the last three ``[c, N]`` and contiguous.

    Unobserved scores are left as they are; look at ``seen``. Raises if an observed score is not
    finite or an observed label is not 0 or 1.
    """
    n, num_tasks = scores.shape
    width = max(1, min(num_tasks, BLOCK_BYTES // max(1, n * (scores.dtype.itemsize + 2))))
    for start in range(0, num_tasks, width):
        columns = slice(start, min(start + width, num_tasks))
        block = np.ascontiguousarray(scores[:, columns].T)
        label = np.ascontiguousarray(labels[:, columns].T)
        known = _known(label)
        seen = known if mask is None else np.ascontiguousarray(mask[:, columns].T)
        positive = (label == 1) & seen
        _reject(~(np.isfinite(block) | ~seen), columns, "scores", "finite", DataError)
        _reject(seen & ~positive & (label != 0), columns, "labels", "0 or 1", LabelError)
        yield columns, block, positive, seen


def row_blocks(
    scores: Floats, labels: NDArray[np.generic], mask: Bools | None
) -> Iterator[tuple[slice, Floats, Bools, Bools]]:
    """Yield ``(rows, scores, positive, seen)``, the last three ``[r, T]``, checked as above."""
    n, num_tasks = scores.shape
    height = max(1, BLOCK_BYTES // (num_tasks * (scores.dtype.itemsize + 2)))
    for start in range(0, n, height):
        rows = slice(start, min(start + height, n))
        label = labels[rows]
        seen = _known(label) if mask is None else mask[rows]
        positive = (label == 1) & seen
        every = slice(0, num_tasks)
        _reject(~(np.isfinite(scores[rows]) | ~seen).T, every, "scores", "finite", DataError)
        _reject((seen & ~positive & (label != 0)).T, every, "labels", "0 or 1", LabelError)
        yield rows, scores[rows], positive, seen


def macro(values: ArrayLike, /) -> float:
    """Return the mean over the labels that have a value, as OGB's Evaluator averages.

    Args:
        values: One number per label, ``[T]``; NaN where the label cannot be scored.

    Raises:
        LabelError: If no label has a value (OGB raises there too).

    Example:
        >>> macro([0.5, float("nan"), 1.0])
        0.75
    """
    array = np.asarray(values, dtype=np.float64)
    known = array[~np.isnan(array)]
    if known.size == 0:
        raise LabelError(
            f"A macro score needs at least one label with both a positive and a negative node. "
            f"Found none among {array.size}; score a split in which some label has both."
        )
    # Summed in label order, as OGB does, so that both round alike.
    return float(sum(known.tolist()) / known.size)


def _columns(values: ArrayLike) -> NDArray[np.generic]:
    array = np.asarray(values)
    return array[:, None] if array.ndim == 1 else array


def _known(label: NDArray[np.generic]) -> Bools:
    return ~np.isnan(label) if label.dtype.kind == "f" else np.ones(label.shape, dtype=np.bool_)


def _reject(bad: Bools, columns: slice, what: str, wanted: str, error: type[DataError]) -> None:
    if bad.any():
        tasks = (np.flatnonzero(bad.any(axis=1)) + columns.start)[:8].tolist()
        raise error(
            f"Observed {what} should be {wanted}. Found {int(bad.sum())} others, "
            f"in the columns {tasks}. Mark unknown cells as not observed or NaN in `y`."
        )
