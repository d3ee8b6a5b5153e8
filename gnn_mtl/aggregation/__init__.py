"""Floor 2: what the gradients of the tasks that take part in an update are combined to."""

from gnn_mtl.aggregation._base import (
    Aggregator,
    AggregatorConfig,
    Promise,
    RowAggregator,
    Weighting,
)
from gnn_mtl.aggregation._gramian_method import (
    GradientOptions,
    GramianMethod,
    GramianWeighting,
    PreferenceMethod,
)
from gnn_mtl.aggregation._norm import Norm
from gnn_mtl.aggregation._sum import Mean, Sum

__all__ = [
    "Aggregator",
    "AggregatorConfig",
    "GradientOptions",
    "GramianMethod",
    "GramianWeighting",
    "Mean",
    "Norm",
    "PreferenceMethod",
    "Promise",
    "RowAggregator",
    "Sum",
    "Weighting",
]
