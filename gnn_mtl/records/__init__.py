"""Floor 2: the run folder, the one format that trainings write and reports read.

A run folder holds ``config.json manifest.json metrics.jsonl groupings.jsonl summary.json
affinity/ checkpoints/ DONE``: JSON and ``.npz`` only, written whole or not at all, versioned, and
readable without running code. ``RunWriter`` writes one (and resumes one), ``manifest`` says where
and with what it was made, ``find_runs`` and ``read_run`` give back a typed ``RunRecord``.
"""

from gnn_mtl.records._manifest import manifest
from gnn_mtl.records._reader import RunRecord, find_runs, read_run
from gnn_mtl.records._schema import (
    FORMAT_VERSION,
    Manifest,
    Refresh,
    RunSummary,
    TrainRow,
    ValidRow,
)
from gnn_mtl.records._writer import RunWriter

__all__ = [
    "FORMAT_VERSION",
    "Manifest",
    "Refresh",
    "RunRecord",
    "RunSummary",
    "RunWriter",
    "TrainRow",
    "ValidRow",
    "find_runs",
    "manifest",
    "read_run",
]
