"""Floor 7: tables, plots and one HTML file, from run folders or a dataset; nothing here trains.

``score_table`` gathers methods x metrics over seeds, ``compare_runs`` tests methods against a
reference on the same seeds and labels, ``render_table`` and ``rich_table`` print either, and
``build_report`` puts everything on one self-contained page. Every number carries the run folders
it comes from. ``build_profile`` writes such a page about a dataset, ``build_fidelity`` one
on how faithful each way of measuring conflict is (``frontier``). ``print_or_write`` keeps the
tables of a README, ``between_marks`` reads them.
"""

from gnn_mtl.reports._compare import Comparison, MethodComparison, compare_runs, comparison_table
from gnn_mtl.reports._fidelity import build_fidelity, frontier, frontier_figure
from gnn_mtl.reports._methods import Method, Study, studies
from gnn_mtl.reports._profile import build_profile
from gnn_mtl.reports._readme import between_marks, print_or_write
from gnn_mtl.reports._render import render_table, rich_table
from gnn_mtl.reports._report import build_report
from gnn_mtl.reports._scores import common_label_table, score_table
from gnn_mtl.reports._table import Cell, Column, Row, Table
from gnn_mtl.reports._verdict import Verdict, verdict

__all__ = [
    "Cell",
    "Column",
    "Comparison",
    "Method",
    "MethodComparison",
    "Row",
    "Study",
    "Table",
    "Verdict",
    "between_marks",
    "build_fidelity",
    "build_profile",
    "build_report",
    "common_label_table",
    "compare_runs",
    "comparison_table",
    "frontier",
    "frontier_figure",
    "print_or_write",
    "render_table",
    "rich_table",
    "score_table",
    "studies",
    "verdict",
]
