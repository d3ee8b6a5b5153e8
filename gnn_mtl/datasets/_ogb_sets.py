"""What is known of OGB's node-property sets, and of sets others saved in OGB's form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import FileFormatError
from gnn_mtl.datasets._ogb_torch import read_torch_file

URL = "https://snap.stanford.edu/ogb/data/nodeproppred/{}.zip"
META = "meta_dict.pt"
MARKERS = (
    "edge.csv.gz", "data.npz", "triplet-type-list.csv.gz", "edge_index_dict.npz",
    "num-node-list.csv.gz",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class OGBInfo:
    """One column of OGB's ``master.csv``, or one ``meta_dict``.

    Attributes:
        name: Name, such as ``"ogbn-proteins"``.
        num_tasks: Columns of the label file.
        num_classes: Values of a label; -1 for regression.
        task_type: OGB's words, such as ``"binary classification"``.
        eval_metric: What OGB's evaluator computes.
        split: Folder of the split.
        add_inverse_edge: Whether the raw files hold each undirected edge once.
        node_files: Extra tables with one row a node, ``node_*``.
        is_hetero: Whether there are several types of nodes.
        binary: Whether the raw files are ``.npz`` rather than ``.csv.gz``.
        download_name: Name of the archive and of the folder inside it; empty for users' sets.
        download_bytes: About how large the archive is.
    """

    name: str
    num_tasks: int
    num_classes: int
    task_type: str
    eval_metric: str = ""
    split: str
    add_inverse_edge: bool = False
    node_files: tuple[str, ...] = ()
    is_hetero: bool = False
    binary: bool = False
    download_name: str = ""
    download_bytes: int = 0

    @property
    def folder(self) -> str:
        """Name of the folder OGB keeps the set in."""
        return self.name.replace("-", "_")

    @property
    def url(self) -> str:
        """Where OGB publishes the archive (OGB's own table says http; the host has https)."""
        return URL.format(self.download_name)


MULTICLASS = "multiclass classification"
SETS = {
    info.name: info
    for info in (
        OGBInfo(
            name="ogbn-proteins", num_tasks=112, num_classes=2, task_type="binary classification",
            eval_metric="rocauc", split="species", add_inverse_edge=True,
            node_files=("node_species",), download_name="proteins", download_bytes=220_000_000,
        ),
        OGBInfo(
            name="ogbn-products", num_tasks=1, num_classes=47, task_type=MULTICLASS,
            eval_metric="acc", split="sales_ranking", add_inverse_edge=True,
            download_name="products", download_bytes=1_480_000_000,
        ),
        OGBInfo(
            name="ogbn-arxiv", num_tasks=1, num_classes=40, task_type=MULTICLASS,
            eval_metric="acc", split="time", node_files=("node_year",),
            download_name="arxiv", download_bytes=85_000_000,
        ),
        OGBInfo(
            name="ogbn-mag", num_tasks=1, num_classes=349, task_type=MULTICLASS,
            eval_metric="acc", split="time", node_files=("node_year",), is_hetero=True,
            download_name="mag", download_bytes=430_000_000,
        ),
        OGBInfo(
            name="ogbn-papers100M", num_tasks=1, num_classes=172, task_type=MULTICLASS,
            eval_metric="acc", split="time", node_files=("node_year",), binary=True,
            download_name="papers100M-bin", download_bytes=60_400_000_000,
        ),
    )
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class RawGraph:
    """A raw folder as read: what OGB's loader gives, but each undirected edge once.

    Attributes:
        num_nodes: Number of nodes N.
        edge_index: Integers ``[2, E]`` as stored; with ``add_inverse_edge`` OGB follows every
            column by its reverse. May be a memory map, like all arrays here.
        labels: Numbers ``[N, T]``, NaN where unknown.
        split: Node ids of train, valid and test.
        node_feat: Node features ``[N, F]``, or None.
        edge_feat: Edge features ``[E, D]``, or None; OGB repeats each row for the reverse edge.
        extras: Further tables with one row a node.
        label_names: Names of labels or classes from ``mapping``, where they can be read.
    """

    num_nodes: int
    edge_index: NDArray[np.integer]
    labels: NDArray[Any]
    split: Mapping[str, NDArray[np.int64]]
    node_feat: NDArray[Any] | None
    edge_feat: NDArray[Any] | None
    extras: Mapping[str, NDArray[Any]]
    label_names: tuple[str, ...] | None


def is_ogb_folder(path: Path) -> bool:
    """Return whether ``path`` holds ``raw`` files in OGB's form, itself or one folder down."""
    return _dataset_folder(path) is not None


def find_info(path: Path) -> tuple[Path, OGBInfo]:
    """Return the dataset folder at or right below ``path``, and what is known of it.

    A ``meta_dict.pt`` in or beside the folder is believed first, then the folder's name if it is
    one of OGB's, and else the files themselves are asked.

    Raises:
        FileFormatError: If there are no raw files, or the metadata cannot be made out.
    """
    folder = _dataset_folder(path)
    if folder is None:
        raise FileFormatError(
            f"{path} should hold OGB's raw files: raw/ with one of {', '.join(MARKERS)}. "
            "Found none. Fetch or copy the folder again."
        )
    for place in (folder / META, folder.parent / META):
        if place.is_file():
            meta = read_torch_file(place)
            if not _is_of_another(meta, folder):
                return folder, info_from_meta(meta, folder, str(place))
    for info in SETS.values():
        if folder.name in (info.folder, f"{info.folder}_pyg", info.download_name):
            return folder, info
    return folder, _guess(folder)


def info_from_meta(meta: Mapping[str, Any], folder: Path, where: str) -> OGBInfo:
    """Return what OGB's ``meta_dict`` says.

    Raises:
        FileFormatError: If an entry is missing or of the wrong kind.
    """
    try:
        files = str(meta.get("additional node files", "None"))
        return OGBInfo(
            name=folder.name, num_tasks=int(meta["num tasks"]),
            num_classes=int(meta["num classes"]), task_type=str(meta["task type"]),
            eval_metric=str(meta.get("eval metric", "")), split=_plain_name(str(meta["split"])),
            add_inverse_edge=str(meta.get("add_inverse_edge", "False")) == "True",
            node_files=() if files == "None" else tuple(map(_plain_name, files.split(","))),
            is_hetero=str(meta.get("is hetero", "False")) == "True",
            binary=str(meta.get("binary", "False")) == "True",
        )  # fmt: skip
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FileFormatError(
            f"{where} should be OGB's meta_dict with num tasks, num classes, task type and split. "
            f"Found: {error!r}. Write it again with DatasetSaver.get_meta_dict()."
        ) from error


def _is_of_another(meta: Any, folder: Path) -> bool:  # noqa: ANN401
    named = meta.get("dir_path") if isinstance(meta, Mapping) else None
    return isinstance(named, str) and Path(named).name != folder.name


def _plain_name(text: str) -> str:
    if not text or text in (".", "..") or set(text) & set("/\\\0"):
        raise ValueError(f"{text!r} is not a plain name")
    return text


def _dataset_folder(path: Path) -> Path | None:
    if _has_raw(path):
        return path
    if not (path / META).is_file():
        return None
    below = [child for child in path.iterdir() if _has_raw(child)]
    return below[0] if len(below) == 1 else None


def _has_raw(folder: Path) -> bool:
    return any((folder / "raw" / marker).is_file() for marker in MARKERS)


def _guess(folder: Path) -> OGBInfo:
    """Return what the files say; label columns and classes are counted when they are read."""
    raw = folder / "raw"
    splits = sorted(child.name for child in (folder / "split").glob("*") if child.is_dir())
    if len(splits) != 1:
        raise FileFormatError(
            f"{folder / 'split'} should hold one split. Found {', '.join(splits) or 'none'}. "
            f"Put OGB's {META} beside the folder to say which is meant."
        )
    is_hetero = (raw / MARKERS[2]).is_file() or (raw / MARKERS[3]).is_file()
    files = raw.glob("node-feat/*/node_*.csv.gz") if is_hetero else raw.glob("node_*.csv.gz")
    return OGBInfo(
        name=folder.name, num_tasks=0, num_classes=0, task_type="classification", split=splits[0],
        node_files=tuple(sorted({file.name.removesuffix(".csv.gz") for file in files})),
        is_hetero=is_hetero, binary=(raw / MARKERS[1]).is_file() or (raw / MARKERS[3]).is_file(),
    )  # fmt: skip
