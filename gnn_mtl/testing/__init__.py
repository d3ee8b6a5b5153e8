"""Floor 8: contract batteries for methods, ours and yours; they need no test framework.

``check_aggregator`` takes a configuration through everything that training relies on and
everything the method promises, and raises one AssertionError that lists what does not hold.
``aggregator_cases`` are the Jacobians it uses, ``measure_promises`` says how far a method is from
each promise, made or not (``TOLERANCE`` is what passes), ``aggregator_seconds`` what a call costs.
"""

from gnn_mtl.testing._aggregator_cases import aggregator_cases
from gnn_mtl.testing._aggregator_contract import aggregator_seconds, check_aggregator
from gnn_mtl.testing._aggregator_promises import TOLERANCE, Measured, measure_promises

__all__ = [
    "TOLERANCE",
    "Measured",
    "aggregator_cases",
    "aggregator_seconds",
    "check_aggregator",
    "measure_promises",
]
