"""Floor 7: configurations become run folders.

``RunConfig`` is everything that decides a run; ``train`` makes one run folder of it; ``Sweep`` and
``run_sweep`` do methods × seeds; ``merge_run`` makes one model of a run of several and
``learned_groups`` trains for the groups alone; ``train_shallow`` and ``train_label_propagation``
are the baselines without a network; ``SubsetOracle`` and ``train_table`` really train models on
subsets of tasks, the truth that predicted affinities are judged by; ``run_demo`` is the comparison
that ``gnn-mtl demo`` prints. Reports are elsewhere and meet runs in ``records``.
"""

from gnn_mtl.runs._build import build_graph, build_model, load_trained, with_features
from gnn_mtl.runs._config import KINDS, Features, RunConfig, kind_class
from gnn_mtl.runs._demo import Demo, run_demo
from gnn_mtl.runs._label_propagation import train_label_propagation
from gnn_mtl.runs._learned_groups import LEARNED, DataMapGroups, learned_groups
from gnn_mtl.runs._merge import Merge, merge_run
from gnn_mtl.runs._shallow import train_shallow
from gnn_mtl.runs._subset_oracle import SubsetOracle, train_table
from gnn_mtl.runs._sweep import Sweep, run_one, run_sweep
from gnn_mtl.runs._train import MACHINE_SETTINGS, default_folder, train

__all__ = [
    "KINDS",
    "LEARNED",
    "MACHINE_SETTINGS",
    "DataMapGroups",
    "Demo",
    "Features",
    "Merge",
    "RunConfig",
    "SubsetOracle",
    "Sweep",
    "build_graph",
    "build_model",
    "default_folder",
    "kind_class",
    "learned_groups",
    "load_trained",
    "merge_run",
    "run_demo",
    "run_one",
    "run_sweep",
    "train",
    "train_label_propagation",
    "train_shallow",
    "train_table",
    "with_features",
]
