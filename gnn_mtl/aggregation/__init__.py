"""Floor 2: what the gradients of the tasks that take part in an update are combined to.

A schedule selects tasks; an ``Aggregator`` settles what they do to the shared parameters. There are
two kinds:

- a ``Weighting`` finds weights w of the gradients (direction ``J^T w``) or of the losses. It reads
  losses alone, or the Gramian ``J J^T`` too, so that a step costs one Gramian and one backward pass
  however many tasks;
- a ``RowAggregator`` needs the gradients themselves (``AdaTask``; some methods of TorchJD).

Each has a frozen configuration whose ``build(num_tasks, seed)`` makes it; those that remember
nothing are a ``GramianMethod``, which is the whole method. By what they do:

- unchanged: ``Sum``, ``Mean``;
- project conflicts away: ``GradOPS``, ``PCGrad``, ``WPCGrad``, ``GradVac``;
- improve every task: ``MGDA``, ``UPGrad``, ``DualProj``, ``NashMTL``, ``FairGrad``; the one worst
  off: ``CAGrad``;
- treat all tasks alike: ``IMTLG``, ``ConFIG``, ``AlignedMTL``, ``TaskTensioner``;
- trade off: ``ParetoMTL`` with ``preference_vectors``, and any ``PreferenceMethod``;
- weigh the losses: ``Uncertainty``, ``IMTLL``, ``DWA``, ``GeometricMean``, ``STCH``, ``SLAW``,
  ``RandomWeights``, ``FAMO``; with gradient norms ``GradNorm``, ``EMTL``;
- moments by task: ``AdaTask``;
- ``TorchJD``: the methods of that library (extra ``jd``).

``promises`` says what holds for any input; ``gnn_mtl.testing.check_aggregator`` checks it, for
methods of yours too. How long a direction is made is another choice, the same for all (``Norm``).
"""

from gnn_mtl.aggregation._adatask import AdaTask
from gnn_mtl.aggregation._aligned_mtl import AlignedMTL
from gnn_mtl.aggregation._base import (
    Aggregator,
    AggregatorConfig,
    Promise,
    RowAggregator,
    Weighting,
)
from gnn_mtl.aggregation._cagrad import CAGrad
from gnn_mtl.aggregation._conflict_free import ConFIG
from gnn_mtl.aggregation._dualproj import DualProj
from gnn_mtl.aggregation._dwa import DWA
from gnn_mtl.aggregation._emtl import EMTL
from gnn_mtl.aggregation._fairgrad import FairGrad
from gnn_mtl.aggregation._famo import FAMO
from gnn_mtl.aggregation._geometric_mean import GeometricMean
from gnn_mtl.aggregation._gradnorm import GradNorm
from gnn_mtl.aggregation._gradops import GradOPS, gradops_coefficients, gradops_rows
from gnn_mtl.aggregation._gradvac import GradVac
from gnn_mtl.aggregation._gramian_method import (
    GradientOptions,
    GramianMethod,
    GramianWeighting,
    PreferenceMethod,
)
from gnn_mtl.aggregation._imtl_g import IMTLG
from gnn_mtl.aggregation._imtl_l import IMTLL
from gnn_mtl.aggregation._mgda import MGDA
from gnn_mtl.aggregation._nash_mtl import NashMTL
from gnn_mtl.aggregation._norm import Norm
from gnn_mtl.aggregation._pareto_mtl import ParetoMTL, preference_vectors
from gnn_mtl.aggregation._pcgrad import PCGrad, pcgrad_weights
from gnn_mtl.aggregation._random_weights import RandomWeights
from gnn_mtl.aggregation._slaw import SLAW
from gnn_mtl.aggregation._stch import STCH
from gnn_mtl.aggregation._sum import Mean, Sum
from gnn_mtl.aggregation._task_tensioner import TaskTensioner
from gnn_mtl.aggregation._torchjd import TorchJD
from gnn_mtl.aggregation._uncertainty import Uncertainty
from gnn_mtl.aggregation._upgrad import UPGrad
from gnn_mtl.aggregation._wpcgrad import WPCGrad

__all__ = [
    "AGGREGATORS",
    "DWA",
    "EMTL",
    "FAMO",
    "IMTLG",
    "IMTLL",
    "MGDA",
    "SLAW",
    "STCH",
    "AdaTask",
    "Aggregator",
    "AggregatorConfig",
    "AlignedMTL",
    "CAGrad",
    "ConFIG",
    "DualProj",
    "FairGrad",
    "GeometricMean",
    "GradNorm",
    "GradOPS",
    "GradVac",
    "GradientOptions",
    "GramianMethod",
    "GramianWeighting",
    "Mean",
    "NashMTL",
    "Norm",
    "PCGrad",
    "ParetoMTL",
    "PreferenceMethod",
    "Promise",
    "RandomWeights",
    "RowAggregator",
    "Sum",
    "TaskTensioner",
    "TorchJD",
    "UPGrad",
    "Uncertainty",
    "WPCGrad",
    "Weighting",
    "gradops_coefficients",
    "gradops_rows",
    "pcgrad_weights",
    "preference_vectors",
]

AGGREGATORS: dict[str, type[AggregatorConfig]] = {
    value.kind: value
    for value in list(globals().values())
    if isinstance(value, type)
    and issubclass(value, AggregatorConfig)
    and not value.__abstractmethods__
}
"""The configurations by the kind that the command line knows them by."""
