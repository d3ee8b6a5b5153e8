"""Floor 7: configurations become run folders.

``RunConfig`` is everything that decides a run; ``train`` makes one run folder of it; ``Sweep`` and
``run_sweep`` do methods × seeds; ``train_shallow`` and ``train_label_propagation`` are the
baselines without a network; ``run_demo`` is the comparison that ``gnn-mtl demo`` prints. Reports
are elsewhere and meet runs in ``records``.
"""

from gnn_mtl.runs._build import build_graph, build_model, load_trained, with_features
from gnn_mtl.runs._config import KINDS, Features, RunConfig, kind_class
from gnn_mtl.runs._demo import Demo, run_demo
from gnn_mtl.runs._label_propagation import train_label_propagation
from gnn_mtl.runs._shallow import train_shallow
from gnn_mtl.runs._sweep import Sweep, run_one, run_sweep
from gnn_mtl.runs._train import default_folder, train

__all__ = [
    "KINDS",
    "Demo",
    "Features",
    "RunConfig",
    "Sweep",
    "build_graph",
    "build_model",
    "default_folder",
    "kind_class",
    "load_trained",
    "run_demo",
    "run_one",
    "run_sweep",
    "train",
    "train_label_propagation",
    "train_shallow",
    "with_features",
]
