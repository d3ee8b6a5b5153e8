"""Methods against a reference on the same seeds and the same labels, with paired tests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import UsageError
from gnn_mtl.metrics import PairedTest, delta_p, holm, paired_test
from gnn_mtl.records import RunRecord
from gnn_mtl.reports._methods import Method, Study
from gnn_mtl.reports._scores import one_study
from gnn_mtl.reports._table import TIMES, Cell, Column, Row, Table, format_number

METRICS = {"ap": "AP", "auroc": "AUROC"}


@dataclass(frozen=True, eq=False)
class MethodComparison:
    """One method against the reference.

    Attributes:
        method: The method.
        seeds: The seeds both have.
        tasks: The labels both have scored, on every common seed, by both metrics.
        tests: A test per metric (``ap``, ``auroc``), Holm-corrected over the methods compared.
        delta_p: Mean relative change of AP against single-task models, as a fraction, over the
            labels that have one; None without single-task models.
        delta: AP differences of every label averaged over seeds, ``[T]``, NaN outside ``tasks``.
        consistent: Labels ``[T]`` whose difference has the same sign on every seed.
    """

    method: Method
    seeds: tuple[int, ...]
    tasks: tuple[int, ...]
    tests: dict[str, PairedTest]
    delta_p: float | None
    delta: NDArray[np.float64]
    consistent: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Every method against one reference.

    Attributes:
        study: The study compared.
        reference: The method the others are compared with.
        methods: The comparisons that were possible.
        notes: Which were not, and over what the others were made.
    """

    study: Study
    reference: Method
    methods: tuple[MethodComparison, ...]
    notes: tuple[str, ...]

    def find(self, label: str) -> MethodComparison | None:
        """Return the comparison of the method of that name, or None."""
        return next((one for one in self.methods if one.method.label == label), None)


def compare_runs(records: Iterable[RunRecord] | Study, reference: str = "joint") -> Comparison:
    """Compare every method with ``reference``: differences, paired tests, wins and losses.

    Runs are paired by seed and scores by label; a method that scored fewer labels is compared over
    those. See :func:`gnn_mtl.metrics.paired_test` for what the p-values can and cannot say.

    Args:
        records: Runs on one graph, or a study.
        reference: Label of a method; ``"joint"`` also finds the method of that kind.

    Raises:
        UsageError: If there is no such method, or the runs are on several graphs.
        RecordError: As :func:`gnn_mtl.reports.studies`.
    """
    study = one_study(records)
    base = study.find(reference) or (study.joint if reference == "joint" else None)
    if base is None:
        raise UsageError(
            f"`reference` should be one of {[method.label for method in study.methods]}. "
            f"Found {reference!r}."
        )
    notes, compared = [], []
    for method in study.methods:
        if method is base:
            continue
        one = _compare(method, base, study)
        if one is None:
            notes.append(f"{method.label} shares no seed and label with {base.label}.")
            continue
        compared.append(one)
    for size in sorted({len(one.tasks) for one in compared} - {study.num_tasks}, reverse=True):
        names = ", ".join(one.method.label for one in compared if len(one.tasks) == size)
        notes.append(
            f"Over {size} of {study.num_tasks} labels, those scored on both sides on every seed: "
            f"{names}."
        )
    return Comparison(study, base, tuple(_corrected(compared)), tuple(notes))


def interval(test: PairedTest) -> str:
    """Write the 95 % interval of a difference, in percentage points."""
    return f"{format_number(test.low, 'points')} to {format_number(test.high, 'points')}"


def comparison_table(comparison: Comparison) -> Table:
    """Return a comparison as a table: difference and interval, p-values, wins and losses."""
    columns: list[Column] = []
    for metric, title in METRICS.items():
        columns += [
            Column(f"{metric}.delta", f"Δ {title}", "points", "mean difference, percentage points"),
            Column(f"{metric}.interval", "95 % interval", "text", "paired bootstrap"),
            Column(f"{metric}.p", "p", "probability", "paired bootstrap, Holm-corrected"),
        ]
    columns += [
        Column("wilcoxon", "p Wilcoxon", "probability", "signed ranks over labels, AP, as it is"),
        Column("counts", "wins / ties / losses", "text", "labels, by mean AP over seeds"),
        Column("delta_p", "Δp", "change", "mean relative AP change against single-task models"),
        Column("base", f"seeds {TIMES} labels", "text", "what the comparison is over"),
    ]
    rows = tuple(_row(one) for one in comparison.methods)
    used = tuple(
        column for column in columns if any(_filled(row.cells.get(column.key)) for row in rows)
    )
    return Table(f"Compared with {comparison.reference.label}", used, rows, comparison.notes)


def _compare(method: Method, base: Method, study: Study) -> MethodComparison | None:
    seeds = tuple(sorted(set(method.seeds) & set(base.seeds)))
    usable = np.ones(study.num_tasks, dtype=np.bool_)
    pairs = {}
    for metric in METRICS:
        ours, theirs = method.per_label(metric, seeds), base.per_label(metric, seeds)
        known = np.isfinite(ours - theirs).all(axis=0)
        if known.any():
            pairs[metric] = (ours, theirs)
            usable &= known
    if not seeds or "ap" not in pairs or not usable.any():
        return None
    tests = {metric: paired_test(a[:, usable], b[:, usable]) for metric, (a, b) in pairs.items()}
    difference = np.where(usable, pairs["ap"][0] - pairs["ap"][1], np.nan)
    signs = np.sign(difference)
    return MethodComparison(
        method, seeds, tuple(np.flatnonzero(usable).tolist()), tests, _delta_p(method, study),
        difference.mean(axis=0), (signs == signs[0]).all(axis=0) & (signs[0] != 0),
    )  # fmt: skip


def _delta_p(method: Method, study: Study) -> float | None:
    single = next((one for one in study.methods if one.kind == "single"), None)
    if single is None or single is method:
        return None
    seeds = sorted(set(method.seeds) & set(single.seeds))
    if not seeds:
        return None
    try:
        return delta_p(
            method.per_label("ap", seeds).mean(axis=0), single.per_label("ap", seeds).mean(axis=0)
        )
    except UsageError:
        return None


def _corrected(compared: list[MethodComparison]) -> list[MethodComparison]:
    """Put Holm's correction over the methods into every test, metric by metric."""
    for metric in METRICS:
        having = [one for one in compared if metric in one.tests]
        corrected = holm([one.tests[metric].p_bootstrap for one in having])
        for one, p in zip(having, corrected, strict=True):
            one.tests[metric] = replace(one.tests[metric], p_holm=float(p))
    return compared


def _row(one: MethodComparison) -> Row:
    cells: dict[str, Cell] = {}
    runs = one.method.runs
    for metric, test in one.tests.items():
        cells[f"{metric}.delta"] = Cell((test.delta,), runs)
        cells[f"{metric}.interval"] = Cell(text=interval(test), runs=runs)
        cells[f"{metric}.p"] = Cell((test.p_holm,), runs)
    test = one.tests["ap"]
    cells["wilcoxon"] = Cell((test.p_wilcoxon,), runs)
    cells["counts"] = Cell(text=f"{test.wins} / {test.ties} / {test.losses}", runs=runs)
    cells["base"] = Cell(text=f"{len(one.seeds)} {TIMES} {len(one.tasks)}", runs=runs)
    if one.delta_p is not None:
        cells["delta_p"] = Cell((one.delta_p,), runs)
    return Row(one.method.label, one.method.kind, cells)


def _filled(cell: Cell | None) -> bool:
    return cell is not None and bool(cell.values or cell.text)
