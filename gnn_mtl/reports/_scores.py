"""The score table: methods x metrics, mean and spread over seeds, and what they cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from gnn_mtl._core.errors import UsageError
from gnn_mtl.metrics import ORACLE_METRICS
from gnn_mtl.records import RunRecord
from gnn_mtl.reports._methods import Method, Study, studies
from gnn_mtl.reports._table import Cell, Column, Row, Table, count, number_cell

SCORES = (
    Column("test.ap", "test AP", "percent", "macro average precision on the test split"),
    Column("test.auroc", "test AUROC", "percent", "macro area under the ROC curve, as OGB scores"),
    Column("test.f1", "F1", "percent", "macro F1 at probability .5"),
    Column("test.f1_top_k", "F1 top-k", "percent", "macro F1, k labels for every node"),
    Column(
        "test.f1_true_k", "F1 true-k", "percent",
        "ORACLE: macro F1 when the true number of labels of each test node is known", oracle=True,
    ),
    Column("valid.ap", "valid AP", "percent", "the validation score the model was chosen by"),
)  # fmt: skip
COSTS = (
    Column("cost.seconds", "seconds", "seconds", "wall time of the run"),
    Column("cost.steps", "steps", "count", "optimizer steps"),
    Column("cost.label_gradients", "label-gradients", "count", "sum over steps of active labels"),
)


def score_table(records: Iterable[RunRecord] | Study) -> Table:
    """Return methods x scores and costs, best test AP first, sampled methods last.

    Args:
        records: Runs on one graph (see :func:`studies` for several), or a study.

    Returns:
        A :class:`Table`; each cell holds its values per seed and the runs behind them. Columns that
        no run has are left out.

    Raises:
        UsageError: If the runs are on several graphs.
        RecordError: As :func:`studies`.
    """
    study = one_study(records)
    rows = [_row(method, study) for method in study.methods]
    partial = {method.label for method in study.methods if method.is_partial}
    rows.sort(key=lambda row: (row.method in partial, -_mean(row.cells["test.ap"])))
    columns = tuple(
        column for column in (*SCORES, *COSTS) if any(row.cells[column.key].values for row in rows)
    )
    return Table(f"Test scores on {study.dataset}", columns, tuple(rows), _notes(study, columns))


def common_label_table(study: Study, partial: Method) -> Table:
    """Return AP and AUROC of every method over the labels that ``partial`` has scored.

    A method that trained a sample of the labels, as single-task models often are, can be compared
    with the others over that sample only.
    """
    columns = tuple(
        Column(metric, title, "percent")
        for metric, title in (("ap", "test AP"), ("auroc", "test AUROC"))
    )
    rows = []
    for method in study.methods:
        cells = {}
        for column in columns:
            scores = method.per_label(column.key)[:, list(partial.tasks)]
            cells[column.key] = number_cell(scores.mean(axis=1).tolist(), method.runs)
        rows.append(Row(method.label, method.kind, cells))
    rows.sort(key=lambda row: -_mean(row.cells["ap"]))
    title = f"The same {count(len(partial.tasks), 'label')} for every method"
    names = ", ".join(study.label_names[task] for task in partial.tasks)
    return Table(
        title, columns, tuple(rows), (f"Means over the labels of {partial.label}: {names}.",)
    )


def one_study(records: Iterable[RunRecord] | Study) -> Study:
    """Return the one study of the records."""
    if isinstance(records, Study):
        return records
    found = studies(records)
    if len(found) > 1:
        raise UsageError(
            f"A table is of one graph. Found {[study.dataset for study in found]}; "
            "make one per study, see gnn_mtl.reports.studies."
        )
    return found[0]


def _row(method: Method, study: Study) -> Row:
    cells = {
        column.key: number_cell(method.values(*column.key.split(".", 1)), method.runs)
        for column in (*SCORES, *COSTS)
    }
    remark = f"{len(method.tasks)} of {study.num_tasks} labels" if method.is_partial else ""
    if method.is_trivial and method.is_candidate:
        remark = f"always one group: equals {method.as_joint}"
    return Row(method.label, method.kind, cells, remark)


def _notes(study: Study, columns: Sequence[Column]) -> tuple[str, ...]:
    counts = sorted({len(method.runs) for method in study.methods})
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    many = counts[-1] > 1
    spread = "mean ± unbiased standard deviation over" if many else "the value of"
    notes = [f"Scores are in percent: {spread} {seeds} seed{'s' if many else ''}."]
    if counts[0] == 1:
        notes.append("A method with one seed has no spread, so none is shown.")
    if study.dataset.startswith("ogbn") and counts[0] < 10:
        notes.append("OGB's leaderboards ask for 10 seeds; these are fewer.")
    notes += [
        f"{method.label} covers {len(method.tasks)} of {study.num_tasks} labels; its means stand "
        "beside the others only in the table over the same labels."
        for method in study.methods
        if method.is_partial
    ]
    if any(column.key.split(".")[-1] in ORACLE_METRICS for column in columns):
        notes.append("F1 true-k is told how many labels each test node has: not a usable score.")
    return tuple(notes)


def _mean(cell: Cell) -> float:
    return cell.summary.mean if cell.summary is not None else -np.inf
