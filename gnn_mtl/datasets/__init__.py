"""Floor 2: node-labelled graphs as sets of tasks.

``TaskGraph`` is the dataset; ``load_dataset`` finds one by name or path. ``planted`` generates one
with known task groups, ``import_npz`` reads the plain arrays other projects publish,
``load_ogb`` OGB's node-property sets (``fetch_ogb`` gets them, ``import_ogb`` reads a copy or a
folder of ``DatasetSaver``), and ``structural_features`` makes features from edges alone.
``data_dir`` is where downloads and conversions are kept. ``save_npz``/``load_npz`` keep a graph in
one file, ``save_folder``/``load_folder`` in memory-mapped ones, ``verify`` checks either. A split
is a ``NodeSplit`` or, per (node, task), a ``TaskNodeSplit``; ``random_node_split`` and
``random_task_split`` draw them over labels that ``make_targets`` packs.
"""

from gnn_mtl.datasets._data_dir import data_dir
from gnn_mtl.datasets._describe import describe
from gnn_mtl.datasets._draw import random_node_split, random_task_split
from gnn_mtl.datasets._folder import load_folder, save_folder
from gnn_mtl.datasets._import import import_npz
from gnn_mtl.datasets._npz import load_npz, save_npz
from gnn_mtl.datasets._ogb import fetch_ogb, import_ogb, load_ogb
from gnn_mtl.datasets._planted import planted
from gnn_mtl.datasets._registry import list_datasets, load_dataset
from gnn_mtl.datasets._splits import NodeSplit, TaskNodeSplit
from gnn_mtl.datasets._structural import structural_features, with_structural_features
from gnn_mtl.datasets._targets import make_targets
from gnn_mtl.datasets._task_graph import TaskGraph
from gnn_mtl.datasets._verify import verify

__all__ = [
    "NodeSplit",
    "TaskGraph",
    "TaskNodeSplit",
    "data_dir",
    "describe",
    "fetch_ogb",
    "import_npz",
    "import_ogb",
    "list_datasets",
    "load_dataset",
    "load_folder",
    "load_npz",
    "load_ogb",
    "make_targets",
    "planted",
    "random_node_split",
    "random_task_split",
    "save_folder",
    "save_npz",
    "structural_features",
    "verify",
    "with_structural_features",
]
