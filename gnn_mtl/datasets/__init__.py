"""Floor 2: node-labelled graphs as sets of tasks.

``TaskGraph`` is the dataset; ``load_dataset`` finds one by name or path. ``planted`` generates one
with known task groups, ``import_npz`` reads the plain arrays other projects publish,
``load_ogb`` OGB's node-property sets (``fetch_ogb`` gets them, ``import_ogb`` reads a copy or a
folder of ``DatasetSaver``), ``load_snap``, ``fetch_snap`` and ``import_snap`` do so for SNAP's
graphs, whose largest communities are the tasks, as ``CommunityOptions`` say. ``load_published``,
``fetch_published`` and ``import_published`` do so for other multi-label graphs, through
``import_mat`` (BlogCatalog, PPI, POS), ``import_mlgnc`` (folders of the MLGNC repository),
``import_saint`` and ``import_ppi`` (raw folders of PyG's Yelp, AmazonProducts and PPI).
``structural_features`` makes features from edges alone, ``cached_features`` keeps them on disk;
``with_label_inputs`` lets a network read the training labels of other nodes.
``catalog`` knows size, licence and origin of every named set, ``local_copies`` what of it is here,
``fetch_dataset`` gets it, ``import_any`` reads any file or folder that is known. ``data_dir`` is
where downloads and conversions are kept. ``describe`` and ``distributions`` say what a graph holds,
``sample_overlap`` (from ``pair_counts``) how far its tasks share training nodes,
``label_correlation`` and ``permutation_null`` how labels go together and how far they would by
chance.
``save_npz``/``load_npz`` keep a graph in one file, ``save_folder``/``load_folder`` in memory-mapped
ones, ``verify`` checks either. A split is a ``NodeSplit`` or, per (node, task), a
``TaskNodeSplit``; ``random_node_split`` and ``random_task_split`` draw them over labels that
``make_targets`` packs.
"""

from gnn_mtl.datasets._catalog import CatalogEntry, catalog, catalog_entry
from gnn_mtl.datasets._communities import CommunityOptions
from gnn_mtl.datasets._data_dir import data_dir
from gnn_mtl.datasets._describe import Distributions, describe, distributions
from gnn_mtl.datasets._draw import random_node_split, random_task_split
from gnn_mtl.datasets._feature_cache import cached_features
from gnn_mtl.datasets._fetch import fetch_dataset, how_to_get
from gnn_mtl.datasets._folder import load_folder, save_folder
from gnn_mtl.datasets._import import import_npz
from gnn_mtl.datasets._import_any import import_any
from gnn_mtl.datasets._label_correlation import (
    PermutationNull,
    label_correlation,
    permutation_null,
    shuffle_labels,
)
from gnn_mtl.datasets._label_inputs import LabelInputGraph, with_label_inputs
from gnn_mtl.datasets._local import LocalCopy, local_copies
from gnn_mtl.datasets._mat import import_mat
from gnn_mtl.datasets._mlgnc import import_mlgnc
from gnn_mtl.datasets._npz import load_npz, save_npz
from gnn_mtl.datasets._ogb import fetch_ogb, import_ogb, load_ogb
from gnn_mtl.datasets._overlap import SampleOverlap, overlap_flags, sample_overlap
from gnn_mtl.datasets._pair_counts import PairCounts, pair_counts
from gnn_mtl.datasets._planted import planted
from gnn_mtl.datasets._published import fetch_published, import_published, load_published
from gnn_mtl.datasets._pyg_ppi import import_ppi
from gnn_mtl.datasets._pyg_saint import import_saint
from gnn_mtl.datasets._registry import list_datasets, load_dataset
from gnn_mtl.datasets._snap import fetch_snap, import_snap, load_snap
from gnn_mtl.datasets._splits import NodeSplit, TaskNodeSplit
from gnn_mtl.datasets._structural import structural_features, with_structural_features
from gnn_mtl.datasets._targets import make_targets
from gnn_mtl.datasets._task_graph import TaskGraph
from gnn_mtl.datasets._verify import verify

__all__ = [
    "CatalogEntry",
    "CommunityOptions",
    "Distributions",
    "LabelInputGraph",
    "LocalCopy",
    "NodeSplit",
    "PairCounts",
    "PermutationNull",
    "SampleOverlap",
    "TaskGraph",
    "TaskNodeSplit",
    "cached_features",
    "catalog",
    "catalog_entry",
    "data_dir",
    "describe",
    "distributions",
    "fetch_dataset",
    "fetch_ogb",
    "fetch_published",
    "fetch_snap",
    "how_to_get",
    "import_any",
    "import_mat",
    "import_mlgnc",
    "import_npz",
    "import_ogb",
    "import_ppi",
    "import_published",
    "import_saint",
    "import_snap",
    "label_correlation",
    "list_datasets",
    "load_dataset",
    "load_folder",
    "load_npz",
    "load_ogb",
    "load_published",
    "load_snap",
    "local_copies",
    "make_targets",
    "overlap_flags",
    "pair_counts",
    "permutation_null",
    "planted",
    "random_node_split",
    "random_task_split",
    "sample_overlap",
    "save_folder",
    "save_npz",
    "shuffle_labels",
    "structural_features",
    "verify",
    "with_label_inputs",
    "with_structural_features",
]
