"""The small parts of an OGB folder: who is in which split, and what the labels are called."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import FileFormatError, SplitError
from gnn_mtl.datasets._ogb_csv import read_ids, read_text
from gnn_mtl.datasets._ogb_sets import OGBInfo
from gnn_mtl.datasets._ogb_torch import read_torch_file
from gnn_mtl.datasets._splits import SPLITS


def read_split(folder: Path, kind: str | None) -> dict[str, NDArray[np.int64]]:
    """Return the node ids of each part; like OGB, from ``split_dict.pt`` where there is one.

    Args:
        folder: ``split/NAME`` of a dataset.
        kind: The node type, in a set with several.

    Raises:
        FileFormatError: If a file is missing or damaged.
        SplitError: If a part is missing.
    """
    stored = folder / "split_dict.pt"
    if not stored.is_file():
        tables = folder if kind is None else folder / kind
        return {name: read_ids(tables / f"{name}.csv.gz") for name in SPLITS}
    parts: Any = read_torch_file(stored)
    found = {}
    for name in SPLITS:
        part = parts.get(name) if isinstance(parts, Mapping) else None
        if kind is not None and isinstance(part, Mapping):
            part = part.get(kind)
        if not isinstance(part, np.ndarray) or part.dtype.kind not in "iu" or part.ndim != 1:
            of_kind = "" if kind is None else f" of {kind}"
            raise SplitError(
                f"{stored} should hold a vector of node ids{of_kind} under {name!r}. Found "
                f"{type(part).__name__}. Write the split again."
            )
        found[name] = part.astype(np.int64)
    return found


def read_label_names(folder: Path, info: OGBInfo, labels: NDArray[Any]) -> tuple[str, ...] | None:
    """Return names of labels or classes from ``mapping/labelidx2*.csv.gz``, if they fit.

    The file has a header and then rows of index and name; anything else gives None.
    """
    number = labels.shape[1] if labels.shape[1] > 1 else info.num_classes
    files = sorted((folder / "mapping").glob("labelidx2*.csv.gz"))
    if len(files) != 1:
        return None
    try:
        rows = read_text(files[0])[1:]
    except FileFormatError:
        return None
    names = {row[0]: row[1] for row in rows if len(row) >= 2}
    wanted = [names.get(str(label), "") for label in range(number)]
    good = len(rows) == number and all(wanted) and len(set(wanted)) == number
    return tuple(wanted) if good else None
