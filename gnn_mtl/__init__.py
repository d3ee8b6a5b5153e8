"""gnn-mtl: which labels should a graph network learn together?

Measure how the tasks of a multi-label graph help or hurt each other, group them, train a
neighbour-sampled network under a task schedule, and see honestly whether it helped::

    import gnn_mtl as gm

    graph = gm.load_dataset("debian-tags")
    run = gm.train(gm.RunConfig(dataset="debian-tags", scheduler=gm.Coloring(tau=0.1)))

Names are loaded when first used, so importing the package is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gnn_mtl.affinity import (
        GradientEMA,
        ProximalAffinity,
        blend,
        estimate_affinity,
        gradient_cosine,
        label_cooccurrence,
        layer_conflict,
        search_groups,
    )
    from gnn_mtl.aggregation import (
        DWA,
        EMTL,
        FAMO,
        IMTLG,
        IMTLL,
        MGDA,
        SLAW,
        STCH,
        AdaTask,
        Aggregator,
        AggregatorConfig,
        AlignedMTL,
        CAGrad,
        ConFIG,
        DualProj,
        FairGrad,
        GeometricMean,
        GradNorm,
        GradOPS,
        GradVac,
        GramianMethod,
        Mean,
        NashMTL,
        ParetoMTL,
        PCGrad,
        PreferenceMethod,
        RandomWeights,
        RowAggregator,
        Sum,
        TaskTensioner,
        TorchJD,
        Uncertainty,
        UPGrad,
        Weighting,
        WPCGrad,
        preference_vectors,
    )
    from gnn_mtl.datasets import (
        TaskGraph,
        fetch_ogb,
        import_npz,
        import_ogb,
        list_datasets,
        load_dataset,
        load_ogb,
        load_snap,
        planted,
        sample_overlap,
        structural_features,
    )
    from gnn_mtl.gradients import (
        TaskGradients,
        adam_scale,
        draw_probe_nodes,
        estimate_cosines,
        probe,
        task_gradients,
        task_gramian,
    )
    from gnn_mtl.graph import CSCGraph, MiniBatch, NeighborLoader, NeighborSampler
    from gnn_mtl.grouping import group_tasks
    from gnn_mtl.metrics import evaluate
    from gnn_mtl.nn import (
        GCN,
        GIN,
        MLP,
        SAGE,
        SIGN,
        Adapters,
        GATv2,
        LabelModel,
        Linear,
        LinearHeads,
        MLPHead,
        MLPHeads,
        PyGEncoder,
        SAGEEncoder,
        branch_model,
        exact_logits,
        masked_bce,
    )
    from gnn_mtl.records import find_runs, read_run
    from gnn_mtl.reports import build_report, compare_runs, score_table
    from gnn_mtl.runs import (
        Features,
        RunConfig,
        SubsetOracle,
        Sweep,
        run_sweep,
        train,
        train_shallow,
    )
    from gnn_mtl.schedulers import (
        Coloring,
        ColoringScheduler,
        Joint,
        JointScheduler,
        Random,
        RandomGroupsScheduler,
        Selective,
        SelectiveScheduler,
        Separate,
        Single,
        Static,
        StaticScheduler,
        TaskScheduler,
    )
    from gnn_mtl.tasks import Affinity, Grouping, SubsetTable, conflict_graph, interference
    from gnn_mtl.training import (
        DMTG,
        AggregatorHooks,
        StepHooks,
        TaskRowAdam,
        Train,
        cross_learn,
        evaluate_split,
        fit,
        fork_merge,
        inference_cost,
        learn_groups,
        merge_models,
    )

__version__ = "0.1.0"

_ROOMS = {
    "affinity": (
        "GradientEMA", "ProximalAffinity", "blend", "estimate_affinity", "gradient_cosine",
        "label_cooccurrence", "layer_conflict", "search_groups",
    ),
    "aggregation": (
        "AdaTask", "Aggregator", "AggregatorConfig", "AlignedMTL", "CAGrad", "ConFIG", "DWA",
        "DualProj", "EMTL", "FAMO", "FairGrad", "GeometricMean", "GradNorm", "GradOPS", "GradVac",
        "GramianMethod", "IMTLG", "IMTLL", "MGDA", "Mean", "NashMTL", "PCGrad", "ParetoMTL",
        "PreferenceMethod", "RandomWeights", "RowAggregator", "SLAW", "STCH", "Sum",
        "TaskTensioner", "TorchJD", "UPGrad", "Uncertainty", "WPCGrad", "Weighting",
        "preference_vectors",
    ),
    "datasets": (
        "TaskGraph", "fetch_ogb", "import_npz", "import_ogb", "list_datasets", "load_dataset",
        "load_ogb", "load_snap", "planted", "sample_overlap", "structural_features",
    ),
    "gradients": (
        "TaskGradients", "adam_scale", "draw_probe_nodes", "estimate_cosines", "probe",
        "task_gradients", "task_gramian",
    ),
    "graph": ("CSCGraph", "MiniBatch", "NeighborLoader", "NeighborSampler"),
    "grouping": ("group_tasks",),
    "metrics": ("evaluate",),
    "nn": (
        "GCN", "GIN", "MLP", "SAGE", "SIGN", "Adapters", "GATv2", "LabelModel", "Linear",
        "LinearHeads", "MLPHead", "MLPHeads", "PyGEncoder", "SAGEEncoder", "branch_model",
        "exact_logits", "masked_bce",
    ),
    "records": ("find_runs", "read_run"),
    "reports": ("build_report", "compare_runs", "score_table"),
    "runs": (
        "Features", "RunConfig", "SubsetOracle", "Sweep", "run_sweep", "train", "train_shallow",
    ),
    "schedulers": (
        "Coloring", "ColoringScheduler", "Joint", "JointScheduler", "Random",
        "RandomGroupsScheduler", "Selective", "SelectiveScheduler", "Separate", "Single",
        "Static", "StaticScheduler", "TaskScheduler",
    ),
    "tasks": ("Affinity", "Grouping", "SubsetTable", "conflict_graph", "interference"),
    "training": (
        "DMTG", "AggregatorHooks", "StepHooks", "TaskRowAdam", "Train", "cross_learn",
        "evaluate_split", "fit", "fork_merge", "inference_cost", "learn_groups", "merge_models",
    ),
}  # fmt: skip
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = sorted([*_ROOM_OF, "__version__"])


def __getattr__(name: str) -> Any:  # noqa: ANN401
    room = _ROOM_OF.get(name)
    if room is None:
        raise AttributeError(f"module 'gnn_mtl' has no attribute {name!r}")
    value = getattr(import_module(f"gnn_mtl.{room}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
