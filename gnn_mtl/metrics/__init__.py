"""Floor 2: how good are the scores, label by label, and is a difference more than chance.

Ranking metrics (``auroc``, ``average_precision``) and decision metrics (``f1``, ``f1_top_k`` and
the oracle ``f1_true_k``) are pure functions from logits ``[N, T]`` to one number per label;
``macro`` averages over the labels that can be scored and ``evaluate`` computes all of them in one
call, as ``Scores``. Missing cells and one-class labels are treated as OGB's Evaluator does: the
former are left out, the latter are NaN per label and skipped by the mean.

``summarize`` and ``delta_p`` describe a method over seeds and labels; ``paired_test``,
``compare_paired`` and ``holm`` say whether two methods differ. NumPy and SciPy only.
"""

from gnn_mtl.metrics._cells import macro
from gnn_mtl.metrics._decisions import f1, f1_thresholds, f1_top_k, f1_true_k, mean_label_count
from gnn_mtl.metrics._evaluate import ORACLE_METRICS, Scores, evaluate
from gnn_mtl.metrics._paired import PairedTest, compare_paired, holm, paired_test
from gnn_mtl.metrics._ranking import auroc, average_precision, ranking_scores
from gnn_mtl.metrics._summary import Summary, delta_p, summarize

__all__ = [
    "ORACLE_METRICS",
    "PairedTest",
    "Scores",
    "Summary",
    "auroc",
    "average_precision",
    "compare_paired",
    "delta_p",
    "evaluate",
    "f1",
    "f1_thresholds",
    "f1_top_k",
    "f1_true_k",
    "holm",
    "macro",
    "mean_label_count",
    "paired_test",
    "ranking_scores",
    "summarize",
]
